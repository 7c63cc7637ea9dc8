import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import miniature
import pytest
import torch
from fresh_process import BRANCHED, CHOICES, ENGINES, FUSING, RESIDUAL
from torch import Tensor, nn

import ptqflow
from ptqflow.core.engines import lacks_vnni
from ptqflow.core.errors import ArtifactError, EngineError
from ptqflow.data.preprocessing import to_input
from ptqflow.fx.artifact import STATE, load_int8


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """All that quantization makes, by a process with one thread and by one with two."""
    folders = [tmp_path_factory.mktemp(f"threads_{threads}") for threads in (1, 2)]
    roots = [str(Path(module.__file__).parents[level]) for module, level in ((ptqflow, 1), (miniature, 0))]
    processes = [
        subprocess.Popen(
            [sys.executable, Path(__file__).parents[1] / "fresh_process.py", folder, str(threads)],
            env=os.environ
            | {
                "PYTHONPATH": os.pathsep.join(roots),
                "PYTHONHASHSEED": str(threads),
                "OMP_WAIT_POLICY": "passive",
            },
        )
        for threads, folder in enumerate(folders, start=1)
    ]
    assert [process.wait() for process in processes] == [0, 0]
    return folders


@pytest.fixture
def saved(made: list[Path], tmp_path: Path) -> Path:
    return shutil.copytree(made[0] / ENGINES[0], tmp_path / "int8")


@pytest.fixture(scope="session")
def pixels() -> Tensor:
    return to_input(torch.from_numpy(miniature.images(40)), miniature.NORMALIZATION)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_two_processes_make_equal_bytes_with_one_thread_and_with_two(made: list[Path]) -> None:
    one, two = map(contents, made)

    assert one.keys() == two.keys()
    assert [name for name in one if one[name] != two[name]] == []
    files = ("state.pt", "card.json", "prepared.txt", "converted.txt", "layers.txt", "logits.pt")
    assert {f"{name}/{file}" for name in CHOICES for file in files} <= one.keys()


@pytest.mark.parametrize("name", CHOICES)
def test_another_process_gets_the_same_logits_bit_for_bit(made: list[Path], pixels: Tensor, name: str) -> None:
    function, changes = CHOICES[name]

    model = load_int8(made[0] / name)
    with torch.inference_mode():
        logits = model.module(pixels)

    assert torch.equal(logits, torch.load(made[0] / name / "logits.pt"))
    assert model.card.scheme.engine == torch.backends.quantized.engine == changes.get("engine", ENGINES[0])
    assert (model.card.calibration_images > 0) is not name.endswith("uncalibrated")
    assert model.card.model.name == function


@pytest.mark.parametrize("function", [RESIDUAL, BRANCHED])
def test_every_choice_makes_another_model(made: list[Path], function: str) -> None:
    compute_alike = {f"{engine}{kind}" for engine in ENGINES[1:] for kind in ("", "_uncalibrated", "_branched")}
    compute_alike -= {f"{FUSING}_branched"}
    compute_alike |= {"7_bits"} if lacks_vnni(ENGINES[0]) else set()  # which it then has by default
    names = [name for name, (of, _) in CHOICES.items() if of == function and name not in compute_alike]
    logits = {torch.load(made[0] / name / "logits.pt").numpy().tobytes() for name in names}

    assert len(names) >= 4
    assert len(logits) == len(names)


@pytest.mark.parametrize("file", ["card.json", "layers.txt"])
def test_what_stays_fp32_is_written_down(made: list[Path], file: str) -> None:
    text = (made[0] / "kept_branched" / file).read_text()

    if file == "card.json":
        assert json.loads(text)["scheme"]["fp32"] == ["act", "fc", "left"]
    else:
        kept = [line.split()[1] for line in text.splitlines() if line.endswith("kept FP32")]
        assert kept == ["act", "left", "fc"]


@pytest.mark.skipif("onednn" not in ENGINES, reason="onednn is not available")
def test_an_addition_that_is_fused_is_fused_when_the_model_is_loaded_and_one_that_is_not_is_not(
    made: list[Path],
) -> None:
    kinds = {
        name: {type(module).__name__ for module in load_int8(made[0] / name).module.modules()}
        for name in ("onednn", "onednn_branched")
    }

    assert "ConvAddReLU2d" not in kinds["onednn"]
    assert "ConvAddReLU2d" in kinds["onednn_branched"]


def test_a_convolution_that_was_given_a_bias_has_it_when_the_model_is_loaded(made: list[Path]) -> None:
    layer = load_int8(made[0] / "corrected").module.get_submodule("right")
    plain = load_int8(made[0] / f"{ENGINES[0]}_branched").module.get_submodule("right")

    assert isinstance(layer, nn.Module)
    assert layer.bias().abs().max() > 0
    assert plain.bias() is None


