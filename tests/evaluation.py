"""What `evaluate` writes, for networks of a given accuracy on 1,000 images."""

from ptqflow.core.figures import EvaluationFigures, NetworkFigures
from ptqflow.evaluate.significance import Pairs, paired_figures


def evaluation_figures(
    fp32: float = 0.98, int8: float = 0.97, uncalibrated: float = 0.5, agreement: float = 0.99, **changes: object
) -> EvaluationFigures:
    """Return the figures of three networks, of which INT8 is correct only where FP32 is or the reverse."""
    lost = max(round(1000 * (fp32 - int8)), 0)
    won = max(round(1000 * (int8 - fp32)), 0)
    both = round(1000 * min(fp32, int8))
    paired = paired_figures(Pairs(both, lost, won, 1000 - both - lost - won), agreement)
    values = {
        **dict(paired),
        "fp32": NetworkFigures(top1=fp32, top5=1.0, loss=0.04, size_mb=44.78),
        "int8_uncalibrated": NetworkFigures(top1=uncalibrated, top5=0.9, loss=11.7, size_mb=11.31),
        "int8": NetworkFigures(top1=int8, top5=0.9996, loss=0.042, size_mb=11.31),
        "sqnr_db": 32.5,
        "median_sqnr_db": 33.5,
        "kl": 0.00125,
    }
    return EvaluationFigures.model_validate(values | changes)
