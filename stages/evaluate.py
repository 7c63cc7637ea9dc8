"""Compare FP32, uncalibrated INT8 and calibrated INT8 by their logits for the test images."""

from ptqflow.core.paths import DATASET
from ptqflow.core.stage import run


def main() -> None:
    """Write metrics/evaluate.json, data/predictions and, in metrics/plots, the figures of classes and confidences."""
    from ptqflow.data.dataset import open_dataset
    from ptqflow.data.logits import load_all_logits
    from ptqflow.evaluate.verdict import describe
    from ptqflow.evaluate.writing import require_fidelity, write_evaluation

    dataset = open_dataset(DATASET)
    networks = load_all_logits(dataset.card)
    require_fidelity(networks["int8"], networks["fp32"])
    figures = write_evaluation(networks, dataset.test.labels)
    print(describe(figures))


if __name__ == "__main__":
    run("evaluate", main)
