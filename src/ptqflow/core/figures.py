"""The figures that the stages write: one schema for the writer and all readers.

metrics/evaluate.json holds the dozen that are compared across commits. Those of every epoch, tensor, module, class
and file are tables in metrics/plots, which `dvc plots diff` compares. All figures of the test images lie beside the
predictions.
"""

from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import Field, FiniteFloat, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from ptqflow.core.artifacts import Card, Table, read_card
from ptqflow.core.errors import ArtifactError
from ptqflow.core.paths import FIGURES

_L = TypeVar("_L", bound=Card)
_U = TypeVar("_U", bound=Card)

Share = Annotated[float, Field(ge=0, le=1)]
"""A fraction of the images."""

DIGITS = 6
"""Decimals of a reported figure: beyond them, the batch size would change the rounding of FP32."""


class EpochRow(Card):
    """One epoch of training."""

    epoch: NonNegativeInt
    """Counted from 1; 0 is the network before any training."""
    train_loss: NonNegativeFloat | None = None
    """Mean cross-entropy in nats over the epoch, while the weights changed; None before any training."""
    train_top1: Share | None = None
    val_loss: NonNegativeFloat | None = None
    """Mean cross-entropy in nats after the epoch; None where val has no labels."""
    val_top1: Share | None = None


class ObservedRange(Card):
    """The smallest and the largest value of a tensor that calibration observed."""

    tensor: str
    min: FiniteFloat
    max: FiniteFloat


class ClassImages(Card):
    """Number of calibration images of a class."""

    name: str = Field(alias="class")
    images: NonNegativeInt


class QuantizedRange(Card):
    """The range that `convert` chose for a tensor."""

    tensor: str
    low: FiniteFloat
    """Value of the lowest quantized level."""
    high: FiniteFloat
    """Value of the highest quantized level."""
    scale: PositiveFloat
    zero_point: NonNegativeInt
    clipped: Share
    """Share of the calibration values more than half a step outside the range."""


class SensitivityRow(Card):
    """What the quantization of one module costs."""

    module: str
    sqnr_db: FiniteFloat | None = None
    """Of its output with this module alone quantized; None where nothing changed or there is no signal."""
    cosine: FiniteFloat | None = None
    """The same, the cosine similarity to FP32."""
    drop: FiniteFloat
    """Loss of top-1 on val with this module alone quantized, a fraction of the images; where val has no labels, the
    share of the images for which another class than FP32's is predicted."""
    network_sqnr_db: FiniteFloat | None = None
    """Of its output in the INT8 network."""
    network_cosine: FiniteFloat | None = None


class SearchRow(Card):
    """What was tried: range methods, alphas of SmoothQuant, the correction of biases."""

    tensor: str
    """Empty for all tensors."""
    method: str
    """Of the ranges; `fp32` for a tensor that is not rounded, or `smooth_quant=` and an alpha."""
    sqnr_db: FiniteFloat
    """Of the logits of calibration images to FP32's, in simulation: of a tensor the mean of the images' own, of all
    tensors the mean of that and the SQNR of all images together."""


class TrialRow(Card):
    """A conversion that was tried to stay within `convert.max_drop`."""

    modules: NonNegativeInt
    """Number of modules kept FP32."""
    drop: FiniteFloat
    """Loss of top-1 on val, a fraction of the images."""
    chosen: bool
    kept: str
    """The modules kept FP32, separated by commas; a block stands for all modules in it."""


class NetworkFigures(Card):
    """One network on the test images."""

    top1: Share
    top5: Share | None = None
    """None where there are fewer than 5 classes."""
    loss: NonNegativeFloat
    """Mean cross-entropy in nats."""
    size_mb: NonNegativeFloat
    """Size of the file with the weights in MB (10^6 bytes)."""


class Drop(Card):
    """Top-1 of the reference minus top-1 of the candidate, a fraction; negative is a gain."""

    top1: FiniteFloat
    low: FiniteFloat
    """Lower end of the 95 % confidence interval, with six significant digits."""
    high: FiniteFloat


class Counts(Card):
    """Test images by which of the two networks classifies them correctly, and McNemar's exact p-value."""

    both_right: NonNegativeInt
    only_fp32_right: NonNegativeInt
    only_int8_right: NonNegativeInt
    both_wrong: NonNegativeInt
    p: Share
    """With six significant digits."""

    @property
    def images(self) -> int:
        """Number of test images."""
        return self.both_right + self.only_fp32_right + self.only_int8_right + self.both_wrong


