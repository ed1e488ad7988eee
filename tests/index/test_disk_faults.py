"""DiskIndex when things go wrong: full disks, crashes, damaged files, refused reads."""

import errno
import fcntl
import os
import shutil

import numpy as np
import pytest
from children import child, tell
from disk_doubles import FullDisk
from index_contract import clustered, same_answers

from luma_lab import errors
from luma_lab.files import Disk
from luma_lab.index import DiskIndex, reader
from luma_lab.index.sectors import SECTOR_BYTES

OLD, NEW = clustered(400, 8), clustered(3000, 8, seed=1)
BUDGETS = pytest.mark.parametrize("budget", [None, 500_000])


def build(path, vectors, **parameters):
    return DiskIndex.build(
        vectors, path, metric="l2", max_degree=8, build_list_size=20, **parameters
    )


def names(path):
    return sorted(file.name for file in path.iterdir())


@BUDGETS
def test_a_disk_that_runs_full_keeps_the_old_index_and_nothing_else(budget, tmp_path):
    old = build(tmp_path / "old", OLD).fingerprint
    counting = FullDisk()
    build(tmp_path / "new", NEW, build_memory_bytes=budget, disk=counting)
    kept = names(tmp_path / "old")
    assert counting.writes > 8
    for good in range(counting.writes):
        for path in (tmp_path / "old", tmp_path / "fresh")[: 2 if good % 4 == 0 else 1]:
            with pytest.raises(errors.StoreFull, match="no space left"):
                build(path, NEW, build_memory_bytes=budget, disk=FullDisk(good))
        assert names(tmp_path / "old") == kept and not (tmp_path / "fresh").exists()
    assert DiskIndex.open(tmp_path / "old").fingerprint == old


