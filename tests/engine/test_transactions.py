"""Transactions: one commit over points, state and events, or nothing at all."""

import threading
import time

import numpy as np
import pytest

from luma_lab.engine.lab import Lab
from luma_lab.errors import (
    AlreadyExists,
    CollectionNotFound,
    InvalidArgument,
    LumaError,
    RevisionConflict,
    TransactionTimeout,
)


@pytest.fixture
def docs(lab):
    docs = lab.create_collection("docs", 2, "l2")
    docs.upsert(["a", "b"], [[1, 0], [0, 1]], [{"n": 1}, {"n": 2}])
    lab.state["k"] = "old"
    return docs


def everything(lab):
    docs = lab.collection("docs")
    points, _ = docs.scroll(limit=1000)
    return (
        [(p.id, p.vector.tolist(), p.meta) for p in points],
        dict(lab.state),
        [(e.offset, e.type, e.key, e.data) for e in lab.events.read()],
        [h.id for h in docs.search([1, 0], k=100)],
        (docs.info().live_count, docs.info().total_rows, docs.info().upsert_count),
        lab.head,
    )


def test_all_of_a_transaction_is_there_after_it(lab, docs):
    head = lab.head
    with lab.transaction() as tx:
        tx.collection("docs").upsert("c", [2, 2], {"n": 3})
        tx.collection("docs").delete("a")
        tx.state.put("k", "new")
        tx.events.publish("saved", {"id": "c"}, key="c")
    assert (tx.first_offset, tx.offset) == (head + 1, head + 4) == (head + 1, lab.head)
    assert [e.type for e in lab.events.read(since=head)] == [
        "vector_upserted", "vector_deleted", "state_updated", "saved",
    ]  # fmt: skip
    assert [h.id for h in docs.search([2, 2], k=5)] == ["c", "b"]
    assert docs.get("a") is None
    assert lab.state["k"] == "new"


def test_an_exception_in_the_block_undoes_all_of_it(lab, docs):
    before = everything(lab)
    with pytest.raises(ZeroDivisionError), lab.transaction() as tx:
        tx.collection("docs").upsert(["c", "a"], [[5, 5], [6, 6]])
        tx.collection("docs").delete("b")
        tx.state.put("k", "new")
        tx.state.delete("k")
        tx.events.publish("saved")
        raise ZeroDivisionError
    assert everything(lab) == before
    docs.upsert("d", [3, 3])
    assert np.array_equal(docs.get("d").vector, [3, 3])
    assert lab.verify().ok


def test_reads_in_a_transaction_see_its_own_writes_and_outside_the_last_commit(lab, docs):
    with lab.transaction() as tx:
        inside = tx.collection("docs")
        inside.upsert("c", [5, 5], {"n": 3})
        inside.update("a", metas={"n": 9})
        inside.delete("b")
        tx.state["k"] = "new"
        del tx.state["k"]
        tx.state["j"] = 1
        assert np.array_equal(inside.get("c").vector, [5, 5])
        assert inside.get("a").meta == {"n": 9}
        assert inside.get("b") is None
        assert "b" not in inside
        assert [p.id for p in inside.scroll()[0]] == ["a", "c"]
        assert dict(tx.state) == {"j": 1}
        # the lab itself, from the same thread and from another
        assert docs.get("c") is None
        assert docs.get("a").meta == {"n": 1}
        assert [h.id for h in docs.search([5, 5], k=5)] == ["a", "b"]
        assert dict(lab.state) == {"k": "old"}
        assert len(docs) == 2
        seen = []
        other = threading.Thread(target=lambda: seen.append((dict(lab.state), docs.get("c"))))
        other.start()
        other.join()
        assert seen == [({"k": "old"}, None)]
    assert dict(lab.state) == {"j": 1}


@pytest.mark.parametrize(
    "write",
    [
        lambda lab: lab.state.put("k", 1),
        lambda lab: lab.state.delete("k"),
        lambda lab: lab.collection("docs").upsert("z", [1, 1]),
        lambda lab: lab.collection("docs").delete("a"),
        lambda lab: lab.events.publish("x"),
        lambda lab: lab.create_collection("more", 2),
        lambda lab: lab.drop_collection("docs"),
        lambda lab: lab.collection("docs").tune_index(search_list_size=50),
        lambda lab: lab.transaction().__enter__(),
    ],
)
def test_a_write_on_the_lab_inside_its_own_transaction_is_refused_not_a_deadlock(lab, docs, write):
    with lab.transaction() as tx:
        tx.state["inside"] = 1
        with pytest.raises(InvalidArgument, match="transaction"):
            write(lab)
    assert lab.state["inside"] == 1
    assert lab.state["k"] == "old"
    write_after = lab.state.put("k", "free again")
    assert write_after.count == 1


def test_writers_in_other_threads_wait_for_the_transaction(lab, docs):
    order = []
    with lab.transaction() as tx:
        tx.state["k"] = "tx"
        other = threading.Thread(
            target=lambda: order.append(lab.state.put("k", "after").revision), daemon=True
        )
        other.start()
        time.sleep(0.05)
        assert order == []
        order.append("tx")
    other.join(10)
    assert order == ["tx", tx.offset + 1]
    assert lab.state["k"] == "after"


def test_a_transaction_open_too_long_is_rolled_back_and_says_so(lab, docs):
    before = everything(lab)
    with pytest.raises(TransactionTimeout, match="100 ms"), lab.transaction(timeout_ms=100) as tx:
        tx.state["k"] = "new"
        tx.collection("docs").upsert("c", [1, 1])
        time.sleep(0.4)
        tx.state["j"] = 1
    assert everything(lab) == before
    with pytest.raises(TransactionTimeout), lab.transaction(timeout_ms=50) as tx:
        tx.state["k"] = "new"
        time.sleep(0.3)  # and nothing after: the end of the block says it
    assert everything(lab) == before
    lab.state["k"] = "free again"
    with lab.transaction() as tx:
        tx.state["k"] = "again"
    assert lab.state["k"] == "again"


