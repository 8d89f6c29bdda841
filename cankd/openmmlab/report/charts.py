"""Makes the report's charts, as Vega-Lite specifications that a browser draws."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

# Okabe and Ito's colours that people with any colour vision tell apart, on white as on black; the plain student and the
# teacher are gray.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GRAY = "#808080"
DASHES = ([1, 0], [6, 3], [2, 2])
POINTS = 150  # of a curve of losses, so that a page of many runs stays small

X_AXIS = {"tickCount": 5, "labelOverlap": "greedy", "labelSeparation": 6}
ROW_HEIGHT = 30  # pixels
CELL_HEIGHT = 22


def figures(value: float, digits: int = 5) -> float:
    """Returns a number with as many significant digits as a chart needs."""
    return float(f"{value:.{digits}g}")


def thinned(points: Sequence[Any]) -> list[Any]:
    """Returns at most ``POINTS`` of the points at even steps, with the last one."""
    step = -(-len(points) // POINTS) if points else 1
    return list(reversed(list(reversed(points))[::step]))


def _scales(series: Sequence[str], gray: Sequence[str]) -> dict[str, Any]:
    """Returns the encoding of series by colour and dashes; those in ``gray`` are gray."""
    colored = [name for name in series if name not in gray]
    style = {name: (COLORS[i % len(COLORS)], DASHES[i // len(COLORS) % len(DASHES)]) for i, name in enumerate(colored)}
    style.update({name: (GRAY, DASHES[i % len(DASHES)]) for i, name in enumerate(gray)})
    ranges = {"color": [style[name][0] for name in series], "strokeDash": [style[name][1] for name in series]}
    column = 40 + 7 * max(map(len, series), default=0)  # pixels
    columns = {"expr": f"max(1, floor((containerSize()[0] - 80) / {column}))"}
    symbol = {"symbolType": "stroke", "symbolSize": 300, "symbolStrokeWidth": 2, "symbolOpacity": 1}
    legend = {"orient": "bottom", "columns": columns, "labelLimit": 220, "title": None, **symbol}
    return {
        channel: {
            "field": "series",
            "type": "nominal",
            "scale": {"domain": list(series), "range": values},
            "legend": legend if len(series) > 1 else None,
        }
        for channel, values in ranges.items()
    }


def _chart(description: str, height: Any, **parts: Any) -> dict[str, Any]:
    return {
        "description": description,
        "width": "container",
        "height": height,
        "autosize": {"type": "fit-x", "contains": "padding"},
        **parts,
    }


def curve_chart(
    rows: Sequence[Mapping[str, Any]],
    y_title: str,
    description: str,
    gray: Sequence[str] = (),
    hidden_zero: bool = True,
    x_title: str = "iteration",
) -> dict[str, Any]:
    """Returns a chart of curves; a click on the legend shows one of them alone.

    Args:
        rows: points with ``iteration``, ``value`` and ``series``; with ``seed``, each seed is a faint curve
            and the mean over them a strong one.
        y_title: title of the y axis, with the unit.
        description: text for readers who do not see the chart.
        gray: names of series that are drawn in gray. Defaults to none.
        hidden_zero: whether the y axis may leave 0 out. Defaults to True.
        x_title: title of the x axis. Defaults to the iteration.
    """
    series = list(dict.fromkeys(row["series"] for row in rows))
    y = {"type": "quantitative", "title": y_title, "scale": {"zero": not hidden_zero}}
    x = {"field": "iteration", "type": "quantitative", "title": x_title, "axis": {"format": "~s", **X_AXIS}}
    series_tip = {"field": "series", "type": "nominal", "title": "curve"}
    tips = [series_tip, {"field": "iteration", "type": "quantitative", "title": x_title, "format": ","}]
    opacity = {"condition": {"param": "chosen", "value": 1}, "value": 0.12}
    mean: dict[str, Any] = {
        "mark": {"type": "line", "point": {"size": 25}, "strokeWidth": 2},
        "encoding": {
            **_scales(series, gray),
            "x": x,
            "y": {**y, "field": "value", "aggregate": "mean"},
            "opacity": opacity,
            "tooltip": [
                *tips,
                {"field": "value", "aggregate": "mean", "type": "quantitative", "title": y_title, "format": ".4~g"},
                {"aggregate": "count", "type": "quantitative", "title": "runs"},
            ],
        },
        "params": [{"name": "chosen", "select": {"type": "point", "fields": ["series"]}, "bind": "legend"}],
    }
    layers = [mean]
    if len({row.get("seed") for row in rows}) > 1:
        each = {
            "mark": {"type": "line", "strokeWidth": 1},
            "encoding": {
                "color": mean["encoding"]["color"],
                "detail": {"field": "seed", "type": "nominal"},
                "x": x,
                "y": {**y, "field": "value"},
                "opacity": {"condition": {"param": "chosen", "value": 0.3}, "value": 0.03},
            },
        }
        layers.insert(0, each)
    return _chart(description, 280, data={"values": list(rows)}, layer=layers)


def interval_chart(
    points: Sequence[Mapping[str, Any]],
    intervals: Sequence[Mapping[str, Any]],
    x_title: str,
    description: str,
    with_zero: bool = False,
) -> dict[str, Any]:
    """Returns a chart with a row for each method: a point for each run, the mean, and its interval.

    Args:
        points: ``method``, ``value`` and ``seed`` of each run.
        intervals: ``method``, ``mean``, ``low`` and ``high`` (None without an interval), in the order of the rows.
        x_title: title of the x axis, with the unit.
        description: text for readers who do not see the chart.
        with_zero: whether a line marks 0. Defaults to False.
    """
    methods = [row["method"] for row in intervals]
    y = {"field": "method", "type": "nominal", "sort": methods, "title": None, "axis": {"labelLimit": 190}}
    x = {
        "type": "quantitative",
        "title": x_title,
        "scale": {"zero": with_zero, "padding": 12},
        "axis": X_AXIS,
    }
    tips = [{"field": "method", "type": "nominal"}]
    bounded = [row for row in intervals if row["low"] is not None]
    zero = {"data": {"values": [{}]}, "mark": {"type": "rule", "color": GRAY}, "encoding": {"x": {"datum": 0}}}
    interval = {
        "data": {"values": bounded},
        "mark": {"type": "rule", "strokeWidth": 2, "color": COLORS[0]},
        "encoding": {"y": y, "x": {**x, "field": "low"}, "x2": {"field": "high"}},
    }
    runs = {
        "data": {"values": list(points)},
        "mark": {"type": "point", "shape": "stroke", "angle": 90, "size": 140, "color": COLORS[1], "opacity": 0.8},
        "encoding": {
            "y": y,
            "x": {**x, "field": "value"},
            "tooltip": [
                *tips,
                {"field": "seed", "type": "nominal"},
                {"field": "value", "type": "quantitative", "title": x_title, "format": ".4~g"},
            ],
        },
    }
    means = {
        "data": {"values": list(intervals)},
        "mark": {"type": "point", "filled": True, "size": 80, "color": COLORS[0], "opacity": 1},
        "encoding": {
            "y": y,
            "x": {**x, "field": "mean"},
            "tooltip": [
                *tips,
                {"field": "mean", "type": "quantitative", "format": ".4~g"},
                {"field": "low", "type": "quantitative", "title": "95 % interval from", "format": ".4~g"},
                {"field": "high", "type": "quantitative", "title": "to", "format": ".4~g"},
            ],
        },
    }
    layers = [*([zero] if with_zero else []), runs, *([interval] if bounded else []), means]
    return _chart(description, ROW_HEIGHT * len(intervals), layer=layers)


def heatmap_chart(rows: Sequence[Mapping[str, Any]], value_title: str, description: str) -> dict[str, Any]:
    """Returns a chart of colored cells with their numbers.

    Args:
        rows: cells with ``row``, ``column`` and ``value``.
        value_title: title of the values, with the unit.
        description: text for readers who do not see the chart.
    """
    encoding = {
        "y": {"field": "row", "type": "nominal", "sort": None, "title": None},
        "x": {"field": "column", "type": "nominal", "sort": None, "title": None, "axis": {"labelAngle": -30}},
        "tooltip": [
            {"field": "row", "type": "nominal", "title": "corruption"},
            {"field": "column", "type": "nominal", "title": "model"},
            {"field": "value", "type": "quantitative", "title": value_title, "format": ".1f"},
        ],
    }
    color = {
        "field": "value",
        "type": "quantitative",
        "scale": {"scheme": "viridis"},
        "legend": {"orient": "bottom", "title": value_title, "gradientLength": 180},
    }
    middle = (min(row["value"] for row in rows) + max(row["value"] for row in rows)) / 2
    text_color = {"condition": {"test": f"datum.value > {middle}", "value": "black"}, "value": "white"}
    text = {"field": "value", "type": "quantitative", "format": ".1f"}
    layers = [
        {"mark": "rect", "encoding": {"color": color}},
        {"mark": {"type": "text", "fontSize": 11}, "encoding": {"text": text, "color": text_color}},
    ]
    return _chart(
        description,
        CELL_HEIGHT * len({row["row"] for row in rows}),
        data={"values": list(rows)},
        encoding=encoding,
        layer=layers,
    )
