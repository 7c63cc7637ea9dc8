from collections.abc import Callable

import miniature
import pytest
from fresh_process import convert_params
from torch import nn

from ptqflow.calib.statistics import Statistics
from ptqflow.calib.tensor_statistics import share
from ptqflow.convert.qparams import resolve_scheme, set_ranges
from ptqflow.convert.ranges import Levels, QParams, Range, entropy_range, minmax_range, to_qparams
from ptqflow.core.errors import ParamsError
from ptqflow.fx.prepare import prepare

CODES = Levels(255, symmetric=False)
POOLED = ("conv1", "maxpool")
"""Tensors that share an observer."""

pytestmark = pytest.mark.parametrize("function", ["residual"], indirect=True)

Choose = Callable[..., dict[str, QParams]]


@pytest.fixture
def choose(network: nn.Module, statistics: Statistics) -> Choose:
    """Sets the ranges of the network by the section `convert`: `minmax` with changes."""

    def choose(**changes: object) -> dict[str, QParams]:
        params = convert_params(activation={"method": "minmax", "reduce_range": False}, **changes)
        scheme = resolve_scheme(network, params)
        return set_ranges(network, prepare(network, miniature.INPUT_SHAPE, scheme), scheme, statistics, params)

    return choose


def refusal(choose: Choose, **changes: object) -> str:
    with pytest.raises(ParamsError) as error:
        choose(**changes)
    assert "\n" not in str(error.value)
    return str(error.value)


def minmax_of(statistics: Statistics, *names: str) -> Range:
    return minmax_range(share([seen for name in names if (seen := statistics.tensors[name])]))


def entropy_of(statistics: Statistics, *names: str) -> Range:
    return entropy_range(share([seen for name in names if (seen := statistics.tensors[name])]))


def test_an_override_changes_the_tensors_that_it_matches_and_no_other(choose: Choose, statistics: Statistics) -> None:
    plain, changed = choose(), choose(overrides={"conv2": "entropy"})

    assert changed["conv2"] == to_qparams(entropy_of(statistics, "conv2"), CODES) != plain["conv2"]
    assert changed | {"conv2": plain["conv2"]} == plain


@pytest.mark.parametrize("name", POOLED)
def test_an_override_of_one_tensor_counts_for_all_that_share_its_range(
    choose: Choose, statistics: Statistics, name: str
) -> None:
    changed = choose(overrides={name: "entropy"})

    assert [changed[pooled] for pooled in POOLED] == [to_qparams(entropy_of(statistics, *POOLED), CODES)] * 2


@pytest.mark.parametrize("patterns", [("conv1", "maxpool"), ("maxpool", "conv1"), ("conv*", "maxpool"), ("*", "conv1")])
@pytest.mark.parametrize("first", ["entropy", "minmax"])
def test_of_two_patterns_the_first_counts(
    choose: Choose, statistics: Statistics, patterns: tuple[str, str], first: str
) -> None:
    """Also where each matches another one of the tensors that share a range."""
    expected = {"entropy": entropy_of, "minmax": minmax_of}[first](statistics, *POOLED)
    second = {"entropy": "minmax", "minmax": "entropy"}[first]

    assert choose(overrides=dict(zip(patterns, (first, second), strict=True)))["conv1"] == to_qparams(expected, CODES)


def test_an_override_that_matches_nothing_is_answered_with_near_names(choose: Choose) -> None:
    message = refusal(choose, overrides={"conv1": "mse", "conv3": "mse"})

    assert message == "convert.overrides: 'conv3' matches nothing; near names: conv2, conv1"


@pytest.mark.parametrize("pattern", ["fc", "f[c]"])
def test_an_override_of_what_gets_no_range_is_refused(choose: Choose, pattern: str) -> None:
    assert refusal(choose, overrides={pattern: "mse"}).startswith(
        f"convert.overrides: '{pattern}' is mse, but fc gets no range: it stays FP32"
    )


@pytest.mark.parametrize(
    ("keep_fp32", "pattern"),
    [
        (["conv2"], "conv2"),
        (["conv*"], "conv*"),
        (["conv1", "bn1", "conv2"], "conv?"),
        (["Conv2d"], "conv2"),
    ],
)
def test_an_override_of_nothing_but_what_is_kept_fp32_is_refused(
    choose: Choose, keep_fp32: list[str], pattern: str
) -> None:
    """Although a kept layer's output has a range where an INT8 layer reads it."""
    assert refusal(choose, keep_fp32=keep_fp32, overrides={pattern: "entropy"}) == (
        f"convert.overrides: '{pattern}' is entropy, but all that it matches stays FP32 by convert.keep_fp32: "
        f"{', '.join(keep_fp32)}; drop one of the two"
    )


def test_an_override_may_match_more_than_what_is_kept_fp32(choose: Choose, statistics: Statistics) -> None:
    changed = choose(keep_fp32=["conv1", "bn1"], overrides={"conv*": "entropy"})

    assert changed["conv2"] == to_qparams(entropy_of(statistics, "conv2"), CODES)


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(
    ("width", "hidden", "classes", "kept"),
    [(6155, 512, 513, ()), (6156, 512, 513, ("1",)), (1, 512, 512, ("1",)), (1, 512, 513, ())],
)
def test_auto_keeps_a_head_of_a_mebibyte_or_a_quarter_of_the_bytes_fp32_and_quantizes_a_larger_one(
    width: int, hidden: int, classes: int, kept: tuple[str, ...]
) -> None:
    """FP32 takes 4 bytes a weight, INT8 one: 4 · 512 · 513 of 4 · 512 · 513 + 6156 · 512 bytes are a quarter."""
    model = nn.Sequential(nn.Linear(width, hidden, bias=False), nn.Linear(hidden, classes, bias=False)).eval()

    assert resolve_scheme(model, convert_params(head="auto")).fp32 == kept
