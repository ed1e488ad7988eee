"""The walk and the prune against instrumented plain Python."""

import numpy as np
import pytest

from luma_lab.index import VamanaIndex
from luma_lab.index.rows import graph_rows, read_only
from luma_lab.kernels import graph
from luma_lab.kernels.distance import DOT, L2
from luma_lab.kernels.prune import robust_prune
from luma_lab.kernels.space import FloatSpace
from luma_lab.kernels.topk import key_row, pack_key


def whole_numbers(n, dim, seed=0):
    """Vectors whose distances float32 holds exactly, in whatever order they are summed."""
    return np.random.default_rng(seed).integers(-9, 10, size=(n, dim)).astype(np.float32)


def random_graph(n, degree, seed=0):
    rng = np.random.default_rng(seed)
    neighbors = np.full((n, degree), -1, np.int32)
    for node in range(n):
        others = rng.permutation(np.delete(np.arange(n), node))[: rng.integers(1, degree + 1)]
        neighbors[node, : len(others)] = others
    return neighbors


def measure(a, b, metric):
    if callable(metric):
        return float(metric(a, b))
    return float(((a - b) ** 2).sum()) if metric == L2 else float(-(a @ b))


def textbook_walk(query, vectors, neighbors, entry, metric, kept):
    """Best-first search; returns its list with the nodes expanded and the comparisons.

    After each node `kept(places, expanded)` says what stays of the list, in order; None: the
    walk is given up.
    """
    places = [(measure(query, vectors[entry], metric), entry)]
    seen, expanded = {entry}, []
    while waiting := [place for place in places if place[1] not in expanded]:
        node = min(waiting)[1]
        expanded.append(node)
        for other in neighbors[node].tolist():
            if other >= 0 and other not in seen:
                seen.add(other)
                places.append((measure(query, vectors[other], metric), other))
        places = kept(sorted(places), expanded)
        if places is None:
            return [], expanded, len(seen)
    return places, expanded, len(seen)


def reference_walk(query, vectors, neighbors, entry, size, metric):
    """The walk with a list of `size` places."""
    return textbook_walk(
        query, vectors, neighbors, entry, metric, lambda places, expanded: places[:size]
    )


def kernel_walk(query, vectors, neighbors, entry, size, metric, epoch=0):
    rows = graph_rows(vectors, "l2")
    keys, record = np.empty(size, np.int64), np.empty(len(vectors), np.int64)
    found, hops, comparisons = graph.greedy_search(
        FloatSpace(rows, metric), graph_rows(query[None], "l2")[0], read_only(neighbors), entry,
        keys, np.empty(neighbors.shape[1], np.int32), np.zeros(len(vectors), np.uint8),
        np.array([epoch], np.int32), record, size,
    )  # fmt: skip
    return [key_row(k) for k in keys[:found]], [key_row(k) for k in record[:hops]], comparisons


@pytest.mark.parametrize("metric", [L2, DOT])
@pytest.mark.parametrize("size", [1, 4, 30, 500])
def test_a_walk_expands_the_nodes_the_textbook_walk_expands(size, metric):
    vectors, neighbors = whole_numbers(300, 6), random_graph(300, 7)
    for query in whole_numbers(10, 6, seed=1):
        places, expanded, comparisons = reference_walk(query, vectors, neighbors, 5, size, metric)
        rows, record, count = kernel_walk(query, vectors, neighbors, 5, size, metric)
        assert rows == [row for _, row in places]
        assert record == expanded
        assert count == comparisons