DYING = """
import os, sys
import numpy as np
from luma_lab.files import Disk
from luma_lab.index import DiskIndex
class Dying(Disk):
    left = 0
    def write_at(self, *a): self.turn(); super().write_at(*a); self.turn()
    def sync(self, *a): self.turn(); super().sync(*a)
    def sync_directory(self, *a): self.turn(); super().sync_directory(*a); self.turn()
    def rename(self, *a): self.turn(); super().rename(*a); self.turn()
    def turn(self):
        self.left -= 1
        if self.left < 0:
            os._exit(9)
def build(path, budget, disk):
    DiskIndex.build(vectors, path, metric="l2", max_degree=8, build_list_size=20,
                    build_memory_bytes=budget, threads=1, disk=disk)
vectors = np.load(sys.argv[1])
build(sys.argv[2], 150_000, Disk())  # so that the kernels are loaded before the forks
build(sys.argv[2], None, Disk())
print("ready", flush=True)
for line in sys.stdin:
    path, budget, left = line.split()
    pid = os.fork()
    if pid == 0:
        disk = Dying()
        disk.left = int(left)
        build(path, None if budget == "None" else int(budget), disk)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@pytest.mark.crash
@pytest.mark.parametrize("budget", [None, 150_000])
def test_a_build_killed_at_any_moment_leaves_the_old_index_or_the_new(budget, tmp_path):
    vectors = NEW[:1200]
    np.save(tmp_path / "vectors.npy", vectors)
    old = build(tmp_path / "old", OLD).fingerprint
    new = build(tmp_path / "new", vectors, build_memory_bytes=budget).fingerprint
    outcomes, moment, status = [], 0, 9
    with child(DYING, tmp_path / "vectors.npy", tmp_path / "first") as process:
        assert process.stdout.readline() == "ready\n"
        while status == 9:
            path, fresh = tmp_path / f"a{moment}", tmp_path / f"b{moment}"
            shutil.copytree(tmp_path / "old", path)
            status = int(tell(process, f"{path} {budget} {moment}"))
            outcomes.append(DiskIndex.open(path).fingerprint)
            if moment % 3 == 0 or status == 0:
                assert int(tell(process, f"{fresh} {budget} {moment}")) == status
            if not fresh.exists():
                pass
            elif outcomes[-1] == old:
                with pytest.raises(errors.CorruptStore, match="not a saved directory"):
                    DiskIndex.open(fresh)
            else:
                assert DiskIndex.open(fresh).fingerprint == new
            if moment % 5 == 0:
                assert build(path, vectors, build_memory_bytes=budget).fingerprint == new
                assert len(names(path)) == 4, "what was left over is gone"
            moment += 1
    assert status == 0 and set(outcomes) == {old, new}
    assert outcomes == sorted(outcomes, key=[old, new].index) and outcomes.count(old) > 10


def test_what_a_manifest_names_is_synced_before_it(tmp_path):
    journal = []

    class Recording(Disk):
        def sync(self, descriptor):
            journal.append(("sync", os.readlink(f"/proc/self/fd/{descriptor}").split(".")[1]))
            super().sync(descriptor)

        def rename(self, source, target):
            journal.append(("rename", target.name.split("-")[0]))
            super().rename(source, target)

        def sync_directory(self, path):
            journal.append(("sync", path.name + "/"))
            super().sync_directory(path)

    build(tmp_path / "x", OLD, disk=Recording())
    last = journal.index(("rename", "manifest.json"))
    for stem in ("codes", "nodes"):
        assert journal.index(("sync", stem)) < journal.index(("rename", stem)) < last
    renamed = max(journal.index(("rename", stem)) for stem in ("codes", "nodes"))
    assert ("sync", "x/") in journal[renamed:last] and ("sync", "x/") in journal[last:]


def test_only_one_build_at_a_time_writes_into_a_directory(tmp_path):
    index = build(tmp_path / "x", OLD)
    descriptor = os.open(tmp_path / "x", os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(errors.Conflict, match="another build"):
            build(tmp_path / "x", NEW)
    finally:
        os.close(descriptor)
    assert len(index) == 400 and len(build(tmp_path / "x", NEW)) == 3000


def test_an_open_index_answers_on_while_another_replaces_it(tmp_path):
    old = [build(tmp_path / "x", OLD), DiskIndex.open(tmp_path / "x", reader="aio")]
    before = old[0].search(OLD[:20])
    new = build(tmp_path / "x", NEW)
    assert all(same_answers(index.search(OLD[:20]), before) for index in old)
    assert len(new) == 3000 and len(names(tmp_path / "x")) == 4


def test_a_build_takes_away_only_what_is_its_own(tmp_path):
    (tmp_path / "x").mkdir()
    mine = ["codes-notes.bin", "a-b.txt", ".hidden.tmp", "nodes-0123.bin"]
    for name in mine:
        (tmp_path / "x" / name).write_text("mine")
    build(tmp_path / "x", OLD)
    build(tmp_path / "x", NEW)
    assert {*mine} <= {*names(tmp_path / "x")} and len(names(tmp_path / "x")) == 8


@pytest.mark.parametrize("which", ["codes", "nodes", "mean", "manifest"])
def test_a_short_or_missing_file_is_named(which, tmp_path):
    build(tmp_path / "x", OLD)
    file = next((tmp_path / "x").glob(f"{which}*"))
    whole = file.read_bytes()
    for size in (len(whole) - 1, len(whole) // 2, 0):
        file.write_bytes(whole[:size])
        with pytest.raises(errors.CorruptStore, match=file.name):
            DiskIndex.open(tmp_path / "x")
    file.unlink()
    with pytest.raises(errors.CorruptStore, match=which):
        DiskIndex.open(tmp_path / "x")


@pytest.mark.parametrize("which", ["codes", "mean", "manifest"])
def test_a_flipped_bit_of_what_is_read_at_once_is_found_at_once(which, tmp_path):
    build(tmp_path / "x", OLD)
    file = next((tmp_path / "x").glob(f"{which}*"))
    whole = file.read_bytes()
    for place in (1, len(whole) // 2, len(whole) - 3):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(errors.CorruptStore, match=file.name):
            DiskIndex.open(tmp_path / "x")


@pytest.mark.parametrize("kind", ["mmap", "aio"])
@pytest.mark.parametrize("dim", [8, 1500])
def test_a_flipped_bit_of_a_record_is_named_by_sector_when_it_is_read(kind, dim, tmp_path):
    vectors = clustered(120, dim)
    build(tmp_path / "x", vectors)
    file = next((tmp_path / "x").glob("nodes-*"))
    whole = file.read_bytes()
    sectors = DiskIndex.open(tmp_path / "x")._opened.layout.block_bytes // SECTOR_BYTES
    rng = np.random.default_rng(0)
    for place in [0, len(whole) - 1, *rng.integers(0, len(whole), 12).tolist()]:
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        first = place // SECTOR_BYTES // sectors * sectors
        index = DiskIndex.open(tmp_path / "x", reader=kind)
        named = f"{file.name}: sectors? {first}\\b"
        for _ in range(2):
            with pytest.raises(errors.CorruptStore, match=named):
                index.search(vectors, k=120)
        with pytest.raises(errors.CorruptStore, match=named):
            index.search(vectors[:1], k=120, mask=np.ones(120, bool))
        with pytest.raises(errors.CorruptStore, match=named):
            index.verify()
        with pytest.raises(errors.CorruptStore, match=named):
            DiskIndex.open(tmp_path / "x", reader=kind, cache_bytes=10_000_000)
    file.write_bytes(whole)
    assert DiskIndex.open(tmp_path / "x").verify() == len(whole) // (sectors * SECTOR_BYTES)


def test_a_sector_in_the_wrong_place_is_found(tmp_path):
    build(tmp_path / "x", NEW)
    file = next((tmp_path / "x").glob("nodes-*"))
    whole = file.read_bytes()
    a, b = whole[:SECTOR_BYTES], whole[SECTOR_BYTES : 2 * SECTOR_BYTES]
    file.write_bytes(b + a + whole[2 * SECTOR_BYTES :])
    with pytest.raises(errors.CorruptStore, match="sector 0 "):
        DiskIndex.open(tmp_path / "x").verify()


def test_a_record_whose_edge_leads_outside_is_refused_though_its_checksum_fits(tmp_path):
    from luma_lab.kernels.record import seal_blocks

    index = build(tmp_path / "x", OLD)
    layout = index._opened.layout
    file = next((tmp_path / "x").glob("nodes-*"))
    whole = np.frombuffer(file.read_bytes(), np.uint8).reshape(-1, layout.block_bytes)
    for place, wrong in ((0, 9), (0, -1), (1, 400), (1, -1)):
        blocks = whole.copy()
        record = blocks[1, layout.edges_at : layout.record_bytes].view(np.int32)
        assert record[0] > 0
        record[place] = wrong
        seal_blocks(blocks, 0)
        file.write_bytes(blocks.tobytes())
        with pytest.raises(errors.CorruptStore, match="sector 1 "):
            DiskIndex.open(tmp_path / "x").verify()


def test_a_file_cut_short_under_an_open_index_is_found_by_asynchronous_reads(tmp_path):
    build(tmp_path / "x", NEW)
    index = DiskIndex.open(tmp_path / "x", reader="aio")
    file = next((tmp_path / "x").glob("nodes-*"))
    os.truncate(file, 2 * SECTOR_BYTES)
    with pytest.raises(errors.CorruptStore, match="sector"):
        index.search(NEW[:50])
    with pytest.raises(errors.CorruptStore, match="ends before|sector"):
        index.verify()


def test_a_read_that_is_refused_raises_with_its_reason(tmp_path):
    build(tmp_path / "x", NEW)
    index = DiskIndex.open(tmp_path / "x", reader="aio")
    expected = index.search(NEW[:5])
    os.close(index._opened.file.descriptor)
    other = os.open(os.devnull, os.O_WRONLY)  # takes the number: not open for reading
    assert other == index._opened.file.descriptor
    with pytest.raises(errors.StorageError, match=f"{os.strerror(errno.EBADF)}.*nodes-"):
        index.search(NEW[:5])
    os.dup2(os.open(next((tmp_path / "x").glob("nodes-*")), os.O_RDONLY | os.O_DIRECT), other)
    assert same_answers(index.search(NEW[:5]), expected), "it recovers"


def test_a_kernel_that_refuses_asynchronous_reads_is_an_error_and_no_fallback(
    tmp_path, monkeypatch
):
    build(tmp_path / "x", OLD)
    machine = reader.platform.machine()
    wrong = {machine: (100_000, *reader.CALLS[machine][1:])}
    with monkeypatch.context() as patch:
        patch.setattr(reader, "CALLS", wrong)
        with pytest.raises(errors.StorageError, match=r"io_setup: .*reader='mmap'"):
            DiskIndex.open(tmp_path / "x", reader="aio")
    with monkeypatch.context() as patch:
        patch.setattr(reader.platform, "machine", lambda: "pdp11")
        with pytest.raises(errors.NotSupported, match=r"pdp11.*reader='mmap'"):
            DiskIndex.open(tmp_path / "x", reader="aio")
    real = os.open

    def no_direct(path, flags, *rest):
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real(path, flags, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", no_direct)
        with pytest.raises(errors.StorageError, match=r"refuses O_DIRECT.*reader='mmap'"):
            DiskIndex.open(tmp_path / "x", reader="aio")
    assert DiskIndex.open(tmp_path / "x", reader="aio").reader == "aio"


def test_contexts_and_files_are_given_back(tmp_path):
    build(tmp_path / "x", OLD)

    def taken():
        with open("/proc/self/maps") as file:  # each context of this process is mapped into it
            contexts = sum(line.rstrip().endswith("/[aio] (deleted)") for line in file)
        return contexts, len(os.listdir("/proc/self/fd"))

    with DiskIndex.open(tmp_path / "x", reader="aio") as index:
        index.search(OLD[:9], threads=3, beam_width=200)
        before = taken()
    after = taken()
    assert after[0] < before[0] and after[1] == before[1] - 1
