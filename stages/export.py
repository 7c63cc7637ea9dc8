"""Write the INT8 model for other runtimes and prove that each file predicts what the model predicts."""

from pathlib import Path

from ptqflow.core.stage import run

DATASET_DIR = Path("data/dataset")
FP32_DIR = Path("models/fp32")
INT8_DIR = Path("models/int8")
EXPORT_DIR = Path("models/export")


def main() -> None:
    """Write models/export, if all its files pass, and metrics/export.json."""
    from ptqflow.core.artifacts import new_directory, read_metrics, write_metrics
    from ptqflow.core.params import read_params
    from ptqflow.core.run_params import RunParams
    from ptqflow.data.dataset import open_dataset
    from ptqflow.export.export import Networks, check_files, write_files
    from ptqflow.export.gate import Gate
    from ptqflow.export.manifest import describe
    from ptqflow.export.params import ExportParams
    from ptqflow.fx.artifact import load_int8
    from ptqflow.models.fp32 import load_fp32
    from ptqflow.runtime.manifest import write_manifest

    params, run_params = read_params("export", ExportParams), read_params("run", RunParams)
    dataset = open_dataset(DATASET_DIR)
    fp32, _ = load_fp32(FP32_DIR)
    networks = Networks(fp32, load_int8(INT8_DIR))
    with new_directory(EXPORT_DIR) as partial:
        write_files(partial, networks, params)
        manifest = describe(partial, networks, dataset.card, read_metrics("evaluate"))
        write_manifest(partial, manifest)
        gate = Gate(partial, DATASET_DIR, dataset.test.labels, run_params.batch_size)
        figures = check_files(gate, networks, dataset.test, params)
    write_metrics("export", figures)


if __name__ == "__main__":
    run("export", main)
