"""Damage: every kind of flipped byte is found, named, kept from answers, and kept apart."""

import apsw
import numpy as np
import pytest

from luma_lab.engine.lab import Lab
from luma_lab.errors import CorruptStore
from luma_lab.store.matrix import BLOCK_ROWS


def fill(path):
    """Make a lab with two collections, an index, state and events; return a vector of it."""
    vectors = np.random.default_rng(0).normal(size=(BLOCK_ROWS + 200, 4)).astype(np.float32)
    ids = [f"p{i}" for i in range(len(vectors))]
    with Lab(path) as lab:
        for name in ("hurt", "sound"):
            docs = lab.create_collection(name, 4, "l2")
            docs.upsert(ids, vectors, [{"i": i} for i in range(len(ids))])
        lab.collection("hurt").build_index("vamana", max_degree=8, build_list_size=16).result(120)
        lab.state.update({"k": "value", "other": [1]})
        lab.events.publish("told", {"x": 1})
        assert lab.verify().ok
    return vectors


def flip(file, place):
    data = bytearray(file.read_bytes())
    data[place] ^= 0x04
    file.write_bytes(data)


def sql(path, statement):
    connection = apsw.Connection(str(path / "luma.db"))
    connection.execute(statement)
    connection.close()


def matrix_of(path):
    return path / "collections" / "1" / "vectors-0.f32"


HURTS = {
    "matrix": (
        lambda path: flip(matrix_of(path), BLOCK_ROWS * 16 + 5),
        r"collection 'hurt': block 1 of vectors-0\.f32",
    ),
    "matrix file": (lambda path: matrix_of(path).unlink(), r"vectors-0\.f32"),
    "log": (
        lambda path: sql(path, "UPDATE luma_log SET data=CAST('{\"x\":2}' AS BLOB) "
                               "WHERE type='told'"),
        r"log entry \d+ does not match",
    ),
    "log gap": (lambda path: sql(path, "DELETE FROM luma_log WHERE offset=7"), "entries 7 to 7"),
    "log end": (
        lambda path: sql(path, "DELETE FROM luma_log WHERE offset=(SELECT max(offset) "
                               "FROM luma_log)"),
        "log ends at",
    ),
    "state": (
        lambda path: sql(path, "UPDATE luma_state SET value=CAST('\"valve\"' AS BLOB) "
                               "WHERE key='k'"),
        "state entry 'k'",
    ),
    "point": (
        lambda path: sql(path, "UPDATE luma_points SET meta=CAST('{\"i\":9}' AS BLOB) "
                               "WHERE id='p3' AND uid=1"),
        "point 'p3'",
    ),
    "lost point": (
        lambda path: sql(path, "DELETE FROM luma_points WHERE id='p3' AND uid=1"),
        "'hurt': 1223 points, catalog says 1224",
    ),
    "index": (
        lambda path: flip(next(path.glob("collections/1/index/*/neighbors-*.npy")), 500),
        r"index vamana-\d+: .*neighbors",
    ),
    "index manifest": (
        lambda path: next(path.glob("collections/1/index/*/manifest.json")).unlink(),
        "manifest",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", HURTS)
def test_verify_finds_and_names_damage_of_each_kind(path, what):
    hurt, words = HURTS[what]
    fill(path)
    hurt(path)
    with Lab(path) as lab:
        report = lab.verify()
    assert not report.ok
    assert any(_found(words, problem) for problem in report.problems), report.problems
    assert "damaged" in str(report)


def _found(words, problem):
    import re

    return re.search(words, problem)


def test_verify_counts_what_it_checked(path):
    fill(path)
    with Lab(path) as lab:
        report = lab.verify()
        assert report.ok
        assert report.checked == {
            "database": 1, "log entries": lab.head, "state entries": 2, "points": 2448,
            "documents": 0, "blocks": 4, "indexes": 1,
        }  # fmt: skip
        assert "no damage found" in str(report)


@pytest.mark.parametrize("what", ["matrix", "matrix file"])
def test_a_damaged_collection_is_refused_in_every_read_while_all_else_still_works(path, what):
    vectors = fill(path)
    HURTS[what][0](path)
    with Lab(path) as lab:
        hurt, sound = lab.collection("hurt"), lab.collection("sound")
        for read in (
            lambda: hurt.get(f"p{BLOCK_ROWS}"),
            lambda: hurt.get_many(["p0", f"p{BLOCK_ROWS}"]),
            lambda: hurt.scroll(),
            lambda: hurt.search(vectors[0]),
            lambda: hurt.search(vectors[0], exact=True),
            lambda: hurt.search_many(vectors[:2]),
            lambda: hurt.snapshot(),
            lambda: hurt.build_index("vamana").result(60),
        ):
            with pytest.raises(CorruptStore, match=r"vectors-0\.f32"):
                read()
        assert sound.search(vectors[5], k=1)[0].id == "p5"
        assert sound.get("p5").meta == {"i": 5}
        sound.upsert("new", vectors[0])
        assert lab.state["k"] == "value"
        lab.state["k"] = "changed"
        lab.drop_collection("hurt")
        again = lab.create_collection("hurt", 4, "l2")
        again.upsert("a", vectors[0])
        assert again.get("a").vector.tolist() == vectors[0].tolist()
        assert lab.verify().ok


def test_no_event_shows_a_vector_from_damaged_rows(path):
    fill(path)
    HURTS["matrix"][0](path)
    with Lab(path) as lab:
        shown = [e for e in lab.events.read(types="vector_upserted", limit=5000)]
    hurt = [e for e in shown if e.collection == "hurt"]
    sound = [e for e in shown if e.collection == "sound"]
    assert len(hurt) == len(sound) == BLOCK_ROWS + 200
    assert all(e.data["vector"] is None and e.data["corrupt"] for e in hurt)
    assert all(e.data["vector"] is not None and "corrupt" not in e.data for e in sound)


def test_a_damaged_row_of_state_or_points_is_refused_and_its_neighbours_are_not(path):
    fill(path)
    HURTS["state"][0](path)
    HURTS["point"][0](path)
    with Lab(path) as lab:
        with pytest.raises(CorruptStore, match="'k'"):
            lab.state["k"]
        assert lab.state["other"] == [1]
        hurt = lab.collection("hurt")
        with pytest.raises(CorruptStore, match="'p3'"):
            hurt.get("p3")
        assert hurt.get("p4").meta == {"i": 4}
        lab.state["k"] = "whole again"
        assert lab.state["k"] == "whole again"


def test_a_database_page_overwritten_with_rubbish_is_an_error_of_ours(path):
    fill(path)
    file = path / "luma.db"
    data = bytearray(file.read_bytes())
    pages = len(data) // 4096
    for page in range(2, pages):  # all but the schema
        data[page * 4096 : page * 4096 + 2000] = b"\xa5" * 2000
    file.write_bytes(data)
    with pytest.raises(CorruptStore), Lab(path) as lab:
        assert not lab.verify().ok
        for read in (
            lambda: list(lab.state),
            lambda: lab.state.get("k"),
            lambda: "k" in lab.state,
            lambda: len(lab.state),
            lambda: lab.collection("sound").get("p1"),
            lambda: lab.collection("sound").scroll(),
            lambda: lab.events.read(),
            lambda: lab.collection("sound").search(np.zeros(4)),
        ):
            with pytest.raises(CorruptStore):
                read()
        lab.state["k"] = 1
