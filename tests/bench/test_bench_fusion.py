"""Promises of the fusion lab: figures are recomputable, luck is told from gain, in words."""

import numpy as np
import pytest
from scipy import stats

from luma_lab import bench
from luma_lab.bench import trec
from luma_lab.bench.fusionlab import as_run
from luma_lab.bench.judge import bootstrap, judge
from luma_lab.engine.fusion import fuse
from luma_lab.errors import InvalidArgument, UnknownName

QUERIES, DOCUMENTS = 60, 40


def make(vector, text, seed=0):
    """Return a data set and two branches: one relevant document a query, its odds to be first.

    A branch that misses the document has it nowhere; both never miss it together.
    """
    rng = np.random.default_rng(seed)
    queries = [f"q{i}" for i in range(QUERIES)]
    luck = rng.random(QUERIES)
    branches = {"vector": [], "text": []}
    for place in range(QUERIES):
        others = [f"d{n}" for n in rng.permutation(DOCUMENTS) if n != place % DOCUMENTS]
        for name, hit in (("vector", luck[place] < vector), ("text", luck[place] >= 1 - text)):
            # What both find is right; what one finds wrong, the other does not know.
            ids = [f"d{place % DOCUMENTS}", *others[:8]] if hit else others[10:19]
            branches[name].append((ids, np.linspace(2, 1, len(ids)).round(3).tolist()))
    return bench.Dataset(
        name="made", ids=[f"d{n}" for n in range(DOCUMENTS)], query_ids=queries,
        qrels={q: {f"d{i % DOCUMENTS}": 1} for i, q in enumerate(queries)},
    ), branches  # fmt: skip


FEW = {"rrf_ks": (5, 60), "weight_steps": 4, "resamples": 500}


def test_figures_are_those_of_fusing_and_scoring_by_hand():
    data, branches = make(0.7, 0.6)
    report = bench.fusion_lab(data, branches, **FEW)
    assert len(report.settings) == 2 * 3 + 3 + 3
    for place, setting in enumerate(report.settings):
        run = {}
        for i, query in enumerate(data.query_ids):
            asked = {name: found[i] for name, found in branches.items()}
            run[query] = [hit.id for hit in fuse(asked, **setting)]
        scores = trec.evaluate(run, data.qrels, report.measures)
        for measure in report.measures:
            assert report.values[measure][2 + place] == pytest.approx(scores.mean[measure])
    alone = trec.evaluate(as_run(data, branches["text"]), data.qrels, ["mrr@10"]).mean["mrr@10"]
    assert report.values["mrr@10"][1] == pytest.approx(alone)
    best = max(report.values["mrr@10"][2:])
    assert report.values["mrr@10"][2 + report.settings.index(report.best)] == best


def test_the_tuned_figure_is_of_queries_the_setting_was_not_chosen_on():
    data, branches = make(0.7, 0.6)
    report = bench.fusion_lab(data, branches, folds=3, seed=4, **FEW)
    order = np.random.default_rng(4).permutation(QUERIES)
    scored = []
    for part, setting in zip(np.array_split(order, 3), report.picked, strict=True):

        def mean(setting, places):
            run = {}
            for i in places:
                asked = {name: found[i] for name, found in branches.items()}
                run[data.query_ids[i]] = [hit.id for hit in fuse(asked, **setting)]
            judged = {query: data.qrels[query] for query in run}
            return trec.evaluate(run, judged, ["mrr@10"]).mean["mrr@10"]

        rest = [i for i in range(QUERIES) if i not in set(part.tolist())]
        best = max(mean(other, rest) for other in report.settings)
        assert mean(setting, rest) == pytest.approx(best)
        scored.append(mean(setting, part.tolist()) * len(part))
    assert report.held_out["mrr@10"] == pytest.approx(sum(scored) / QUERIES)


def test_it_says_that_fusing_pays_where_branches_make_up_for_each_other():
    report = bench.fusion_lab(*make(0.6, 0.6), **FEW)
    assert report.pays
    said, difference, low, high = report.standing(report.best_branch)
    assert (said, True) == ("better", 0 < low < difference < high)
    assert "better than" in report.verdict and "Fusing pays: use" in report.verdict


def test_it_says_when_fusing_is_worse_and_when_it_makes_no_difference():
    worse = bench.fusion_lab(*make(1.0, 0.0), **FEW)
    assert not worse.pays
    assert worse.best_branch == "vector"
    assert "The usual fusion (RRF k=60, equal weights)" in worse.verdict
    assert "worse than vector alone" in worse.verdict
    assert "vector alone will do" in worse.verdict
    data, branches = make(0.7, 0.7)
    same = bench.fusion_lab(data, {"a": branches["text"], "b": branches["text"]}, **FEW)
    assert same.standing("b")[:2] == ("not distinguishable", 0.0)
    assert "not distinguishable from" in same.verdict and not same.pays


