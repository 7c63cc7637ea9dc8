"""Take the untrained network through tracing, quantization and export, to refuse before training what fails there."""

from ptqflow.core.paths import DATASET, NETWORK
from ptqflow.core.stage import run


def main() -> str:
    """Write models/network.json, the card of the network."""
    from ptqflow.convert.params import ConvertParams
    from ptqflow.core.artifacts import read_card, write_card
    from ptqflow.core.inputs import CLASSES
    from ptqflow.core.params import read_params
    from ptqflow.data.dataset import open_dataset
    from ptqflow.dry_run.description import describe_model
    from ptqflow.dry_run.trial import try_network
    from ptqflow.export.params import ExportParams
    from ptqflow.fx.layers import summarize_layers
    from ptqflow.models.class_names import ClassNames
    from ptqflow.models.params import ModelParams

    model, convert = read_params("model", ModelParams), read_params("convert", ConvertParams)
    export, dataset = read_params("export", ExportParams), open_dataset(DATASET)
    card = describe_model(model, dataset.card, read_card(CLASSES, ClassNames).names)
    layers = try_network(card, convert, export, dataset.train)
    write_card(NETWORK, card)
    return f"{card.name} can be quantized and exported: {summarize_layers(layers)}"


if __name__ == "__main__":
    run("dry_run", main)
