"""Parameters in, figure data out: the index tuner without a browser."""

import threading

import numpy as np
import pytest

from luma_lab import bench
from luma_lab.errors import CollectionNotFound, DimensionMismatch, InvalidArgument
from luma_lab.index import FlatIndex, VamanaIndex
from luma_lab.widgets import IndexTuner
from luma_lab.widgets.figure import RecallFigure

DETERMINISTIC = ("recall", "hops", "comparisons")


@pytest.fixture
def tune():
    """Make tuners that are closed at the end of the test."""
    made = []

    def make(*args, **params):
        made.append(IndexTuner(*args, **params))
        return made[-1]

    yield make
    for tuner in made:
        tuner.close()
        assert tuner.wait(60)


def built(tuner):
    tuner.build()
    assert tuner.wait(120)
    assert tuner.error == ""
    return tuner


def figure_of(tuner):
    """Display the tuner and return the figure in it."""
    return tuner.__panel__().select(RecallFigure)[0]


def test_the_numbers_shown_are_those_of_bench_measure(tune, dataset):
    tuner = built(tune(dataset, max_degree=8, build_list_size=16, search_list_size=12))
    expected = bench.measure(tuner.index, dataset, k=10, rounds=1, search_list_size=12)
    assert [tuner.current[name] for name in DETERMINISTIC] == [
        expected[name] for name in DETERMINISTIC
    ]
    assert tuner.current["recall"] < 1.0  # else this test could not tell two settings apart


def test_recall_is_that_of_brute_force(tune, dataset):
    tuner = built(tune(dataset, max_degree=8, build_list_size=16, search_list_size=12))
    base, queries = dataset.base.astype("f8"), dataset.queries.astype("f8")
    squared = ((queries[:, None] - base[None]) ** 2).sum(-1)
    true = np.argsort(squared, axis=1, kind="stable")[:, :10]
    found = tuner.index.search(dataset.queries, k=10, search_list_size=12).rows
    shared = [len(set(a) & set(b)) for a, b in zip(true.tolist(), found.tolist(), strict=True)]
    assert tuner.current["recall"] == pytest.approx(sum(shared) / (10 * len(queries)))


def test_the_index_is_built_with_the_chosen_parameters(tune, dataset):
    tuner = built(tune(dataset, max_degree=12, build_list_size=20, alpha=1.4))
    same = VamanaIndex(16, "l2", max_degree=12, build_list_size=20, alpha=1.4).build(dataset.base)
    assert tuner.index.fingerprint == same.fingerprint
    assert tuner.built == {"max_degree": 12, "build_list_size": 20, "alpha": 1.4}


def test_the_sweep_is_drawn_in_order_of_list_size(tune, dataset):
    tuner = built(tune(dataset, max_degree=8, build_list_size=16))
    figure = figure_of(tuner)
    sizes = figure.sweep.data["search_list_size"].tolist()
    assert sizes == sorted(sizes) and len(sizes) >= 6
    for size, drawn in zip(sizes, figure.sweep.data["recall"], strict=True):
        measured = bench.measure(tuner.index, dataset, k=10, rounds=1, search_list_size=size)
        assert drawn == measured["recall"]


def test_moving_the_slider_moves_the_highlighted_point(tune, dataset):
    tuner = built(tune(dataset, max_degree=8, build_list_size=16, search_list_size=10))
    figure = figure_of(tuner)
    before = {
        name: column.copy() for name, column in figure.current.data.items() if name != "label"
    }
    sweep = figure.sweep.data["recall"].copy()
    tuner.search_list_size = 200
    assert tuner.wait(60)
    after = figure.current.data
    assert before["search_list_size"].tolist() == [10]
    assert after["search_list_size"].tolist() == [200]
    assert after["recall"][0] > before["recall"][0]
    assert np.array_equal(figure.sweep.data["recall"], sweep)


def test_every_display_of_one_tuner_follows(tune, dataset):
    tuner = tune(dataset)
    first, second = figure_of(tuner), figure_of(tuner)
    built(tuner)
    assert first.current.data["recall"].tolist() == second.current.data["recall"].tolist()
    assert len(first.current.data["recall"]) == 1
    assert first.figure is not second.figure


def test_the_slider_in_the_panel_sets_the_parameter_and_the_other_way(tune, dataset):
    tuner = tune(dataset)
    view = tuner.__panel__()
    slider = next(
        each for each in view.select() if getattr(each, "name", "") == "search_list_size (L)"
    )
    slider.value = 100
    assert tuner.search_list_size == 100
    tuner.search_list_size = 33
    assert slider.value == 33


