"""What the stage `evaluate` writes."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ptqflow.core.artifacts import write_metrics
from ptqflow.core.errors import ModelError
from ptqflow.core.figures import CLASSES, CONFUSIONS, PER_CLASS, RELIABILITY, Figures
from ptqflow.core.paths import PREDICTIONS
from ptqflow.data.fidelity import median_sqnr_db
from ptqflow.data.logits import Logits, NetworkName
from ptqflow.evaluate.metrics import (
    class_rows,
    compare,
    compare_unlabelled,
    confusion_rows,
    per_class_rows,
    reliability_rows,
)
from ptqflow.evaluate.predictions import PredictionsCard, predict, save_predictions


def write_evaluation(networks: Mapping[NetworkName, Logits], labels: NDArray[np.int64] | None) -> Figures:
    """Write data/predictions, metrics/evaluate.json and the tables of classes and confidences; return all figures.

    Args:
        networks: `fp32`, `int8_uncalibrated` and `int8`, for the same test images.
        labels: (N,); None if there are none, which leaves the tables empty.
    """
    logits = {str(name): network.values for name, network in networks.items()}
    sizes = {str(name): network.card.model_bytes for name, network in networks.items()}
    card = networks["fp32"].card
    figures = compare_unlabelled(logits, sizes) if labels is None else compare(logits, sizes, labels)
    predictions = {name: predict(values) for name, values in logits.items()}
    kept = PredictionsCard(classes=card.classes, test_sha256=card.test_sha256)
    save_predictions(PREDICTIONS, predictions, labels, kept, figures)
    for name, found in predictions.items():
        CONFUSIONS[name].write([] if labels is None else confusion_rows(found.predicted, labels, card.classes))
        PER_CLASS[name].write([] if labels is None else per_class_rows(found.predicted, labels, card.classes))
    CLASSES.write([] if labels is None else class_rows(logits, labels, card.classes))
    RELIABILITY.write([] if labels is None else reliability_rows(predictions, labels))
    int8 = networks["int8"].card
    write_metrics("evaluate", figures.headline(int8.fp32_layers, int8.calib_images))
    return figures


def require_fidelity(int8: Logits, fp32: Logits) -> None:
    """Require that INT8 is as near to FP32 on the test images as `convert.min_sqnr_db` asks for.

    Raises:
        ModelError: it is not.
    """
    least, found = int8.card.min_sqnr_db, median_sqnr_db(int8.values, fp32.values)
    if least is not None and found < least:
        raise ModelError(
            f"the INT8 network has an SQNR of {found:.1f} dB to FP32, the median of {len(int8.values)} test images, "
            f"and convert.min_sqnr_db is {least:g}; `dvc repro sensitivity` writes to metrics/plots/sensitivity.csv "
            "which modules lose most: name them in convert.keep_fp32"
        )
