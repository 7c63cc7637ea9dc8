"""Write the INT8 model for other runtimes and prove that each file predicts what the model predicts."""

from pathlib import Path

from ptqflow.stage import run

DATASET_DIR = Path("data/dataset")
FP32_DIR = Path("models/fp32")
STATISTICS_DIR = Path("models/statistics")
INT8_DIR = Path("models/int8")
EXPORT_DIR = Path("models/export")


def main() -> None:
    """Write models/export, if all its files pass, and metrics/export.json."""
    from ptqflow.artifacts import new_directory, read_metrics, write_metrics
    from ptqflow.data.dataset import open_dataset
    from ptqflow.export.describe import describe
    from ptqflow.export.files import ExportParams, Networks, check_files, write_files
    from ptqflow.export.gate import Gate
    from ptqflow.manifest import write_manifest
    from ptqflow.models.fp32 import load_fp32
    from ptqflow.params import read_params
    from ptqflow.quantization.artifact import load_int8
    from ptqflow.quantization.statistics import load_statistics

    params = read_params("export", ExportParams)
    dataset = open_dataset(DATASET_DIR)
    fp32, card = load_fp32(FP32_DIR)
    networks = Networks(fp32, load_int8(INT8_DIR))
    statistics = load_statistics(STATISTICS_DIR, card)
    with new_directory(EXPORT_DIR) as partial:
        write_files(partial, networks, params)
        manifest = describe(partial, networks, dataset.card, statistics, read_metrics("evaluate"))
        write_manifest(partial, manifest)
        gate = Gate(partial, DATASET_DIR, dataset.test.labels, params.batch_size)
        figures = check_files(gate, networks, dataset.test, params)
    write_metrics("export", figures)


if __name__ == "__main__":
    run("export", main)
