"""Time FP32 and INT8 in every runtime that is installed."""

from pathlib import Path

from ptqflow.core.stage import run

EXPORT_DIR = Path("models/export")
FP32_WEIGHTS = Path("models/fp32/weights.safetensors")
INT8_STATE = Path("models/int8/state.pt")


def main() -> None:
    """Write metrics/benchmark.json."""
    from ptqflow.benchmark.grid import Files, benchmark, format_table
    from ptqflow.benchmark.params import BenchmarkParams
    from ptqflow.core.artifacts import write_metrics
    from ptqflow.core.params import read_params
    from ptqflow.runtime.manifest import read_manifest

    params = read_params("benchmark", BenchmarkParams)
    result = benchmark(params, Files(FP32_WEIGHTS, INT8_STATE), EXPORT_DIR, read_manifest(EXPORT_DIR))
    write_metrics("benchmark", result.metrics)
    print(format_table(result.metrics))
    for runtime, reason in result.left_out.items():
        print(f"{runtime} is left out: {reason}")


if __name__ == "__main__":
    run("benchmark", main)
