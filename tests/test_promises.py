"""The public promises of the design, one test each. What each needs in detail is in its room."""

import os
import signal
import threading

import apsw
import numpy as np
import pytest
from children import child, tell
from disk_doubles import RecordingDisk, RecordingVFS

import luma_lab as luma
from luma_lab.engine.lab import Lab
from luma_lab.errors import LumaError, NewerFormat
from luma_lab.index import VamanaIndex
from luma_lab.store import database

RNG = np.random.default_rng(0)


def test_promise_1_an_acknowledged_write_survives_kill_9(path):
    script = (
        "import sys, luma_lab as luma\n"
        "lab = luma.open(sys.argv[1])\n"
        "docs = lab.create_collection('docs', 3, 'l2')\n"
        "docs.upsert('a', [1, 2, 3], {'n': 1})\n"
        "lab.state['k'] = 'value'\n"
        "lab.events.publish('told')\n"
        "print('acknowledged', flush=True)\n"
        "sys.stdin.readline()\n"
    )
    with child(script, path) as writer:
        assert writer.stdout.readline() == "acknowledged\n"
        writer.send_signal(signal.SIGKILL)
    with Lab(path) as lab:
        assert lab.collection("docs").search([1, 2, 3])[0].meta == {"n": 1}
        assert lab.state["k"] == "value"
        assert [e.type for e in lab.events.read()][-1] == "told"
        assert lab.verify().ok


def test_promise_1_syncs_matrix_then_log_then_acknowledges(path):
    journal = []
    vfs = RecordingVFS("lumarecord", journal)
    try:
        with Lab(path, disk=RecordingDisk(journal), vfs="lumarecord") as lab:
            docs = lab.create_collection("docs", 3)
            for write in (
                lambda: docs.upsert("a", [1, 2, 3]),
                lambda: docs.upsert(["b", "c"], [[1, 2, 3]] * 2),
                lambda: docs.update("a", [4, 5, 6]),
            ):
                journal.clear()
                write()
                happened = list(journal)
                written = happened.index(("write", "vectors-0.f32"))
                matrix_synced = happened.index(("sync", "vectors-0.f32"))
                log_written = _last(happened, ("write", "luma.db-wal"))
                log_synced = _last(happened, ("sync", "luma.db-wal"))
                assert written < matrix_synced < log_written < log_synced, happened
            for write in (
                lambda: lab.state.put("k", 1),
                lambda: lab.state.delete("k"),
                lambda: lab.events.publish("told"),
                lambda: docs.delete("a"),
                lambda: docs.update("b", metas={"n": 1}),
                lambda: _transaction(lab),
            ):
                journal.clear()
                write()
                happened = list(journal)
                log_written = _last(happened, ("write", "luma.db-wal"))
                assert log_written < _last(happened, ("sync", "luma.db-wal")), happened
                assert ("write", "vectors-0.f32") not in happened
    finally:
        vfs.unregister()


def test_promise_1_syncs_the_directories_of_new_files(path):
    journal = []
    with Lab(path, disk=RecordingDisk(journal)) as lab:
        assert ("sync", f"{path.parent.name}/") in journal  # names the lab
        assert ("sync", "lab/") in journal  # names luma.db
        journal.clear()
        lab.create_collection("docs", 3).upsert("a", [1, 2, 3])
        data = journal.index(("sync", "vectors-0.f32"))
        for directory in ("lab/", "collections/", "1/"):
            assert ("sync", directory) in journal[:data], journal


def test_a_lab_in_memory_syncs_nothing_because_it_promises_nothing():
    journal = []
    with Lab(":memory:", disk=RecordingDisk(journal)) as lab:
        journal.clear()
        lab.create_collection("docs", 3).upsert("a", [1, 2, 3])
        assert ("sync", "vectors-0.f32") not in journal


def _last(journal, entry):
    return len(journal) - 1 - journal[::-1].index(entry)


