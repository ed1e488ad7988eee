"""DiskIndex: the contract from disk, its codes, its cache, its readers, and damaged files."""

import itertools
import pickle
import shutil
import sys

import numpy as np
import pytest
from children import child
from index_contract import IndexContract, clustered, every_metric, recall, same_answers

from luma_lab import errors
from luma_lab.files import save_arrays
from luma_lab.index import DiskIndex, FlatIndex, disksearch
from luma_lab.index.cache import read_records
from luma_lab.index.sectors import SECTOR_BYTES
from luma_lab.types import DiskStats

SMALL = {"max_degree": 24, "build_list_size": 50}


class Loadable(DiskIndex):
    """What the contract calls load(mmap=False) reads asynchronously."""

    @classmethod
    def load(cls, path, mmap=True):
        return cls.open(path, reader="mmap" if mmap else "aio")


class Maker:
    """Builds into a new directory each time."""

    def __init__(self, folder, metric, parameters):
        self.folder, self.metric, self.parameters = folder, metric, parameters

    def build(self, vectors, progress=False):
        path = self.folder / f"{len(list(self.folder.iterdir()))}"
        return Loadable.build(
            vectors, path, metric=self.metric, progress=progress, **self.parameters
        )


class TestDiskIndex(IndexContract):
    reads_records = True
    holds_vectors = False
    budgets = {}

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def folder(cls, request, tmp_path_factory):
        request.cls.directory = tmp_path_factory.mktemp("disk")

    def make(self, dim, metric="cosine", **parameters):
        return Maker(self.directory, metric, {**SMALL, **self.budgets, **parameters})

    # An index on disk is never unbuilt, and build makes a new one: its own tests are below.
    test_another_dimension_is_refused = None
    test_a_row_that_is_no_finite_vector_is_refused_by_name = None
    test_wrong_parameters_are_named = None
    test_what_was_not_built_can_not_be_used = None
    test_a_flipped_byte_is_never_served = None
    test_what_is_no_saved_index_of_this_kind_is_refused = None
    test_progress_is_told_up_to_one_and_may_end_the_build = None


class TestDiskIndexOfProductCodes(TestDiskIndex):
    # 1,500 rows of 20 components: neither 64 nor 32 bytes a row, but some parts.
    budgets = {"search_memory_bytes": 582_144}


class TestDiskIndexBuiltInShards(TestDiskIndex):
    budgets = {"build_memory_bytes": 500_000}


def build(path, vectors, metric="l2", **parameters):
    return DiskIndex.build(vectors, path, metric=metric, **{**SMALL, **parameters})


def check_graph(index):
    """Assert the invariants of the graph on disk; return its neighbors (n, max_degree)."""
    opened = index._opened
    n, layout = len(index), opened.layout
    records = np.concatenate(
        [part for _, part in read_records(opened.file, np.arange(n, dtype=np.int32))]
    )
    links = np.ascontiguousarray(records[:, layout.edges_at :]).view(np.int32)
    reached, waiting = {opened.entry}, [opened.entry]
    while waiting:
        node = waiting.pop()
        edges = links[node, 1 : 1 + links[node, 0]].tolist()
        assert len(set(edges)) == len(edges) and node not in edges
        assert (links[node, 1 + links[node, 0] :] == -1).all()
        waiting += {*edges} - reached
        reached |= {*edges}
    assert len(reached) == n, "every node can be reached from the entry"
    return links[:, 1:]


@pytest.mark.parametrize(
    ("budget", "kind"),
    [(None, "q8"), (10_000_000, "q8"), (732_000, "q4"), (682_000, "pq"), (652_000, "pq")],
)
def test_the_finest_codes_that_fit_the_budget_are_taken(budget, kind, tmp_path):
    vectors = clustered(2000, 96)
    index = build(tmp_path / "x", vectors, search_memory_bytes=budget)
    assert index.code_kind == kind and f"codes={kind!r}" in repr(index)
    assert index.memory_bytes >= 2000 * index.code_bytes
    if budget is not None:
        assert index.memory_bytes <= budget
        assert index.cached_nodes > 0 or kind == "pq"
    queries = clustered(50, 96, seed=1)
    exact = FlatIndex(96, "l2").build(vectors).search(queries)
    assert recall(index.search(queries, search_list_size=100), exact) >= 0.9