def test_the_table_holds_branches_the_tuned_fusion_and_every_setting():
    data, branches = make(0.7, 0.6)
    report = bench.fusion_lab(data, branches, measures=["recall@5"], **FEW)
    table = report.table
    assert len(table) == 2 + 1 + len(report.settings)
    assert table.name[:4].tolist() == [
        "vector alone", "text alone", "tuned fusion, held out", "RRF k=60, equal weights",
    ]  # fmt: skip
    assert {"recall@5", "mrr@10", "weight_vector", "difference_low", "verdict"} <= {*table.columns}
    assert table["difference"][report.branches.index(report.best_branch)] == 0
    assert table["mrr@10"][2] == report.held_out["mrr@10"]
    assert (table.low <= table["mrr@10"] + 1e-12).all()
    shown = report._repr_html_()
    assert "Chosen in the folds" in shown and "flatters" in shown and report.verdict in shown
    assert report.verdict in repr(report)


def test_the_plot_holds_a_line_a_method_and_the_tuned_point():
    report = bench.fusion_lab(*make(0.7, 0.6), **FEW)
    plot = report.plot()
    for name in ("RRF k=5", "RRF k=60", "weighted", "distribution"):
        (line,) = plot.select(name=name)
        assert line.data_source.data["x"].tolist() == [0.25, 0.5, 0.75]
    (tuned,) = plot.select(name="tuned")
    assert tuned.data_source.data["y"] == [report.held_out["mrr@10"]]
    assert "<iframe" in plot._repr_html_()


def test_three_branches_are_swept_over_all_shares():
    data, branches = make(0.7, 0.6)
    branches["other"] = branches["text"][::-1]
    report = bench.fusion_lab(data, branches, methods=["rrf"], rrf_ks=[60], weight_steps=5)
    shares = [tuple(s["weights"].values()) for s in report.settings]
    assert len(set(shares)) == 1 + 6
    assert all(sum(share) == pytest.approx(1, abs=1e-5) and min(share) > 0 for share in shares)
    report.plot()


def test_branches_of_a_data_set_are_searched_exactly():
    data = bench.load("perlfaq")
    vector, text = bench.vector_branch(data, 5), bench.text_branch(data, 5)
    rows, distances = data.truth(5)
    assert vector[7][0] == [data.ids[row] for row in rows[7]]
    assert vector[7][1] == pytest.approx((1 - distances[7]).tolist())
    assert len(text) == len(data.query_ids) and len(text[0][0]) == 5
    tuned = bench.fusion_lab(
        data, {"vector": vector, "text": text}, methods=["weighted"], resamples=500
    )
    # What Shows asks for: with the shipped vectors, at least as good as they alone.
    assert tuned.held_out["mrr@10"] >= tuned.values["mrr@10"][0] - 1e-9


def test_judge_holds_runs_against_each_other_query_by_query():
    data, branches = make(0.9, 0.3)
    runs = {name: as_run(data, found) for name, found in branches.items()}
    table = judge(data, runs, against="text", measures=["recall@5"], resamples=2000)
    assert table.loc["vector", "verdict"] == "better"
    assert (
        table.loc["text", ["difference", "difference_low", "difference_high"]].tolist() == [0] * 3
    )
    values = {n: trec.evaluate(r, data.qrels, ["mrr@10"]).values["mrr@10"] for n, r in runs.items()}
    gained = values["vector"] - values["text"]
    assert table.loc["vector", "difference"] == pytest.approx(gained.mean())
    assert table.loc["text", "mrr@10"] == pytest.approx(values["text"].mean())
    with pytest.raises(UnknownName):
        judge(data, runs, against="bm25")
    with pytest.raises(InvalidArgument, match="no judgements"):
        judge(bench.load("wordnet2k"), runs)


def test_intervals_are_those_of_a_percentile_bootstrap():
    values = np.random.default_rng(1).exponential(size=80)
    low, high = bootstrap(values, resamples=20_000)
    other = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    assert low == pytest.approx(other.low, abs=0.02)
    assert high == pytest.approx(other.high, abs=0.02)
    again = bootstrap(np.stack([values, -values], axis=1), resamples=20_000)
    assert again[0] == pytest.approx([low, -high], abs=1e-12)


def test_bad_input_of_the_lab_is_named():
    data, branches = make(0.7, 0.6)
    for bad, told in [
        ({"folds": 1}, "folds"),
        ({"folds": QUERIES + 1}, "folds"),
        ({"weight_steps": 1}, "weight_steps"),
        ({"weight_steps": 2000}, "settings"),
        ({"by": "bleu"}, "measure"),
        ({"methods": ["sum"]}, "sum"),
        ({"resamples": 0}, "resamples"),
        ({"confidence": 95}, "confidence"),
    ]:
        with pytest.raises(InvalidArgument, match=told):
            bench.fusion_lab(data, branches, **{**FEW, **bad})
    with pytest.raises(InvalidArgument, match="at least two"):
        bench.fusion_lab(data, {"text": branches["text"]})
    with pytest.raises(InvalidArgument, match="answers 59 queries; expected 60"):
        bench.fusion_lab(data, {**branches, "text": branches["text"][1:]})
    with pytest.raises(InvalidArgument, match="no judgements"):
        bench.fusion_lab(bench.load("lohelp300_es"), branches)
    with pytest.raises(InvalidArgument, match="expected vectors"):
        bench.fusion_lab(data)
    with pytest.raises(InvalidArgument, match="expected texts"):
        bench.text_branch(data)
    for values in ([1.0], [1.0, np.nan], np.zeros((2, 2, 2))):
        with pytest.raises(InvalidArgument):
            bootstrap(values)
