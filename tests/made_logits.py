"""The logits of the networks that `evaluate` compares, as the stage `predict` writes them."""

from collections.abc import Mapping

import numpy as np
from manifests import SHA256
from numpy.typing import NDArray

from ptqflow.data.logits import NETWORKS, Logits, LogitsCard, NetworkName

BYTES = 1_250_000
"""Size of each network's file."""


def logits_card(network: NetworkName = "fp32", **changes: object) -> LogitsCard:
    """Return the card of logits of a network, all of which were made from the same weights."""
    values = {
        "network": network,
        "classes": ("ant", "bee", "cat"),
        "test_sha256": "0" * 64,
        "fp32_sha256": SHA256,
        "model_sha256": SHA256,
        "model_bytes": BYTES,
        "batch_size": 16,
    }
    return LogitsCard.model_validate(values | changes)


def networks_of(values: Mapping[str, NDArray[np.floating]], **changes: object) -> dict[NetworkName, Logits]:
    """Return logits (N, classes) of each network beside their cards."""
    return {name: Logits(values[name].astype(np.float32), logits_card(name, **changes)) for name in NETWORKS}
