"""Link the files that params.yaml points to under names that DVC can hash, and write what of them other stages need."""

from ptqflow.core.stage import run


def main() -> None:
    """Write inputs/: links to data.path, model.weights and the module of model.name, preprocessing and class names."""
    from ptqflow.core.artifacts import write_card
    from ptqflow.core.inputs import CLASSES, PREPROCESSING
    from ptqflow.core.params import read_params
    from ptqflow.fetch.params import DataParams
    from ptqflow.inputs.classes import resolve_class_names
    from ptqflow.inputs.links import link_inputs
    from ptqflow.inputs.preprocessing import resolve_preprocessing, warn_of_other_images
    from ptqflow.models.description import describe_weights
    from ptqflow.models.params import ModelParams

    data, model = read_params("data", DataParams), read_params("model", ModelParams)
    described = describe_weights(model)
    preprocessing = resolve_preprocessing(data, model, described)
    link_inputs(data, model)
    write_card(PREPROCESSING, preprocessing)
    write_card(CLASSES, resolve_class_names(data, model, preprocessing))
    warn_of_other_images(preprocessing, model, described)


if __name__ == "__main__":
    run("inputs", main)
