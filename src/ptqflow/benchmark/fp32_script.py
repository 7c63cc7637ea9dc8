"""Write the FP32 network as frozen TorchScript: `python -m ptqflow.benchmark.fp32_script models/fp32 FILE`."""

import sys
from pathlib import Path

from ptqflow.core.stage import run


def main() -> None:
    """Trace, freeze and save."""
    import torch

    from ptqflow.models.fp32 import load_fp32

    fp32 = load_fp32(Path(sys.argv[1]))
    model, card = fp32.module, fp32.card
    with torch.inference_mode():
        traced = torch.jit.trace(model, torch.zeros(2, *card.input_shape))
        torch.jit.freeze(traced).save(sys.argv[2])


if __name__ == "__main__":
    run("benchmark", main)