def test_a_budget_that_holds_no_codes_is_refused_with_one_that_does(tmp_path):
    vectors = clustered(2000, 16)
    with pytest.raises(errors.InvalidArgument, match="search_memory_bytes=1000: expected") as no:
        build(tmp_path / "x", vectors, search_memory_bytes=1000)
    assert not (tmp_path / "x").exists()
    least = int(str(no.value).split("at least ")[1].split(",")[0])
    index = build(tmp_path / "x", vectors, search_memory_bytes=least)
    assert (index.code_kind, index.code_bytes) == ("pq", 1) and index.memory_bytes <= least
    with pytest.raises(errors.InvalidArgument):
        build(tmp_path / "x", vectors, search_memory_bytes=least - 1)


@every_metric
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_bytes_stay_bytes_and_distances_stay_exact(dtype, metric, tmp_path):
    vectors = (clustered(600, 12) * 9).clip(0, 120).astype(dtype)
    index = build(tmp_path / "x", vectors, metric)
    floats = build(tmp_path / "y", vectors.astype(np.float32), metric)
    assert index.dtype == dtype.__name__ and floats.dtype == "float32"
    assert index._opened.layout.record_bytes == floats._opened.layout.record_bytes - 3 * 12
    queries = vectors[:40].astype(np.float32) + 0.25
    assert same_answers(index.search(queries), floats.search(queries))


