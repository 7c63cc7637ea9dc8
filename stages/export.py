"""Write the INT8 model for other runtimes and check that each file predicts what the model predicts."""

from ptqflow.core.paths import DATASET, EXPORT, FP32, INT8, LOGITS
from ptqflow.core.stage import run


def main() -> str:
    """Write models/export, if all its files pass, and metrics/plots/export.csv."""
    from ptqflow.core.artifacts import new_directory
    from ptqflow.core.figures import FILE_CHECKS, read_evaluation_figures
    from ptqflow.core.params import read_params, read_sections
    from ptqflow.data.dataset import open_dataset
    from ptqflow.data.logits import load_logits
    from ptqflow.export import export
    from ptqflow.export.gate import Gate
    from ptqflow.export.manifest import SECTIONS, describe
    from ptqflow.export.params import ExportParams
    from ptqflow.fx.artifact import load_int8
    from ptqflow.models.fp32 import load_fp32
    from ptqflow.runtime.manifest import write_manifest

    params = read_params("export", ExportParams)
    export.require_runtimes(params)
    dataset = open_dataset(DATASET)
    int8, fp32 = (load_logits(LOGITS / name) for name in ("int8", "fp32"))
    networks = export.Networks(load_fp32(FP32).module, load_int8(INT8))
    logits = export.pair_logits(networks, int8, fp32, dataset.card)
    with new_directory(EXPORT) as partial:
        export.write_files(partial, networks, logits, params)
        figures, sections = read_evaluation_figures(), read_sections(SECTIONS)
        write_manifest(partial, describe(partial, networks, dataset.card, params, figures, sections))
        gate = Gate(partial, DATASET, dataset.test.labels, int8.card.batch_size)
        checks = export.check_files(gate, networks, logits, dataset.test, params)
    FILE_CHECKS.write(checks)
    return export.summarize(checks)


if __name__ == "__main__":
    run("export", main)
