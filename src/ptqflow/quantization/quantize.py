"""What the stages do from `fetch` to `export`, in one process and without files of a repository."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Any, TypeVar

import torch
from torch import nn

from ptqflow.calib.collection import collect_statistics, observe
from ptqflow.calib.params import CalibParams
from ptqflow.calib.sampling import draw_images, input_batches
from ptqflow.convert.conversion import convert_network
from ptqflow.convert.params import ConvertParams
from ptqflow.core.errors import ParamsError
from ptqflow.core.params import Params, default_sections, validate
from ptqflow.data.dataset import open_dataset
from ptqflow.evaluate.metrics import compare_unlabelled
from ptqflow.export.export import LogitsPair, Networks, check_files, require_runtimes, write_files
from ptqflow.export.gate import Gate
from ptqflow.export.manifest import describe
from ptqflow.export.params import ExportParams
from ptqflow.fetch.fetch import store
from ptqflow.fetch.params import DataParams
from ptqflow.fx.artifact import Int8Model
from ptqflow.fx.prepare import without_torch_warnings
from ptqflow.models.fp32 import Fp32Model
from ptqflow.models.logits import compute_logits
from ptqflow.models.params import ModelParams
from ptqflow.quantization.images import Images, first_size, open_images, require_images
from ptqflow.quantization.networks import named_network, passed_network
from ptqflow.quantization.result import Quantization, ScratchFolder, Steps
from ptqflow.runtime.manifest import write_manifest

_OF_PHOTOS = {"name": "photos", "path": ".", "image_size": None, "test_fraction": 0.5}
"""Of the section `data`, other than the pipeline's defaults: half of the images are compared."""
_MOST = 2000  # images of a loader
_BATCH = 256
_P = TypeVar("_P", bound=Params)


@dataclass(frozen=True)
class _Settings:
    """The sections of params.yaml, with the caller's values."""

    sections: Mapping[str, dict[str, Any]]

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "_Settings":
        sections = default_sections()
        sections["data"] |= _OF_PHOTOS
        sections["train"]["epochs"] = 0
        for key, value in settings.items():
            section, *path = key.split(".")
            if section not in ("data", "model", "calib", "convert", "export") or not path:
                raise ParamsError(
                    f"settings has the key {key!r}: pass keys of data, model, calib, convert and export, such as "
                    "convert.head"
                )
            values = sections[section]
            for part in path[:-1]:
                values = values.get(part, {})
            values[path[-1]] = value
        return cls(sections)

    def section(self, name: str, model: type[_P]) -> _P:
        return validate(name, model, self.sections[name], "settings")


def quantize(
    model: nn.Module | str,
    images: Images,
    weights: str | PathLike[str] | None,
    classes: Sequence[str] | None,
    settings: Mapping[str, Any],
    report: Callable[[str], None],
) -> Quantization:
    """Quantize a network as documented at `ptqflow.quantize`; `report` is called with a line for each step."""
    require_images(images)
    named = {} if isinstance(model, nn.Module) else {"model.name": model, "model.weights": weights and fspath(weights)}
    chosen = _Settings.of({**named, **settings})
    data, export = chosen.section("data", DataParams), chosen.section("export", ExportParams)
    if chosen.section("convert", ConvertParams).max_drop is not None:
        raise ParamsError("convert.max_drop is set, and the images have no labels; leave it at null")
    require_runtimes(export)
    fp32, fp32_bytes = _open_network(model, images, data, chosen.section("model", ModelParams), classes)
    folder = ScratchFolder()
    with without_torch_warnings():
        source = open_images(images, data, fp32.card.preprocessing, fp32.card.normalization, _MOST)
        store(source, data, fp32.card.preprocessing, folder.path / "dataset")
        return _quantize(fp32, fp32_bytes, chosen, folder, report)


def _open_network(
    model: nn.Module | str, images: Images, data: DataParams, params: ModelParams, classes: Sequence[str] | None
) -> tuple[Fp32Model, int]:
    if isinstance(model, nn.Module):
        return passed_network(model, data, params, classes, None if data.size else first_size(images))
    if data.size is None and params.preprocessing is None and (size := first_size(images)):
        data = data.model_copy(update={"image_size": size})
    return named_network(data, params, classes)


def _quantize(
    fp32: Fp32Model,
    fp32_bytes: int,
    chosen: _Settings,
    folder: ScratchFolder,
    report: Callable[[str], None],
) -> Quantization:
    card, place = fp32.card, folder.path
    dataset = open_dataset(place / "dataset")
    calib, export = chosen.section("calib", CalibParams), chosen.section("export", ExportParams)
    draw = draw_images(dataset, calib.batches, calib.batch_size, calib.seed)
    batches = input_batches(dataset.train, draw.rows, card.normalization)
    statistics = collect_statistics(observe(fp32.module, card.input_shape), batches, draw.rows)
    report(f"{draw.rows.size:,} images calibrate, {len(dataset.test):,} are compared")
    found = convert_network(fp32, chosen.section("convert", ConvertParams), statistics, dataset, report)
    made = found.quantized
    networks = Networks(fp32.module, Int8Model(made.converted, made.card))
    logits = {
        name: compute_logits(network, dataset.test, card.normalization, _BATCH, name).numpy()
        for name, network in (("fp32", fp32.module), ("int8", made.converted))
    }
    figures = compare_unlabelled(logits, {"fp32": fp32_bytes, "int8": _state_bytes(made.converted)})
    pair = LogitsPair(int8=logits["int8"], fp32=logits["fp32"])
    exported = place / "export"
    exported.mkdir()
    write_files(exported, networks, pair, export)
    write_manifest(exported, describe(exported, networks, dataset.card, export, figures, chosen.sections))
    gate = Gate(exported, place / "dataset", None, _BATCH)
    checks = check_files(gate, networks, pair, dataset.test, export)
    report(
        f"{', '.join(dict.fromkeys(check.file for check in checks))} predict as they should, each in a fresh process"
    )
    return Quantization(figures, tuple(checks), logits, Steps(fp32, statistics, found, dataset), folder)


def _state_bytes(network: nn.Module) -> int:
    buffer = io.BytesIO()
    torch.save(network.state_dict(), buffer)
    return buffer.tell()
