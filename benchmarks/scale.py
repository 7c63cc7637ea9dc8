"""Seconds and peak memory of the stages on JPEG photos, by the number of photos.

    PYTHONPATH=src python benchmarks/scale.py fetch --photos 1000 4000 --folder /data/scale
    PYTHONPATH=src python benchmarks/scale.py stages --photos 3000 --classes 1000 --folder /data/scale

`fetch` runs the stage alone. `stages` runs fetch, train with 0 epochs, calib, convert, predict and sensitivity with a
network of random weights. Photos are made first and kept in the folder, as are the outputs of the stages.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Mapping
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
    print(f"{'stage':24}{'photos':>8}{'seconds':>9}{'photos/s':>10}{'MiB':>7}", flush=True)
    for photos in arguments.photos:
        data = write_photos(arguments.folder, photos, arguments.classes)
        run = Run(arguments.folder / "run", data, arguments)
        run.stage("inputs")
        run.stage("fetch", photos)
        if arguments.what == "stages":
            test = photos // 3
            run.stage("train", test)
            run.stage("calib", run.params["calib"]["batches"] * run.params["calib"]["batch_size"])
            run.stage("convert")
            run.stage("predict", test, "fp32")
            run.stage("predict", test, "int8")
            run.stage("sensitivity", min(test, run.params["sensitivity"]["images"]))


class Run:
    """A folder in which the stages run, with params of its own."""

    def __init__(self, folder: Path, data: Path, arguments: argparse.Namespace) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        weights = folder / "random.pt"
        self.params: dict[str, Any] = YAML(typ="safe").load(ROOT / "params.yaml")
        self._set("data", name="image_folder", path=str(data.resolve()), image_size=arguments.image_size)
        self._set("data", test_fraction=1 / 3, val_fraction=0.5)  # as many images in each split
        self._set("model", name=arguments.network, weights=str(weights.resolve()))
        self._set("train", epochs=0)
        self._set("convert", min_sqnr_db=None)  # of random weights
        for change in arguments.set:
            key, _, value = change.partition("=")
            section, _, name = key.partition(".")
            self._set(section, **{name: YAML(typ="safe").load(value)})
        YAML().dump(self.params, folder / "params.yaml")
        if arguments.what == "stages":
            write_random_weights(weights, arguments.network, arguments.classes)
        else:
            weights.touch()

    def _set(self, section: str, **values: object) -> None:
        target = self.params[section]
        for name, value in values.items():
            *inside, last = name.split(".")
            for key in inside:
                target = target[key]
            target[last] = value

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
            count, rate = (f"{photos}", f"{photos / seconds:.1f}") if photos else ("", "")
            label = " ".join((name, *arguments))
            print(f"{label:24}{count:>8}{seconds:9.1f}{rate:>10}{usage.ru_maxrss / 1024:7.0f}", flush=True)


def write_random_weights(path: Path, network: str, classes: int) -> None:
    """Write a checkpoint of random weights, the same every time."""
    from ptqflow.core.torchvision_shim import ensure_torchvision_imports

    ensure_torchvision_imports()
    import torch
    from torchvision import models

    torch.manual_seed(0)
    state: Mapping[str, Any] = models.get_model(network, num_classes=classes).state_dict()
    torch.save(dict(state), path)


if __name__ == "__main__":
    main()
