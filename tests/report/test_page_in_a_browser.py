"""The report in Chromium: no errors, no requests to other addresses, and no overflowing or unreadable content."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
from browsing import DESK, opened
from playwright.sync_api import Browser

from ptqflow.report import charts

pytestmark = pytest.mark.browser

PHONE = 390
# For each text in a chart, by how many pixels it overflows the drawing.
OUTSIDE = """() => [...document.querySelectorAll('svg')].flatMap(svg => {
  const all = svg.getBoundingClientRect();
  return [...svg.querySelectorAll('text')].map(text => {
    const box = text.getBoundingClientRect();
    return [text.textContent,
      Math.max(all.left - box.left, box.right - all.right, all.top - box.top, box.bottom - all.bottom)];
  });
})"""
# The axis titles that overlap a label of their axis.
OVERPRINTED = """() => [...document.querySelectorAll('svg .role-axis')].flatMap(axis => {
  const boxes = role => [...axis.querySelectorAll(`.role-axis-${role} text`)].map(text => text.getBoundingClientRect());
  return boxes('title').filter(title => boxes('label').some(label =>
    title.left < label.right && label.left < title.right && title.top < label.bottom && label.top < title.bottom));
})"""
# For each cell of figures, over how many lines it is broken.
LINES = """() => [...document.querySelectorAll('table:not(.words) td, .words td:not(:last-child)')].map(cell => {
  const range = document.createRange();
  range.selectNodeContents(cell);
  return [cell.textContent, new Set([...range.getClientRects()].map(box => box.top)).size];
})"""
HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{ 7 * 7 }}", "a&amp;b", "日本", "x" * 300)


@pytest.mark.parametrize(("width", "scheme"), [(320, "light"), (PHONE, "dark"), (DESK, "light")])
def test_the_page_has_no_errors_and_every_chart_fits_its_width(
    browser: Browser, report: Callable[..., Path], width: int, scheme: Literal["light", "dark"]
) -> None:
    with opened(browser, report(benchmark=True, changed=0.5), width, scheme) as page:
        boxes = [chart.bounding_box() for chart in page.locator(".chart svg").all()]
        assert len(boxes) == 8
        for box in boxes:
            assert box
            assert box["width"] > 250
            assert box["height"] > 50
            assert box["x"] + box["width"] <= width
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.locator(".images img").count() == 24
        assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("count", [2, 12])
def test_no_chart_text_is_cut_or_overlapped_and_no_table_figure_is_broken(
    browser: Browser, report: Callable[..., Path], width: int, count: int
) -> None:
    classes = tuple(f"{i:02}, a little tilted fir tree"[-11 - i :] for i in range(count))
    modules = {f"layer{i}.{j}.downsample.0": 20.0 + 10 * j for i in range(1, 5) for j in range(2)}
    with opened(browser, report(benchmark=True, classes=classes, modules=modules, changed=0.5), width) as page:
        texts = page.evaluate(OUTSIDE)
        assert len(texts) > 100
        assert {text: outside for text, outside in texts if outside > 0.5} == {}
        assert page.evaluate(OVERPRINTED) == []
        page.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true; })")
        lines = page.evaluate(LINES)
        assert len(lines) > 100
        assert {text for text, count in lines if count > 1} == set()


@pytest.mark.parametrize("lowest", [0.0, -2.0])
def test_dots_do_not_overlap_the_names_of_their_classes(
    browser: Browser, report: Callable[..., Path], lowest: float
) -> None:
    rows = [
        {"class": f"Wide-mouthed name, number {i}", "drop": lowest + i, "low": lowest, "high": 9, "sure": i > 3}
        for i in range(6)
    ]
    page_file = report()
    page_file.write_text(f'<link rel="icon" href="data:,">{charts.draw(charts.drops(rows))}')
    with opened(browser, page_file) as page:
        names = [box for name in page.get_by_text("Wide").all() if (box := name.bounding_box())]
        dots = [box for dot in page.locator(".mark-symbol path").all() if (box := dot.bounding_box())]
        assert len(names) == len(dots) == 6
        assert max(box["x"] + box["width"] for box in names) < min(box["x"] for box in dots)


def test_a_hostile_class_name_is_shown_as_text(browser: Browser, report: Callable[..., Path]) -> None:
    with opened(browser, report(classes=HOSTILE, name="<b>mine</b>"), PHONE) as page:
        assert page.locator("script").count() == 0
        assert page.locator("h1").inner_text() == "resnet18 on <b>mine</b>: FP32 and INT8"
        assert page.locator("img[onerror]").count() == 0
        shown = page.locator("svg text, dd, th").all_text_contents()
        for name in HOSTILE[:4]:
            assert any(name in text for text in shown), name
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast_with_its_background(
    browser: Browser, report: Callable[..., Path], scheme: Literal["light", "dark"]
) -> None:
    with opened(browser, report(), scheme=scheme) as page:
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        colors = page.evaluate("[...document.querySelectorAll('svg text')].map(t => getComputedStyle(t).fill)")
        assert colors
        assert min(contrast(color, ground) for color in colors) > 4.5
        # The numbers of a confusion matrix are drawn on its cells; the largest count has the most opaque one.
        numbers = page.locator("section[aria-labelledby=confusion] .role-mark text").first
        cells = page.locator("section[aria-labelledby=confusion] .role-mark path").all()
        assert len(cells) > 10
        for cell in cells:
            fill = cell.evaluate("cell => getComputedStyle(cell).fill")
            seen = mixed(fill, ground, float(cell.get_attribute("opacity") or 1))
            assert contrast(numbers.evaluate("text => getComputedStyle(text).fill"), seen) > 4.5


def test_the_dark_page_is_dark(browser: Browser, report: Callable[..., Path]) -> None:
    file = report()
    grounds = []
    for scheme in ("light", "dark"):
        with opened(browser, file, scheme=scheme) as page:
            grounds.append(luminance(page.evaluate("getComputedStyle(document.body).backgroundColor")))
    assert grounds[0] > 0.9
    assert grounds[1] < 0.05


def test_many_classes_stay_readable_at_phone_width(browser: Browser, report: Callable[..., Path]) -> None:
    classes = tuple(f"a long name of class {i}" for i in range(120))
    with opened(browser, report(classes=classes, images=600), PHONE) as page:
        images = page.locator(".chart img")
        assert images.count() == 4
        for image in images.all():
            box = image.bounding_box()
            assert box
            assert box["width"] == box["height"] > 300
        assert page.locator("details[open]").count() == 2
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("classes", [4, 14])  # with a matrix of numbers, and with one of pixels
def test_axe_finds_nothing(
    browser: Browser, report: Callable[..., Path], classes: int, scheme: Literal["light", "dark"]
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    names = tuple(f"class {i}" for i in range(classes))
    with opened(browser, report(benchmark=True, classes=names, changed=0.5), PHONE, scheme) as page:
        page.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true; })")
        found = Axe().run(page).response
        assert {rule["id"]: [node["html"] for node in rule["nodes"]] for rule in found["violations"]} == {}
        assert len(found["passes"]) > 20


def luminance(color: str) -> float:
    """Return the relative luminance of a color as WCAG 2 defines it."""
    channels = [channel / 255 for channel in rgb(color)]
    red, green, blue = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(first: str, second: str) -> float:
    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def mixed(color: str, ground: str, opacity: float) -> str:
    channels = (opacity * c + (1 - opacity) * g for c, g in zip(rgb(color), rgb(ground), strict=True))
    return f"rgb({', '.join(str(round(channel)) for channel in channels)})"


def rgb(color: str) -> list[int]:
    return [int(channel) for channel in color.removeprefix("rgb(").removesuffix(")").split(",")]