@pytest.mark.parametrize("metric", ["l2", "dot"])
def test_an_index_reports_the_work_of_the_textbook_walk(metric):
    vectors, queries = whole_numbers(400, 5), whole_numbers(20, 5, seed=1)
    parameters = {"max_degree": 8, "build_list_size": 20, "quantizer": None}
    index = VamanaIndex(5, metric, **parameters).build(vectors)
    found = index.search(queries, k=4, search_list_size=12)
    code = {"l2": L2, "dot": DOT}[metric]
    for i, query in enumerate(queries):
        places, expanded, comparisons = reference_walk(
            query, vectors, index.neighbors_, index.entry_, 12, code
        )
        assert found.rows[i].tolist() == [row for _, row in places[:4]]
        assert found.distances[i].tolist() == [distance for distance, _ in places[:4]]
        assert [stat[i] for stat in found.stats] == [len(expanded), comparisons, 0]


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_a_walk_over_codes_reports_the_work_of_the_textbook_walk_over_them(metric):
    vectors, queries = whole_numbers(400, 20), whole_numbers(20, 20, seed=1)
    index = VamanaIndex(20, metric, max_degree=8, build_list_size=20).build(vectors)
    nodes = index._graph.nodes
    found = index.search(queries, k=4, search_list_size=12)
    for i, query in enumerate(queries):
        by_code = nodes.quantizer.distances(query, nodes.codes)[0]
        places, expanded, comparisons = reference_walk(
            by_code, range(400), index.neighbors_, index.entry_, 12, lambda far, row: far[row]
        )
        assert {*found.rows[i].tolist()} <= {row for _, row in places}
        assert [stat[i] for stat in found.stats[:3]] == [len(expanded), comparisons, 0]
        assert found.stats.rerank_nanoseconds[i] > 0


def reference_filtered_walk(query, vectors, neighbors, entry, wanted, least, room, mask, metric):
    """The walk with a list that ends where `wanted` of its places pass, or at `room`.

    Given up where less than a share of `least` of them would.
    """

    def kept(places, expanded):
        passing = [i for i, (_, row) in enumerate(places) if mask[row]]
        places = places[: passing[wanted - 1] + 1] if len(passing) >= wanted else places
        places = places[:room]
        passed = sum(bool(mask[row]) for _, row in places)
        in_sight = passed == wanted or passed * room >= least * wanted * len(places)
        return places if in_sight or len(expanded) % graph.PATIENCE else None

    places, expanded, comparisons = textbook_walk(query, vectors, neighbors, entry, metric, kept)
    return places, len(expanded), comparisons


@pytest.mark.parametrize("metric", [L2, DOT])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("least", [0.25, 1.5])
@pytest.mark.parametrize("wanted, room", [(1, 150), (5, 40), (30, 150), (10, 4)])
def test_a_filtered_walk_expands_what_the_textbook_walk_expands(metric, share, least, wanted, room):
    vectors, neighbors = whole_numbers(150, 6), random_graph(150, 7)
    mask = np.random.default_rng(7).random(150) < share
    keys, seen = np.empty(room, np.int64), np.zeros(150, np.uint8)
    rows, epoch = graph_rows(vectors, "l2"), np.zeros(1, np.int32)
    for query in whole_numbers(3, 6, seed=1):
        size, hops, comparisons = graph.filtered_search(
            FloatSpace(rows, metric), graph_rows(query[None], "l2")[0], read_only(neighbors), 5,
            mask, wanted, np.float32(least), keys, np.empty(7, np.int32), seen, epoch, room,
        )  # fmt: skip
        expected = reference_filtered_walk(
            query, vectors, neighbors, 5, wanted, least, room, mask, metric
        )
        assert [key_row(key) for key in keys[:size]] == [row for _, row in expected[0]]
        assert (hops, comparisons) == expected[1:]


def test_a_walk_whose_rows_all_pass_is_the_plain_walk():
    vectors, neighbors = whole_numbers(300, 6), random_graph(300, 7)
    for query in whole_numbers(5, 6, seed=1):
        plain = kernel_walk(query, vectors, neighbors, 5, 30, L2)
        keys = np.empty(300, np.int64)
        size, hops, comparisons = graph.filtered_search(
            FloatSpace(graph_rows(vectors, "l2"), L2), graph_rows(query[None], "l2")[0],
            read_only(neighbors), 5, np.ones(300, bool), 30, np.float32(1), keys,
            np.empty(7, np.int32), np.zeros(300, np.uint8), np.zeros(1, np.int32), 300,
        )  # fmt: skip
        assert [key_row(key) for key in keys[:size]] == plain[0]
        assert (hops, comparisons) == (len(plain[1]), plain[2])