@pytest.mark.parametrize("dim", [1, 3, 979, 1500, 4096])
def test_any_dimension_fits_whole_sectors(dim, tmp_path):
    vectors = clustered(60, dim)
    index = build(tmp_path / "x", vectors)
    layout = index._opened.layout
    assert layout.block_bytes % SECTOR_BYTES == 0
    assert layout.per_block * layout.record_bytes + 4 <= layout.block_bytes
    nodes = next(tmp_path.glob("x/nodes-*.bin"))
    assert nodes.stat().st_size == -(-60 // layout.per_block) * layout.block_bytes
    exact = FlatIndex(dim, "l2").build(vectors)
    for reader in ("mmap", "aio"):
        found = DiskIndex.open(tmp_path / "x", reader=reader).search(vectors, k=5)
        assert (found.rows == exact.search(vectors, k=5).rows).mean() > 0.95


@every_metric
@pytest.mark.parametrize("budget", [None, 400_000])
@pytest.mark.parametrize(
    "vectors",
    [
        np.ones((1, 4)),
        np.eye(2, 4),
        np.zeros((3000, 4)),
        np.repeat(np.random.default_rng(0).normal(size=(3, 4)), 1000, axis=0),
        np.concatenate([np.random.default_rng(i).normal(100 * i, 1, (300, 4)) for i in range(9)]),
        np.arange(3000.0).reshape(3000, 1) * np.ones(4),
    ],
    ids=["one", "two", "all equal", "each a thousand times", "far clusters", "on a line"],
)
def test_odd_data_makes_sound_graphs(vectors, budget, metric, tmp_path):
    index = DiskIndex.build(
        vectors, tmp_path / "x", metric=metric, max_degree=4, build_list_size=10,
        build_memory_bytes=budget,
    )  # fmt: skip
    check_graph(index)
    everything = index.search(vectors[0], k=len(vectors))
    assert sorted(everything.rows[0].tolist()) == list(range(len(vectors)))


@every_metric
@pytest.mark.parametrize("budget", [None, 600_000])
def test_the_same_seed_gives_the_same_bytes_for_any_number_of_threads(budget, metric, tmp_path):
    vectors = clustered(3000, 12)
    made = []
    for threads in (1, 2, 3):
        path = tmp_path / f"{threads}"
        build(path, vectors, metric, threads=threads, build_memory_bytes=budget)
        made.append({f.name: f.read_bytes() for f in path.iterdir()})
    assert made[0] == made[1] == made[2] and len(made[0]) == 4
    other = build(tmp_path / "x", vectors, metric, seed=1, build_memory_bytes=budget)
    assert other.fingerprint != DiskIndex.open(tmp_path / "1").fingerprint


@every_metric
def test_shards_recall_as_well_as_one_graph(metric, tmp_path):
    vectors, queries = clustered(6000, 16), clustered(100, 16, seed=1)
    exact = FlatIndex(16, metric).build(vectors).search(queries)
    whole = build(tmp_path / "whole", vectors, metric)
    cut = build(tmp_path / "cut", vectors, metric, build_memory_bytes=900_000)
    edges = check_graph(cut)
    assert not (edges == check_graph(whole)).all(), "it was cut"
    assert recall(cut.search(queries), exact) >= recall(whole.search(queries), exact) - 0.02


def test_a_build_budget_that_holds_no_shard_is_refused_with_one_that_does(tmp_path):
    vectors = clustered(3000, 8)
    with pytest.raises(errors.InvalidArgument, match="build_memory_bytes=1000: expected") as no:
        build(tmp_path / "x", vectors, build_memory_bytes=1000)
    assert not (tmp_path / "x").exists()
    least = int(str(no.value).split("at least ")[1].split(" ")[0])
    assert len(build(tmp_path / "x", vectors, build_memory_bytes=least)) == 3000
    doubles = clustered(3000, 8).astype(np.float64)
    with pytest.raises(errors.InvalidArgument, match="float64: a float32 copy"):
        build(tmp_path / "y", doubles, build_memory_bytes=300_000)


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
@pytest.mark.parametrize("budget", [None, 600_000])
def test_a_mapped_file_builds_the_index_its_array_builds(budget, dtype, tmp_path):
    vectors = (clustered(3000, 12) * 5 + 100).clip(0, 255).astype(dtype)
    np.save(tmp_path / "vectors.npy", vectors)
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    a = build(tmp_path / "a", vectors, build_memory_bytes=budget)
    b = build(tmp_path / "b", mapped, build_memory_bytes=budget)
    assert a.fingerprint == b.fingerprint


def test_a_wider_beam_needs_fewer_rounds_and_answers_do_not_depend_on_the_reader(tmp_path):
    rng = np.random.default_rng(0)
    vectors, queries = rng.normal(size=(4000, 32)), rng.normal(size=(60, 32))
    build(tmp_path / "x", vectors)
    exact = FlatIndex(32, "l2").build(vectors).search(queries)
    answers = {}
    for reader, width in itertools.product(("mmap", "aio"), (1, 2, 4, 16, 200)):
        with DiskIndex.open(tmp_path / "x", reader=reader) as index:
            answers[reader, width] = index.search(queries, beam_width=width, threads=2)
    for width in (1, 2, 4, 16, 200):
        a, b = answers["mmap", width], answers["aio", width]
        assert same_answers(a, b) and recall(a, exact) > 0.9
        for one, other in zip(a.stats[:4], b.stats[:4], strict=True):
            assert one.tolist() == other.tolist()
    assert answers["aio", 16].stats.hops.mean() > answers["aio", 1].stats.hops.mean()


def test_statistics_tell_what_each_query_cost(tmp_path):
    vectors = clustered(3000, 16)
    index = build(tmp_path / "x", vectors)
    stats = index.search(vectors[:20]).stats
    assert isinstance(stats, DiskStats) and stats._fields == (
        "hops", "comparisons", "reads", "cache_hits", "microseconds",
    )  # fmt: skip
    assert (stats.reads <= stats.hops).all() and (stats.cache_hits == 0).all()
    assert (stats.hops <= stats.comparisons).all() and (stats.microseconds > 0).all()
    assert (stats.comparisons < 3000).all()


@pytest.mark.parametrize("reader", ["mmap", "aio"])
def test_the_cache_holds_what_is_nearest_to_the_entry_and_changes_no_answer(reader, tmp_path):
    vectors = clustered(3000, 16)
    plain = build(tmp_path / "x", vectors)
    queries = clustered(40, 16, seed=2)
    expected = plain.search(queries)
    edges = check_graph(plain)
    depth = np.full(3000, 99)
    level = np.array([plain._opened.entry])
    for distance in range(99):
        depth[level] = distance
        level = np.unique(edges[level])
        level = level[level >= 0]
        level = level[depth[level] == 99]
        if not len(level):
            break
    reads = [expected.stats.reads.mean()]
    record = plain._opened.layout.record_bytes + 4
    for count in (1, 30, 1000, 3000):
        index = DiskIndex.open(tmp_path / "x", reader=reader, cache_bytes=count * record)
        cached = index._opened.cached[0]
        assert index.cached_nodes == count == len(set(cached.tolist()))
        rest = np.setdiff1d(np.arange(3000), cached)
        assert depth[cached].max() <= depth[rest].min(initial=99)
        found = index.search(queries)
        reads.append(found.stats.reads.mean())
        if count < 3000:
            assert (found.stats.cache_hits > 0).all()
        # A wide beam takes cached nodes first, which may end the walk otherwise, but not worse.
        assert (found.distances[:, -1] <= expected.distances[:, -1] * 1.05).mean() > 0.9
    assert reads == sorted(reads, reverse=True) and reads[-1] == 0
    one = DiskIndex.open(tmp_path / "x", cache_bytes=500 * record)
    alone = [one.search(queries, beam_width=1), plain.search(queries, beam_width=1)]
    assert same_answers(*alone)


def test_a_broad_mask_walks_and_a_narrow_one_scans(tmp_path, monkeypatch):
    monkeypatch.setattr(disksearch, "SCAN_AHEAD", 1)
    vectors = clustered(6000, 64)
    index = build(tmp_path / "x", vectors)
    broad, narrow = np.arange(6000) % 10 > 0, np.arange(6000) % 100 == 0
    walked = index.search(vectors[:9], k=10, search_list_size=10, mask=broad)
    assert (walked.stats.hops > 0).all() and (walked.stats.comparisons < 3000).all()
    assert broad[walked.rows].all()
    exact = FlatIndex(64, "l2").build(vectors).search(vectors[:9], k=10, mask=broad)
    assert recall(walked, exact) > 0.7
    scanned = index.search(vectors[:2], k=70, search_list_size=70, mask=narrow)
    assert (scanned.stats.hops == 0).all() and (scanned.stats.comparisons == 60).all()
    assert (scanned.rows[:, :60] >= 0).all() and (scanned.rows[:, 60:] == -1).all()
    assert (scanned.stats.reads <= 60).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_a_row_that_is_no_finite_vector_is_refused_by_name(bad, tmp_path):
    vectors = clustered(5000, 8)
    index = build(tmp_path / "x", vectors[:100])
    before = index.fingerprint
    vectors[4567, 3] = bad
    for budget in (None, 10_000_000):
        with pytest.raises(errors.InvalidArgument, match="vectors: row 4567"):
            build(tmp_path / "x", vectors, build_memory_bytes=budget)
    with pytest.raises(errors.InvalidArgument, match="queries: row 2 "):
        index.search(vectors[4565:4568])
    assert DiskIndex.open(tmp_path / "x").fingerprint == before


def test_wrong_arguments_are_named_and_leave_no_directory(tmp_path):
    vectors = clustered(20, 4)
    for bad in (
        {"metric": "cosin"}, {"max_degree": 0}, {"build_list_size": 0}, {"alpha": 0.5},
        {"seed": -1}, {"threads": -1}, {"search_memory_bytes": 0}, {"build_memory_bytes": 1.5},
    ):  # fmt: skip
        with pytest.raises(errors.InvalidArgument, match=next(iter(bad))):
            DiskIndex.build(vectors, tmp_path / "x", **bad)
    for bad in (np.ones(3), np.ones((2, 3, 4)), "text", [[1], [1, 2]]):
        with pytest.raises(errors.InvalidArgument, match="vectors"):
            DiskIndex.build(bad, tmp_path / "x")
    assert not (tmp_path / "x").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.InvalidArgument, match="is a file"):
        DiskIndex.build(vectors, tmp_path / "file")
    index = DiskIndex.build(vectors, tmp_path / "x")
    for bad in ({"beam_width": 0}, {"beam_width": 257}, {"search_list_size": 9}):
        with pytest.raises(errors.InvalidArgument, match=next(iter(bad))):
            index.search(vectors[0], **bad)
    for bad in ({"cache_bytes": -1}, {"reader": "mmpa"}):
        with pytest.raises(errors.InvalidArgument, match=next(iter(bad))):
            DiskIndex.open(tmp_path / "x", **bad)
    for query in (np.ones(3), np.ones((2, 5))):
        with pytest.raises(errors.DimensionMismatch):
            index.search(query)


