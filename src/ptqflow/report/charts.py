"""Charts as static SVG: Altair builds Vega-Lite specifications and vl-convert renders them.

Colors are the constants below and nothing else, set as SVG attributes: page.css replaces each by a color of the page's
scheme, so that a chart is readable on a light and on a dark background. Blue and orange are those of Okabe and Ito,
which people with a color vision deficiency can distinguish; a dash, a shape or a sign repeats what they encode.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import vl_convert
from markupsafe import Markup
from numpy.typing import NDArray

INK, MUTED, GRID, BLUE, ORANGE = "#1b1f24", "#59636e", "#d8dee4", "#0072b2", "#d55e00"
COLORS = (INK, MUTED, GRID, BLUE, ORANGE)

_WIDTH = 350  # fits a phone unscaled
_ROW = 18
_DOTS = 30  # epochs: with more, dots hide the line
# Room for labels is measured with the font that vl-convert has; that of a browser may be a quarter wider.
_LABELS, _MORE_FOR_LABELS = 120, 30
_MATRIX_LABELS, _MORE_FOR_MATRIX_LABELS = 68, 17
_FIT = alt.AutoSizeParams(type="fit", contains="padding")
_CONFIG = alt.Config(
    aria=False,  # each chart has one label and a table
    background="transparent",
    view=alt.ViewConfig(stroke=None),
    axis=alt.AxisConfig(
        domainColor=MUTED,
        gridColor=GRID,
        labelColor=INK,
        labelFontSize=11,
        labelLimit=_LABELS,
        tickColor=MUTED,
        titleColor=MUTED,
        titleFontSize=11,
        titleFontWeight="normal",
        titlePadding=8,
    ),
    legend=alt.LegendConfig(
        labelColor=INK, labelFontSize=11, orient="top", symbolType="stroke", symbolSize=400, title=None
    ),
)


def draw(chart: alt.LayerChart) -> Markup:
    """Return a chart as an SVG element, in which text is escaped."""
    spec = chart.properties(config=_CONFIG).to_dict()
    return Markup(vl_convert.vegalite_to_svg(spec, allowed_base_urls=[]))


def curves(
    epochs: Sequence[Mapping[str, float]], figures: Mapping[str, str], scale: float, title: str
) -> alt.LayerChart:
    """Return one line per figure over the epochs.

    Args:
        epochs: rows of train.csv.
        figures: column → name in the legend, at most two; the second line is dashed.
        scale: factor by which the figures are multiplied.
        title: title of the vertical axis.
    """
    names = list(figures.values())
    values = [
        {"epoch": row["epoch"], "figure": scale * row[column], "line": name}
        for row in epochs
        for column, name in figures.items()
        if column in row
    ]
    base = alt.Chart(alt.InlineData(values)).encode(
        x=alt.X("epoch:Q").axis(tickMinStep=1, format="d", grid=False).scale(nice=False),
        y=alt.Y("figure:Q").title(title),
        color=alt.Color("line:N").scale(domain=names, range=[BLUE, ORANGE]),
    )
    layers = [
        base.mark_line(strokeWidth=2).encode(
            strokeDash=alt.StrokeDash("line:N").scale(domain=names, range=[[1, 0], [5, 3]])
        )
    ]
    if len(epochs) <= _DOTS:
        layers.append(base.mark_point(filled=True, opacity=1, size=30))
    return alt.LayerChart(layer=layers, width=_WIDTH, height=200, autosize=_FIT)


def matrix(counts: NDArray[np.int64], classes: Sequence[str], *, signed: bool) -> alt.LayerChart:
    """Return a matrix of actual by predicted classes with the number in each cell that is not 0.

    Args:
        counts: images, of shape (classes, classes).
        classes: names; two classes may have the same one.
        signed: whether ``counts`` is a difference: numbers have a sign, and cells below 0 are orange.
    """
    largest = max(int(np.abs(counts).max()), 1)
    values = [
        {
            "actual": row,
            "predicted": column,
            "text": f"{count:+d}" if signed else str(count),
            "negative": bool(count < 0),
            # Above this opacity, neither the ink of a light page nor that of a dark one is readable on the cell.
            "opacity": round(0.12 + 0.48 * float(np.sqrt(abs(count) / largest)), 3),
        }
        for row, column in np.argwhere(counts).tolist()
        if (count := int(counts[row, column]))
    ]
    # Vega-Lite merges equal values of an axis, so classes are numbers here and an expression returns their names.
    scale = alt.Scale(domain=list(range(len(classes))))
    base = alt.Chart(alt.InlineData(values)).encode(
        x=alt.X("predicted:O", title="predicted", scale=scale, axis=_class_axis(classes, -90)),
        y=alt.Y("actual:O", title="actual", scale=scale, axis=_class_axis(classes, 0)),
    )
    cells = base.mark_rect().encode(
        color=alt.when(alt.datum.negative).then(alt.value(ORANGE)).otherwise(alt.value(BLUE)),
        opacity=alt.Opacity("opacity:Q").scale(None),
    )
    numbers = base.mark_text(color=INK, fontSize=11 if len(classes) <= 8 else 9).encode(text="text:N")
    return alt.LayerChart(layer=[cells, numbers], width=_WIDTH, height=_WIDTH, autosize=_FIT)


def drops(rows: Sequence[Mapping[str, Any]]) -> alt.LayerChart:
    """Return a dot and an interval per class.

    Args:
        rows: class, drop, low and high in percentage points, and ``sure``: whether the drop is beyond noise.
    """
    base = _bands(rows)
    names = _names("class")
    color = alt.when(alt.datum.sure).then(alt.value(ORANGE)).otherwise(alt.value(BLUE))
    shape = alt.when(alt.datum.sure).then(alt.value("diamond")).otherwise(alt.value("circle"))
    return _layer_bands(
        base.mark_rule(color=MUTED).encode(x=alt.datum(0), y=alt.value(0), y2=alt.value("height")),
        base.mark_rule(color=BLUE, strokeWidth=2).encode(
            x=_figure("low", "drop of top-1, points").scale(padding=8),  # of a dot at the edge
            x2="high",
            y=names,
        ),
        base.mark_point(size=60, opacity=1).encode(x="drop:Q", y=names, fill=color, stroke=color, shape=shape),
    )


def sensitivities(rows: Sequence[Mapping[str, Any]], text: str = "drop") -> alt.LayerChart:
    """Return a bar per module, in the given order, each followed by the drop.

    Args:
        rows: module, sqnr_db, and drop as text.
        text: what the drop is called.
    """
    ends = [max(row["sqnr_db"], 0) for row in rows]
    low, high = min(0, *(row["sqnr_db"] for row in rows)), max(ends)
    domain = [low, high + 0.4 * (high - low)]  # with room for the text after the longest bar
    base = _bands([{**row, "end": end} for row, end in zip(rows, ends, strict=True)]).encode(y=_names("module"))
    return _layer_bands(
        base.mark_bar(color=BLUE, height=alt.RelativeBandSize(0.7)).encode(
            x=_figure("sqnr_db", f"SQNR, dB, and {text}, points").scale(domain=domain)
        ),
        base.mark_text(align="left", dx=4, color=INK, fontSize=11).encode(x="end:Q", text="drop:N"),
    )


def ranges(rows: Sequence[Mapping[str, Any]]) -> alt.LayerChart:
    """Return for each tensor a line from its smallest to its largest value over a bar of its quantization range.

    Args:
        rows: tensor, low and high of its quantization range, and its values' min and max where known.
    """
    base = _bands(rows).encode(y=_names("tensor"))
    return _layer_bands(
        base.mark_bar(color=BLUE, opacity=0.55, height=alt.RelativeBandSize(0.7)).encode(
            x=_figure("low", "value (logarithmic beyond 1)").scale(type="symlog"), x2="high"
        ),
        base.mark_rule(color=INK, strokeWidth=1.5).encode(x="min:Q", x2="max"),
    )


def _bands(rows: Sequence[Mapping[str, Any]]) -> alt.Chart:
    return alt.Chart(alt.InlineData([dict(row) for row in rows]))


def _layer_bands(*layers: alt.Chart) -> alt.LayerChart:
    """Return layers in which each row of the data is a band of the same height."""
    return alt.LayerChart(
        layer=list(layers),
        width=_WIDTH,
        height=alt.Step(_ROW),
        autosize=alt.AutoSizeParams(type="fit-x", contains="padding"),
        padding={"left": _MORE_FOR_LABELS, "top": 5, "right": 5, "bottom": 5},
    )


def _names(field: str) -> alt.Y:
    return alt.Y(field, type="nominal").sort(None).title(None).axis(ticks=False, domain=False)


def _figure(field: str, title: str) -> alt.X:
    return alt.X(field, type="quantitative").title(title).axis(tickCount=5)


def _class_axis(classes: Sequence[str], angle: int) -> alt.Axis:
    return alt.Axis(
        labelAngle=angle,
        labelExpr=f"{_expression_list(classes)}[datum.value]",
        labelLimit=_MATRIX_LABELS,
        titlePadding=_MORE_FOR_MATRIX_LABELS + 4,
        grid=True,
        bandPosition=0,
    )


def _expression_list(texts: Sequence[str]) -> str:
    """Return a Vega expression for a list of any texts: JSON, of ASCII alone, is one."""
    return json.dumps(list(texts))
