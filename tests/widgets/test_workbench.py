"""The workbench and its search by example, without a browser."""

import numpy as np
import panel as pn
import pytest

from luma_lab.engine.lab import Lab
from luma_lab.errors import StoreClosed
from luma_lab.widgets import Workbench, page
from luma_lab.widgets.example import ExampleSearch, meta_text


@pytest.fixture
def bench_of():
    """Make workbenches that are closed at the end of the test."""
    made = []

    def make(lab):
        made.append(Workbench(lab))
        return made[-1]

    yield make
    for each in made:
        each.close()
        assert each.wait(60)


def text_of(viewable):
    """All HTML a panel shows, joined."""
    return "\n".join(str(pane.object) for pane in viewable.select(pn.pane.HTML) if pane.visible)


def shown(layout):
    """HTML of the panes whose parents are visible, too."""
    if not layout.visible:
        return ""
    if isinstance(layout, pn.pane.HTML):
        return str(layout.object)
    return "\n".join(shown(each) for each in getattr(layout, "objects", []))


def test_the_workbench_shows_what_the_lab_holds(bench_of, filled_lab):
    workbench = bench_of(filled_lab)
    assert workbench.overview["points"] == 603
    assert workbench.overview["head"] == filled_lab.head
    rows = {row["name"]: row for row in workbench.collections}
    assert (rows["cubes"]["dim"], rows["cubes"]["metric"], rows["cubes"]["points"]) == (
        16,
        "l2",
        600,
    )
    shown = text_of(workbench.__panel__())
    assert "cubes" in shown and "every search is exact" in shown


def test_the_latest_twenty_events_come_newest_first(bench_of, filled_lab):
    workbench = bench_of(filled_lab)
    offsets = [event.offset for event in workbench.events]
    assert offsets == list(range(filled_lab.head, filled_lab.head - 20, -1))


def test_a_commit_appears_without_asking(bench_of, filled_lab):
    workbench = bench_of(filled_lab)
    filled_lab.state["greeting"] = "hello"
    assert _until(lambda: workbench.events[0].type == "state_updated")
    assert workbench.overview["head"] == filled_lab.head
    assert "greeting" in text_of(workbench.__panel__())


def test_a_new_collection_appears_everywhere(bench_of, empty_lab):
    workbench = bench_of(empty_lab)
    view = workbench.__panel__()
    assert "luma demo" in text_of(view) and "Index tuner" not in shown(view)
    empty_lab.create_collection("fresh", 4).upsert("one", [1, 0, 0, 0])
    assert _until(lambda: [row["name"] for row in workbench.collections] == ["fresh"])
    assert _until(lambda: workbench.tuner.collection == "fresh" == workbench.example.collection)
    assert "luma demo" not in text_of(view) and "Index tuner" in shown(view)


def test_a_built_index_is_told_with_its_list_size(bench_of, filled_lab):
    filled_lab.collection("cubes").build_index(kind="vamana", search_list_size=40).result(120)
    row = next(r for r in bench_of(filled_lab).collections if r["name"] == "cubes")
    assert row["index"] == "vamana"
    assert row["status"] == "all points, list size 40"


def test_a_closed_workbench_no_longer_follows(bench_of, filled_lab):
    workbench = bench_of(filled_lab)
    workbench.close()
    head = workbench.overview["head"]
    filled_lab.state["later"] = 1
    assert workbench.wait(60)
    assert workbench.overview["head"] == head


def test_ids_and_metas_are_escaped(bench_of, empty_lab):
    sly = empty_lab.create_collection("sly", 2)
    sly.upsert(["<img src=x>", "b"], np.eye(2), [{"text": "<script>"}, {"text": "<b>bold</b>"}])
    workbench = bench_of(empty_lab)
    workbench.example.id = "<img src=x>"
    assert workbench.example.wait(60)
    shown = text_of(workbench.__panel__())
    assert "&lt;script&gt;" in shown and "&lt;b&gt;bold" in shown
    assert "<script>" not in shown and "<img" not in shown and "<b>bold" not in shown


def test_search_by_example_finds_the_true_neighbours(filled_lab, vectors):
    example = ExampleSearch(filled_lab, collection="cubes", k=5)
    example.id = "p17"
    assert example.wait(60)
    squared = ((vectors.astype("f8") - vectors[17]) ** 2).sum(1)
    squared[17] = np.inf
    assert [hit.id for hit in example.hits] == [f"p{i}" for i in np.argsort(squared)[:5]]
    assert example.point.meta == {"text": "point <17>"}
    assert example.receipt["exact"] is True


def test_a_random_point_is_a_stored_one_with_neighbours(filled_lab):
    example = ExampleSearch(filled_lab, collection="cubes")
    picked = set()
    for _ in range(12):
        example.pick()
        assert example.wait(60)
        assert example.error == ""
        assert filled_lab.collection("cubes").get(example.id) is not None
        assert len(example.hits) == 10 and example.id not in [hit.id for hit in example.hits]
        picked.add(example.id)
    assert len(picked) > 3


def test_an_unknown_id_is_named_in_the_panel(filled_lab):
    example = ExampleSearch(filled_lab, collection="cubes")
    example.id = "nobody"
    assert example.wait(60)
    assert "nobody" in example.error
    assert "nobody" in text_of(example.__panel__())


def test_an_empty_collection_says_so(empty_lab):
    empty_lab.create_collection("void", 4)
    example = ExampleSearch(empty_lab)
    example.pick()
    assert example.wait(60)
    assert "void" in example.error and "no points" in example.error


def test_metas_are_read_as_text():
    assert meta_text({"title": "Cats", "text": "purr", "n": 1}) == "purr · Cats"
    assert meta_text({"n": 1}) == '{"n": 1}'
    assert meta_text("plain") == "plain"
    assert meta_text(None) == ""
    assert len(meta_text("x" * 1000)) == 220


def test_each_visitor_gets_a_page_of_his_own(filled_lab):
    build = page(filled_lab)
    first, second = build(), build()
    assert first is not second
    assert first.title == "Luma Lab"


def test_a_page_of_a_closed_lab_tells_what_is_wrong():
    lab = Lab(":memory:")
    lab.close()
    with pytest.raises(StoreClosed):
        Workbench(lab)
    assert "is closed" in text_of(page(lab)().main[0])


def _until(true, seconds=20.0):
    """Wait until `true()`; an upper bound, not a measurement."""
    import time

    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