def test_only_the_last_of_many_slider_positions_is_measured(tune, dataset, monkeypatch):
    tuner = built(tune(dataset))
    measured, gate, entered = [], threading.Event(), threading.Event()
    real = bench.measure

    def slow(index, data, **settings):
        measured.append(settings["search_list_size"])
        entered.set()
        assert gate.wait(30)
        return real(index, data, **settings)

    monkeypatch.setattr(bench, "measure", slow)
    tuner.search_list_size = 20
    assert entered.wait(30)
    for size in range(21, 60):
        tuner.search_list_size = size
    gate.set()
    assert tuner.wait(60)
    assert measured == [20, 59]
    assert tuner.current["search_list_size"] == 59


def test_progress_only_rises_and_ends_at_one(tune, dataset):
    tuner = tune(dataset)
    seen = []
    tuner.param.watch(lambda event: seen.append(event.new), "progress")
    built(tuner)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert len(seen) > 1


def test_a_cancelled_build_leaves_no_index(tune, dataset):
    tuner = tune(dataset)

    def stop_midway(event):
        if 0 < event.new < 1:
            tuner.cancel()

    tuner.param.watch(stop_midway, "progress")
    tuner.build()
    assert tuner.wait(120)
    assert tuner.index is None and tuner.current is None and tuner.sweep == []
    assert tuner.phase == "idle" and tuner.progress == 0.0
    assert "cancelled" in tuner.progress_text


def test_a_build_after_a_cancelled_one_is_whole(tune, dataset):
    tuner = tune(dataset)
    tuner.build()
    tuner.cancel()
    built(tuner)
    assert len(tuner.index) == len(dataset.base)
    assert tuner.phase == "idle" and tuner.current is not None


def test_cancelling_the_sweep_keeps_the_index_and_what_was_measured(tune, dataset):
    tuner = tune(dataset)
    tuner.param.watch(lambda event: tuner.cancel() if len(event.new) == 2 else None, "sweep")
    built(tuner)
    assert len(tuner.sweep) == 2
    assert tuner.index is not None and tuner.phase == "idle"


def test_a_new_k_is_measured_anew_and_pulls_the_list_size_up(tune, dataset):
    tuner = built(tune(dataset, search_list_size=16))
    tuner.k = 30
    assert tuner.wait(60)
    assert tuner.search_list_size == 30
    assert tuner.current["k"] == 30 and {each["k"] for each in tuner.sweep} == {30}
    assert min(each["search_list_size"] for each in tuner.sweep) >= 30
    assert figure_of(tuner).figure.yaxis[0].axis_label == "recall@30"


def test_a_cancelled_sweep_does_not_stop_later_ones(tune, dataset):
    tuner = tune(dataset)
    stop = tuner.param.watch(lambda event: tuner.cancel() if event.new else None, "sweep")
    built(tuner)
    assert len(tuner.sweep) == 1
    tuner.param.unwatch(stop)
    tuner.k = 5
    assert tuner.wait(60)
    assert len(tuner.sweep) > 5 and tuner.phase == "idle"


def test_another_collection_chosen_during_a_build_drops_it_silently(tune, filled_lab):
    tuner = tune(filled_lab, collection="cubes")

    def switch(event):
        if 0 < event.new < 1:
            tuner.collection = "few"

    tuner.param.watch(switch, "progress")
    tuner.build()
    assert tuner.wait(120)
    assert tuner.collection == "few"
    assert tuner.index is None and tuner.current is None
    assert (tuner.phase, tuner.progress, tuner.progress_text) == ("idle", 0.0, "")


def test_points_of_a_collection_are_held_out_of_the_index(tune, filled_lab, vectors):
    tuner = built(tune(filled_lab, collection="cubes"))
    base, queries = tuner.data.base, tuner.data.queries
    assert len(queries) == 60 and len(base) == 540 == len(tuner.index)
    assert "60 stored points" in tuner.source_note
    everything = np.concatenate([base, queries])
    assert np.array_equal(everything[np.lexsort(everything.T)], vectors[np.lexsort(vectors.T)])


def test_the_same_points_are_held_out_each_time(tune, filled_lab):
    first, second = (built(tune(filled_lab, collection="cubes")) for _ in range(2))
    assert np.array_equal(first.data.queries, second.data.queries)
    assert first.index.fingerprint == second.index.fingerprint


def test_given_queries_are_used_and_nothing_is_held_out(tune, filled_lab, vectors):
    asked = vectors[:5] + 0.1
    tuner = built(tune(filled_lab, collection="cubes", queries=asked))
    assert np.array_equal(tuner.data.queries, asked)
    assert len(tuner.index) == 600
    assert "5 queries" in tuner.source_note