def test_weights_keep_the_scales_that_were_chosen(made: list[Path]) -> None:
    schemes = {
        name: torch.load(STATE.path(made[0] / name), weights_only=True)["conv2.weight"].qscheme()
        for name in ("per_tensor", "mse_weights")
    }

    assert schemes == {"per_tensor": torch.per_tensor_affine, "mse_weights": torch.per_channel_affine}


def test_the_graphs_are_kept_as_text(saved: Path) -> None:
    assert "activation_post_process_0" in (saved / "prepared.txt").read_text()
    assert "activation_post_process" not in (saved / "converted.txt").read_text()
    assert "quantize_per_tensor" in (saved / "converted.txt").read_text()
    assert "with bn1, relu" in (saved / "layers.txt").read_text()


def test_weights_are_stored_as_int8(saved: Path) -> None:
    state = torch.load(STATE.path(saved), weights_only=True)

    assert {state[name].dtype for name in ("conv1.weight", "conv2.weight")} == {torch.qint8}
    assert state["fc.weight"].dtype == torch.float32  # the head


@pytest.mark.skipif(len(ENGINES) < 2, reason="there is one engine alone")
def test_another_engine_is_refused(saved: Path) -> None:
    with pytest.raises(
        EngineError, match=f"converted for {ENGINES[0]} and would compute other results on {ENGINES[1]}"
    ):
        load_int8(saved, ENGINES[1])
    assert load_int8(saved, ENGINES[0]).card.scheme.engine == ENGINES[0]


@pytest.mark.skipif("x86" not in ENGINES, reason="there is no engine that needs VNNI")
def test_a_cpu_without_vnni_takes_a_model_with_7_bits_and_refuses_one_with_8(
    made: list[Path], saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ptqflow.core.engines.is_x86_without", lambda _: True)

    card = json.loads((saved / "card.json").read_text())
    card["scheme"]["reduce_range"] = False
    (saved / "card.json").write_text(json.dumps(card))
    with pytest.raises(EngineError, match=r"all 8 bits .* needs a CPU with VNNI.*reduce_range=true") as refusal:
        load_int8(saved)
    assert "\n" not in str(refusal.value)
    assert load_int8(made[0] / "7_bits").card.scheme.reduce_range


def test_a_changed_byte_in_the_state_is_found(saved: Path) -> None:
    data = bytearray(STATE.path(saved).read_bytes())
    data[len(data) // 2] ^= 1
    STATE.path(saved).write_bytes(data)

    with pytest.raises(ArtifactError, match=r"state.pt is missing or not the file that `convert` wrote"):
        load_int8(saved)


@pytest.mark.parametrize("name", ["card.json", "state.pt"])
def test_a_missing_file_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()

    with pytest.raises(ArtifactError, match=f"{name} is missing"):
        load_int8(saved)


@pytest.mark.parametrize(
    ("key", "value"), [("format_version", 3), ("format_version", 6), ("scheme", {}), ("qparams", None)]
)
def test_a_card_of_another_version_is_refused_by_key(saved: Path, key: str, value: object) -> None:
    card = json.loads((saved / "card.json").read_text())
    (saved / "card.json").write_text(json.dumps(card | {key: value}))

    with pytest.raises(ArtifactError, match=f"card.json: {key}"):
        load_int8(saved)


def test_changed_user_code_is_found(saved: Path) -> None:
    card = json.loads((saved / "card.json").read_text())
    card["model"]["code_sha256"] = "0" * 64
    (saved / "card.json").write_text(json.dumps(card))

    with pytest.raises(ArtifactError, match="the code of miniature:residual has changed"):
        load_int8(saved)


def test_a_state_that_does_not_fit_the_card_is_refused(saved: Path) -> None:
    card = json.loads((saved / "card.json").read_text())
    card["model"]["name"] = "miniature:normed"
    (saved / "card.json").write_text(json.dumps(card))

    with pytest.raises(ArtifactError, match=r"state.pt does not fit miniature:normed"):
        load_int8(saved)


@pytest.mark.parametrize("change", [{"fp32": ["conv1"]}, {"engine": "abacus"}])
def test_a_card_with_another_scheme_is_refused(saved: Path, change: dict[str, object]) -> None:
    card = json.loads((saved / "card.json").read_text())
    (saved / "card.json").write_text(json.dumps(card | {"scheme": card["scheme"] | change}))

    with pytest.raises(ArtifactError, match=r"state.pt does not fit|card.json: scheme"):
        load_int8(saved)
