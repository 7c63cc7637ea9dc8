"""A stage that trains a miniature in several ranks: python ranked.py RANKS WEIGHTS [PARAM=VALUE …]."""

import json
import sys
from pathlib import Path

from ptqflow.launch import run_in_ranks
from ptqflow.stage import run


def main() -> None:
    ranks_asked, weights, *changes = sys.argv[1:]
    options = {name: json.loads(value) for name, value in (change.split("=") for change in changes)}
    nodes, images, val_images = (
        options.pop(name, usual) for name, usual in (("nodes", 1), ("images", 30), ("val", 20))
    )
    if run_in_ranks(int(ranks_asked), nodes):
        return

    import miniature
    import torch
    from safetensors.torch import save_file
    from training.recipes import params

    from ptqflow.ranks import joined
    from ptqflow.training.checkpoints import Checkpoints
    from ptqflow.training.fit import fit
    from ptqflow.training.trainer import Recipe

    with joined(None) as ranks:
        torch.manual_seed(ranks.rank)  # only the first rank's weights count
        model = miniature.residual(len(miniature.CLASSES))
        recipe = Recipe(miniature.MEAN, miniature.STD, horizontal_flip=True)
        train, val = miniature.split(images), miniature.split(val_images, seed=1)
        checkpoints = Checkpoints(Path("checkpoints"), {"ranks": ranks.size})
        rows = []
        for epoch in fit(model, train, val, recipe, params(**options), torch.device("cpu"), ranks, checkpoints):
            rows.append(epoch.as_row())
            if ranks.rank == 0:
                print(epoch, flush=True)
    if ranks.rank == 0:
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, weights)
        Path(f"{weights}.json").write_text(json.dumps(rows))


run("train", main)