class PairedFigures(Card):
    """Two networks compared image by image: the drop is what INT8, the candidate, loses against FP32, the reference."""

    drop: Drop
    agreement: Share
    """Share of the images for which both predict the same class."""
    paired: Counts


class EvaluateMetrics(Card):
    """metrics/evaluate.json: of `EvaluationFigures`, those that are compared across commits."""

    fp32_top1: Share
    int8_top1: Share
    uncalibrated_top1: Share
    drop: FiniteFloat
    p: Share
    agreement: Share
    median_sqnr_db: FiniteFloat | None = None
    p5_sqnr_db: FiniteFloat | None = None
    fp32_mb: NonNegativeFloat
    int8_mb: NonNegativeFloat
    fp32_layers: NonNegativeInt
    """Layers of INT8 that run in FP32."""
    calib_images: NonNegativeInt
    """That the ranges of INT8 come from."""


class EvaluationFigures(PairedFigures):
    """data/predictions/figures.json: the three networks on the test images."""

    fp32: NetworkFigures
    int8_uncalibrated: NetworkFigures
    int8: NetworkFigures
    sqnr_db: FiniteFloat | None = None
    """Signal to quantization noise ratio of INT8's logits over all images together; None where they equal FP32's."""
    median_sqnr_db: FiniteFloat | None = None
    """The median over the images of their own SQNR; None where at least half of them have equal logits."""
    p5_sqnr_db: FiniteFloat | None = None
    """The SQNR that 5 % of the images do not exceed; None where fewer have other logits."""
    kl: NonNegativeFloat
    """Mean Kullback-Leibler divergence of INT8's probabilities from FP32's, in nats."""

    def headline(self, fp32_layers: int, calib_images: int) -> EvaluateMetrics:
        """Return the figures that are compared across commits, with what INT8 is made of."""
        return EvaluateMetrics(
            fp32_top1=self.fp32.top1,
            int8_top1=self.int8.top1,
            uncalibrated_top1=self.int8_uncalibrated.top1,
            drop=self.drop.top1,
            p=self.paired.p,
            agreement=self.agreement,
            median_sqnr_db=self.median_sqnr_db,
            p5_sqnr_db=self.p5_sqnr_db,
            fp32_mb=self.fp32.size_mb,
            int8_mb=self.int8.size_mb,
            fp32_layers=fp32_layers,
            calib_images=calib_images,
        )


class UnlabelledFigures(Card):
    """data/predictions/figures.json where the test images have no labels: INT8 against FP32."""

    images: PositiveInt
    """That are compared."""
    agreement: Share
    uncalibrated_agreement: Share | None = None
    sqnr_db: FiniteFloat | None = None
    """As in `EvaluationFigures`, with the next two."""
    median_sqnr_db: FiniteFloat | None = None
    p5_sqnr_db: FiniteFloat | None = None
    kl: NonNegativeFloat
    fp32_mb: NonNegativeFloat
    int8_mb: NonNegativeFloat

    def headline(self, fp32_layers: int, calib_images: int) -> "UnlabelledMetrics":
        """Return the figures that are compared across commits, with what INT8 is made of."""
        return UnlabelledMetrics(**self.model_dump(), fp32_layers=fp32_layers, calib_images=calib_images)


class UnlabelledMetrics(UnlabelledFigures):
    """metrics/evaluate.json where the test images have no labels."""

    fp32_layers: NonNegativeInt
    calib_images: NonNegativeInt


Figures = EvaluationFigures | UnlabelledFigures


class ClassRow(Card):
    """What INT8 loses on the test images of a class; one without test images has no row."""

    name: str = Field(alias="class")
    images: PositiveInt
    drop: FiniteFloat
    """Recall of FP32 minus recall of INT8, a fraction."""
    low: FiniteFloat
    """Lower end of the 95 % confidence interval."""
    high: FiniteFloat
    both_right: NonNegativeInt
    only_fp32_right: NonNegativeInt
    only_int8_right: NonNegativeInt
    both_wrong: NonNegativeInt
    p_holm: Share
    """McNemar's exact p-value, adjusted by Holm's method for the number of classes."""


class ConfusionCell(Card):
    """The test images of a class that a network predicts to be of a class; empty cells off the diagonal have no row."""

    actual: str
    predicted: str
    images: NonNegativeInt


class PerClassRow(Card):
    """Figures of a network for a class that has test images."""

    name: str = Field(alias="class")
    precision: Share
    """0 for a class that is never predicted."""
    recall: Share
    f1: Share
    images: PositiveInt


