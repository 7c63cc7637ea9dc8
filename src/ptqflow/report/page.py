"""The report: the results of all stages on one page that loads nothing and runs no script."""

from pathlib import Path

import jinja2

from ptqflow.report import network, overview, predictions, ship
from ptqflow.report.clone import ELSEWHERE, UNMEASURED, Clone, changes
from ptqflow.report.components import with_code
from ptqflow.report.results import Results


def make_page(results: Results, clone: Clone | None = None, elsewhere: str = ELSEWHERE) -> str:
    """Return the report as HTML.

    Everything but the drawings is escaped, so that a class may have any name.

    Args:
        results: of the stages.
        clone: in which they lie, where the page need not have equal bytes for equal results.
        elsewhere: where to find what a page without ``clone`` lacks.
    """
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["with_code"] = with_code
    known = clone or Clone()
    return environment.get_template("page.html").render(
        title=f"{results.manifest.architecture} on {results.dataset.name}: FP32 and INT8",
        clone=clone,
        elsewhere=elsewhere,
        unmeasured=UNMEASURED if clone else "The speed is not on this page.",
        **ship.top(results, known.benchmark),
        **network.worst_layers(results),
        **changes(known),
        **overview.networks(results),
        **overview.run(results),
        **network.training(results.epochs),
        **predictions.by_label(results),
        **network.layers(results),
        **predictions.changed(results),
        **overview.size_and_speed(results, known.benchmark),
    )
