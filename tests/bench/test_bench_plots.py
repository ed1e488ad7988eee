"""Promises of the plots: a Bokeh figure that holds the numbers and needs nothing from outside."""

import html.parser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luma_lab import bench
from luma_lab.bench.plots import pareto
from luma_lab.errors import InvalidArgument

pandas = pytest.importorskip("pandas", reason="tables are DataFrames; pandas is in luma_lab[lab]")
models = pytest.importorskip("bokeh.models", reason="plots are Bokeh's; it is in luma_lab[lab]")


@pytest.fixture
def table():
    frame = pandas.DataFrame(
        {
            "search_list_size": [10, 20, 40, 80],
            "recall": [0.7, 0.9, 0.85, 0.99],
            "qps": [4000.0, 3000.0, 2000.0, 1000.0],
            "p50_ms": [0.2, 0.3, 0.5, 1.0],
            "p99_ms": [0.4, 0.6, 1.0, 2.0],
            "memory": [5, 5, 5, 5],
        }
    )
    frame.attrs = {"dataset": "wordnet2k", "k": 10, "parameters": ["search_list_size"]}
    return frame


def line_of(plot, name):
    (renderer,) = plot.select(name=f"{name}: frontier")
    return renderer.data_source.data


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 5)), min_size=1, max_size=12))
def test_the_frontier_holds_exactly_the_points_no_other_beats(points):
    recalls, rates = zip(*points, strict=True)
    beaten = {
        (r, q) for r, q in points for s, p in points if s >= r and p >= q and (s, p) != (r, q)
    }
    kept = [points[i] for i in pareto(recalls, rates)]
    assert kept == sorted(set(points) - beaten)
    costs = [points[i] for i in pareto(recalls, [-rate for rate in rates], higher_is_better=False)]
    assert costs == kept


def test_the_plot_holds_every_setting_and_a_line_along_the_best(table):
    plot = bench.plot_recall_qps(table)
    (points,) = plot.select(name="sweep")
    for column in table.columns:
        assert points.data_source.data[column] == table[column].to_list()
    assert (points.glyph.x, points.glyph.y) == ("recall", "qps")
    line = line_of(plot, "sweep")
    np.testing.assert_array_equal(line["x"], [0.7, 0.9, 0.99])
    np.testing.assert_array_equal(line["y"], [4000, 3000, 1000])
    assert isinstance(plot.y_scale, models.LogScale)
    assert plot.xaxis.axis_label == "recall@10" and plot.title.text == "wordnet2k"


def test_hovering_shows_the_parameters(table):
    plot = bench.plot_recall_qps(table)
    (hover,) = plot.select(type=models.HoverTool)
    assert hover.tooltips[0] == ("search_list_size", "@{search_list_size}{0}")
    assert "recall" in dict(hover.tooltips) and "memory" not in dict(hover.tooltips)


def test_several_tables_are_told_apart_by_name_and_colour(table):
    plot = bench.plot_recall_qps({"ours": table, "theirs": table.assign(qps=table.qps / 2)})
    assert {item.label.value for item in plot.legend.items} == {"ours", "theirs"}
    glyphs = [plot.select(name=name)[0].glyph for name in ("ours", "theirs")]
    assert glyphs[0].fill_color != glyphs[1].fill_color
    np.testing.assert_array_equal(line_of(plot, "theirs")["y"], [2000, 1500, 500])


def test_latency_is_better_when_lower(table):
    line = line_of(bench.plot_recall_latency(table, latency="p99_ms"), "sweep")
    np.testing.assert_array_equal(line["x"], [0.7, 0.9, 0.99])
    np.testing.assert_array_equal(line["y"], [0.4, 0.6, 2.0])


def test_a_cell_shows_the_figure_without_asking_any_host(table):
    shown = bench.plot_recall_qps(table)._repr_html_()
    assert shown.startswith("<iframe srcdoc=")
    assert "search_list_size" in shown
    outside = []

    class Page(html.parser.HTMLParser):
        def handle_starttag(self, tag, attributes):
            outside.extend(v for name, v in attributes if name in ("src", "href"))
            for name, value in attributes:
                if name == "srcdoc":
                    self.__class__().feed(value)

    Page().feed(shown)
    assert outside == []


def test_panel_embeds_the_figure(table):
    panel = pytest.importorskip("panel", reason="panel is in luma_lab[lab]")
    plot = bench.plot_recall_qps(table)
    pane = panel.panel(plot)
    assert isinstance(pane, panel.pane.Bokeh) and pane.object is plot
    assert pane.get_root() is not None


def test_a_real_sweep_can_be_plotted_and_tables_that_cannot_are_refused(table):
    for bad, said in [
        ({}, "no table"),
        ([1, 2], "expected a DataFrame"),
        (table.drop(columns="qps"), "no column 'qps'"),
        (table.iloc[:0], "no rows"),
        (table.assign(qps=0.0), "wants positive numbers"),
        (table.assign(qps=np.nan), "wants positive numbers"),
    ]:
        with pytest.raises(InvalidArgument, match=said):
            bench.plot_recall_qps(bad)
    with pytest.raises(InvalidArgument, match="latency is 'p42'"):
        bench.plot_recall_latency(table, latency="p42")
