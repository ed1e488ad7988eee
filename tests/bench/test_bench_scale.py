"""A data set in several sizes: what is made larger, what is measured, what is drawn."""

import math

import numpy as np
import pytest

from luma_lab import bench
from luma_lab.bench import scale
from luma_lab.errors import InvalidArgument

pandas = pytest.importorskip("pandas", reason="tables are DataFrames; pandas is in luma_lab[lab]")


@pytest.fixture(scope="module")
def data():
    whole = bench.load("sift_cc0_8k")
    return bench.Dataset(name="few", metric="l2", base=whole.base[:600], queries=whole.queries[:10])


def test_larger_data_is_the_data_and_then_the_data_with_noise(data):
    assert np.array_equal(scale.enlarged(data.base, 100), data.base[:100])
    made = scale.enlarged(data.base, 1500)
    assert made.shape == (1500, 128) and made.dtype == np.float32
    assert np.array_equal(made[:600], data.base)
    assert np.array_equal(made, scale.enlarged(data.base, 1500))
    for start, count in ((600, 600), (1200, 300)):
        noise = made[start : start + count] - data.base[:count]
        share = noise.std(axis=0) / data.base.std(axis=0)
        np.testing.assert_allclose(share[data.base.std(axis=0) > 0], scale.NOISE, rtol=0.25)
        assert abs(noise.mean()) < 0.1 * noise.std()
    assert not np.array_equal(made[600:900], made[1200:])


def test_each_size_gets_a_row_and_the_plot_shows_the_slopes(data):
    models = pytest.importorskip("bokeh.models", reason="plots are Bokeh's")
    told = []
    table = scale.measure(
        data, (300, 900), rounds=1, list_sizes=(10, 40), max_degree=16, build_list_size=30,
        report=told.append,
    )  # fmt: skip
    assert table["rows"].tolist() == [300, 900] and told == table.to_dict("records")
    for column in ("build_s", "memory_bytes", "qps", "comparisons", "hops"):
        assert (table[column] > 0).all()
    assert (table.best_recall > 0.95).all()
    assert table.comparisons[0] < table.comparisons[1]
    slope = math.log(table.comparisons[1] / table.comparisons[0]) / math.log(3)
    assert table.attrs["slopes"]["comparisons"] == pytest.approx(slope)
    plot = bench.plot_scale(table)
    (points,) = plot.select(name="comparisons")
    assert points.data_source.data["y"] == table.comparisons.to_list()
    assert isinstance(plot.x_scale, models.LogScale) and isinstance(plot.y_scale, models.LogScale)
    above = [part for part in plot.above if isinstance(part, models.Legend)]
    assert above == [*plot.legend], "a legend inside covers lines"
    labels = [item.label.value for item in plot.legend.items]
    assert f"comparisons a query (slope {slope:.2f})" in labels
    assert plot._repr_html_().startswith("<iframe srcdoc=")


def test_slopes_are_those_of_power_laws_and_sizes_without_a_figure_do_not_count():
    rows = np.array([1000, 2000, 4000, 8000])
    table = pandas.DataFrame(
        {"rows": rows, "qps": 1e6 * rows**-0.2, "comparisons": rows**0.3, "build_cpu_s": rows**1.1}
    )
    table.loc[3, "qps"] = math.nan
    found = scale.slopes(table)
    assert [round(found[name], 6) for name in ("qps", "comparisons", "build_cpu_s")] == [
        -0.2, 0.3, 1.1,
    ]  # fmt: skip
    assert math.isnan(scale.slopes(table.iloc[:1])["qps"])


def test_what_can_not_be_measured_or_drawn_is_refused(data):
    for sizes in ((), (200, 100), (100, 100), (0,)):
        with pytest.raises(InvalidArgument, match="size"):
            scale.measure(data, sizes)
    table = pandas.DataFrame({"rows": [1, 2], "qps": [math.nan] * 2, "comparisons": [math.nan] * 2})
    with pytest.raises(InvalidArgument, match=r"reached a recall of 0\.95"):
        bench.plot_scale(table.assign(build_cpu_s=1.0))
    with pytest.raises(InvalidArgument, match="no column 'comparisons'"):
        bench.plot_scale(table.drop(columns="comparisons"))
