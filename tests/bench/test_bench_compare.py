"""Engines side by side: the same trials for all, a fair interpolation, clear refusals."""

import math
import sys

import numpy as np
import pandas
import pytest

from luma_lab import bench
from luma_lab.bench.compare import qps_at
from luma_lab.bench.peers import ENGINES
from luma_lab.errors import InvalidArgument, Unavailable, UnknownName


@pytest.fixture(scope="module")
def data():
    whole = bench.load("sift_cc0_8k")
    return bench.Dataset(
        name="few", metric="l2", base=whole.base[:1500], queries=whole.queries[:30]
    )


def test_each_engine_gets_a_row_for_each_setting_and_its_speed_at_each_recall(data):
    table = bench.compare(data, ["vamana", "flat", "faiss-hnsw"], rounds=1)
    assert list(dict.fromkeys(table.engine)) == ["vamana", "flat", "faiss-hnsw"]
    assert (table.recall > 0.5).all() and (table.qps > 0).all() and (table.build_s > 0).all()
    assert table[table.engine == "flat"].recall.item() == 1.0
    assert (table.memory > 0).all()
    at, ratios = table.attrs["at"], table.attrs["ratios"]
    assert list(at.index) == ["vamana", "flat", "faiss-hnsw"] and list(at) == [0.90, 0.95, 0.99]
    assert (ratios.loc["vamana"] == 1).all() and (at > 0).all(axis=None)


@pytest.mark.parametrize("metric", ["l2", "cosine", "dot"])
@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_that_is_installed_finds_the_nearest(name, metric):
    rng = np.random.default_rng(0)
    base = rng.normal(size=(600, 16)).astype(np.float32)
    asked = rng.normal(size=(20, 16)).astype(np.float32)
    few = bench.Dataset(name="few", metric=metric, base=base, queries=asked)
    engine = ENGINES[name]()
    try:
        engine.build(few.base, metric, 1)
    except Unavailable as missing:
        pytest.skip(str(missing))
    setting = {} if engine.knob is None else {engine.knob: engine.values[-1]}
    assert bench.recall(engine.search(few.queries, 10, **setting), few) > 0.9
    assert engine.memory_bytes > 0


def test_speed_at_a_recall_is_interpolated_on_the_settings_nothing_beats():
    table = pandas.DataFrame(
        {"recall": [0.8, 0.9, 0.92, 0.96], "qps": [1000.0, 400.0, 500.0, 100.0]}
    )
    assert qps_at(table, 0.96) == pytest.approx(100) and qps_at(table, 0.5) == 1000
    assert qps_at(table, 0.94) == pytest.approx(math.sqrt(500 * 100))
    assert qps_at(table, 0.86) == pytest.approx(math.sqrt(1000 * 500))
    assert math.isnan(qps_at(table, 0.97))


def test_unknown_and_missing_engines_are_named(data, monkeypatch):
    with pytest.raises(UnknownName, match="did you mean 'hnswlib'"):
        bench.compare(data, ["hnswlb"])
    with pytest.raises(InvalidArgument, match="empty"):
        bench.compare(data, [])
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    with pytest.raises(Unavailable, match="pip install usearch"):
        bench.compare(data, ["usearch"])