def test_visit_stamps_start_again_when_they_run_out():
    vectors, neighbors = whole_numbers(50, 4), random_graph(50, 5)
    query = vectors[7]
    fresh = kernel_walk(query, vectors, neighbors, 0, 10, L2)
    assert kernel_walk(query, vectors, neighbors, 0, 10, L2, epoch=graph.LAST_EPOCH) == fresh
    seen, epoch = np.full(3, 9, np.uint8), np.array([graph.LAST_EPOCH], np.int32)
    assert graph.next_epoch(seen, epoch) == 1
    assert seen.tolist() == [0, 0, 0]


def test_a_full_list_drops_its_last_key():
    keys = np.array([10, 20, 30, 99], np.int64)
    assert graph.insert_key(keys, 3, 15) == 1
    assert keys.tolist() == [10, 15, 20, 30]
    assert graph.insert_key(keys, 4, 5) == 0
    assert keys.tolist() == [5, 10, 15, 20]


def prune(node, candidates, vectors, metric, alpha, degree):
    keys = np.sort(
        [pack_key(np.float32(measure(vectors[node], vectors[c], metric)), c) for c in candidates]
    )
    kept = np.empty(degree, np.int32)
    count = robust_prune(
        FloatSpace(graph_rows(vectors, "l2"), metric), node, keys, len(keys), np.float32(alpha),
        np.empty((2, len(keys)), np.float32), np.zeros(0, np.uint8), kept,
    )  # fmt: skip
    return kept[:count].tolist()


def reference_prune(node, candidates, vectors, metric, alpha, degree):
    order = sorted((measure(vectors[node], vectors[c], metric), c) for c in candidates)
    kept, settled, looked_at = [], set(), {}

    def ratio(c):
        """Largest d(node, c) / d(p, c) over the p kept before c in `order`."""
        away = measure(vectors[node], vectors[c], L2)
        between = [measure(vectors[p], vectors[c], L2) for p in looked_at.get(c, [])]
        return max([np.inf if b == 0 else np.float32(away / b) for b in between], default=0)

    for slack in dict.fromkeys([1.0, np.float32(alpha)]):
        for place, (_, c) in enumerate(order):
            if len(kept) == degree or c in settled or ratio(c) > slack:
                continue
            kept.append(c)
            settled.add(c)
            for _, later in order[place + 1 :]:
                looked_at.setdefault(later, []).append(c)
    return kept


@pytest.mark.parametrize("metric", [L2, DOT])
@pytest.mark.parametrize("alpha", [1.0, 1.2, 1.5])
@pytest.mark.parametrize("degree", [1, 4, 40])
def test_robust_prune_keeps_what_the_textbook_prune_keeps(metric, alpha, degree):
    vectors = whole_numbers(120, 5)
    for node in range(0, 120, 10):
        candidates = [c for c in range(120) if c != node and c % 3]
        expected = reference_prune(node, candidates, vectors, metric, alpha, degree)
        assert prune(node, candidates, vectors, metric, alpha, degree) == expected


def test_larger_alpha_keeps_more_edges():
    vectors = whole_numbers(200, 6)
    kept = [len(prune(0, range(1, 200), vectors, L2, alpha, 100)) for alpha in (1.0, 1.2, 2.0)]
    assert kept == sorted(kept) and kept[0] < kept[-1]


def test_of_equal_vectors_one_is_kept():
    vectors = np.float32([[0, 0], [3, 0], [3, 0], [3, 0], [0, 5]])
    assert prune(0, [1, 2, 3, 4], vectors, L2, 1.2, 4) == [1, 4]


def test_a_node_is_never_its_own_neighbour():
    vectors = whole_numbers(30, 4)
    assert 3 not in prune(3, range(30), vectors, L2, 1.2, 30)
