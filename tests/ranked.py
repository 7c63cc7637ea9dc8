"""A stage that trains a miniature in several ranks: python ranked.py RANKS WEIGHTS [PARAM=VALUE …]."""

import json
import sys
from pathlib import Path

from ptqflow.core.launch import run_in_ranks
from ptqflow.core.stage import run


def main() -> None:
    ranks_asked, weights, *changes = sys.argv[1:]
    options = {name: json.loads(value) for name, value in (change.split("=") for change in changes)}
    usual = {"nodes": 1, "images": 30, "val": 20, "gpu": False, "network": "residual"}
    nodes, images, val_images, gpu, network = (options.pop(name, value) for name, value in usual.items())
    if run_in_ranks(int(ranks_asked), nodes):
        return

    import miniature
    import torch
    from recipes import params
    from safetensors.torch import save_file
    from torch import Tensor

    from ptqflow.core.ranks import joined
    from ptqflow.train.checkpoints import Checkpoints
    from ptqflow.train.loop import fit, pick_device
    from ptqflow.train.setup import require_equal_inputs
    from ptqflow.train.step import Recipe

    class Dropping(miniature.Residual):
        """Skips its block at random, as in stochastic depth: then its weights have no gradients."""

        def forward(self, x: Tensor) -> Tensor:
            x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
            if not self.training or torch.rand(()) < 0.5:
                x = self.relu(self.bn2(self.conv2(x)) + x)
            return self.fc(torch.flatten(self.avgpool(x), 1))

    networks = {"residual": miniature.residual, "normed": miniature.normed, "dropping": Dropping}
    device = pick_device() if gpu else torch.device("cpu")
    with joined(None, device) as ranks:
        torch.manual_seed(ranks.rank)  # the first rank's weights are the ones to start from
        model = networks[network](len(miniature.CLASSES))
        recipe = Recipe(miniature.NORMALIZATION, horizontal_flip=True)
        train, val = miniature.split(images), miniature.split(val_images, seed=1)
        inputs = {"ranks": ranks.size, "params": params(**options).model_dump()}
        require_equal_inputs(ranks, inputs)
        checkpoints = Checkpoints(Path("checkpoints"), inputs)
        rows = []
        for epoch in fit(model, train, val, recipe, params(**options), device, ranks, checkpoints):
            rows.append(epoch.as_row().model_dump())
            if ranks.rank == 0:
                print(epoch, flush=True)
    if ranks.rank == 0:
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, weights)
        Path(f"{weights}.json").write_text(json.dumps(rows))


run("train", main)