def test_what_is_no_disk_index_is_refused(tmp_path):
    with pytest.raises(errors.InvalidArgument, match="no directory"):
        DiskIndex.open(tmp_path / "missing")
    with pytest.raises(errors.CorruptStore, match="not a saved directory"):
        DiskIndex.open(tmp_path)
    FlatIndex(4).build(np.eye(4)).save(tmp_path / "flat")
    with pytest.raises(errors.InvalidArgument, match="holds 'flat'"):
        DiskIndex.open(tmp_path / "flat")
    build(tmp_path / "x", clustered(50, 4))
    good = DiskIndex.open(tmp_path / "x")._manifest
    for wrong in (
        {"parameters": {}}, {"files": {}}, {"codes": {"kind": "q9", "row_bytes": 64}},
        {"parameters": {**good["parameters"], "entry": 50}},
        {"parameters": {**good["parameters"], "dtype": "float64"}},
        {"parameters": {**good["parameters"], "rows": 51}},
        {"version": 2},
    ):  # fmt: skip
        shutil.copytree(tmp_path / "x", tmp_path / "odd", dirs_exist_ok=True)
        kept = {name: good[name] for name in ("kind", "version", "parameters", "codes", "files")}
        save_arrays(tmp_path / "odd", {"mean": np.zeros(4, np.float32)}, {**kept, **wrong})
        with pytest.raises(errors.CorruptStore):
            DiskIndex.open(tmp_path / "odd")


