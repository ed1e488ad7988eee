"""After any changes a text index answers as one built afresh would."""

import threading

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from luma_lab.errors import InvalidArgument
from luma_lab.index import TextIndex, shelf

WORDS = ["año", "años", "ano", "campana", "campaña", "campañas", "luz", "luces", "el", "casa"]
TEXTS = st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join)
QUERIES = [*WORDS, "campaña luz", "el año el ano", "+luz -casa", "camp*", '"el año"', "lus~"]


def same_answers(index, fresh, rows, queries, rtol=3e-6):
    """Check that `index` scores its live `rows` as `fresh` does, built of them in order."""
    for query in queries:
        a, b = index.search(query, k=max(1, len(rows))), fresh.search(query, k=max(1, len(rows)))
        got = dict(zip(a.rows.tolist(), a.scores.tolist(), strict=True))
        want = dict(zip((rows[r] for r in b.rows), b.scores.tolist(), strict=True))
        assert got.keys() == want.keys(), query
        for row, score in want.items():
            assert got[row] == pytest.approx(score, rel=rtol), query


class Changes(RuleBasedStateMachine):
    """Additions, deletions and merges, against a dict of what is live."""

    variant = "lucene"

    def __init__(self):
        super().__init__()
        self.index = self.make().build([])
        self.live, self.next_row = {}, 0

    def make(self):
        return TextIndex("es", self.variant, positions=True, stop_words=["casa"])

    @rule(texts=st.lists(TEXTS, max_size=4))
    def add(self, texts):
        rows = self.index.add(texts).tolist()
        assert rows == list(range(self.next_row, self.next_row + len(texts)))
        self.live.update(zip(rows, texts, strict=True))
        self.next_row += len(texts)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def delete(self, data):
        rows = data.draw(st.lists(st.sampled_from(sorted(self.live)), unique=True, max_size=3))
        self.index.delete(rows)
        for row in rows:
            del self.live[row]

    @rule()
    def seal(self):
        """Make the buffer a segment, as a full one is."""
        keeper = self.index._shelf
        with keeper._changing:
            keeper._set(keeper._settled(keeper._sealed(keeper.contents)))

    @rule()
    def consolidate(self):
        self.index.consolidate()

    @invariant()
    def it_answers_like_a_rebuild(self):
        rows = sorted(self.live)
        assert len(self.index) == len(rows)
        assert self.index.total_rows == self.next_row
        fresh = self.make().build([self.live[row] for row in rows])
        same_answers(self.index, fresh, rows, QUERIES)


class OkapiChanges(Changes):
    """The same, with every segment baked list by list after a change."""

    variant = "okapi"

    def __init__(self):
        self.few, shelf.FEW_POSTINGS = shelf.FEW_POSTINGS, 0
        super().__init__()

    def teardown(self):
        shelf.FEW_POSTINGS = self.few


TestChanges = Changes.TestCase
TestChanges.settings = settings(max_examples=12, stateful_step_count=15, deadline=None)
TestOkapiChanges = OkapiChanges.TestCase
TestOkapiChanges.settings = settings(max_examples=8, stateful_step_count=12, deadline=None)


def test_ten_thousand_random_changes_leave_no_trace(monkeypatch):
    monkeypatch.setattr(shelf, "BUFFER_ROWS", 64)
    monkeypatch.setattr(shelf, "FEW_POSTINGS", 0)
    rng = np.random.default_rng(3)
    names = [f"w{i}" for i in range(400)]

    def text():
        return " ".join(names[min(399, t)] for t in rng.zipf(1.3, rng.integers(0, 12)))

    index, live = TextIndex("none"), {}
    for step in range(10_000):
        if live and rng.random() < 0.4:
            row = list(live)[rng.integers(len(live))]
            index.delete(row)
            del live[row]
        else:
            made = text()
            live[int(index.add([made])[0])] = made
        if step % 1000 == 0:
            index.search("w1 w2")
    assert index.segments > 1
    rows = sorted(live)
    fresh = TextIndex("none").build([live[row] for row in rows])
    queries = [" ".join(rng.choice(names, 3)) for _ in range(40)]
    same_answers(index, fresh, rows, queries)
    assert index._shelf.view().averages == fresh._shelf.view().averages
    for query in queries[:5]:
        for row in index.search(query, k=3).rows.tolist():
            ours, theirs = index.explain(query, row), fresh.explain(query, rows.index(row))
            assert ours.score == pytest.approx(theirs.score, rel=1e-12)
            assert [t.df for t in ours.terms] == [t.df for t in theirs.terms]
    index.consolidate()
    assert index.segments == 1
    same_answers(index, fresh, rows, queries)


