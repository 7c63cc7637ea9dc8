"""Why INT8 is slower than FP32, where that can be known."""

from collections.abc import Mapping, Sequence

from ptqflow.runtime.manifest import LayerCard

_NAMED = 3


def explain_loss(layers: Sequence[LayerCard], seconds: Mapping[str, float]) -> str:
    """Say in one line that INT8 loses, which layers stayed FP32, and what takes most of INT8's time.

    Args:
        layers: steps of the INT8 network.
        seconds: by kind of operation, from a profile of INT8.
    """
    return f"INT8 is slower than FP32: {_islands(layers)}; {_longest(seconds)}"


def _islands(layers: Sequence[LayerCard]) -> str:
    names = [layer.name for layer in layers if layer.precision == "fp32"]
    if not names:
        return f"all {len(layers)} layers are INT8"
    shown = ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")
    return f"{len(names)} of {len(layers)} layers stay FP32 ({shown})"


def _longest(seconds: Mapping[str, float]) -> str:
    total = sum(seconds.values())
    if not total:
        return "its profile shows nothing"
    name = max(seconds, key=lambda operation: seconds[operation])
    return f"{name} takes {100 * seconds[name] / total:.0f} % of its time"
