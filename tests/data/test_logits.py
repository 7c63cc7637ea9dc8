from pathlib import Path

import numpy as np
import pytest
from made_logits import logits_card

from ptqflow.core.errors import ArtifactError
from ptqflow.core.paths import LOGITS
from ptqflow.data.dataset import DatasetCard
from ptqflow.data.logits import NETWORKS, load_all_logits, load_logits, save_logits

VALUES = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


def dataset_card(test_sha256: str = "0" * 64) -> DatasetCard:
    return DatasetCard.model_construct(sha256={"test": test_sha256})


@pytest.fixture(autouse=True)
def _saved() -> None:
    for name in NETWORKS:
        save_logits(LOGITS / name, VALUES, logits_card(name))


def test_what_is_saved_comes_back_bit_for_bit() -> None:
    found = load_logits(LOGITS / "int8")
    assert found.values.dtype == np.float32
    assert np.array_equal(found.values, VALUES)
    assert found.card.model_copy(update={"logits_sha256": ""}) == logits_card("int8")


def test_equal_logits_have_equal_bytes_also_of_a_view(tmp_path: Path) -> None:
    save_logits(tmp_path / "again", np.asfortranarray(VALUES), logits_card("fp32"))
    for file in (LOGITS / "fp32").iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()


def test_logits_of_all_networks_belong_together() -> None:
    assert tuple(load_all_logits(dataset_card())) == NETWORKS


def test_a_flipped_bit_is_one_line_that_names_the_file() -> None:
    file = LOGITS / "int8" / "logits.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(ArtifactError, match=r"^data/logits/int8/logits\.safetensors is missing or not the file"):
        load_all_logits(dataset_card())


def test_logits_for_other_test_images_are_refused() -> None:
    with pytest.raises(ArtifactError, match=r"^data/logits/fp32 holds logits for other test images; run `dvc repro`$"):
        load_all_logits(dataset_card("1" * 64))


def test_logits_of_a_network_from_other_fp32_weights_are_refused() -> None:
    save_logits(LOGITS / "int8", VALUES, logits_card("int8", fp32_sha256="9" * 64))
    with pytest.raises(ArtifactError, match=r"^data/logits/int8 holds logits of a network with other FP32 weights; "):
        load_all_logits(dataset_card())
