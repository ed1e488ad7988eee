"""The recall/latency figure: drawn once, then only its data changes."""

import threading

import numpy as np
import panel as pn
from bokeh.models import (
    ColumnDataSource,
    FixedTicker,
    HoverTool,
    LabelSet,
    NumeralTickFormatter,
    Span,
)
from bokeh.plotting import figure

BLUE = "#2f6fde"
ORANGE = "#ea6a12"
GREY = "#64748b"
FONT = 'system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif'
MILLISECONDS = [
    mantissa * 10.0**power for power in range(-3, 4) for mantissa in (1, 1.5, 2, 3, 5, 7)
]
COLUMNS = ("search_list_size", "recall", "p50_ms", "p99_ms", "qps")


OWN_TAG = "luma-recall-figure"


class RecallFigure(pn.pane.Bokeh):
    """Recall against latency for a sweep of list sizes, and the present setting on top.

    Attributes
    ----------
    sweep, current : bokeh.models.ColumnDataSource
        Columns search_list_size, recall, p50_ms, p99_ms, qps, label; `current` holds one row
        or none.
    figure : bokeh.plotting.figure
    """

    priority = None  # then Panel asks `applies`

    @classmethod
    def applies(cls, obj, **params):
        """Take the figure drawn here, and never be chosen by Panel for somebody else's."""
        return 0.9 if OWN_TAG in getattr(obj, "tags", ()) else False

    def __init__(self, *, height=360, **params):
        self.sweep = ColumnDataSource(_columns([]))
        self.current = ColumnDataSource(_columns([]))
        self._lock = threading.Lock()
        self.figure = self._draw(height)
        super().__init__(self.figure, sizing_mode="stretch_width", min_width=320, **params)

    def show(self, sweep, current, k):
        """Replace the points.

        Parameters
        ----------
        sweep : list of dict, one measurement each, by search_list_size
        current : dict or None
        k : int, for the axis title

        May be called from any thread; a served page is written to by its own event loop.
        """
        document = self.figure.document
        if document is not None and document.session_context is not None:
            document.add_next_tick_callback(lambda: self._write(sweep, current, k))
            return
        with self._lock:
            self._write(sweep, current, k)
            pn.io.push_notebook(self)

    def _write(self, sweep, current, k):
        self.figure.yaxis.axis_label = f"recall@{k}"
        self.sweep.data = _columns(sweep)
        self.current.data = _columns([current] if current else [])
        shown = [*sweep, current] if current else sweep
        if shown:
            self._fit(shown)
        self._across.update(
            location=current["recall"] if current else None, visible=current is not None
        )
        self._up.update(
            location=current["p50_ms"] if current else None, visible=current is not None
        )

    def _fit(self, shown):
        """Frame every point with room for the labels; Bokeh's own ranges know no headroom."""
        low = min(each["recall"] for each in shown)
        room = max(1.0 - low, 0.02)
        self.figure.y_range.update(start=low - 0.18 * room, end=1.0 + 0.08 * room)
        self.figure.x_range.update(
            start=min(each["p50_ms"] for each in shown) / 1.25,
            end=max(each["p50_ms"] for each in shown) * 1.25,
        )

    def _draw(self, height):
        plot = figure(
            tags=[OWN_TAG],
            x_range=(0.05, 1.0),
            y_range=(0.9, 1.0),
            x_axis_type="log",
            height=height,
            sizing_mode="stretch_width",
            toolbar_location=None,
            tools="",
            x_axis_label="median latency of a query, ms",
            y_axis_label="recall",
            background_fill_color=None,
            border_fill_color=None,
            outline_line_color=None,
            min_border_right=24,
        )
        self._across, self._up = (
            Span(
                dimension=way, line_color=ORANGE, line_dash="dotted", line_alpha=0.7, visible=False
            )
            for way in ("width", "height")
        )
        plot.add_layout(self._across)
        plot.add_layout(self._up)
        plot.line(
            "p50_ms", "recall", source=self.sweep, color=BLUE, line_width=2.5, legend_label="sweep"
        )
        points = plot.scatter(
            "p50_ms",
            "recall",
            source=self.sweep,
            size=9,
            fill_color="white",
            line_color=BLUE,
            line_width=2.5,
            legend_label="sweep",
        )
        plot.add_layout(
            LabelSet(
                x="p50_ms",
                y="recall",
                text="label",
                source=self.sweep,
                x_offset=5,
                y_offset=-17,
                text_color=GREY,
                text_font={"value": FONT},
                text_font_size="11px",
            )
        )
        here = plot.scatter(
            "p50_ms",
            "recall",
            source=self.current,
            size=17,
            fill_color=ORANGE,
            line_color="white",
            line_width=2.5,
            legend_label="this setting",
        )
        plot.add_tools(
            HoverTool(
                renderers=[points, here],
                tooltips=[
                    ("search_list_size", "@search_list_size"),
                    ("recall", "@recall{0.0000}"),
                    ("p50", "@p50_ms{0.000} ms"),
                    ("p99", "@p99_ms{0.000} ms"),
                    ("queries a second", "@qps{0,0}"),
                ],
            )
        )
        for axis in (plot.xaxis, plot.yaxis):
            axis.axis_line_color = "#cbd5e1"
            axis.major_tick_line_color = "#cbd5e1"
            axis.minor_tick_line_color = None
            axis.major_label_text_color = GREY
            axis.major_label_text_font = FONT
            axis.axis_label_text_color = GREY
            axis.axis_label_text_font = FONT
            axis.axis_label_text_font_style = "normal"
        plot.yaxis.formatter = NumeralTickFormatter(format="0.00[00]")
        plot.xaxis.ticker = FixedTicker(ticks=MILLISECONDS)
        plot.xaxis.formatter = NumeralTickFormatter(format="0.[000]")
        plot.grid.grid_line_color = "#eef2f7"
        plot.legend.location = "bottom_right"
        plot.legend.label_text_font = FONT
        plot.legend.label_text_color = GREY
        plot.legend.border_line_color = None
        plot.legend.background_fill_alpha = 0.7
        return plot


def _columns(measurements):
    table = {
        name: np.array([each[name] for each in measurements], dtype=np.float64) for name in COLUMNS
    }
    sizes = table["search_list_size"] = table["search_list_size"].astype(np.int32)
    # Powers of two only: labels of all points would lie on one another.
    table["label"] = [str(size) if size & (size - 1) == 0 else "" for size in sizes.tolist()]
    return table
