"""Write the report."""

from ptqflow.core.paths import REPORT
from ptqflow.core.stage import run


def main() -> str:
    """Write report/index.html."""
    from ptqflow.core.artifacts import new_directory, write_text
    from ptqflow.report.page import make_page
    from ptqflow.report.results import read_results

    page = make_page(read_results())
    with new_directory(REPORT.parent) as directory:
        write_text(directory / REPORT.name, page)
    return str(REPORT)


if __name__ == "__main__":
    run("report", main)
