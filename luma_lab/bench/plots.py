"""Bokeh figures of measurements. They show themselves in a cell and embed in Panel."""

import html
import numbers

import numpy as np

from luma_lab.bench.measure import MEASURES
from luma_lab.errors import InvalidArgument

COLOURS = ("#2f6fde", "#ea6a12", "#0f9d76", "#b5359c", "#8a6d00", "#d1344b", "#5b5bd6", "#64748b")
MARKERS = ("circle", "square", "triangle", "diamond", "inverted_triangle", "hex", "plus", "x")
SCALE_LINES = (("qps", "queries a second"), ("comparisons", "comparisons a query"))
HOVER = (
    ("recall", "@recall{0.0000}"), ("queries a second", "@qps{0,0}"), ("p50", "@p50_ms{0.000} ms"),
    ("p99", "@p99_ms{0.000} ms"), ("hops", "@hops{0.0}"), ("comparisons", "@comparisons{0,0.0}"),
    ("reads", "@reads{0.0}"),
)  # fmt: skip


def plot_recall_qps(tables, *, title=None, width=700, height=420):
    """Draw recall against queries a second, a line along the best settings of each table.

    Parameters
    ----------
    tables : DataFrame of :func:`luma_lab.bench.sweep`, or dict of label to such tables
    title : str, optional
    width, height : int, pixels

    Returns
    -------
    bokeh figure
        A point for every setting, named after its table; hovering shows its parameters. The
        line joins the settings that no other beats in both measures. In a notebook cell it
        shows itself, with no request to the outside.

    Raises
    ------
    InvalidArgument
        No table, or a column is missing, or a rate is not positive.
    """
    return _plot(tables, "qps", "queries a second", True, title, width, height)


def plot_recall_latency(tables, *, latency="p50_ms", title=None, width=700, height=420):
    """Draw recall against the latency of a query; parameters as :func:`plot_recall_qps`.

    Parameters
    ----------
    latency : {"p50_ms", "p99_ms"}
    """
    if latency not in ("p50_ms", "p99_ms"):
        raise InvalidArgument(f"latency is {latency!r}; expected 'p50_ms' or 'p99_ms'")
    label = f"{latency.removesuffix('_ms')} latency (ms)"
    return _plot(tables, latency, label, False, title, width, height)


def plot_fusion(report, *, width=700, height=420):
    """Draw what a `FusionReport` found; see :meth:`FusionReport.plot`."""
    from bokeh.models import BoxAnnotation, ColumnDataSource, Span, Whisker
    from bokeh.plotting import figure

    columns = report.against[report.best_branch]
    best = report.branches.index(report.best_branch)
    plot = figure(
        title=f"{report.dataset}: fusing {' and '.join(report.branches)}",
        x_axis_label=f"weight of {report.branches[0]}", y_axis_label=report.by, width=width,
        height=height, tools="pan,wheel_zoom,box_zoom,reset,save,hover",
    )  # fmt: skip
    plot.toolbar.logo = None
    low, high = float(columns["low"][best]), float(columns["high"][best])
    plot.add_layout(BoxAnnotation(bottom=low, top=high, fill_color="#64748b", fill_alpha=0.12))
    alone = float(report.values[report.by][best])
    plot.add_layout(
        Span(location=alone, dimension="width", line_dash="dashed", line_color="#64748b")
    )
    drawn = plot.line if len(report.branches) == 2 else plot.scatter
    for i, (label, x, y) in enumerate(report.lines()):
        drawn(x, y, color=COLOURS[i % len(COLOURS)], legend_label=label, name=label)
    weights = [setting["weights"][report.branches[0]] for setting in report.picked]
    tuned = ColumnDataSource(
        {
            "x": [float(np.mean(weights))],
            "y": [report.held_out[report.by]],
            "low": [float(columns["low"][-1])],
            "high": [float(columns["high"][-1])],
        }
    )
    plot.scatter(
        "x", "y", source=tuned, marker="diamond", size=14, color="#1f2733",
        legend_label="tuned, held out", name="tuned",
    )  # fmt: skip
    plot.add_layout(Whisker(base="x", lower="low", upper="high", source=tuned))
    plot.legend.click_policy = "hide"
    plot.legend.location = "bottom_center"
    plot._repr_html_ = lambda: _inline(plot, width, height)
    return plot


def plot_scale(table, *, title=None, width=700, height=420):
    """Draw rates and comparisons at a recall of 0.95 against the number of rows, both log.

    Parameters
    ----------
    table : DataFrame of :func:`luma_lab.bench.scale.measure`
    title : str, optional
    width, height : int, pixels

    Returns
    -------
    bokeh figure
        A line a measure, named with its slope. In a notebook cell it shows itself.

    Raises
    ------
    InvalidArgument
        A column is missing, or no size reached the recall.
    """
    from bokeh.models import ColumnDataSource, HoverTool, NumeralTickFormatter
    from bokeh.plotting import figure

    from luma_lab.bench.scale import slopes

    columns = getattr(table, "columns", ())
    for wanted in ("rows", *(column for column, _ in SCALE_LINES)):
        if wanted not in columns:
            raise InvalidArgument(f"no column {wanted!r}; expected a table of scale.measure")
    plot = figure(
        title=title if title is not None else table.attrs.get("dataset"),
        x_axis_label="rows", y_axis_label=f"at recall@{table.attrs.get('k', 'k')} 0.95",
        x_axis_type="log", y_axis_type="log", width=width, height=height,
        tools="pan,wheel_zoom,box_zoom,reset,save",
    )  # fmt: skip
    for axis in (*plot.xaxis, *plot.yaxis):
        axis.formatter = NumeralTickFormatter(format="0,0")
    plot.toolbar.logo = None
    steepness = slopes(table)
    drawn = 0
    for i, (column, label) in enumerate(SCALE_LINES):
        known = table[np.isfinite(table[column].to_numpy(float))]
        if not len(known):
            continue
        drawn += 1
        shown = f"{label} (slope {steepness[column]:.2f})"
        source = ColumnDataSource({"rows": known["rows"].to_list(), "y": known[column].to_list()})
        line = {"source": source, "color": COLOURS[i], "legend_label": shown}
        plot.line("rows", "y", line_width=2, name=f"{column}: line", **line)
        points = plot.scatter("rows", "y", size=9, marker=MARKERS[i], name=column, **line)
        tips = [("rows", "@rows{0,0}"), (label, "@y{0,0.0}")]
        plot.add_tools(HoverTool(renderers=[points], tooltips=tips))
    if not drawn:
        raise InvalidArgument("no size has a figure: no list size reached a recall of 0.95")
    plot.legend.click_policy = "hide"
    # Above the lines, which may pass through every corner.
    plot.add_layout(plot.legend[0], "above")
    plot.legend.update(location="center_left", border_line_color=None, padding=0, margin=5)
    plot._repr_html_ = lambda: _inline(plot, width, height)
    return plot


