"""The kernel benchmark: every kernel has a figure, and faiss is optional."""

import sys

import pytest

from luma_lab.bench.kernelbench import measure
from luma_lab.errors import Unavailable

OURS = ["float32 l2", "float32 dot", "float32 cosine", "numpy gemv", "u8s8 dot", "u8u4 dot"]
CODES = ["q8 l2", "q8 l2, 8 chosen rows", "q4 l2", "pq l2"]


def test_every_kernel_of_every_dimension_has_a_time():
    found = measure((128,), rounds=2, peers=False, data_bytes=1 << 15)
    assert [line["kernel"] for line in found] == OURS + CODES
    assert all(0 < line["min_ns"] <= line["median_ns"] for line in found)
    assert {line["kernel"]: line["row_bytes"] for line in found}["q8 l2"] == 144


def test_faiss_is_timed_beside_them():
    pytest.importorskip("faiss", reason="faiss is not installed")
    found = measure((128,), rounds=1, data_bytes=1 << 15)
    assert sum(line["kernel"].startswith("faiss ") for line in found) == 6


def test_a_missing_faiss_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(Unavailable, match="pip install faiss-cpu"):
        measure((128,), rounds=1, data_bytes=1 << 15)
