"""Seconds and peak memory of the stages on JPEG photos, by the number of photos.

    PYTHONPATH=src python benchmarks/scale.py fetch --photos 1000 4000 --folder /data/scale
    PYTHONPATH=src python benchmarks/scale.py stages --photos 300 --classes 1000 --folder /data/scale

`fetch` runs the stage alone, on so many photos. `stages` runs fetch, calib, convert, predict and sensitivity with a
network of random weights, on so many test photos and two training photos of each class. Photos are made first and kept
in the folder, as are the outputs of the stages.
"""

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from photos import write_photos
from ruamel.yaml import YAML

from ptqflow.core.machine import usable_cores

ROOT = Path(__file__).resolve().parents[1]
_ERROR = "{stage} ended with status {status}"


def main() -> None:
    """Print a row for each stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("fetch", "stages"))
    parser.add_argument("--photos", type=int, nargs="+", default=[1000])
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--network", default="resnet50")
    parser.add_argument("--set", nargs="*", default=[], metavar="SECTION.KEY=VALUE", help="other params")
    arguments = parser.parse_args()
    print(f"{usable_cores()} cores, {arguments.image_size} pixels, {arguments.classes} classes")
    print(f"{'stage':24}{'photos':>8}{'seconds':>9}{'CPU s':>8}{'MiB':>7}", flush=True)
    for photos in arguments.photos:
        data = arguments.folder / f"{photos} photos of {arguments.classes} classes"
        if arguments.what == "fetch":
            run = Run(arguments.folder / "run", write_photos(data, photos, arguments.classes), arguments)
            run.stage("inputs")
            run.stage("fetch", photos)
            continue
        training = 2 * arguments.classes
        write_photos(data / "train", training, arguments.classes)
        write_photos(data / "test", photos, arguments.classes, training)
        run = Run(arguments.folder / "run", data, arguments)
        run.stage("inputs")
        run.stage("fetch", training + photos)
        run.stage("dry_run")
        run.write_fp32()
        run.stage("calib", run.params["calib"]["batches"] * run.params["calib"]["batch_size"])
        run.stage("convert")
        run.stage("predict", photos, "fp32")
        run.stage("predict", photos, "int8")
        run.stage("sensitivity", min(arguments.classes, run.params["sensitivity"]["images"]))


class Run:
    """A folder in which the stages run, with params of its own."""

    def __init__(self, folder: Path, data: Path, arguments: argparse.Namespace) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.params: dict[str, Any] = YAML(typ="safe").load(ROOT / "params.yaml")
        self._set("data", name="image_folder", path=str(data.resolve()), image_size=arguments.image_size)
        self._set("data", val_fraction=0.5 if arguments.what == "stages" else 0.2)
        self._set("model", name=arguments.network)
        self._set("convert", min_sqnr_db=None)  # of random weights
        for change in arguments.set:
            key, _, value = change.partition("=")
            section, _, name = key.partition(".")
            self._set(section, **{name: YAML(typ="safe").load(value)})
        YAML().dump(self.params, folder / "params.yaml")

    def _set(self, section: str, **values: object) -> None:
        target = self.params[section]
        for name, value in values.items():
            *inside, last = name.split(".")
            for key in inside:
                target = target[key]
            target[last] = value

    def write_fp32(self) -> None:
        """Write random weights as `train` does, which would evaluate them on val."""
        # In a process of its own: with torch, this one would be large, and a process starts as large as its parent.
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            pool.submit(_write_fp32, self.folder).result()

    def stage(self, name: str, photos: int | None = None, *arguments: str) -> None:
        """Run a stage in a process of its own and print its row; `photos` is how many it reads."""
        command = [sys.executable, str(ROOT / "stages" / f"{name}.py"), *arguments]
        environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
        start = time.perf_counter()
        with (self.folder / f"{name}.log").open("w") as log:
            process = subprocess.Popen(command, cwd=self.folder, env=environment, stdout=log)
            _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        if status:
            sys.exit(_ERROR.format(stage=name, status=os.waitstatus_to_exitcode(status)))
        if name != "inputs":
            label, count = " ".join((name, *arguments)), "" if photos is None else str(photos)
            cpu, mib = usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
            print(f"{label:24}{count:>8}{seconds:9.1f}{cpu:8.1f}{mib:7.0f}", flush=True)


def _write_fp32(folder: Path) -> None:
    os.chdir(folder)
    from ptqflow.core.artifacts import read_card
    from ptqflow.core.params import read_params
    from ptqflow.core.paths import DATASET, FP32, NETWORK
    from ptqflow.data.dataset import open_dataset
    from ptqflow.data.preprocessing import first_images
    from ptqflow.models.fp32 import ModelCard, save_fp32
    from ptqflow.train.params import TrainParams
    from ptqflow.train.setup import prepare

    dataset, card = open_dataset(DATASET), read_card(NETWORK, ModelCard)
    start = prepare(card, read_params("train", TrainParams), dataset.card, None)
    save_fp32(FP32, start.network.model, card, first_images(dataset.val, card.normalization))


if __name__ == "__main__":
    main()
