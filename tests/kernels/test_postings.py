"""Posting lists made, copied and summed, against dictionaries."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from luma_lab.kernels import bm25, postings
from luma_lab.kernels import places as kernels_places
from luma_lab.kernels.warmup import read_only

DOCUMENTS = st.lists(st.lists(st.integers(-1, 5), max_size=8), max_size=8)


def inverted(documents):
    """Return (starts, rows, counts, places by list) of documents of terms 0 to 5."""
    tokens = np.array([t for document in documents for t in document], np.int32)
    ends = np.cumsum([len(document) for document in documents], dtype=np.int64)
    sizes, last = np.zeros(6, np.int64), np.full(6, -1, np.int32)
    postings.count_postings(tokens, ends, last, sizes)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    rows, counts = np.empty(starts[-1], np.int32), np.empty(starts[-1], np.int32)
    last[:] = -1
    cursors = starts[:-1].copy()
    postings.fill_postings(tokens, ends, cursors, last, rows, counts)
    assert cursors.tolist() == starts[1:].tolist()
    totals = np.bincount(tokens[tokens >= 0], minlength=6)
    places = np.empty(totals.sum(), np.int32)
    postings.fill_places(tokens, ends, np.cumsum(totals) - totals, places)
    return starts, rows, counts, totals, places


@given(DOCUMENTS)
def test_lists_hold_each_documents_counts_and_places(documents):
    starts, rows, counts, totals, places = inverted(documents)
    stops = np.cumsum(totals)
    for term in range(6):
        expected = [(d, doc.count(term)) for d, doc in enumerate(documents) if term in doc]
        part = slice(starts[term], starts[term + 1])
        assert [*zip(rows[part].tolist(), counts[part].tolist(), strict=True)] == expected
        stand = [i for doc in documents for i, t in enumerate(doc) if t == term]
        assert places[stops[term] - totals[term] : stops[term]].tolist() == stand


@given(DOCUMENTS, st.data())
def test_copying_keeps_the_live_rows_of_wanted_lists(documents, data):
    starts, rows, counts, totals, places = inverted(documents)
    live = np.array(
        data.draw(st.lists(st.booleans(), min_size=len(documents), max_size=len(documents))), bool
    )
    kept = np.zeros(6, np.int64)
    postings.count_kept(starts, rows, live, kept)
    assert kept.tolist() == [
        sum(term in doc and ok for doc, ok in zip(documents, live, strict=True))
        for term in range(6)
    ]
    targets = np.array([0, -1, 1, -1, -1, 2])
    wanted = np.flatnonzero(targets >= 0)
    ends = np.cumsum(kept[wanted])
    out_rows, out_counts = (
        np.empty(kept[wanted].sum(), np.int32),
        np.empty(kept[wanted].sum(), np.int32),
    )
    cursors = ends - kept[wanted]
    postings.copy_kept(starts, rows, counts, live, 10, targets, cursors, out_rows, out_counts)
    assert cursors.tolist() == ends.tolist()
    expected = [
        (d + 10, doc.count(term))
        for term in (0, 2, 5)
        for d, doc in enumerate(documents)
        if live[d] and term in doc
    ]
    assert [*zip(out_rows.tolist(), out_counts.tolist(), strict=True)] == expected
    sizes, begins, packed = packed_of(starts, counts, places)
    of_lists = np.zeros(3, np.int64)
    kept = starts, rows, counts, begins, packed, live, targets
    kernels_places.count_kept_places(*kept, of_lists)
    out = np.empty(of_lists.sum(), np.uint8)
    begins = np.cumsum(of_lists) - of_lists
    cursors = begins.copy()
    kernels_places.copy_kept_places(*kept, cursors, out)
    assert cursors.tolist() == np.cumsum(of_lists).tolist()
    for target, term in enumerate((0, 2, 5)):
        alive = [(d, doc) for d, doc in enumerate(documents) if live[d] and term in doc]
        spots = unpacked(
            [d for d, _ in alive], [doc.count(term) for _, doc in alive], out, begins[target]
        )
        assert spots == [(d, i) for d, doc in alive for i, t in enumerate(doc) if t == term]


def packed_of(starts, counts, places):
    """Return (bytes of each list, where it begins, all packed)."""
    sizes = np.empty(len(starts) - 1, np.int64)
    kernels_places.measure_places(starts, counts, places, sizes)
    packed = np.empty(sizes.sum(), np.uint8)
    kernels_places.pack_places(starts, counts, places, packed)
    return sizes, np.cumsum(sizes) - sizes, packed


def unpacked(rows, counts, packed, at, step=0):
    """Return the (row, place) of a list."""
    rows, counts = np.array([*rows], np.int32), np.array([*counts], np.int32)
    spots = np.empty(counts.sum(), np.int64)
    size = kernels_places.unpack_spots(rows, counts, packed, at, step, spots)
    return [(spot >> 32, spot & 0xFFFFFFFF) for spot in spots[:size].tolist()]


UNIQUE = st.lists(st.integers(0, 30), unique=True).map(sorted)


@given(UNIQUE, UNIQUE)
def test_common_spots_are_kept_in_order(one, other):
    spots = np.array(one, np.int64)
    size = kernels_places.keep_common(spots, np.array(other, np.int64))
    assert spots[:size].tolist() == sorted(set(one) & set(other))


SPREAD = st.lists(
    st.lists(st.integers(0, 300) | st.integers(0, 2**31 - 1), unique=True, min_size=1).map(sorted),
    max_size=6,
)


@given(st.lists(SPREAD, min_size=1, max_size=4), st.integers(0, 200))
def test_packed_places_come_back_and_damage_is_seen(lists, step):
    starts = np.cumsum([0, *map(len, lists)])
    counts = np.array([len(places) for postings_of in lists for places in postings_of], np.int32)
    flat = np.array([p for some in lists for places in some for p in places], np.int32)
    sizes, begins, packed = packed_of(starts, counts, flat)
    tokens = np.array([sum(map(len, some)) for some in lists])
    for item, some in enumerate(lists):
        assert unpacked(range(len(some)), map(len, some), packed, begins[item], step) == [
            (row, place - step) for row, places in enumerate(some) for place in places
            if place >= step
        ]  # fmt: skip
    assert kernels_places.places_fit(begins, tokens, packed)
    if len(packed):
        assert not kernels_places.places_fit(begins, tokens, packed[:-1])
        assert not kernels_places.places_fit(begins, tokens, packed | 128)
        assert not kernels_places.places_fit(begins - len(packed), tokens, packed)
    assert sizes.sum() <= 5 * len(flat)


def random_lists(rng, total_rows, sizes):
    rows = [np.sort(rng.choice(total_rows, size, replace=False)) for size in sizes]
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    joined = np.concatenate(rows).astype(np.int32)
    return starts, joined, rng.random(len(joined)).astype(np.float32) ** 4 + np.float32(1e-3)


def test_all_ways_to_sum_find_what_a_dense_sum_finds():
    rng = np.random.default_rng(0)
    total_rows = 9 * postings.WINDOW + 17
    for _ in range(15):
        sizes = rng.integers(1, total_rows // 2, rng.integers(1, 6))
        starts, rows, parts = random_lists(rng, total_rows, sizes)
        weights = (rng.random(len(sizes)) * 3 + 0.01).astype(np.float32)
        dense = np.zeros(total_rows)
        for j, weight in enumerate(weights):
            part = slice(starts[j], starts[j + 1])
            dense[rows[part]] += weight * parts[part].astype(np.float64)
        allowed = rng.random(total_rows) < 0.7
        chosen = np.flatnonzero(np.arange(len(sizes)) % 2 == 0)
        slots = np.full(len(sizes), -1, np.int32)
        slots[chosen] = np.arange(len(chosen))
        begins = np.empty((len(chosen), 10 + 1), np.int64)
        tops = np.empty((len(chosen), 10), np.float32)
        postings.window_bounds(starts, rows, read_only(parts), chosen, begins, tops)
        for j, item in enumerate(chosen):
            part = slice(starts[item], starts[item + 1])
            for window in range(10):
                inside = rows[part] // postings.WINDOW == window
                assert tops[j, window] == parts[part][inside].max(initial=0)
        best = np.sort(np.where(allowed, dense, 0))[::-1][:7]
        sums = np.zeros(total_rows, np.float32)
        for way in (bm25.TOUCHED, bm25.WINDOWED, bm25.EXHAUSTIVE):
            heap, scores = np.empty(7, np.int64), np.empty(7, np.float32)
            size = bm25.sum_lists(
                way, np.arange(len(sizes)), weights, int(starts[-1]), 
                *map(read_only, (starts, rows, parts, slots, begins, tops, allowed)), False,
                0, total_rows, sums, heap, 0,
            )  # fmt: skip
            bm25.unpack(heap, size, 0.0, scores)
            np.testing.assert_allclose(scores[:size], best[best > 0][:7], rtol=1e-5)
            np.testing.assert_allclose(dense[heap[:size]], scores[:size], rtol=1e-5)
            assert allowed[heap[:size]].all()
            assert not sums.any()


def test_a_sum_of_nothing_still_counts_as_found():
    starts, rows = np.array([0, 2, 3]), np.array([1, 3, 3], np.int32)
    parts = np.array([1, 1, 1], np.float32)
    none = np.full(2, -1, np.int32), np.empty((0, 0), np.int64), np.empty((0, 0), np.float32)
    arrays = (starts, rows, parts, *none, np.ones(5, bool))
    for weights in ([0, 0], [1, -1], [-2, 0]):
        heap, scores, sums = np.empty(4, np.int64), np.empty(4, np.float32), np.zeros(5, np.float32)
        size = bm25.sum_lists(
            bm25.AUTO, np.arange(2), np.array(weights, np.float32), 3,
            *map(read_only, arrays),
            True, 0, 5, sums, heap, 0,
        )  # fmt: skip
        bm25.unpack(heap, size, 0.0, scores)
        expected = sorted([(-float(weights[0]), 1), (-float(sum(weights)), 3)])
        assert [*zip((-scores[:size]).tolist(), heap[:size].tolist(), strict=True)] == expected
        assert not sums.any()
