"""SQL in transactions: with the rest or not at all, and beside other writers."""

import contextlib
import threading

import pytest
from children import child
from held_writer import held_writer
from sql_contents import ENDLESS, contents

from luma_lab.engine.lab import Lab
from luma_lab.errors import LumaError, SqlError, SqlTimeout, TransactionTimeout


def test_a_transaction_sees_its_own_rows_and_the_others_do_not(sql, lab):
    with lab.transaction() as tx:
        tx.sql.execute("DELETE FROM t")
        tx.state["new"] = 1
        tx.documents("notes").put("n2", 2)
        assert tx.sql("SELECT count(*) FROM t").rows == [(0,)]
        assert sql("SELECT count(*) FROM t").rows == [(3,)]
        assert tx.sql("SELECT key FROM state('new')").rows == [("new",)]
        assert tx.sql("SELECT id FROM documents('notes')").rows == [("n1",), ("n2",)]
    assert sql("SELECT count(*) FROM t").rows == [(0,)]


def test_a_refused_statement_leaves_the_rest_of_its_transaction(sql, lab):
    with lab.transaction() as tx:
        tx.sql.execute("INSERT INTO t VALUES ('x', 1)")
        with pytest.raises(SqlError):
            tx.sql.execute("INSERT INTO t VALUES ('y', 1), ('x', 2)")
        tx.state["x"] = 1
    assert sql("SELECT id FROM t WHERE id IN ('x', 'y')").rows == [("x",)]


def test_a_statement_that_rolls_back_undoes_everything(sql, lab):
    before = contents(lab)
    with pytest.raises(LumaError), lab.transaction() as tx:
        tx.state["x"] = 1
        with contextlib.suppress(SqlError):
            tx.sql.execute("INSERT OR ROLLBACK INTO t VALUES ('a', 1)")
        tx.state["y"] = 1
    assert contents(lab) == before
    lab.state["works"] = 1


def test_neighbours_of_a_rollback_are_unharmed(sql, lab):
    before = lab.head
    answers = []

    def run(call, *args):
        try:
            answers.append(call(*args))
        except LumaError as error:
            answers.append(error)

    calls = [(lab.state.put, f"n{i}", i) for i in range(4)]
    calls.insert(2, (sql.execute, "INSERT OR ROLLBACK INTO t VALUES ('a', 1)"))
    threads = [threading.Thread(target=run, args=call) for call in calls]
    with held_writer(lab):
        for thread in threads:
            thread.start()
    for thread in threads:
        thread.join()
    assert sum(isinstance(a, SqlError) for a in answers) == 1
    assert [lab.state[f"n{i}"] for i in range(4)] == [0, 1, 2, 3]
    assert lab.head == before + 4


def test_a_runaway_statement_ends_with_nothing_changed(sql, lab):
    before = contents(lab)
    with pytest.raises(SqlTimeout):
        sql.execute("INSERT INTO t " + ENDLESS + "SELECT 'r' || i, 1 FROM n", timeout_ms=100)
    assert contents(lab) == before
    with pytest.raises((SqlTimeout, TransactionTimeout)), lab.transaction(timeout_ms=300) as tx:
        tx.sql.execute("INSERT INTO t " + ENDLESS + "SELECT 'r' || i, 1 FROM n", timeout_ms=100)
    assert contents(lab) == before


BUSY = """
import sys, luma_lab as luma
lab = luma.open(sys.argv[1])
for i in range(int(sys.argv[3])):
    lab.sql.execute("INSERT INTO t VALUES (?, ?)", (f"{sys.argv[2]}-{i}", i))
    lab.state[f"{sys.argv[2]}-{i}"] = i
    with lab.transaction() as tx:
        tx.sql.execute("UPDATE c SET n = n + 1")
        tx.state["last"] = sys.argv[2]
lab.close()
print("done")
"""


def test_six_processes_write_at_once_and_none_is_turned_away(path):
    turns = 40
    with Lab(path) as lab:
        lab.sql.execute("CREATE TABLE t (id TEXT PRIMARY KEY, n INTEGER)")
        lab.sql.execute("CREATE TABLE c (n INTEGER)")
        lab.sql.execute("INSERT INTO c VALUES (0)")
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(child(BUSY, path, f"p{i}", turns)) for i in range(6)]
        assert [w.stdout.read() for w in writers] == ["done\n"] * 6
    with Lab(path) as lab:
        assert lab.sql("SELECT count(*) FROM t").rows == [(6 * turns,)]
        assert lab.sql("SELECT n FROM c").rows == [(6 * turns,)]
        assert len(lab.state) == 6 * turns + 1
        assert lab.verify().ok
