"""The range method of each tensor and SmoothQuant's alpha, chosen by what they do to the logits: `auto`.

No range is best for every network: the least squared error is decided by a few outliers in a network with swish, and
extremes that suit one network clip what another needs. So each is tried, with weights and activations rounded as in
INT8, on calibration images and without labels: first for all tensors, then for those that cost most, one by one.
"""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from glob import escape

import torch
from torch import Tensor
from torch.fx import GraphModule

from ptqflow.calib.statistics import Statistics
from ptqflow.convert.criterion import Images, Score, by_chance_db, draw_images, sqnr_db
from ptqflow.convert.params import ConvertParams
from ptqflow.convert.qparams import resolve_scheme, set_ranges
from ptqflow.convert.quantize import quantize
from ptqflow.convert.ranges import Method, QParams
from ptqflow.convert.simulated_ranges import SimulatedRanges
from ptqflow.convert.smoothing import Smoothed, smooth_network, smoothable_pairs
from ptqflow.convert.weight_scales import mse_scales
from ptqflow.core.figures import SearchRow
from ptqflow.core.stage import free_memory
from ptqflow.data.dataset import Split
from ptqflow.fx.graph import name_observed
from ptqflow.fx.prepare import prepare
from ptqflow.models.fp32 import Fp32Model

CANDIDATES: tuple[Method, ...] = (
    *("minmax_32", "minmax_8", "minmax_16", "minmax_64", "minmax_128", "minmax", "mse", "percentile"),
    *("minmax_1", "minmax_2", "minmax_4"),
)
"""Of equal ones, the first is taken."""
_CLOSE_DB = 0.5  # to the best method, within which a method is tried on other images too
_TENSORS = 12  # that are tried alone, at most
_COST_DB = 0.1  # that the rounding of such a tensor costs, at least
_UNBEARABLE_DB = 0.3  # that the rounding of a tensor may cost with the best method
ALPHAS = (0.15, 0.3, 0.5, 0.7, 0.85)
"""Of SmoothQuant, that are tried besides 0."""
_GAIN_DB = 0.1  # that another method must gain, beside more than chance


@dataclass(frozen=True)
class Search:
    """What was tried, in order, and what is taken."""

    params: ConvertParams
    """With what is taken in the place of `auto`: the method of all tensors, those of single ones as overrides, alpha.
    """
    smoothed: Smoothed
    """The network with that alpha, and its statistics."""
    rows: tuple[SearchRow, ...]
    seconds: float


def search_methods(
    fp32: Fp32Model, params: ConvertParams, statistics: Statistics, train: Split, report: Callable[[str], None]
) -> Search:
    """Choose the methods of `convert.activation.method=auto` and the alpha of `convert.smooth_quant=auto`.

    Of all tensors, that method is taken whose logits have the largest SQNR in decibels on calibration images: half the
    mean of the images' own, half that of all images together, in which those with large logits count most. Methods
    within 0.5 dB of the best are compared on twice as many images, on which the figure is then the mean. With this
    method, the alpha is taken that is best in the same way, if it gains more than chance would, on the images that
    decide and on others. So does another method of a single tensor than that of the rest.

    Args:
        fp32: the network.
        params: the `convert` section.
        statistics: what `calib` collected.
        train: the split that the calibration images are from.
        report: called with one line for each method and alpha of the whole network, and for each tensor that gets
            another method.

    Raises:
        ParamsError: as `quantize`.
        ModelError: as `quantize`.
    """
    start = time.monotonic()
    kept = resolve_scheme(fp32.module, params).fp32
    pairs = smoothable_pairs(fp32, kept) if params.smooth_quant else []
    alphas = ALPHAS if params.smooth_quant == "auto" and pairs else ()
    first = 0.0 if params.smooth_quant == "auto" else params.smooth_quant
    params = params.model_copy(update={"smooth_quant": first})
    smoothed = smooth_network(fp32, statistics, pairs, first)
    method = params.activation.method
    if method != "auto" and not alphas:
        return Search(params, smoothed, (), 0.0)
    trials = _Trials(smoothed, params, train)
    best, rows = _choose_method(trials, CANDIDATES if method == "auto" else (method,), report)
    if alphas:
        others = {alpha: trials.of(smooth_network(fp32, statistics, pairs, alpha)) for alpha in alphas}
        alpha, tried = _choose_alpha(trials, others, best, report)
        trials, rows = others.get(alpha, trials), [*rows, *tried]
        params = params.model_copy(update={"smooth_quant": alpha})
    if method == "auto":
        params, tried = _refine(trials, params, best, report)
        rows += tried
    return Search(params, trials.smoothed, tuple(rows), time.monotonic() - start)


