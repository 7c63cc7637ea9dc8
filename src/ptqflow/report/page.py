"""The report: the results of all stages on one page that loads nothing and runs no script."""

from pathlib import Path

import jinja2

from ptqflow.evaluate.verdict import describe
from ptqflow.report import network, overview, predictions
from ptqflow.report.results import Results


def make_page(results: Results) -> str:
    """Return the report as HTML.

    Everything but the drawings is escaped, so that a class may have any name.
    """
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html").render(
        title=f"{results.manifest.architecture} on {results.dataset.name}: FP32 and INT8",
        verdict=describe(results.evaluate),
        **overview.networks(results),
        **overview.run(results),
        **network.training(results.epochs),
        **predictions.by_label(results),
        **network.layers(results),
        **predictions.changed(results),
        **overview.size_and_speed(results),
    )
