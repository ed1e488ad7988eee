"""Fusion agrees with plain Python, orders ties by id, and refuses what makes no sense."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luma_lab.engine import fusion
from luma_lab.engine.fusion import Fused, Standing, distribution, fuse, rrf, weighted
from luma_lab.errors import InvalidArgument, UnknownName

FINITE = st.floats(-1e6, 1e6)
IDS = st.text("abcdé", min_size=1, max_size=2)


@st.composite
def branches(draw):
    made = {}
    for name in draw(st.sampled_from([("vector",), ("vector", "text"), ("a", "b", "c")])):
        ids = draw(st.lists(IDS, unique=True, max_size=12))
        scores = sorted(draw(st.lists(FINITE, min_size=len(ids), max_size=len(ids))), reverse=True)
        made[name] = (ids, scores)
    return made


@st.composite
def weighed(draw):
    made = draw(branches())
    weights = {name: draw(st.sampled_from([0, 0.3, 1, 2.5])) for name in made}
    if not any(weights.values()):
        weights[next(iter(weights))] = 1
    return made, weights


def names_in_order(hits):
    return [hit.id for hit in hits]


@settings(max_examples=150, deadline=None)
@given(weighed(), st.sampled_from([0, 1, 60, 1000]))
def test_rrf_is_the_sum_of_reciprocal_ranks(given_branches, k):
    found, weights = given_branches
    exact = {}
    for name, (ids, _) in found.items():
        for rank, id in enumerate(ids, 1):
            if weights[name]:
                share = Fraction(float(weights[name]) * (1 / (k + rank)))
                exact[id] = exact.get(id, 0) + share
    expected = sorted(exact, key=lambda id: (-float(exact[id]), id))
    hits = rrf(found, k=k, weights=weights)
    assert rrf(found, k=k, weights=weights, limit=3) == hits[:3]
    assert names_in_order(hits) == expected
    for hit in hits:
        assert hit.score == float(exact[hit.id])
        for name, standing in hit.branches.items():
            place = found[name][0].index(hit.id)
            assert standing == Standing(place + 1, found[name][1][place], weights[name])
        assert set(hit.branches) == {n for n, (ids, _) in found.items() if hit.id in ids}


@settings(max_examples=150, deadline=None)
@given(weighed())
def test_weighted_is_the_mean_of_scores_between_0_and_1(given_branches):
    found, weights = given_branches
    total = sum(weights.values())
    sums = {}
    for name, (ids, scores) in found.items():
        for id, score in zip(ids, scores, strict=True):
            if weights[name]:
                width = scores[0] - scores[-1]
                share = (score - scores[-1]) / width if width else 1
                sums[id] = sums.get(id, 0) + weights[name] * share / total
    hits = weighted(found, weights=weights)
    assert {hit.id: hit.score for hit in hits} == pytest.approx(sums, abs=1e-12)
    assert all(0 <= hit.score <= 1 + 1e-12 for hit in hits)
    assert hits == sorted(hits, key=lambda hit: (-hit.score, hit.id))


@settings(max_examples=100, deadline=None)
@given(st.lists(FINITE, min_size=1, max_size=20))
def test_the_distribution_maps_three_deviations_to_0_and_1(scores):
    scores = sorted(scores, reverse=True)
    shares = fusion.by_distribution(scores)
    mean, spread = np.mean(scores), np.std(scores)
    if spread > 1e-9 * max(map(abs, scores)):
        expected = np.clip((np.array(scores) - (mean - 3 * spread)) / (6 * spread), 0, 1)
        np.testing.assert_allclose(shares, expected, atol=1e-6)
    assert all(0 <= share <= 1 for share in shares)
    assert shares == sorted(shares, reverse=True)


def test_degenerate_branches_have_documented_scores():
    one = {"text": (["a"], [-7.0])}
    equal = {"text": (["a", "b"], [0.5, 0.5])}
    assert weighted(one)[0].score == 1 and distribution(one)[0].score == 0.5
    assert [h.score for h in weighted(equal)] == [1, 1]
    assert [h.score for h in distribution(equal)] == [0.5, 0.5]
    assert rrf({"vector": ([], []), "text": (["a"], [3])})[0].score == 1 / 61
    for method in fusion.METHODS:
        assert fuse({"vector": ([], []), "text": ([], [])}, method) == []


def test_huge_scores_do_not_overflow():
    top = 1.7e308
    assert [h.score for h in weighted({"t": ([1, 2, 3], [top, 0.0, -top])})] == [1, 0.5, 0]
    shares = [h.score for h in distribution({"t": ([1, 2, 3], [top, 0.0, -top])})]
    assert shares == sorted(shares, reverse=True) and shares[1] == pytest.approx(0.5)


def test_ties_go_by_id_whatever_the_order_of_branches():
    first = {"vector": (["b", "a"], [2, 1]), "text": (["a", "b"], [2, 1])}
    turned = dict(reversed(first.items()))
    for method in fusion.METHODS:
        assert names_in_order(fuse(first, method)) == ["a", "b"]
        assert names_in_order(fuse(turned, method)) == ["a", "b"]


def test_arrays_and_whole_numbers_are_ids_too():
    hits = rrf({"vector": (np.array([7, 3]), np.array([0.5, 0.25], np.float32))}, k=0)
    assert hits[0] == Fused(7, 1.0, {"vector": Standing(1, 0.5, 1.0)})
    assert type(hits[0].id) is int


def test_a_branch_of_weight_0_adds_nothing_but_is_shown():
    found = {"vector": (["a", "b"], [2, 1]), "text": (["c", "b"], [9, 8])}
    for method in fusion.METHODS:
        hits = fuse(found, method, weights={"text": 0})
        assert names_in_order(hits) == ["a", "b"]
        assert hits[1].branches["text"] == Standing(2, 8.0, 0.0)


@pytest.mark.parametrize(
    ("weights", "named"),
    [
        ({"text": -1}, "'text' is -1"),
        ({"text": math.nan}, "'text' is nan"),
        ({"text": math.inf}, "'text' is inf"),
        ({"text": "2"}, "'text' is '2'"),
        ({"text": True}, "'text' is True"),
        ({"vector": 0, "text": 0}, "all weights are 0"),
        ([1, 1], "expected a dict"),
        ({"txt": 1}, "did you mean 'text'"),
    ],
)
def test_bad_weights_are_named(weights, named):
    found = {"vector": (["a"], [1]), "text": (["a"], [1])}
    for method in fusion.METHODS:
        with pytest.raises(InvalidArgument, match=named):
            fuse(found, method, weights=weights)


@pytest.mark.parametrize(
    ("branch", "named"),
    [
        ((["a", "a"], [2, 1]), "id 'a' twice"),
        ((["a"], [2, 1]), "1 ids and 2 scores"),
        ((["a", "b"], [1, 2]), "not best first: rank 2"),
        ((["a"], [math.nan]), "score nan"),
        ((["a"], ["x"]), "not .ids, scores"),
        (["a"], "not .ids, scores"),
    ],
)
def test_bad_branches_are_named(branch, named):
    with pytest.raises(InvalidArgument, match=named):
        rrf({"text": branch})


def test_bad_methods_and_constants_are_named():
    found = {"text": (["a"], [1])}
    with pytest.raises(UnknownName, match="did you mean 'rrf'"):
        fuse(found, "rff")
    for k in (-1, math.nan, math.inf, "60", True, None):
        with pytest.raises(InvalidArgument, match="the k of rrf"):
            rrf(found, k=k)
    for nothing in ({}, None, []):
        with pytest.raises(InvalidArgument, match="branches is"):
            rrf(nothing)
