"""Let `dvc plots` write pages that open without a network: `python -m ptqflow.offline_plots`, part of the set-up.

DVC's own pages load Vega from a server. The template made here holds the build that comes with vl-convert, so that no
third-party script is in this repository. The setting is local, in .dvc/config.local: DVC stops at a template that is
not there, and a clone that was set up in another way has none.
"""

import json
import subprocess
from pathlib import Path

import vl_convert

from ptqflow.core.artifacts import write_text

TEMPLATE = Path(".dvc/plots/offline.html")
_VEGA_LITE = "5.21"  # the schema of DVC's templates and of those in .dvc/plots
# What DVC's plots call. Warnings, which DVC's own templates cause (the version of Vega, bars that cannot be zoomed, a
# table without rows), are for nobody who reads the page; errors are shown.
_SNIPPET = "window.vegaEmbed = vegaEmbed; console.warn = () => {};"
# DVC draws in the order of the stages, whatever dvc.yaml says: what INT8 changes, then its cause, come first.
_FIRST = (
    *("classes", "confusion_fp32", "confusion_int8", "confusion_int8_uncalibrated"),
    *("per_class_fp32", "per_class_int8", "per_class_int8_uncalibrated", "reliability", "sensitivity"),
)

_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
{refresh_tag}
<title>DVC plots</title>
<link rel="icon" href="data:,">
<script>
SCRIPT
</script>
<style>body { font-family: sans-serif; } table { border-spacing: 15px; }</style>
</head>
<body>
<main>
{plot_divs}
</main>
<script>
const first = FIRST.map(name => document.getElementById(`metrics_plots_${name}_csv`));
document.querySelector("main").prepend(...first.filter(plot => plot));
</script>
</body>
</html>
"""


def make_template() -> str:
    """Return the page into which DVC puts its plots, with Vega, Vega-Lite and Vega-Embed in it."""
    script = vl_convert.javascript_bundle(_SNIPPET, _VEGA_LITE).replace("</script", "<\\/script")
    return _PAGE.replace("FIRST", json.dumps(_FIRST)).replace("SCRIPT", script)


def main() -> None:
    """Write the template and make it this clone's own."""
    write_text(TEMPLATE, make_template())
    setting = ("plots.html_template", TEMPLATE.relative_to(".dvc").as_posix())
    subprocess.run(["dvc", "config", "--quiet", "--local", *setting], check=True)


if __name__ == "__main__":
    main()
