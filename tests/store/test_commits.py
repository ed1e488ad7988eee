"""The mark that tells without a statement whether anything was committed."""

import os
import random
import stat

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from luma_lab import Lab
from luma_lab.errors import StorageError
from luma_lab.store import commits
from luma_lab.store.commits import CommitMark


@pytest.fixture
def marks(tmp_path):
    """Two views of one mark, as two processes have them."""
    both = [CommitMark(tmp_path / "mark") for _ in range(2)]
    yield both
    for mark in both:
        mark.close()


def commit(mark):
    mark.end(mark.begin())


def test_a_mark_stands_still_until_either_process_commits(marks):
    for committing in marks:
        before = [mark.look() for mark in marks]
        assert [mark.look() for mark in marks] == before
        commit(committing)
        assert all(mark.look() != old for mark, old in zip(marks, before, strict=True))


def test_while_a_commit_is_under_way_no_two_looks_are_equal(marks):
    one, other = marks
    number = one.begin()
    assert other.look() != other.look()
    one.end(number)
    assert other.look() == other.look()


def test_a_commit_that_never_ended_is_over_with_the_next(marks):
    one, other = marks
    one.begin()
    assert one.look() != one.look()
    commit(other)
    assert one.look() == one.look() == other.look()


def test_a_mark_that_cannot_be_had_is_refused(tmp_path):
    with pytest.raises(StorageError, match="No such file"):
        CommitMark(tmp_path / "missing" / "mark")


def test_closed_the_mark_never_stands_still(tmp_path):
    mark = CommitMark(tmp_path / "mark")
    mark.close()
    mark.close()
    commit(mark)
    assert mark.look() != mark.look()


def test_a_mark_made_by_two_at_once_keeps_what_the_first_has_committed(tmp_path, monkeypatch):
    known = os.fstat
    first = []

    def after_the_first(file):
        found = known(file)
        if not first:  # the second has seen an empty file, and is slow
            monkeypatch.setattr(commits.os, "fstat", known)
            first.append(CommitMark(tmp_path / "mark"))
            commit(first[0])
            first.append(first[0].look())
        return found

    monkeypatch.setattr(commits.os, "fstat", after_the_first)
    second = CommitMark(tmp_path / "mark")
    assert first[0].look() == first[1] == second.look()
    first[0].close()
    second.close()


def test_the_mark_has_the_permissions_of_the_database(tmp_path):
    (tmp_path / "database").touch()
    (tmp_path / "database").chmod(0o660)
    CommitMark(tmp_path / "mark", tmp_path / "database").close()
    assert stat.S_IMODE((tmp_path / "mark").stat().st_mode) == 0o660


def test_commits_are_seen_however_a_user_seeds_random(tmp_path):
    with Lab(tmp_path / "lab") as lab, Lab(tmp_path / "lab") as other:
        docs = lab.create_collection("docs", 2, "l2")
        seen = other.collection("docs")
        for i in range(5):
            random.seed(0)
            expected = random.random()
            random.seed(0)
            docs.upsert([str(i)], [[i, i]])
            assert len(seen.search([0, 0], 9)) == i + 1
            assert random.random() == expected


def test_a_read_sees_what_was_committed_by_a_process_that_died_before_it_said_so(tmp_path):
    with Lab(tmp_path / "lab") as lab, Lab(tmp_path / "lab") as dying:
        lab.create_collection("docs", 2, "l2").upsert(["a"], [[0, 0]])
        assert [hit.id for hit in lab.collection("docs").search([0, 0], 2)] == ["a"]
        dying._parts.database.mark.end = lambda number: None
        dying.collection("docs").upsert(["b"], [[1, 1]])
        assert [hit.id for hit in lab.collection("docs").search([0, 0], 2)] == ["a", "b"]


def test_who_cannot_move_the_mark_cannot_open_the_lab_to_commit_unseen(tmp_path):
    with Lab(tmp_path / "lab") as lab:
        docs = lab.create_collection("docs", 2, "l2")
        file = tmp_path / "lab" / "luma.db-commits"
        file.rename(tmp_path / "kept")
        file.mkdir()  # no file can be opened there
        with pytest.raises(StorageError, match=r"Is a directory: .*luma\.db-commits"):
            Lab(tmp_path / "lab")
        file.rmdir()
        (tmp_path / "kept").rename(file)
        with Lab(tmp_path / "lab") as other:
            other.collection("docs").upsert(["x"], [[1, 1]])
            assert len(docs.search([0, 0], 9)) == 1


class Protocol(RuleBasedStateMachine):
    """Writers that take turns at SQLite's lock and say late that they are done; a reader."""

    def __init__(self):
        super().__init__()
        self.mark = CommitMark.__new__(CommitMark)
        self.mark._mapping, self.mark._words = None, [0, 0]
        self.mark._numbers = random.Random(0)
        self.visible = self.absorbed = 0
        self.seen = None
        self.locked = None  # the number of who holds the lock
        self.late = []  # of whose commit is visible, and who has not said so yet

    @precondition(lambda self: self.locked is None)
    @rule()
    def begin(self):
        self.locked = self.mark.begin()

    @precondition(lambda self: self.locked is not None)
    @rule(fails=st.booleans())
    def commit(self, fails):
        self.visible += not fails
        self.late.append(self.locked)
        self.locked = None

    @precondition(lambda self: self.late)
    @rule(place=st.integers(0, 9), dies=st.booleans())
    def end(self, place, dies):
        number = self.late.pop(place % len(self.late))
        if not dies:
            self.mark.end(number)

    @rule()
    def read(self):
        stands = self.mark.look()
        if stands != self.seen:
            self.absorbed, self.seen = self.visible, stands
        assert self.absorbed == self.visible


TestProtocol = Protocol.TestCase
