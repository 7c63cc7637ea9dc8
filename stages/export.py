"""Write the INT8 model for other runtimes and check that each file predicts what the model predicts."""

from ptqflow.core.paths import DATASET, EXPORT, FP32, INT8
from ptqflow.core.stage import run


def main() -> None:
    """Write models/export, if all its files pass, metrics/export.json and metrics/plots/export.csv."""
    from ptqflow.core.artifacts import new_directory, write_metrics
    from ptqflow.core.figures import FILE_CHECKS, read_evaluation_figures
    from ptqflow.core.params import read_params
    from ptqflow.core.run_params import RunParams
    from ptqflow.data.dataset import open_dataset
    from ptqflow.export.export import (
        Networks,
        check_files,
        compute_test_logits,
        headline,
        require_runtimes,
        write_files,
    )
    from ptqflow.export.gate import Gate
    from ptqflow.export.manifest import describe
    from ptqflow.export.params import ExportParams
    from ptqflow.fx.artifact import load_int8
    from ptqflow.models.fp32 import load_fp32
    from ptqflow.runtime.manifest import write_manifest

    params, run_params = read_params("export", ExportParams), read_params("run", RunParams)
    require_runtimes(params)
    dataset, fp32 = open_dataset(DATASET), load_fp32(FP32)
    networks = Networks(fp32.module, load_int8(INT8))
    logits = compute_test_logits(networks, dataset.test, run_params.batch_size)
    with new_directory(EXPORT) as partial:
        write_files(partial, networks, logits, params)
        write_manifest(partial, describe(partial, networks, dataset.card, params, read_evaluation_figures()))
        gate = Gate(partial, DATASET, dataset.test.labels, run_params.batch_size)
        checks = check_files(gate, networks, logits, dataset.test, params)
    FILE_CHECKS.write(checks)
    write_metrics("export", headline(checks))


if __name__ == "__main__":
    run("export", main)
