"""Activation statistics: collected once on the fused FP32 network, turned into ranges for any engine afterwards."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from pydantic import PositiveInt
from safetensors import SafetensorError

from ptqflow.calib.channel_statistics import BINS, ChannelStatistics
from ptqflow.calib.histogram import Histogram
from ptqflow.calib.tensor_statistics import TensorStatistics
from ptqflow.core.artifacts import REMEDY, Card, HashedFile, new_directory
from ptqflow.core.errors import ArtifactError
from ptqflow.core.figures import ObservedRange
from ptqflow.models.fp32 import ModelCard

_EXTREMES = ("minima", "maxima", "image_minima", "image_maxima")
_CHANNELS = {"channel_minima": "image_minima", "channel_maxima": "image_maxima", "channel_counts": "counts"}
"""Fields of `ChannelStatistics` by the names of their arrays in the file."""


@dataclass(frozen=True)
class Statistics:
    """What was seen of every tensor that some engine quantizes."""

    tensors: dict[str, TensorStatistics | None]
    """By name, as `name_observed` returns it; None for one that never had a value."""
    rows: NDArray[np.int64]
    """(batches, batch size): rows of the train split that were seen, in order."""

    def merged(self, other: "Statistics") -> "Statistics":
        """Return the statistics of both collections, in which the batches of `other` come last.

        Raises:
            ArtifactError: they were collected on different networks, or in batches of different sizes.
        """
        if different := sorted(self.tensors.keys() ^ other.tensors.keys()):
            raise ArtifactError(f"statistics of different networks cannot be merged: {different[0]} is in one of them")
        (_, size), (_, other_size) = self.rows.shape, other.rows.shape
        if size != other_size:
            raise ArtifactError(
                f"statistics of batches of {size} images cannot be merged with those of batches of {other_size}: "
                "collect both with the same calib.batch_size"
            )
        tensors = {
            name: seen.merged(also) if seen and (also := other.tensors[name]) else seen or other.tensors[name]
            for name, seen in self.tensors.items()
        }
        return Statistics(tensors, np.concatenate([self.rows, other.rows]))

    def in_batches(self, batch_size: int) -> "Statistics":
        """Return the statistics of batches of `batch_size` images, each of which was collected in equal parts."""
        passes, part = self.rows.shape
        if part == batch_size:
            return self
        parts = batch_size // part
        tensors = {name: seen and seen.of_parts(passes, parts) for name, seen in self.tensors.items()}
        return Statistics(tensors, self.rows.reshape(-1, batch_size))

    def ranges(self) -> list[ObservedRange]:
        """Return the smallest and the largest value of each tensor that had any, by name."""
        return [
            ObservedRange(tensor=name, min=six_digits(seen.minimum), max=six_digits(seen.maximum))
            for name, seen in sorted(self.tensors.items())
            if seen
        ]


class StatisticsCard(Card):
    """What lies beside the statistics."""

    format_version: Literal[6] = 6
    model: ModelCard
    """Of the network that they were collected on, with the hash of its weights."""
    images: PositiveInt
    """How many images were seen."""
    statistics_sha256: str = ""


STATISTICS_FILE = HashedFile("statistics.safetensors", StatisticsCard, "statistics_sha256", "calib")


def save_statistics(directory: Path, statistics: Statistics, card: StatisticsCard) -> None:
    """Write statistics and card, whole or not at all, with equal bytes for equal statistics."""
    with new_directory(directory) as partial:
        STATISTICS_FILE.write(partial, encode(statistics), card)


def load_statistics(directory: Path, model: ModelCard) -> Statistics:
    """Read the statistics of a network back.

    Raises:
        ArtifactError: a file is missing or changed, or they were collected on another network.
    """
    data, card = STATISTICS_FILE.read(directory)
    if different := [key for key, value in model if getattr(card.model, key) != value]:
        raise ArtifactError(
            f"{directory}: the statistics belong to another network: its {different[0]} is not that of the FP32 model; "
            "run `dvc repro`"
        )
    try:
        return decode(data)
    except (SafetensorError, KeyError, ValueError) as error:
        raise ArtifactError(f"{STATISTICS_FILE.path(directory)} cannot be read ({error}); {REMEDY}") from None


def six_digits(value: float) -> float:
    """Round a number for a figure."""
    return float(np.format_float_positional(value, precision=6, fractional=False))


def encode(statistics: Statistics) -> bytes:
    """Return statistics as the bytes of a safetensors file, equal ones for equal statistics."""
    arrays: dict[str, NDArray[Any]] = {"rows": statistics.rows}
    for name, seen in statistics.tensors.items():
        arrays |= {f"{part}:{name}": array for part, array in _to_arrays(seen).items()}
    data: bytes = safetensors.numpy.save(arrays)
    return data


def decode(data: bytes) -> Statistics:
    """Return the statistics that `encode` made bytes of."""
    return _from_arrays(safetensors.numpy.load(data))


def _to_arrays(seen: TensorStatistics | None) -> dict[str, NDArray[Any]]:
    if seen is None:
        return {"counts": np.zeros(0, np.int64)}
    channels = {part: getattr(seen.channels, field) for part, field in _CHANNELS.items()} if seen.channels else {}
    return {
        **{part: _smallest_type(array) for part, array in channels.items()},
        **{part: getattr(seen, part) for part in _EXTREMES},
        "bins": np.array([seen.histogram.exponent, seen.histogram.first]),
        "counts": seen.histogram.counts,
    }


def _from_arrays(arrays: dict[str, NDArray[Any]]) -> Statistics:
    tensors: dict[str, TensorStatistics | None] = {}
    for key, array in arrays.items():
        part, _, name = key.partition(":")
        if part == "counts" and len(array):
            exponent, first = arrays[f"bins:{name}"].tolist()
            minima, maxima, image_minima, image_maxima = (arrays[f"{part}:{name}"] for part in _EXTREMES)
            for low, high in ((minima, maxima), (image_minima, image_maxima)):
                if not 0 < len(low) == len(high):
                    raise ValueError(f"{len(low)} minima and {len(high)} maxima of {name}")
            histogram = Histogram(exponent, first, array)
            channels = _channels_from(arrays, name)
            tensors[name] = TensorStatistics(minima, maxima, image_minima, image_maxima, histogram, channels)
        elif part == "counts":
            tensors[name] = None
    return Statistics(tensors, arrays["rows"])


def _channels_from(arrays: dict[str, NDArray[Any]], name: str) -> ChannelStatistics | None:
    if f"channel_counts:{name}" not in arrays:
        return None
    minima, maxima, counts = (arrays[f"{part}:{name}"] for part in _CHANNELS)
    if minima.shape != maxima.shape or counts.shape != (minima.shape[1], BINS):
        raise ValueError(f"minima of {minima.shape} and {counts.shape} counts of the channels of {name}")
    return ChannelStatistics(minima, maxima, counts.astype(np.int64))


def _smallest_type(array: NDArray[Any]) -> NDArray[Any]:
    """Return counts in as many bits as the largest one needs, and floats unchanged."""
    return array.astype(np.min_scalar_type(array.max())) if array.dtype == np.int64 else array