def test_while_an_expired_block_still_runs_others_may_write(lab, docs):
    with pytest.raises(TransactionTimeout), lab.transaction(timeout_ms=250) as tx:
        tx.state["k"] = "mine"
        tx._timer.join(20)  # it has expired
        lab_write = threading.Thread(target=lab.state.put, args=("k", "theirs"))
        lab_write.start()
        lab_write.join(10)
        assert not lab_write.is_alive()
    assert lab.state["k"] == "theirs"


def test_waiting_for_another_transaction_ends_at_the_limit(lab, docs):
    entered, leave = threading.Event(), threading.Event()

    def hold():
        with lab.transaction() as tx:
            tx.state["k"] = "held"
            entered.set()
            leave.wait(20)

    holder = threading.Thread(target=hold)
    holder.start()
    entered.wait(20)
    with pytest.raises(TransactionTimeout, match="kept the writer longer than 50 ms"):
        lab.transaction(timeout_ms=50).__enter__()
    leave.set()
    holder.join()
    assert lab.state["k"] == "held"


def test_a_refused_operation_that_is_caught_leaves_no_trace_and_the_rest_goes_on(lab, docs):
    with lab.transaction() as tx:
        inside = tx.collection("docs")
        inside.upsert("c", [5, 5])
        head = lab.head
        for refused, error in [
            (lambda: inside.add(["x", "a"], [[1, 1], [2, 2]]), AlreadyExists),
            (lambda: inside.update(["c", "nobody"], [[7, 7], [8, 8]]), LumaError),
            (lambda: inside.upsert("y", [1, 2, 3]), InvalidArgument),
            (lambda: tx.state.put("k", 1, if_revision=12345), RevisionConflict),
            (lambda: tx.state.put("", 1), InvalidArgument),
            (
                lambda: tx.state.put_each(
                    [{"key": "half", "value": 1}, {"key": "k", "value": 2, "if_revision": 9}],
                    atomic=True,
                ),
                RevisionConflict,
            ),
            (lambda: tx.events.publish("gap"), InvalidArgument),
            (lambda: tx.collection("nowhere"), CollectionNotFound),
        ]:
            with pytest.raises(error):
                refused()
        inside.upsert("d", [6, 6])
    assert tx.offset == head + 2
    assert sorted(p.id for p in docs.scroll()[0]) == ["a", "b", "c", "d"]
    assert np.array_equal(docs.get("c").vector, [5, 5])
    assert np.array_equal(docs.get("d").vector, [6, 6])
    assert dict(lab.state) == {"k": "old"}
    assert [e.offset for e in lab.events.read()] == list(range(1, head + 3))
    assert lab.verify().ok


def test_an_empty_transaction_has_the_head_as_its_range(lab, docs):
    head = lab.head
    with lab.transaction() as tx:
        assert tx.state["k"] == "old"
    assert (tx.first_offset, tx.offset, lab.head) == (head, head, head)


def test_a_transaction_that_ended_refuses_further_calls(lab, docs):
    with lab.transaction() as tx:
        inside = tx.collection("docs")
    for call in (
        lambda: tx.state.put("k", 1),
        lambda: tx.state.get("k"),
        lambda: inside.get("a"),
        lambda: inside.upsert("a", [0, 0]),
        lambda: tx.collection("docs"),
        lambda: tx.events.publish("x"),
    ):
        with pytest.raises(InvalidArgument, match="ended"):
            call()
    assert lab.state["k"] == "old"


def test_a_transaction_object_can_not_be_entered_again(lab, docs):
    with lab.transaction() as tx:
        pass
    with pytest.raises(InvalidArgument, match="open another"):
        tx.__enter__()
    with pytest.raises(TransactionTimeout), lab.transaction(timeout_ms=50) as late:
        late._timer.join(20)
    with pytest.raises(InvalidArgument, match="open another"):
        late.__enter__()
    lab.state["k"] = "the writer is free"


@pytest.mark.parametrize("timeout_ms", [0, -1, 1.5, "5", None, True])
def test_a_bad_timeout_is_named(lab, timeout_ms):
    with pytest.raises(InvalidArgument, match="timeout_ms is"):
        lab.transaction(timeout_ms=timeout_ms)


def test_closing_the_lab_inside_its_transaction_undoes_it_and_hangs_nothing(path):
    lab = Lab(path)
    lab.state["k"] = "old"
    with pytest.raises(LumaError), lab.transaction() as tx:
        tx.state["k"] = "new"
        lab.close()
    with Lab(path) as lab:
        assert lab.state["k"] == "old"


def test_closing_the_lab_waits_for_the_transaction_of_another_thread(path):
    lab = Lab(path)
    entered = threading.Event()
    errors = []

    def work():
        try:
            with lab.transaction() as tx:
                tx.state["k"] = 1
                entered.set()
                time.sleep(0.3)
                tx.state["j"] = 2
        except Exception as error:
            errors.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    entered.wait(20)
    lab.close()
    worker.join()
    with Lab(path) as lab:
        assert (errors, dict(lab.state)) == ([], {"k": 1, "j": 2})


def test_transactions_of_two_labs_on_one_directory_are_serialised(path):
    with Lab(path) as one, Lab(path) as two:
        one.state["n"] = 0

        def add(lab):
            for _ in range(25):
                with lab.transaction() as tx:
                    tx.state["n"] = tx.state["n"] + 1

        threads = [threading.Thread(target=add, args=(lab,)) for lab in (one, two)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert one.state["n"] == two.state["n"] == 50
