"""The paired figures as a plain sentence."""

from ptqflow.core.figures import Figures, PairedFigures, UnlabelledFigures
from ptqflow.evaluate.significance import ALPHA, FEWEST_SIGNIFICANT, share_interval


def verdict(figures: PairedFigures, reference: str = "FP32", candidate: str = "INT8") -> str:
    """Return whether the candidate loses top-1 against the reference, and which drop the test images can detect.

    Args:
        figures: of the two networks.
        reference: name of the network that the figures call fp32.
        candidate: name of the other.
    """
    drop, paired, p = figures.drop, figures.paired, format_p(figures.paired.p)
    images = f"{paired.images:,} test image{'s' if paired.images != 1 else ''}"
    if not paired.only_fp32_right and not paired.only_int8_right:
        same = (
            f"{candidate} and {reference} predict the same class for all of the {images}"
            if figures.agreement == 1
            else f"{candidate} and {reference} classify the same images of the {images} correctly"
        )
        return f"{same}: no drop, {p}.{_limit(paired.images, images)}"
    net_loss = paired.only_fp32_right - paired.only_int8_right
    sign = -1 if net_loss < 0 else 1
    low, high = sorted((sign * drop.low, sign * drop.high))
    interval = f"95 % interval {format_points(low)} to {format_points(high)} points"
    if net_loss == 0:
        found = (
            f"Top-1 is equal: of the {images}, {paired.only_fp32_right:,} are correct only with {reference} and as "
            f"many only with {candidate}, {p} ({interval})."
        )
    else:
        what = "drop" if net_loss > 0 else "gain"
        how = "statistically significant" if paired.p < ALPHA else "not statistically significant"
        found = f"The {what} of {format_points(abs(net_loss) / paired.images)} points is {how}, {p} ({interval})."
    return found + (_limit(paired.images, images) if paired.images < 100 * FEWEST_SIGNIFICANT else "")


def describe_agreement(figures: UnlabelledFigures) -> str:
    """Return how often INT8 predicts what FP32 predicts, for images without labels, and how near the logits are."""
    count, same = figures.images, round(figures.agreement * figures.images)
    interval = share_interval(same, count)
    ratio = (
        "" if figures.median_sqnr_db is None else f"; SQNR {figures.median_sqnr_db:.1f} dB, the median of the images"
    )
    return (
        f"INT8 predicts what FP32 predicts for {same:,} of {count:,} images: {100 * figures.agreement:.2f} % (95 % "
        f"interval {100 * interval.low:.2f} to {100 * interval.high:.2f} %){ratio}."
    )


def describe(figures: Figures) -> str:
    """Return the verdict, or without labels the agreement."""
    return describe_agreement(figures) if isinstance(figures, UnlabelledFigures) else verdict(figures)


def format_p(p: float) -> str:
    """Return `p = 0.18` or `p < 0.001`."""
    number = short_p(p)
    return f"p {number}" if number.startswith("<") else f"p = {number}"


def short_p(p: float) -> str:
    """Return `0.18`, or `< 0.001`: two digits, or as many as keep it on its side of 5 %."""
    if p < 0.001:
        return "< 0.001"
    texts = (f"{p:.{digits}g}" for digits in range(2, 18))
    return next(text for text in texts if (float(text) < ALPHA) == (p < ALPHA))


def format_points(fraction: float) -> str:
    """Return a difference of accuracies in points with two decimals, a smaller one with two significant digits."""
    points = 100 * fraction
    return f"{points:z.2f}" if points == 0 or abs(points) >= 0.005 else f"{points:.2g}"


def _limit(count: int, images: str) -> str:
    """Return the smallest drop that so many images can detect, rounded down: a drop of just so much is significant."""
    if count < FEWEST_SIGNIFICANT:
        return f" So few test images ({count}) cannot detect any drop."
    hundredths = 10_000 * FEWEST_SIGNIFICANT // count
    least = hundredths / 10_000 if hundredths else FEWEST_SIGNIFICANT / count
    return f" With {images}, a drop below {format_points(least)} points cannot be detected."
