"""Charts as static SVG: Vega-Lite specifications, drawn by vl-convert.

Colours are the constants below and nothing else, as attributes: page.css replaces each by one that suits the page, so
that a chart is readable on a light and on a dark ground. Blue and orange are Okabe and Ito's, which people with a
colour-vision deficiency tell apart; what they say is also said by a dash, a shape or a sign.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

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
_CONFIG = {
    "aria": False,  # each chart has one label and a table
    "background": None,
    "view": {"stroke": None},
    "axis": {
        "domainColor": MUTED,
        "gridColor": GRID,
        "labelColor": INK,
        "labelFontSize": 11,
        "labelLimit": _LABELS,
        "tickColor": MUTED,
        "titleColor": MUTED,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
        "titlePadding": 8,
    },
    "legend": {
        "labelColor": INK,
        "labelFontSize": 11,
        "orient": "top",
        "symbolType": "stroke",
        "symbolSize": 400,
        "title": None,
    },
}

Spec = dict[str, Any]


def draw(spec: Spec) -> Markup:
    """Return an SVG element; text in it is escaped."""
    return Markup(vl_convert.vegalite_to_svg({**spec, "config": _CONFIG}, allowed_base_urls=[]))


def curves(epochs: Sequence[Mapping[str, float]], figures: Mapping[str, str], scale: float, title: str) -> Spec:
    """Return lines over the epochs.

    Args:
        epochs: rows of train.csv.
        figures: column → name in the legend; the second one is dashed.
        scale: what to multiply the figures by.
        title: of the vertical axis.
    """
    names = list(figures.values())
    values = [
        {"epoch": row["epoch"], "figure": scale * row[column], "line": name}
        for row in epochs
        for column, name in figures.items()
        if column in row
    ]
    return {
        "data": {"values": values},
        "width": _WIDTH,
        "height": 200,
        "autosize": {"type": "fit", "contains": "padding"},
        "encoding": {
            "x": {
                "field": "epoch",
                "type": "quantitative",
                "axis": {"tickMinStep": 1, "format": "d", "grid": False},
                "scale": {"nice": False},
            },
            "y": {"field": "figure", "type": "quantitative", "title": title},
            "color": {"field": "line", "scale": {"domain": names, "range": [BLUE, ORANGE]}},
        },
        "layer": [
            {
                "mark": {"type": "line", "strokeWidth": 2},
                "encoding": {"strokeDash": {"field": "line", "scale": {"domain": names, "range": [[1, 0], [5, 3]]}}},
            },
            *([{"mark": {"type": "point", "filled": True, "opacity": 1, "size": 30}}] if len(epochs) <= _DOTS else []),
        ],
    }


def matrix(counts: NDArray[np.int64], classes: Sequence[str], *, signed: bool) -> Spec:
    """Return a matrix (classes, classes) of labels by predictions, the number in each cell that is not 0.

    Args:
        counts: of images.
        classes: names.
        signed: whether it is a difference, with a sign and orange below 0.
    """
    largest = max(int(np.abs(counts).max()), 1)
    values = [
        {
            "actual": row,
            "predicted": column,
            "text": f"{count:+d}" if signed else str(count),
            "negative": bool(count < 0),
            # Beyond this, neither the ink of a light page nor that of a dark one could be read on it.
            "opacity": round(0.12 + 0.48 * float(np.sqrt(abs(count) / largest)), 3),
        }
        for row, column in np.argwhere(counts).tolist()
        if (count := int(counts[row, column]))
    ]
    order = list(range(len(classes)))
    # Vega-Lite puts values on an axis, so classes are numbers here and get their names by the label's expression:
    # two classes may have one name.
    labels = {
        "labelExpr": f"{_expression_list(classes)}[datum.value]",
        "labelLimit": _MATRIX_LABELS,
        "titlePadding": _MORE_FOR_MATRIX_LABELS + 4,
        "grid": True,
        "bandPosition": 0,
    }
    axis = {"type": "ordinal", "scale": {"domain": order}, "axis": labels}
    return {
        "data": {"values": values},
        "width": _WIDTH,
        "height": _WIDTH,
        "autosize": {"type": "fit", "contains": "padding"},
        "encoding": {
            "x": {"field": "predicted", "title": "predicted", **axis, "axis": {**labels, "labelAngle": -90}},
            "y": {"field": "actual", "title": "actual", **axis},
        },
        "layer": [
            {
                "mark": {"type": "rect"},
                "encoding": {
                    "color": {"condition": {"test": "datum.negative", "value": ORANGE}, "value": BLUE},
                    "opacity": {"field": "opacity", "type": "quantitative", "scale": None},
                },
            },
            {
                "mark": {"type": "text", "color": INK, "fontSize": 11 if len(classes) <= 8 else 9},
                "encoding": {"text": {"field": "text"}},
            },
        ],
    }


def drops(rows: Sequence[Mapping[str, Any]]) -> Spec:
    """Return a dot and an interval a class.

    Args:
        rows: class, drop, low, high in points, and whether it is `sure`, that is beyond noise.
    """
    sure = {"condition": {"test": "datum.sure", "value": ORANGE}, "value": BLUE}
    return {
        **_bands(rows),
        "encoding": {"y": _names("class")},
        "layer": [
            {
                "mark": {"type": "rule", "color": MUTED},
                "encoding": {"x": {"datum": 0}, "y": {"value": 0}, "y2": {"value": "height"}},
            },
            {
                "mark": {"type": "rule", "color": BLUE, "strokeWidth": 2},
                "encoding": {
                    "x": {**_figure("low", "drop of top-1, points"), "scale": {"padding": 8}},  # of a dot at the edge
                    "x2": {"field": "high"},
                },
            },
            {
                "mark": {"type": "point", "size": 60, "opacity": 1},
                "encoding": {
                    "x": {"field": "drop", "type": "quantitative"},
                    "fill": sure,
                    "stroke": sure,
                    "shape": {"condition": {"test": "datum.sure", "value": "diamond"}, "value": "circle"},
                },
            },
        ],
    }


def sensitivities(rows: Sequence[Mapping[str, Any]]) -> Spec:
    """Return a bar a module, in the order given, and behind it the drop.

    Args:
        rows: module, sqnr_db, and drop as text.
    """
    ends = [max(row["sqnr_db"], 0) for row in rows]
    low, high = min(0, *(row["sqnr_db"] for row in rows)), max(ends)
    domain = [low, high + 0.4 * (high - low)]  # with room for the text behind the longest bar
    return {
        **_bands([{**row, "end": end} for row, end in zip(rows, ends, strict=True)]),
        "encoding": {"y": _names("module")},
        "layer": [
            {
                "mark": {"type": "bar", "color": BLUE, "height": {"band": 0.7}},
                "encoding": {"x": {**_figure("sqnr_db", "SQNR, dB, and drop, points"), "scale": {"domain": domain}}},
            },
            {
                "mark": {"type": "text", "align": "left", "dx": 4, "color": INK, "fontSize": 11},
                "encoding": {"x": {"field": "end", "type": "quantitative"}, "text": {"field": "drop"}},
            },
        ],
    }


def ranges(rows: Sequence[Mapping[str, Any]]) -> Spec:
    """Return for each tensor a line from its least to its largest value, and a bar over the range of its codes.

    Args:
        rows: tensor, low, high, and min and max where known.
    """
    scale = {"type": "symlog"}
    return {
        **_bands(rows),
        "encoding": {"y": _names("tensor")},
        "layer": [
            {
                "mark": {"type": "bar", "color": BLUE, "opacity": 0.55, "height": {"band": 0.7}},
                "encoding": {
                    "x": {**_figure("low", "value (logarithmic beyond 1)"), "scale": scale},
                    "x2": {"field": "high"},
                },
            },
            {
                "mark": {"type": "rule", "color": INK, "strokeWidth": 1.5},
                "encoding": {"x": {"field": "min", "type": "quantitative"}, "x2": {"field": "max"}},
            },
        ],
    }


def _bands(rows: Sequence[Mapping[str, Any]]) -> Spec:
    return {
        "data": {"values": [dict(row) for row in rows]},
        "width": _WIDTH,
        "height": {"step": _ROW},
        "autosize": {"type": "fit-x", "contains": "padding"},
        "padding": {"left": _MORE_FOR_LABELS, "top": 5, "right": 5, "bottom": 5},
    }


def _names(field: str) -> Spec:
    return {"field": field, "type": "nominal", "sort": None, "title": None, "axis": {"ticks": False, "domain": False}}


def _figure(field: str, title: str) -> Spec:
    return {"field": field, "type": "quantitative", "title": title, "axis": {"tickCount": 5}}


def _expression_list(texts: Sequence[str]) -> str:
    """Return a Vega expression for a list of any texts: JSON, of ASCII alone, is one."""
    return json.dumps(list(texts))