def pareto(recalls, values, *, higher_is_better=True):
    """Return the positions, by ascending recall, of the points no other point beats.

    Parameters
    ----------
    recalls, values : arrays of shape (n,)
        One point beats another if it is at least as good in both and better in one. Of equal
        points the first stays.
    """
    recalls, cost = np.asarray(recalls, dtype=float), np.asarray(values, dtype=float)
    cost = -cost if higher_is_better else cost
    kept, least = [], np.inf
    for position in np.lexsort((cost, -recalls)):
        if cost[position] < least:
            kept.append(int(position))
            least = cost[position]
    return kept[::-1]


def _plot(tables, column, label, higher_is_better, title, width, height):
    from bokeh.models import ColumnDataSource, HoverTool, NumeralTickFormatter
    from bokeh.plotting import figure

    tables = _checked(tables, column)
    k = {table.attrs.get("k") for table in tables.values()} - {None}
    names = {table.attrs.get("dataset") for table in tables.values()} - {None}
    plot = figure(
        title=title if title is not None else ", ".join(sorted(names)) or None,
        x_axis_label=f"recall@{k.pop()}" if len(k) == 1 else "recall",
        y_axis_label=label, y_axis_type="log", width=width, height=height,
        tools="pan,wheel_zoom,box_zoom,reset,save",
    )  # fmt: skip
    plot.yaxis.formatter = NumeralTickFormatter(format="0,0.[000]")
    plot.toolbar.logo = None
    for i, (name, table) in enumerate(tables.items()):
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        shown = {"legend_label": name} if len(tables) > 1 else {}
        best = pareto(table["recall"], table[column], higher_is_better=higher_is_better)
        front = table.iloc[best]
        plot.line(
            front["recall"].to_numpy(), front[column].to_numpy(), color=colour, line_width=2,
            name=f"{name}: frontier", **shown,
        )  # fmt: skip
        source = ColumnDataSource({part: table[part].to_list() for part in table.columns})
        points = plot.scatter(
            "recall", column, source=source, marker=marker, size=9, color=colour, name=name, **shown
        )
        plot.add_tools(HoverTool(renderers=[points], tooltips=_tooltips(name, table, len(tables))))
    if len(tables) > 1:
        plot.legend.click_policy = "hide"
        plot.legend.location = "bottom_left"
    plot._repr_html_ = lambda: _inline(plot, width, height)
    return plot


def _checked(tables, column):
    tables = dict(tables) if isinstance(tables, dict) else {"sweep": tables}
    if not tables:
        raise InvalidArgument("no table to plot: expected a DataFrame of sweep, or a dict of them")
    for name, table in tables.items():
        columns = getattr(table, "columns", None)
        if columns is None:
            raise InvalidArgument(f"{name}: expected a DataFrame, got {type(table).__name__}")
        for wanted in ("recall", column):
            if wanted not in columns:
                raise InvalidArgument(f"{name}: no column {wanted!r}; expected a table of sweep")
        if len(table) == 0:
            raise InvalidArgument(f"{name}: the table has no rows")
        if not (table[column] > 0).all():
            raise InvalidArgument(
                f"{name}: {column} holds {table[column].min()}; a log axis wants positive numbers"
            )
    return tables


def _tooltips(name, table, n_tables):
    parameters = [
        part for part in table.attrs.get("parameters", table.columns)
        if part in table.columns and part not in (*MEASURES, "memory")
    ]  # fmt: skip
    tips = [("", html.escape(str(name)))] if n_tables > 1 else []
    for part in parameters:
        plain = all(isinstance(value, numbers.Integral) for value in table[part])
        tips.append((str(part), f"@{{{part}}}{{0}}" if plain else f"@{{{part}}}"))
    return tips + [tip for tip in HOVER if tip[1][1:].split("{")[0] in table.columns]


def _inline(plot, width, height):
    """Return the figure as a frame that carries its own scripts: nothing is fetched.

    A frame, because the page may hold another copy of Bokeh (Panel's) that must not be hurt.
    """
    from bokeh.embed import components
    from bokeh.resources import Resources

    # Not file_html: it also asks for the files of whatever extension Panel has loaded.
    library = "\n".join(Resources(mode="inline", components=["bokeh"]).js_raw)
    script, div = components(plot)
    page = f'<meta charset="utf-8"><script>{library}</script>{div}{script}'
    page = html.escape(page, quote=True)
    return (
        f'<iframe srcdoc="{page}" width="{width + 20}" height="{height + 20}" '
        'style="border:0"></iframe>'
    )