class ReliabilityBin(Card):
    """The test images whose confidence is in one of 15 equal bins; a bin without images has no row."""

    network: str
    images: PositiveInt
    confidence: Share
    """Mean probability of the predicted class."""
    accuracy: Share
    """Share of the images that are classified correctly."""


class FileCheck(Card):
    """An exported file in a runtime, compared with the network of torch that it was made from, on the test images."""

    file: str
    runtime: str
    images: PositiveInt
    """Number of test images: all, or the first ones where the file must return what its network does."""
    bit_exact: bool
    """Whether the logits are equal bit by bit."""
    agreement: Share
    """Share of the images for which both predict the same class."""
    fp32_agreement: Share
    """Share for which the file predicts what FP32 predicts."""
    median_sqnr_db: FiniteFloat | None = None
    """Of the file's logits to FP32's, the median over the images; None where at least half of them are equal."""
    top1: Share | None = None
    """None, as the next two, where the images have no labels."""
    lost: NonNegativeInt | None = None
    """Images on which only torch is right."""
    gained: NonNegativeInt | None = None
    """Images on which only the file is right."""


class BenchmarkMetrics(Card):
    """metrics/benchmark.json."""

    speedup: dict[str, PositiveFloat]
    """By runtime, the geometric mean over the batch sizes."""


class BenchmarkRow(Card):
    """FP32 and INT8 in one runtime at one batch size: time, memory and size, and what they were measured with."""

    runtime: str
    batch: PositiveInt
    speedup: PositiveFloat
    """Median over the rounds of FP32's time / INT8's time."""
    speedup_low: PositiveFloat
    """5th percentile of the rounds."""
    speedup_high: PositiveFloat
    """95th percentile of the rounds."""
    fp32_median_ms: PositiveFloat
    fp32_p95_ms: PositiveFloat
    fp32_images_per_s: PositiveFloat
    fp32_first_ms: PositiveFloat
    fp32_load_s: NonNegativeFloat
    fp32_memory_mb: PositiveFloat
    fp32_form: str
    fp32_size_mb: PositiveFloat
    int8_median_ms: PositiveFloat
    int8_p95_ms: PositiveFloat
    int8_images_per_s: PositiveFloat
    int8_first_ms: PositiveFloat
    int8_load_s: NonNegativeFloat
    int8_memory_mb: PositiveFloat
    int8_form: str
    int8_size_mb: PositiveFloat
    note: str | None = None
    """Where INT8 is slower: why."""
    cpu: str
    cores: PositiveInt
    threads: PositiveInt
    instructions: str
    """Of the CPU, those that INT8 kernels use, separated by spaces."""
    versions: str
    """Of the runtime's libraries."""
    model_sha256: str
    """Of the exported INT8 file."""


EPOCHS = Table("train.csv", EpochRow, fewest=1)
CALIB_CLASSES = Table("calib_classes.csv", ClassImages)
OBSERVED_RANGES = Table("calib_tensors.csv", ObservedRange)
QUANTIZED_RANGES = Table("ranges.csv", QuantizedRange)
SEARCH = Table("search.csv", SearchRow)
TRIALS = Table("budget.csv", TrialRow)
SENSITIVITY = Table("sensitivity.csv", SensitivityRow)
CLASSES = Table("classes.csv", ClassRow)
_NETWORKS = ("fp32", "int8_uncalibrated", "int8")
CONFUSIONS = {name: Table(f"confusion_{name}.csv", ConfusionCell) for name in _NETWORKS}
PER_CLASS = {name: Table(f"per_class_{name}.csv", PerClassRow) for name in _NETWORKS}
RELIABILITY = Table("reliability.csv", ReliabilityBin)
FILE_CHECKS = Table("export.csv", FileCheck)
BENCHMARK = Table("benchmark.csv", BenchmarkRow)


def read_evaluation_figures() -> Figures:
    """Read data/predictions/figures.json.

    Raises:
        ArtifactError: the file is missing, or does not hold what this version writes.
    """
    return _read_either(FIGURES, EvaluationFigures, UnlabelledFigures)


def read_evaluate_metrics(path: Path) -> EvaluateMetrics | UnlabelledMetrics:
    """Read metrics/evaluate.json of any clone.

    Raises:
        ArtifactError: the file is missing, or does not hold what this version writes.
    """
    return _read_either(path, EvaluateMetrics, UnlabelledMetrics)


def _read_either(path: Path, labelled: type[_L], unlabelled: type[_U]) -> _L | _U:
    try:
        return read_card(path, labelled)
    except ArtifactError as error:
        try:
            return read_card(path, unlabelled)
        except ArtifactError:
            raise error from None
