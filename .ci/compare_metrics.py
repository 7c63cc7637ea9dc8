"""Fail unless a run's figures hold against the committed ones; another CPU trains slightly different weights."""

import json
import sys
from pathlib import Path

committed, found = (json.loads(Path(file).read_text(encoding="utf-8")) for file in sys.argv[1:3])
problems = [
    f"{name} top-1 is {found[name]['top1']}, committed {committed[name]['top1']}"
    for name in ("fp32", "int8")
    if abs(found[name]["top1"] - committed[name]["top1"]) > 0.02
]
if found["int8"]["top1"] - found["int8_uncalibrated"]["top1"] < 0.2:
    problems.append("calibration gains less than 20 points over the uncalibrated control")
if found["agreement"] < 0.97:
    problems.append(f"INT8 agrees with FP32 on {found['agreement']} of the images alone")
if abs(found["int8"]["size_mb"] - committed["int8"]["size_mb"]) > 0.1:
    problems.append(f"the INT8 model has {found['int8']['size_mb']} MB")
sys.exit("; ".join(problems) or None)