def test_calling_the_class_names_the_ways_to_an_index():
    with pytest.raises(errors.NotSupported, match=r"DiskIndex\.build.*open"):
        DiskIndex()


def test_a_closed_index_says_so_and_closing_twice_is_fine(tmp_path):
    index = build(tmp_path / "x", clustered(50, 4))
    index.close()
    index.close()
    with pytest.raises(errors.StoreClosed, match="was closed"):
        index.search(np.ones(4))


def test_progress_is_told_up_to_one_and_may_end_the_build(tmp_path):
    vectors = clustered(3000, 8)

    def refuse(fraction):
        raise errors.Cancelled("stopped")

    def refuse_late(fraction):
        if fraction == 1.0:
            raise errors.Cancelled("stopped")

    for budget, no in itertools.product((None, 500_000), (refuse, refuse_late)):
        told = []
        index = build(tmp_path / "x", vectors, progress=told.append, build_memory_bytes=budget)
        assert told == sorted(told) and told[-1] == 1.0 and told[0] >= 0.0
        before = index.fingerprint
        for path in (tmp_path / "x", tmp_path / "fresh"):
            with pytest.raises(errors.Cancelled):
                build(path, vectors + 1, progress=no, build_memory_bytes=budget)
        assert not (tmp_path / "fresh").exists()
        assert DiskIndex.open(tmp_path / "x").fingerprint == before
        assert len(list((tmp_path / "x").iterdir())) == 4


def test_a_pickle_opens_the_directory_with_the_same_reader_and_cache(tmp_path):
    build(tmp_path / "x", clustered(500, 8))
    index = DiskIndex.open(tmp_path / "x", reader="aio", cache_bytes=20_000)
    copy = pickle.loads(pickle.dumps(index))
    assert (copy.reader, copy.cached_nodes) == ("aio", index.cached_nodes)
    assert same_answers(copy.search(np.ones(8)), index.search(np.ones(8)))


MEASURE = """
import sys, threading, time
import numpy as np
from luma_lab.index import DiskIndex
def anonymous():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("RssAnon"))
def build(vectors, budget, threads=2):
    DiskIndex.build(vectors, sys.argv[2], metric="l2", max_degree=16, build_list_size=20,
                    build_memory_bytes=budget, threads=threads).close()
vectors = np.load(sys.argv[1], mmap_mode="r")
build(vectors[:3000], 2_000_000)
before, peak, done = anonymous(), [0], threading.Event()
def watch():
    while not done.wait(0.002):
        peak[0] = max(peak[0], anonymous())
watcher = threading.Thread(target=watch)
watcher.start()
build(vectors, int(sys.argv[3]) or None)
done.set()
watcher.join()
print(peak[0] - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")
def test_a_build_stays_within_its_memory(tmp_path):
    np.save(tmp_path / "vectors.npy", clustered(30_000, 128))
    taken = []
    for budget in (8_000_000, 0):
        with child(MEASURE, tmp_path / "vectors.npy", tmp_path / "x", budget) as process:
            taken.append(int(process.stdout.readline()))
    assert taken[0] <= 8_000_000 < 15_360_000 < taken[1], "the vectors take 15,360,000 bytes"
