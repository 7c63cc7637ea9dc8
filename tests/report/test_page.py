import re
from html.parser import HTMLParser

import pytest
from finished_run import SHA256, budget_of, write_benchmark, write_run
from reported import a_clone

from ptqflow.convert.accuracy_budget import Budget
from ptqflow.report.clone import Clone
from ptqflow.report.page import make_page
from ptqflow.report.results import read_results

MEGABYTE = 1_000_000
VOID = {"meta", "link", "img"}


class Reader(HTMLParser):
    """Checks that elements nest, and keeps elements and text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def charts(self) -> list[str]:
        return [attributes["aria-label"] or "" for attributes in self.of("div") if attributes.get("role") == "img"]


def read(**options: object) -> tuple[Reader, str]:
    write_run(**options)
    page = make_page(read_results())
    return Reader(page), page


def test_the_page_holds_the_figures_of_every_section() -> None:
    reader, page = read(changed=0.5)

    for section in ("ship", "networks", "run", "training", "confusion", "classes", "layers", "changed", "size"):
        assert {"id": section} in reader.of("h2")
    assert [label.split(":")[0] for label in reader.charts()] == [
        *("Loss", "Top-1", "FP32", "INT8, calibrated", "INT8 minus FP32", "Drop of top-1", "Sensitivity"),
        "Activation ranges",
    ]
    assert len(reader.of("img")) == 24
    top1 = f"{100 * read_results().evaluate.fp32.top1:.2f}"
    for text in (
        "FP32",
        top1,
        SHA256,
        "convert.activation.method",
        "layer1.0.conv2",
        "99.75 % of predictions equal",
    ):
        assert text in page
    assert "The speed is not on this page." in page
    assert "docs/figures.md, in the repository of ptqflow, explains every figure" in page


def test_nothing_on_the_page_comes_from_elsewhere_or_runs() -> None:
    reader, page = read()

    policy = next(m for m in reader.of("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy["content"] == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert reader.of("script") == []
    references = [value for _, attrs in reader.elements for key, value in attrs.items() if key in ("src", "href")]
    assert all(value and value.startswith("data:") for value in references)
    assert set(re.findall(r"https?://[^\"' <]+", page)) == {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


def test_names_are_escaped_wherever_they_stand() -> None:
    hostile = ("<script>alert(1)</script>", "\"><img src=x onerror='1'>", "{{ 1 }}", "</svg></style>")
    reader, page = read(classes=hostile, changed=0.5, name="</title><script>", modules={"</svg><script>": 3.0})

    assert reader.of("script") == []
    assert not any("onerror" in attributes for _, attributes in reader.elements)
    assert set(hostile) <= set(reader.texts)
    assert "<script" not in page


def test_equal_results_have_equal_bytes() -> None:
    write_run()
    assert make_page(read_results()) == make_page(read_results())


def test_no_id_occurs_twice() -> None:
    reader, _ = read(changed=0.5)
    ids = [attributes["id"] for _, attributes in reader.elements if "id" in attributes]
    assert len(ids) == len(set(ids)) == 9


def test_every_chart_says_what_it_shows_and_every_image_what_it_is() -> None:
    reader, _ = read(changed=0.5)
    assert all(len(label) > 30 for label in reader.charts())
    assert all(image["alt"] for image in reader.of("img"))


def test_identical_predictions_change_nothing() -> None:
    reader, page = read(changed=0.0)
    assert "INT8 and FP32 predict the same class for all of the 200 test images: no drop, p = 1." in page
    assert "The two matrices are equal." in page
    assert "None: INT8 predicts the same class as FP32 for every test image." in page
    assert reader.of("img") == []


@pytest.mark.parametrize("epochs", [0, 1, 200])
def test_training_is_drawn_where_there_was_any(epochs: int) -> None:
    reader, page = read(epochs=epochs)
    assert ("Loss" in {label.split(":")[0] for label in reader.charts()}) == (epochs > 0)
    assert ("None: the weights given are unchanged." in page) == (epochs == 0)


@pytest.mark.parametrize("budget", [None, budget_of("fc", (0, 21, ""), (1, 4, "fc"))], ids=["none", "fc"])
def test_the_trials_of_a_budget_are_shown_where_there_is_one(budget: Budget | None) -> None:
    _, page = read(budget=budget)
    assert ("(convert.max_drop), these modules stay FP32: fc." in page) == (budget is not None)
    assert ("<td>+0.40</td><td>fc</td>" in page) == (budget is not None)


def test_a_network_without_modules_and_onnx_files_has_a_page() -> None:
    reader, page = read(modules={}, onnx=False)
    assert "Sensitivity" not in {label.split(":")[0] for label in reader.charts()}
    assert (
        '<th scope="row">int8.torchscript.pt</th><td>1.25</td><td>torchscript: equal logits for 200 test images</td>'
        in page
    )


def test_a_thousand_classes_and_two_hundred_modules_stay_small_and_the_page_says_what_is_cut() -> None:
    classes = tuple(f"the name of class number {i}" for i in range(1000))
    reader, page = read(
        classes=classes, images=2000, changed=0.5, modules={f"layer{i}.conv": float(i) for i in range(200)}
    )
    assert len(page) < 3 * MEGABYTE
    assert "Of 1000 classes, the 40 that changed most." in page
    assert "The first 400 of 1,000 rows; all are in metrics/plots/classes.csv." in page
    assert "has the lowest SQNR of 200 modules, of which the first 40 are shown" in page
    assert [image["alt"] for image in reader.of("img")].count("") == 4  # the matrices; their charts have a label


def test_large_photographs_keep_the_page_small() -> None:
    _, page = read(size=300, images=30, changed=0.9)
    assert len(page) < 3 * MEGABYTE


def test_timings_of_this_model_are_shown() -> None:
    write_run()
    page = make_page(read_results(), a_clone())
    assert "Medians, measured on A &lt;fast&gt; CPU with 1 threads; onnxruntime 1.0; openvino 1.0." in page
    assert "2.00 (2.00 to 2.00)" in page
    assert "openvino, batch 1: the head stayed FP32, &amp; more" in page
    assert "onnxruntime, batch 1: " not in page
    assert "make benchmark" not in page


def test_the_page_shows_what_the_run_recorded_and_nothing_of_the_machine_that_renders_it() -> None:
    page = read()[1]
    assert "<dt>Versions</dt><dd>ptqflow 0.1.0, torch 2.13.0</dd>" in page
    assert "<dt>CPU</dt>" not in page


def test_the_page_of_the_stage_has_no_timings_although_there_are_some() -> None:
    write_run()
    without = make_page(read_results())
    write_benchmark()
    assert make_page(read_results()) == without
    assert "<code>ptqflow report</code> writes it with" in without


def test_a_page_without_a_repository_names_no_command_of_one() -> None:
    write_run()
    page = make_page(read_results(), elsewhere="")
    assert "ptqflow report" not in page
    assert "The speed is not on this page." in page


def test_what_the_clone_knows_is_shown_escaped() -> None:
    write_run()
    page = make_page(read_results(), a_clone())
    for text in (
        "<dt>Branch</dt><dd>&lt;main&gt;</dd>",
        "<code>dvc get</code> brings it. Other content: src/ptqflow/report, stages/train.py.",
        '<th scope="row">drop</th><td>0.01</td><td>0.0025</td>',
        '<th scope="row">data.limit</th><td>-</td><td>300</td>',
    ):
        assert text in page
    assert "ptqflow report" not in page


def test_a_model_that_was_not_timed_says_how() -> None:
    write_run()
    assert "was not measured: run <code>make benchmark</code>" in make_page(read_results(), Clone())
