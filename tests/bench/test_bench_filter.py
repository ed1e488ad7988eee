"""Filtered searches are measured in every way, and every answer is judged."""

import numpy as np
import pytest

from luma_lab import bench
from luma_lab.bench import filterbench
from luma_lab.errors import InvalidArgument, UnknownName

pytest.importorskip("pandas", reason="tables are DataFrames; pandas is in luma_lab[lab]")


@pytest.fixture(scope="module")
def data():
    whole = bench.load("sift_cc0_8k")
    return bench.Dataset(name="few", metric="l2", base=whole.base[:1000], queries=whole.queries[:8])


def test_every_way_is_asked_under_every_filter_and_finds_what_matches(data):
    pytest.importorskip("faiss", reason="the peer is faiss-cpu")
    table = filterbench.measure(data, selectivities=(0.5, 0.004), rounds=1, queries=8)
    assert set(table.way) == set(filterbench.WAYS)
    assert set(table.correlation) == set(filterbench.CORRELATIONS)
    assert (table.qps > 0).all() and table.recall.between(0, 1).all()
    ours = table[table.way.isin(["planned", "scan"])]
    assert (ours.full == 1.0).all(), "min(k, matches) rows, always"
    assert ours[ours.way == "scan"].recall.min() > 0.99
    best = table[table.way == "faiss-hnsw"].groupby(["correlation", "selectivity"]).recall.max()
    assert best.max() > 0.9
    at = table.attrs["at"]
    assert len(at) == 6 and list(at) == list(filterbench.WAYS)
    assert (at[["planned", "scan"]] > 0).all(axis=None)


def test_filters_are_as_selective_and_as_near_as_they_are_said_to_be(data):
    far = ((data.base[None] - data.queries[:, None]) ** 2).sum(axis=2)
    order = np.argsort(far, axis=1)
    for correlation in filterbench.CORRELATIONS:
        chosen = filterbench._filters(order, far.shape, 0.1, correlation)
        for distances, rows in zip(far, chosen, strict=True):
            assert len(rows) == 100 and (np.diff(rows) > 0).all()
            median = np.median(distances)
            if correlation == "near":
                assert distances[rows].max() <= np.sort(distances)[200]
            elif correlation == "far":
                assert distances[rows].min() >= median


def test_what_is_no_filter_is_refused(data):
    with pytest.raises(UnknownName, match="'scam': expected one of"):
        filterbench.measure(data, ways=["scam"])
    with pytest.raises(UnknownName, match="correlation"):
        filterbench.measure(data, correlations=["close"])
    for share in (0, 1.5, -0.1):
        with pytest.raises(InvalidArgument, match="selectivities"):
            filterbench.measure(data, selectivities=[share])
    with pytest.raises(InvalidArgument, match="rounds"):
        filterbench.measure(data, rounds=0)
