"""Where every output lies, from the root of the repository; dvc.yaml says which stage writes it."""

from pathlib import Path

INPUTS = Path("inputs")
DATASET = Path("data/dataset")
CHECKPOINTS = Path("checkpoints")
LIVE = Path("live")
NETWORK = Path("models/network.json")
"""The card of the network that is trained."""
FP32 = Path("models/fp32")
STATISTICS = Path("models/statistics")
INT8 = Path("models/int8")
INT8_UNCALIBRATED = Path("models/int8_uncalibrated")
LOGITS = Path("data/logits")
"""With a directory for each network."""
PREDICTIONS = Path("data/predictions")
FIGURES = PREDICTIONS / "figures.json"
EXPORT = Path("models/export")
REPORT = Path("report/index.html")
SPREAD = Path("models/spread")
SPREAD_SCORES = Path("models/spread_scores")
METRICS = Path("metrics")
HEADLINE = METRICS / "evaluate.json"
PLOTS = METRICS / "plots"