def _transaction(lab):
    with lab.transaction() as tx:
        tx.state["k"] = 1
        tx.events.publish("told")


def test_promise_2_a_transaction_over_vectors_state_and_events_is_all_or_nothing(lab):
    docs = lab.create_collection("docs", 2)
    head = lab.head
    with pytest.raises(KeyboardInterrupt), lab.transaction() as tx:
        tx.collection("docs").upsert("a", [1, 0])
        tx.state["k"] = 1
        tx.events.publish("told")
        raise KeyboardInterrupt
    assert (docs.get("a"), dict(lab.state), lab.head) == (None, {}, head)
    with lab.transaction() as tx:
        tx.collection("docs").upsert("a", [1, 0])
        tx.state["k"] = 1
        tx.events.publish("told")
    assert (len(docs), dict(lab.state), lab.head) == (1, {"k": 1}, head + 3)


def test_promise_3_a_search_sees_every_write_acknowledged_before_it_in_whichever_process(path):
    script = (
        "import sys, luma_lab as luma\n"
        "lab = luma.open(sys.argv[1])\n"
        "docs = lab.collection('docs')\n"
        "print('ready', flush=True)\n"
        "for line in sys.stdin:\n"
        "    n = int(line)\n"
        "    docs.upsert(f'p{n % 5}', [n, n])\n"
        "    print(n, flush=True)\n"
    )
    with Lab(path) as lab:
        docs = lab.create_collection("docs", 2, "l2")
        docs.search([0, 0])
        with child(script, path) as writer:
            assert writer.stdout.readline() == "ready\n"
            for n in range(40):
                assert tell(writer, n) == f"{n}"  # acknowledged over there
                [hit] = docs.search([n, n], k=1)  # and found here at once
                assert (hit.id, hit.score) == (f"p{n % 5}", 0.0)
                assert docs.get(f"p{n % 5}").vector.tolist() == [n, n]


def test_promise_4_a_masked_search_returns_min_k_and_matches():
    # Filters over meta come with the next core; the index keeps the promise for row masks.
    vectors = RNG.normal(size=(400, 6)).astype(np.float32)
    index = VamanaIndex(6, "l2", max_degree=16, build_list_size=32).build(vectors)
    for matches in (0, 1, 3, 50, 399):
        mask = np.zeros(400, bool)
        mask[RNG.choice(400, matches, replace=False)] = True
        for k in (1, 10, 60):
            found = index.search(vectors[:5], k=k, mask=mask)
            for rows in found.rows:
                rows = rows[rows >= 0]
                assert len(rows) == len(set(rows.tolist())) == min(k, matches)
                assert mask[rows].all()


def test_promise_5_same_data_parameters_and_seed_give_the_same_index_for_any_threads(path):
    vectors = RNG.normal(size=(500, 6)).astype(np.float32)
    prints = set()
    with Lab(path) as lab:
        for name, threads in (("one", 1), ("two", 2), ("again", 2)):
            docs = lab.create_collection(name, 6)
            docs.upsert([str(i) for i in range(500)], vectors)
            job = docs.build_index("vamana", seed=7, max_degree=12, build_list_size=24,
                                   threads=threads)  # fmt: skip
            prints.add(job.result(120)["fingerprint"])
    assert len(prints) == 1


def test_promise_6_a_subscriber_sees_each_event_once_in_order_or_is_told_the_gap(lab):
    followed = lab.events.follow("earliest", timeout=30)
    writers = [
        threading.Thread(target=lambda: [lab.events.publish("n") for _ in range(50)])
        for _ in range(3)
    ]
    for writer in writers:
        writer.start()
    assert [next(followed).offset for _ in range(150)] == list(range(1, 151))
    for writer in writers:
        writer.join()
    for _ in range(10):
        lab.events.publish("n")
    lab._upkeep._retention = luma.Retention(events=3)
    lab._upkeep.trim()
    gap = next(lab.events.follow(150))
    assert (gap.type, gap.data["from_offset"], gap.data["to_offset"]) == ("gap", 151, 157)