def _describe(found: Mapping[str, float], taken: str, report: Callable[[str], None]) -> list[SearchRow]:
    for name, db in found.items():
        report(f"{name:<17} {db:7.2f} dB{'  taken' if name == taken else ''}")
    return [SearchRow(tensor="", method=name, sqnr_db=round(db, 4)) for name, db in found.items()]


def _choose_method(
    trials: "_Trials", methods: Sequence[Method], report: Callable[[str], None]
) -> tuple[Method, list[SearchRow]]:
    found = {method: trials.whole(method) for method in methods}
    largest = max(found.values())
    close = [method for method, db in found.items() if largest - db < _CLOSE_DB]
    if len(close) > 1 and trials.has_others:
        found |= {method: (found[method] + trials.on_others(method)) / 2 for method in close}
    best = max(close, key=found.__getitem__)
    return best, _describe({str(method): db for method, db in found.items()}, best, report)


def _choose_alpha(
    trials: "_Trials", others: "Mapping[float, _Trials]", method: Method, report: Callable[[str], None]
) -> tuple[float, list[SearchRow]]:
    found = {alpha: other.whole(method) for alpha, other in others.items()}
    best = max(found, key=found.__getitem__)
    taken = best if others[best].gains_over(trials, method) else 0.0
    names = {alpha: f"smooth_quant={alpha}" for alpha in found}
    return taken, _describe({names[alpha]: db for alpha, db in found.items()}, names.get(taken, ""), report)


def _refine(
    trials: "_Trials", params: ConvertParams, method: Method, report: Callable[[str], None]
) -> tuple[ConvertParams, list[SearchRow]]:
    """Return params with a method for all tensors, and others for single ones."""
    overrides, fp32_layers, tried = trials.refine(method)
    for tensor, other in overrides.items():
        report(f"{other:<17} for {tensor}")
    for layer in fp32_layers:
        report(f"{layer} stays FP32: no 8 bits hold its input")
    kept = params.model_copy(update={"keep_fp32": (*params.keep_fp32, *map(escape, fp32_layers))})
    if fp32_layers:  # a tensor that only they read has no range
        ranged = _ranged_tensors(trials.smoothed.fp32, kept)
        overrides = {tensor: other for tensor, other in overrides.items() if tensor in ranged}
    return with_method(kept, method, overrides), tried


def _ranged_tensors(fp32: Fp32Model, params: ConvertParams) -> set[str]:
    prepared = prepare(fp32.module, fp32.card.input_shape, resolve_scheme(fp32.module, params))
    return set(name_observed(fp32.module, prepared).values())


def with_method(params: ConvertParams, method: Method, overrides: Mapping[str, Method]) -> ConvertParams:
    """Return params with another method; their own overrides precede those of single tensors."""
    activation = params.activation.model_copy(update={"method": method})
    single = {escape(tensor): chosen for tensor, chosen in overrides.items()}
    return params.model_copy(
        update={"activation": activation, "overrides": {**params.overrides, **single, **params.overrides}}
    )


