"""Time FP32 and INT8 in every runtime that is installed."""

from ptqflow.core.paths import EXPORT, FP32, INT8
from ptqflow.core.stage import run

FP32_WEIGHTS = FP32 / "weights.safetensors"
INT8_STATE = INT8 / "state.pt"


def main() -> None:
    """Write metrics/benchmark.json and metrics/plots/benchmark.csv."""
    from ptqflow.benchmark.grid import Files, benchmark, format_table
    from ptqflow.benchmark.params import BenchmarkParams
    from ptqflow.core.artifacts import write_metrics
    from ptqflow.core.figures import BENCHMARK
    from ptqflow.core.params import read_params
    from ptqflow.runtime.manifest import read_manifest

    params = read_params("benchmark", BenchmarkParams)
    result = benchmark(params, Files(FP32_WEIGHTS, INT8_STATE), EXPORT, read_manifest(EXPORT))
    BENCHMARK.write(result.rows)
    write_metrics("benchmark", result.headline())
    print(format_table(result.rows))
    for runtime, reason in result.left_out.items():
        print(f"{runtime} is left out: {reason}")


if __name__ == "__main__":
    run("benchmark", main)