def test_choosing_another_collection_forgets_the_index(tune, filled_lab):
    tuner = built(tune(filled_lab, collection="cubes"))
    tuner.collection = "few"
    assert tuner.index is None and tuner.sweep == [] and tuner.current is None
    assert tuner.source_note == ""


def test_a_collection_too_small_to_tune_says_so_in_the_panel(tune, filled_lab):
    tuner = tune(filled_lab, collection="few")
    tuner.build()
    assert tuner.wait(60)
    assert "3 points" in tuner.error and "at least 20" in tuner.error
    assert tuner.phase == "idle" and tuner.index is None


def test_a_collection_dropped_meanwhile_is_named_in_the_error(tune, filled_lab):
    tuner = tune(filled_lab, collection="cubes")
    filled_lab.drop_collection("cubes")
    tuner.build()
    assert tuner.wait(60)
    assert "cubes" in tuner.error


def test_a_failure_that_is_not_ours_is_shown_too(tune, dataset, monkeypatch):
    tuner = built(tune(dataset))

    def broken(*_, **__):
        raise RuntimeError("no more memory")

    monkeypatch.setattr(bench, "measure", broken)
    tuner.search_list_size = 128
    assert tuner.wait(60)
    assert tuner.error == "RuntimeError: no more memory"


def test_an_error_goes_away_with_the_next_build(tune, filled_lab):
    tuner = tune(filled_lab, collection="few")
    tuner.build()
    assert tuner.wait(60) and tuner.error
    tuner.collection = "cubes"
    built(tuner)


def test_applying_builds_the_collections_index_with_what_was_measured(tune, filled_lab):
    tuner = built(
        tune(filled_lab, collection="cubes", max_degree=12, build_list_size=24, alpha=1.3)
    )
    tuner.max_degree = 40  # chosen, but not built: not what was measured
    tuner.search_list_size = 48
    tuner.apply()
    assert tuner.wait(120)
    assert tuner.error == "" and not tuner.applying
    status = filled_lab.collection("cubes").index_status()
    assert status["kind"] == "vamana" and status["available"]
    assert status["indexed_points"] == 600
    wanted = {"max_degree": 12, "build_list_size": 24, "alpha": 1.3, "search_list_size": 48}
    assert {name: status["params"][name] for name in wanted} == wanted
    assert "cubes" in tuner.apply_text


def test_applying_without_an_index_says_what_to_do(tune, filled_lab):
    tuner = tune(filled_lab, collection="cubes")
    tuner.apply()
    assert "Build" in tuner.error
    assert not filled_lab.collection("cubes").index_status()["available"]


def test_a_failed_apply_is_shown(tune, filled_lab):
    tuner = built(tune(filled_lab, collection="cubes"))
    filled_lab.drop_collection("cubes")
    tuner.apply()
    assert tuner.wait(60)
    assert "Not applied" in tuner.error and "cubes" in tuner.error
    assert not tuner.applying


def test_a_lab_without_collections_can_be_tuned_later(tune, empty_lab, vectors):
    tuner = tune(empty_lab)
    tuner.build()
    assert "create one" in tuner.error
    empty_lab.create_collection("late", 16, metric="l2").upsert(list(range(600)), vectors)
    tuner.refresh_collections()
    assert tuner.collection == "late"
    built(tuner)


def test_data_without_queries_holds_out_its_own(tune, vectors):
    tuner = built(tune(bench.Dataset(name="bare", metric="l2", base=vectors)))
    assert len(tuner.index) == 540


def test_wrong_arguments_are_refused_with_their_names(filled_lab, dataset):
    with pytest.raises(InvalidArgument, match="FlatIndex"):
        IndexTuner(FlatIndex(4))
    with pytest.raises(InvalidArgument, match="data set"):
        IndexTuner(dataset, collection="cubes")
    with pytest.raises(CollectionNotFound, match="cubs"):
        IndexTuner(filled_lab, collection="cubs")
    with pytest.raises(DimensionMismatch, match="3"):
        IndexTuner(dataset, queries=np.ones((2, 3)))
    with pytest.raises(InvalidArgument, match="shape"):
        IndexTuner(dataset, queries=np.ones(16))
    with pytest.raises(InvalidArgument, match="no vectors"):
        IndexTuner(bench.Dataset(name="words", texts=["a"]))


def test_queries_that_do_not_fit_the_collection_are_told_in_the_panel(tune, filled_lab):
    tuner = tune(filled_lab, collection="cubes", queries=np.ones((2, 3)))
    tuner.build()
    assert tuner.wait(60)
    assert "3 components" in tuner.error and "16" in tuner.error


def test_no_thread_is_left_when_nothing_is_to_do(tune, dataset):
    tuner = built(tune(dataset))
    assert tuner.wait(0)
    assert not [each for each in threading.enumerate() if each.name == "luma-tuner"]
