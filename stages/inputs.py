"""Link the files that params.yaml points to under names that DVC can hash."""

from ptqflow.core.stage import run


def main() -> None:
    """Write inputs/: links to data.path, model.weights and the module of model.name."""
    from ptqflow.core.params import read_params
    from ptqflow.fetch.params import DataParams
    from ptqflow.inputs.links import link_inputs
    from ptqflow.models.params import ModelParams

    link_inputs(read_params("data", DataParams), read_params("model", ModelParams))


if __name__ == "__main__":
    run("inputs", main)