def test_segments_stay_few_however_documents_come(monkeypatch):
    monkeypatch.setattr(shelf, "BUFFER_ROWS", 8)
    index = TextIndex("none")
    for i in range(1000):
        index.add([f"uno w{i}"])
    assert index.segments <= 12
    assert len(index.search("uno", k=2000).rows) == 1000


def test_deleting_what_is_not_there_changes_nothing():
    index = TextIndex("none").build(["uno", "dos", "tres"])
    index.delete(1)
    for rows in ([0, 1], [3], [-1], [0, 0], [0.5], "0", [[0]]):
        with pytest.raises(InvalidArgument):
            index.delete(rows)
    assert len(index) == 2
    assert index.search("uno tres").rows.tolist() == [0, 2]
    index.delete([])
    index.delete(np.array([0, 2]))
    assert len(index) == 0
    assert index.search("uno").rows.tolist() == []
    assert index.consolidate().search("uno").rows.tolist() == []


def test_a_bad_text_changes_nothing():
    index = TextIndex("none").build(["uno"])
    for texts in (["dos", 3], ["dos", ["a", 3]], "dos", 5, [b"dos"], None):
        with pytest.raises(InvalidArgument):
            index.add(texts)
        with pytest.raises(InvalidArgument):
            index.build(texts)
    assert len(index) == 1
    assert index.search("dos").rows.tolist() == []


def test_a_search_before_any_text_is_refused_and_an_empty_index_answers_nothing():
    from luma_lab.errors import IndexNotBuilt

    with pytest.raises(IndexNotBuilt):
        TextIndex().search("uno")
    empty = TextIndex().build([])
    assert empty.search("uno").rows.tolist() == []
    assert empty.add(["uno"]).tolist() == [0]
    assert empty.search("uno").rows.tolist() == [0]


def test_a_build_forgets_what_was_there_before():
    index = TextIndex("en").build(["old words"])
    index.build(["new ones", "new twos"])
    assert index.search("old").rows.tolist() == []
    fresh = TextIndex("en").build(["new ones", "new twos"])
    assert index.search("one").scores.tolist() == fresh.search("one").scores.tolist()


def test_after_a_change_only_asked_lists_are_weighed_until_most_are(monkeypatch):
    monkeypatch.setattr(shelf, "FEW_POSTINGS", 0)
    index = TextIndex("none").build([f"uno dos w{i} " + "tres " * (i % 3) for i in range(90)])
    index.search("uno")
    index.delete(5)
    assert not index._shelf.view().complete
    fresh = TextIndex("none").build(
        [f"uno dos w{i} " + "tres " * (i % 3) for i in range(90) if i != 5]
    )
    rows = [i for i in range(90) if i != 5]
    same_answers(index, fresh, rows, ["uno", "dos w7", "tres", "w8 uno"])
    same_answers(index, fresh, rows, ["uno", "dos w7", "tres", "w8 uno"])
    assert index._shelf.view().complete
    same_answers(index, fresh, rows, ["uno", "dos w7", "tres", "w8 uno"])


def test_settling_merges_while_others_add_and_search():
    index = TextIndex("none", deferred=True).build([])
    fresh = []
    stop = threading.Event()

    def settle():
        while not stop.is_set():
            index.settle()

    thread = threading.Thread(target=settle)
    thread.start()
    try:
        for turn in range(60):
            texts = [f"uno dos w{turn} w{turn % 7}"] * 300
            rows = index.add(texts)
            index.delete(rows[:20])
            fresh += [None] * 20 + texts[20:]
            assert len(index.search(f"w{turn}", 400).rows) >= 280
    finally:
        stop.set()
        thread.join()
    pinned = index.pinned()
    before = pinned.search("uno w5", 50)
    index.delete(before.rows[:3])
    index.settle(whole=True)  # unless the thread had left one segment already
    assert index.segments == 1
    for one, other in zip(pinned.search("uno w5", 50), before, strict=True):
        assert one.tolist() == other.tolist()
    with pytest.raises(InvalidArgument, match="pinned"):
        pinned.add(["x"])
    kept = index.compact()
    assert index.total_rows == len(index) == len(kept)
    assert not set(before.rows[:3].tolist()) & set(kept.tolist())
    expected = TextIndex("none").build([fresh[row] for row in kept])
    for query in ("uno w5", "dos", "w59 w3"):
        a, b = index.search(query, 99), expected.search(query, 99)
        assert np.allclose(a.scores, b.scores, rtol=1e-5)
        assert a.rows.tolist() == b.rows.tolist()
