"""Array directories: whole or not at all, and read only when every byte is as it was written."""

import json

import numpy as np
import pytest
from disk_doubles import FullDisk, RecordingDisk

from luma_lab.errors import CorruptStore, InvalidArgument, StorageError, StoreFull
from luma_lab.files import load_arrays, read_manifest, save_arrays, write_file

OLD = {"vectors": np.arange(12, dtype=np.float32).reshape(3, 4), "edges": np.arange(5)}
NEW = {"vectors": np.ones((7, 4), np.float32), "edges": np.zeros(9, np.int32)}


def same(found, wanted):
    return found.keys() == wanted.keys() and all(
        found[name].dtype == wanted[name].dtype and np.array_equal(found[name], wanted[name])
        for name in wanted
    )


def test_what_was_saved_is_loaded_mapped_or_copied(tmp_path):
    arrays = {**OLD, "none": np.empty((0, 4), np.float32), "flags": np.array([True, False])}
    save_arrays(tmp_path / "a", arrays, {"kind": "x"})
    for mmap in (True, False):
        found, manifest = load_arrays(tmp_path / "a", mmap=mmap)
        assert same(found, arrays)
        assert manifest["kind"] == "x"
    assert not found["vectors"].flags.writeable or not mmap


def test_a_disk_that_runs_full_at_any_write_leaves_the_previous_contents_readable(tmp_path):
    count = FullDisk()
    save_arrays(tmp_path / "measure", OLD, {}, count)
    assert count.writes >= 9  # write, sync and rename of each of three files
    for good in range(count.writes):
        home = tmp_path / f"full{good}"
        save_arrays(home, OLD, {"turn": 1})
        with pytest.raises(StoreFull):
            save_arrays(home, NEW, {"turn": 2}, FullDisk(good))
        found, manifest = load_arrays(home)
        assert same(found, OLD)
        assert manifest["turn"] == 1
        save_arrays(home, NEW, {"turn": 2})
        found, manifest = load_arrays(home)
        assert same(found, NEW)
        files = {f.name for f in home.iterdir()}
        assert len(files) == 3, f"left over after write {good}: {files}"


def test_every_file_is_synced_before_the_manifest_that_names_it(tmp_path):
    journal = []
    save_arrays(tmp_path / "a", OLD, {}, RecordingDisk(journal))
    last = len(journal) - 1 - [name for _, name in journal][::-1].index(".manifest.json." + _pid())
    arrays = [i for i, (_, name) in enumerate(journal) if ".npy" in name]
    assert [what for what, _ in journal[:last]].count("sync") >= 2
    assert max(arrays) < last
    written = None
    for what, name in journal:
        if what == "write":
            written = name
        elif name == written:
            written = None
    assert written is None, f"{written} was written and never synced"
    assert ("sync", "a/") in journal[last:]


def _pid():
    import os

    return f"{os.getpid()}.tmp"


def test_one_flipped_bit_anywhere_in_an_array_file_is_refused(tmp_path):
    save_arrays(tmp_path / "a", OLD, {})
    file = next((tmp_path / "a").glob("vectors-*.npy"))
    sound = file.read_bytes()
    for place in range(0, len(sound), 7):
        file.write_bytes(sound[:place] + bytes([sound[place] ^ 0x10]) + sound[place + 1 :])
        with pytest.raises(CorruptStore, match="vectors"):
            load_arrays(tmp_path / "a")
    file.write_bytes(sound)
    assert same(load_arrays(tmp_path / "a")[0], OLD)


def test_one_flipped_bit_anywhere_in_the_manifest_is_refused_or_changes_nothing(tmp_path):
    save_arrays(tmp_path / "a", OLD, {"kind": "x"})
    file = tmp_path / "a" / "manifest.json"
    sound = file.read_bytes()
    refused = 0
    for place in range(len(sound)):
        file.write_bytes(sound[:place] + bytes([sound[place] ^ 0x01]) + sound[place + 1 :])
        try:
            found, manifest = load_arrays(tmp_path / "a")
        except CorruptStore:
            refused += 1
        else:  # white space became other white space
            assert same(found, OLD)
            assert manifest["kind"] == "x"
    assert refused > len(sound) // 2


def test_truncated_missing_and_foreign_files_are_refused_by_name(tmp_path):
    save_arrays(tmp_path / "a", OLD, {})
    file = next((tmp_path / "a").glob("edges-*.npy"))
    sound = file.read_bytes()
    for size in (0, 1, len(sound) - 1):
        file.write_bytes(sound[:size])
        with pytest.raises(CorruptStore, match=f"{file.name}.*{size} bytes"):
            load_arrays(tmp_path / "a")
    file.write_bytes(sound + b"\0")
    with pytest.raises(CorruptStore, match=file.name):
        load_arrays(tmp_path / "a")
    file.unlink()
    with pytest.raises(CorruptStore, match=f"{file.name}: missing"):
        load_arrays(tmp_path / "a")


def test_a_directory_without_a_manifest_is_refused(tmp_path):
    save_arrays(tmp_path / "a", OLD, {})
    (tmp_path / "a" / "manifest.json").unlink()
    with pytest.raises(CorruptStore, match=r"no manifest\.json"):
        read_manifest(tmp_path / "a")
    with pytest.raises(CorruptStore, match=r"no manifest\.json"):
        read_manifest(tmp_path / "nowhere")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"5", b"{}", b"\xff\xfe", b"null"])
def test_a_manifest_that_is_no_manifest_is_refused(tmp_path, content):
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(CorruptStore):
        read_manifest(tmp_path)


def test_a_manifest_of_another_format_is_refused(tmp_path):
    from luma_lab import files

    save_arrays(tmp_path / "a", OLD, {})
    file = tmp_path / "a" / "manifest.json"
    body = json.loads(file.read_bytes())
    body["format"] = 99
    del body["crc32"]
    body["crc32"] = files.zlib.crc32(files._canonical(body))
    file.write_text(json.dumps(body))
    with pytest.raises(CorruptStore, match="format 99"):
        read_manifest(tmp_path / "a")


def test_saving_over_a_file_is_refused_and_the_file_stays(tmp_path):
    (tmp_path / "f").write_text("mine")
    with pytest.raises(InvalidArgument, match="is a file"):
        save_arrays(tmp_path / "f", OLD, {})
    assert (tmp_path / "f").read_text() == "mine"


def test_a_refused_write_leaves_no_temporary_file(tmp_path):
    write_file(tmp_path / "f", b"before")
    for good in range(3):
        with pytest.raises(StoreFull):
            write_file(tmp_path / "f", b"after", FullDisk(good))
        assert [f.name for f in tmp_path.iterdir()] == ["f"]
        assert (tmp_path / "f").read_bytes() == b"before"
    with pytest.raises(StorageError):
        write_file(tmp_path / "missing" / "f", b"x")
