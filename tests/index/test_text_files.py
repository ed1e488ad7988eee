"""Saving and loading text indexes, and refusing what is damaged."""

import json
import threading
import zlib

import bm25s
import numpy as np
import pytest

from luma_lab import bench
from luma_lab.errors import CorruptStore, IndexNotBuilt, InvalidArgument
from luma_lab.files import _canonical
from luma_lab.index import FlatIndex, TextIndex
from luma_lab.index.analyzer import cut_words

TEXTS = ["Las campañas políticas", "una campana", "dos años", "el ano", ""]
QUERIES = ["campaña", "año", "campana politica", "+una camp*", '"dos años"', "anos~", ["años"], "x"]


def made():
    index = TextIndex("es", "bm25+", 1.4, 0.6, 0.3, stop_words=["el"], positions=True)
    index.build(TEXTS)
    index.delete(index.add(["borrado", "campaña nueva"])[:1])
    return index


def answers(index):
    found = [index.search(query) for query in QUERIES]
    return [(f.rows.tolist(), f.scores.tolist()) for f in found]


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("merged", [True, False])
def test_a_loaded_index_answers_as_the_saved_one(tmp_path, mmap, merged):
    index = made()
    if merged:
        index.consolidate()
    index.save(tmp_path / "ix")
    again = TextIndex.load(tmp_path / "ix", mmap=mmap)
    assert answers(again) == answers(index)
    assert repr(again) == repr(index) and len(again) == 6 and again.total_rows == 7
    assert again.disk_bytes == index.disk_bytes > 0
    assert again.memory_bytes > 0
    assert again.add(["otro año"]).tolist() == index.add(["otro año"]).tolist() == [7]
    again.delete(2), index.delete(2)
    assert answers(again) == answers(index)
    again.consolidate()
    again.save(tmp_path / "ix")
    assert answers(TextIndex.load(tmp_path / "ix")) == answers(again)


def test_fields_and_plain_languages_survive_saving(tmp_path):
    index = TextIndex("none", fields={"b": 2, "a": 1}).build([{"a": "uno"}, {"b": "uno dos"}])
    index.save(tmp_path / "ix")
    again = TextIndex.load(tmp_path / "ix")
    assert again.fields == {"b": 2.0, "a": 1.0}
    assert again.search("uno").scores.tolist() == index.search("uno").scores.tolist()
    empty = TextIndex("de").build([])
    empty.save(tmp_path / "empty")
    assert len(TextIndex.load(tmp_path / "empty")) == 0


def test_damaged_files_are_refused(tmp_path):
    made().save(tmp_path / "ix")
    for file in sorted((tmp_path / "ix").iterdir()):
        data = file.read_bytes()
        for bad in (data[:-1], data[:-1] + bytes([data[-1] ^ 1])):
            file.write_bytes(bad)
            with pytest.raises(CorruptStore):
                TextIndex.load(tmp_path / "ix")
        file.unlink()
        with pytest.raises(CorruptStore):
            TextIndex.load(tmp_path / "ix")
        file.write_bytes(data)
    TextIndex.load(tmp_path / "ix")


def forge(path, change):
    """Change a manifest and give it the checksum it then must have."""
    file = path / "manifest.json"
    body = json.loads(file.read_bytes())
    del body["crc32"]
    change(body)
    body["crc32"] = zlib.crc32(_canonical(body))
    file.write_text(json.dumps(body))


@pytest.mark.parametrize(
    "change",
    [
        lambda b: b.update(version=99),
        lambda b: b["parameters"].update(variant="bm26"),
        lambda b: b["parameters"].update(language="en"),
        lambda b: b["parameters"].pop("k1"),
        lambda b: b.update(total_rows=99),
        lambda b: b["segments"].pop(),
        lambda b: b["segments"][0].__setitem__(0, 3),
        lambda b: b["arrays"].update(s0_rows=b["arrays"]["s0_lists"]),
        lambda b: b["arrays"].update(s0_keys=b["arrays"]["s0_starts"]),
        lambda b: b["arrays"].update(words_ends=b["arrays"]["stems_ends"]),
        lambda b: b["arrays"].pop("live"),
    ],
)
def test_a_manifest_that_makes_no_index_is_refused(tmp_path, change):
    made().save(tmp_path / "ix")
    forge(tmp_path / "ix", change)
    with pytest.raises(CorruptStore):
        TextIndex.load(tmp_path / "ix")


def test_other_directories_are_refused(tmp_path):
    with pytest.raises(InvalidArgument, match="no directory"):
        TextIndex.load(tmp_path / "none")
    FlatIndex(2).build(np.eye(2)).save(tmp_path / "flat")
    with pytest.raises(InvalidArgument, match="flat"):
        TextIndex.load(tmp_path / "flat")
    with pytest.raises(IndexNotBuilt):
        TextIndex().save(tmp_path / "ix")


def test_searches_go_on_while_the_index_changes():
    index = TextIndex("es").build(["uno dos", "dos tres"] * 50)
    wrong, stop = [], threading.Event()

    def ask():
        while not stop.is_set():
            found = index.search("uno", k=1000)
            if len(found.rows) < 50 or (np.diff(found.scores) > 0).any():
                wrong.append(found)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for i in range(60):
        rows = index.add([f"uno nuevo{i} palabra{i * 7}", f"cuatro{i}"])
        index.delete(rows[1])
        if i % 20 == 0:
            index.consolidate()
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(index.search("uno", k=1000).rows) == 110


@pytest.mark.parametrize(
    "swapped",
    [{"words_bytes": "stems_bytes", "words_ends": "stems_ends"}, {"s0_places": "live"}],
)
def test_postings_of_other_words_are_refused(tmp_path, swapped):
    index = TextIndex("none", positions=True).build(["uno uno dos", "tres tres"])
    index.save(tmp_path / "ix")

    def swap(body):
        arrays = body["arrays"]
        arrays.update({name: arrays[other] for name, other in swapped.items()})

    forge(tmp_path / "ix", swap)
    with pytest.raises(CorruptStore, match=r"other words|places missing"):
        TextIndex.load(tmp_path / "ix")


def test_a_directory_is_not_larger_than_that_of_bm25s(tmp_path):
    texts = [*bench.load("lohelp300_en").texts, *bench.load("perlfaq").texts]
    other = bm25s.BM25()
    words = [[word for word, _, _ in cut_words(text)] for text in texts]
    other.index(words, show_progress=False)
    other.save(tmp_path / "other")
    theirs = sum(file.stat().st_size for file in (tmp_path / "other").iterdir())
    for positions, most in ((False, 1), (True, 2)):
        index = TextIndex("none", positions=positions).build(texts)
        index.save(tmp_path / "ours")
        assert index.disk_bytes <= most * theirs
        again = TextIndex.load(tmp_path / "ours")
        assert again.search("how do I").rows.tolist() == index.search("how do I").rows.tolist()