def test_promise_7_deleting_every_index_folder_changes_no_exact_answer_and_no_value(path):
    import shutil

    vectors = RNG.normal(size=(300, 5)).astype(np.float32)
    queries = RNG.normal(size=(10, 5)).astype(np.float32)

    def answers(lab):
        docs = lab.collection("docs")
        return (
            docs.search_many(queries, k=7, exact=True, include_vector=False),
            [(p.id, p.vector.tobytes(), p.meta) for p in docs.scroll(limit=999)[0]],
            dict(lab.state),
        )

    with Lab(path) as lab:
        docs = lab.create_collection("docs", 5)
        docs.upsert([f"p{i}" for i in range(300)], vectors, list(range(300)))
        lab.state["k"] = 1
        docs.build_index("vamana", max_degree=8, build_list_size=16).result(120)
        before = answers(lab)
        for folder in path.glob("collections/*/index"):
            shutil.rmtree(folder)
        assert answers(lab) == before
    for folder in path.glob("collections/*/index"):
        shutil.rmtree(folder)
    with Lab(path) as lab:
        assert answers(lab) == before
        for job in lab.jobs():
            job.result(120)
        assert answers(lab) == before


def test_promise_9_bad_input_names_what_was_wrong_and_expected_and_changes_nothing(lab):
    docs = lab.create_collection("docs", 3)
    docs.upsert("a", [1, 2, 3])
    lab.state["k"] = 1
    head = lab.head
    for call, wrong, expected in (
        (lambda: docs.upsert("b", [1, 2]), "got 2", "wants 3"),
        (lambda: docs.upsert("b", [1, 2, float("nan")]), "nan", "finite"),
        (lambda: docs.upsert(["b", "b"], [[1, 2, 3]] * 2), "'b'", "only once"),
        (lambda: docs.search([1, 2, 3], k=0), "0", "at least 1"),
        (lambda: lab.create_collection("../x", 3), "'../x'", "expected"),
        (lambda: lab.create_collection("x", 3, "cosin"), "'cosin'", "did you mean 'cosine'"),
        (lambda: lab.state.put("k", 2, if_revision=77), "77", f"revision {head}"),
        (lambda: lab.state.put("k", float("inf")), "inf", "null"),
        (lambda: lab.events.publish("gap"), "'gap'", "another name"),
        (lambda: lab.collection("nowhere"), "'nowhere'", "create_collection"),
    ):
        with pytest.raises(LumaError) as caught:
            call()
        assert wrong in str(caught.value)
        assert expected in str(caught.value)
        assert lab.head == head
    assert (len(docs), lab.state["k"]) == (1, 1)
    assert [c.name for c in lab.collections()] == ["docs"]


def test_promise_10_an_older_lab_opens_after_a_backup_and_a_newer_one_is_refused(path, monkeypatch):
    with Lab(path) as lab:
        lab.create_collection("docs", 2).upsert("a", [1, 2])
        lab.state["k"] = 1
    now = database.FORMAT_VERSION
    with monkeypatch.context() as newer:
        newer.setattr(database, "FORMAT_VERSION", now + 1)
        newer.setattr(
            database,
            "MIGRATIONS",
            {now: lambda connection: connection.execute("CREATE TABLE luma_new (x)")},
        )
        with Lab(path) as lab:
            assert lab.state["k"] == 1
            assert lab.collection("docs").search([1, 2])[0].id == "a"
    backup = apsw.Connection(str(path / f"luma-format{now}.backup.db"))
    assert backup.pragma("user_version") == now
    assert backup.execute("SELECT count(*) FROM luma_points").get == 1
    backup.close()
    before = (path / "luma.db").read_bytes()
    with pytest.raises(NewerFormat, match=f"format {now + 1}"):
        Lab(path)
    assert (path / "luma.db").read_bytes() == before
    assert os.listdir(path / "collections") == ["1"]
