import pytest
import torch
from fresh_process import convert_params
from torch import Tensor, nn
from torch.ao.nn.quantized import Conv2d, Linear

from ptqflow.convert.qparams import resolve_scheme
from ptqflow.core.engines import ENGINES, Engine, available_engines, lacks_vnni
from ptqflow.core.errors import EngineError, ParamsError
from ptqflow.fx.engine import overflowing_layers, use_engine
from ptqflow.fx.prepare import without_torch_warnings

AVAILABLE = available_engines()
ALL_8_BITS, SEVEN_BITS = 255, 127


class Layers(nn.Module):
    """Layers by name, which are never run."""

    def __init__(self, **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return x


def depthwise(channels: int, size: int = 3, stride: int = 1, multiplier: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, multiplier * channels, size, stride, size // 2, groups=channels)


def grouped(channels: int, groups: int, size: int = 3) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, size, padding=size // 2, groups=groups)


# What FBGEMM has a kernel for that is made for depthwise convolutions.
DEPTHWISE = [
    *(depthwise(channels, size) for channels in (8, 32, 64, 96, 104, 128, 256) for size in (3, 5)),
    *(depthwise(channels, stride=2) for channels in (64, 128)),
    *(depthwise(channels, multiplier=2) for channels in (64, 128)),
    depthwise(128, 7),
]
OTHERS = [
    nn.Conv2d(3, 16, 3, padding=1),
    nn.Conv2d(64, 64, 3, padding=1),
    nn.Conv2d(256, 16, 1),
    nn.Conv2d(128, 128, 1),
    nn.Conv2d(64, 64, 3, dilation=2),
    nn.Linear(64, 32),
    nn.Linear(1000, 10),
    *(grouped(64, groups) for groups in (2, 8, 32)),
    *(grouped(256, groups) for groups in (4, 32, 64, 128)),
    grouped(1024, 128, 1),
    grouped(2048, 128),
    nn.Conv2d(256, 128, 3, groups=128),
    nn.Conv2d(128, 128, 3, groups=128, dilation=2),
    nn.Conv2d(128, 128, 2, groups=128),
]


def describe(layer: nn.Module) -> str:
    if isinstance(layer, nn.Linear):
        return f"linear {layer.in_features}-{layer.out_features}"
    return (
        f"{layer.in_channels}-{layer.out_channels} {layer.kernel_size[0]}x{layer.kernel_size[0]} groups {layer.groups}"
    )


def extreme_sums(layer: nn.Module, activation: int, weight: int) -> tuple[Tensor, Tensor]:
    """The largest sums that a layer can have: as its INT8 kernel returns them, and by exact arithmetic."""
    weights = torch.full_like(layer.weight, float(weight))
    scale = activation * abs(weight) * weights[0].numel() / 100.0  # of the output
    with without_torch_warnings(), torch.inference_mode():
        shape = (1, layer.in_features) if isinstance(layer, nn.Linear) else (1, layer.in_channels, 9, 9)
        values = torch.full(shape, float(activation))
        codes = torch.quantize_per_channel(
            weights, torch.ones(len(weights)), torch.zeros(len(weights), dtype=torch.int64), 0, torch.qint8
        )
        if isinstance(layer, nn.Linear):
            quantized = Linear(layer.in_features, layer.out_features)
            expected = nn.functional.linear(values.double(), weights.double())
        else:
            quantized = Conv2d(
                layer.in_channels,
                layer.out_channels,
                layer.kernel_size[0],
                layer.stride[0],
                layer.padding[0],
                layer.dilation[0],
                layer.groups,
            )
            expected = nn.functional.conv2d(
                values.double(), weights.double(), None, layer.stride, layer.padding, layer.dilation, layer.groups
            )
        quantized.set_weight_bias(codes, torch.zeros(len(weights)))
        quantized.scale, quantized.zero_point = scale, 128
        result = quantized(torch.quantize_per_tensor(values, 1.0, 0, torch.quint8))
    return result.int_repr().int(), (expected / scale).round().int() + 128


def overflows(layer: nn.Module, engine: Engine, largest: int) -> bool:
    use_engine(engine, reduce_range=largest == SEVEN_BITS)
    differences = [(torch.sub(*extreme_sums(layer, largest, weight))).abs().max().item() for weight in (127, -128)]
    return max(differences) > 1


needs_vnni = pytest.mark.skipif(
    any(lacks_vnni(engine) for engine in AVAILABLE), reason="without VNNI any kernel may overflow"
)


@needs_vnni
@pytest.mark.parametrize("layer", DEPTHWISE, ids=describe)
@pytest.mark.parametrize("engine", AVAILABLE)
def test_a_depthwise_convolution_overflows_with_8_bits_where_it_is_said_to(engine: Engine, layer: nn.Module) -> None:
    assert overflows(layer, engine, ALL_8_BITS) is ("conv" in overflowing_layers(Layers(conv=layer), engine))


@needs_vnni
@pytest.mark.parametrize("layer", OTHERS, ids=describe)
@pytest.mark.parametrize("engine", AVAILABLE)
def test_no_other_layer_overflows_with_8_bits(engine: Engine, layer: nn.Module) -> None:
    assert not overflows(layer, engine, ALL_8_BITS)


@pytest.mark.parametrize("layer", [*DEPTHWISE, *OTHERS], ids=describe)
@pytest.mark.parametrize("engine", AVAILABLE)
def test_no_layer_overflows_with_7_bits(engine: Engine, layer: nn.Module) -> None:
    assert not overflows(layer, engine, SEVEN_BITS)


@pytest.mark.parametrize(
    ("engine", "expected"),
    [("fbgemm", ["small", "large", "last"]), ("x86", ["large", "last"]), ("onednn", []), ("qnnpack", [])],
)
def test_the_layers_that_can_overflow_are_named(engine: Engine, expected: list[str]) -> None:
    model = Layers(
        dense=nn.Conv2d(128, 128, 3),
        grouped=grouped(256, 128),
        linear=nn.Linear(128, 128),
        small=depthwise(64),
        large=depthwise(128),
        last=depthwise(256),
    )

    assert overflowing_layers(model, engine) == expected


def test_bits_follow_from_the_layers_unless_they_are_asked_for() -> None:
    model = Layers(conv=depthwise(128), fc=nn.Linear(8, 8))

    def bits(engine: Engine, reduce_range: bool | None, **changes: object) -> bool:
        params = convert_params(engine=engine, activation={"reduce_range": reduce_range}, head="int8", **changes)
        return resolve_scheme(model, params).reduce_range

    on_vnni = {engine: not lacks_vnni(engine) for engine in ENGINES}
    assert bits("x86", None)
    assert bits("fbgemm", None)
    assert bits("onednn", None) is not on_vnni["onednn"]
    assert not bits("qnnpack", None)
    assert bits("qnnpack", True)
    assert not bits("onednn", False)
    assert bits("x86", None, keep_fp32=["conv"]) is not on_vnni["x86"]


def test_8_bits_where_a_kernel_can_overflow_are_refused_in_one_line() -> None:
    params = convert_params(engine="x86", activation={"reduce_range": False})

    with pytest.raises(
        ParamsError, match=r"reduce_range is false, but x86 runs conv on a kernel that can over"
    ) as error:
        resolve_scheme(Layers(conv=depthwise(128)), params)
    assert "\n" not in str(error.value)
    assert not resolve_scheme(Layers(conv=depthwise(64)), params).reduce_range


@pytest.fixture
def without_vnni(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ptqflow.core.engines.is_x86_without", lambda _: True)


@pytest.mark.usefixtures("without_vnni")
def test_a_cpu_without_vnni_falls_to_7_bits_by_default_and_refuses_8() -> None:
    model = Layers(conv=nn.Conv2d(3, 8, 3))
    schemes = {engine: resolve_scheme(model, convert_params(engine=engine)) for engine in ENGINES}

    assert {engine: scheme.reduce_range for engine, scheme in schemes.items()} == {
        "x86": True,
        "fbgemm": True,
        "onednn": True,
        "qnnpack": False,
    }
    for engine in AVAILABLE:
        use_engine(engine, schemes[engine].reduce_range)
    for engine in set(AVAILABLE) - {"qnnpack"}:
        with pytest.raises(EngineError, match=rf"all 8 bits .*, which on {engine} needs a CPU with VNNI") as refusal:
            use_engine(engine, reduce_range=False)
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("engine", AVAILABLE)
def test_an_available_engine_is_selected_for_the_process(engine: Engine) -> None:
    use_engine(engine, reduce_range=True)

    assert torch.backends.quantized.engine == engine


def test_every_engine_of_torch_but_its_placeholder_can_be_asked_for() -> None:
    assert set(AVAILABLE) == set(torch.backends.quantized.supported_engines) - {"none"}
    assert set(AVAILABLE) <= set(ENGINES)


def test_an_engine_that_the_machine_lacks_is_answered_with_those_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.backends.quantized.engine
    monkeypatch.setattr("ptqflow.core.engines.ENGINES", ("x86",))

    with pytest.raises(EngineError, match=r"convert.engine=qnnpack is not available on this machine, which has"):
        use_engine("qnnpack", reduce_range=True)
    assert torch.backends.quantized.engine == before
