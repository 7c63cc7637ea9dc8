"""What the paired figures mean, in a plain sentence."""

from collections.abc import Mapping
from typing import Any

ALPHA = 0.05
_FEWEST_CHANGES = 6  # all in one direction, that an exact McNemar test takes for real at 5 %: 2 · 0.5⁶ < 0.05


def verdict(evaluate: Mapping[str, Any], reference: str = "FP32", candidate: str = "INT8") -> str:
    """Tell whether the candidate loses top-1 against the reference, and what the test images can tell at all.

    Args:
        evaluate: content of metrics/evaluate.json.
        reference: what the one is called that metrics/evaluate.json calls fp32.
        candidate: what the other is called.
    """
    drop, paired = evaluate["drop"], evaluate["paired"]
    images = count_images(evaluate)
    points, p = 100 * abs(drop["top1"]), format_p(paired["p"])
    low, high = (drop["low"], drop["high"]) if drop["top1"] >= 0 else (-drop["high"], -drop["low"])
    interval = f"95 % interval {100 * low:z.2f} to {100 * high:z.2f}"
    if (paired["p"] < ALPHA) != (low > 0):
        interval += "; where the two disagree, the exact p decides"
    changed = paired["only_fp32_right"] + paired["only_int8_right"]
    if evaluate["agreement"] == 1:
        found = f"{candidate} predicts what {reference} predicts for every one of the {_of_test(images)}: no drop, {p}."
    elif not changed:
        found = f"{candidate} is right where {reference} is right on every one of the {_of_test(images)}: no drop, {p}."
    elif drop["top1"] == 0:
        lost = paired["only_fp32_right"]
        found = f"Top-1 is the same: {candidate} loses {lost} of the {_of_test(images)} and wins as many, {p}."
    elif paired["p"] >= ALPHA:
        what = "drop" if drop["top1"] > 0 else "gain"
        found = f"The {what} of {points:.2f} points is within noise, {p} ({interval})."
    elif drop["top1"] > 0:
        found = f"The drop of {points:.2f} points is real, {p} ({interval})."
    else:
        found = f"The gain of {points:.2f} points is real, {p} ({interval})."
    return found + _limit(images)


def count_images(evaluate: Mapping[str, Any]) -> int:
    """Return the number of test images."""
    return sum(evaluate["paired"][key] for key in ("both_right", "only_fp32_right", "only_int8_right", "both_wrong"))


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


def _of_test(images: int) -> str:
    return f"{images:,} test image{'s' if images != 1 else ''}"


def _limit(images: int) -> str:
    """Return a warning where not even one point could be told from noise."""
    if images < _FEWEST_CHANGES:
        return f" So few test images ({images}) cannot tell any drop from noise."
    least = 10_000 * _FEWEST_CHANGES // images / 100  # rounded down, or a drop of just so much would be called both
    return f" With {_of_test(images)}, no drop below {least:.2f} points can be told from noise." if least > 1 else ""