class _Trials:
    """A network with rounded weights, whose ranges are tried on calibration images."""

    def __init__(self, smoothed: Smoothed, params: ConvertParams, train: Split) -> None:
        fp32, statistics = smoothed.fp32, smoothed.statistics
        self._params = params.model_copy(update={"bias_correction": False})
        first = with_method(self._params, CANDIDATES[0], {})
        quantized = quantize(fp32.module, fp32.card, first, statistics, train)
        self._scheme = quantized.scheme
        self._load(smoothed, quantized.prepared)
        self._deciding, self._held_out = draw_images(fp32.module, fp32.card.normalization, train, statistics.rows)

    def of(self, smoothed: Smoothed) -> "_Trials":
        """Return trials of the same network with other scales of its channels."""
        other = copy.copy(self)
        card = smoothed.fp32.card
        other._load(smoothed, prepare(smoothed.fp32.module, card.input_shape, self._scheme, mse_scales))
        return other

    def _load(self, smoothed: Smoothed, prepared: GraphModule) -> None:
        self.smoothed = smoothed
        self._prepared = prepared
        self._passes = SimulatedRanges(smoothed.fp32.module, prepared)
        self._found: dict[Method, dict[str, QParams]] = {}

    def _ranges(self, method: Method) -> dict[str, QParams]:
        if method not in self._found:
            params = with_method(self._params, method, {})
            model, statistics = self.smoothed.fp32.module, self.smoothed.statistics
            self._found[method] = set_ranges(model, self._prepared, self._scheme, statistics, params)
        return self._found[method]

    def whole(self, method: Method) -> float:
        """Return the score in decibels with one method for all tensors."""
        return self._score(method, self._deciding).db

    @property
    def has_others(self) -> bool:
        """Whether there are other images than those of `whole`."""
        return self._held_out is not None

    def on_others(self, method: Method) -> float:
        """Return the score of `whole` on as many other images."""
        assert self._held_out
        return self._score(method, self._held_out).db

    def gains_over(self, other: "_Trials", method: Method) -> bool:
        """Return whether the network is better than another by more than chance, on images that did not decide too."""
        found, current = (trials._score(method, self._deciding).images_db for trials in (self, other))
        if not _is_better(found, current) or self._held_out is None:
            return _is_better(found, current)
        found, current = (trials._score(method, self._held_out).images_db for trials in (self, other))
        return bool(found.mean() > current.mean())

    def _score(self, method: Method, images: Images) -> Score:
        self._passes.set_ranges(self._ranges(method))
        return images.score(self._passes.run)

    def refine(self, method: Method) -> tuple[dict[str, Method], list[str], list[SearchRow]]:
        """Return the tensors that are better with another method than `method`, layers to keep FP32, and the trials."""
        free_memory()
        self._passes.set_ranges(self._ranges(method))
        before = self._held_out.score(self._passes.run) if self._held_out else None
        overrides, fp32, rows = self._try_tensors(method)
        if overrides and self._held_out and before:
            after = self._held_out.score(self._passes.run)
            if after.images_db.mean() <= before.images_db.mean():  # it was chance
                return {}, fp32, rows
        return overrides, fp32, rows

    def _try_tensors(self, method: Method) -> tuple[dict[str, Method], list[str], list[SearchRow]]:
        images = self._deciding.first(self._deciding.together)
        exact = images.exact
        overrides: dict[str, Method] = {}
        fp32: list[str] = []
        rows = []
        with torch.inference_mode():
            current = sqnr_db(self._passes.run_keeping(images.inputs), exact)
            cost = {
                tensor: float((sqnr_db(self._passes.without(tensor), exact) - current).mean())
                for tensor in self._passes.tensors
            }
            costly = sorted((tensor for tensor in cost if cost[tensor] > _COST_DB), key=lambda tensor: -cost[tensor])
            for tensor in costly[:_TENSORS]:
                tried = {self._ranges(method).get(tensor): current}
                for other in CANDIDATES:
                    qparams = self._ranges(other).get(tensor)
                    if qparams is None or qparams in tried:
                        continue
                    tried[qparams] = sqnr_db(self._passes.with_range(tensor, qparams), exact)
                    rows.append(SearchRow(tensor=tensor, method=other, sqnr_db=round(float(tried[qparams].mean()), 4)))
                    if _is_better(tried[qparams], current):
                        current = tried[qparams]
                        overrides[tensor] = other
                        self._passes.keep(tensor, qparams)
                unrounded = sqnr_db(self._passes.without(tensor), exact)
                if (unrounded - current).mean() > _UNBEARABLE_DB and (layers := self._passes.small_readers(tensor)):
                    rows.append(SearchRow(tensor=tensor, method="fp32", sqnr_db=round(float(unrounded.mean()), 4)))
                    fp32 += layers
                    self._passes.leave(tensor)
                    current = unrounded
        return overrides, fp32, rows


def _is_better(found: Tensor, current: Tensor) -> bool:
    """Return whether SQNRs of images exceed others of the same images by more than chance."""
    return bool((found - current).mean() > max(_GAIN_DB, by_chance_db(found, current)))
