"""Segments: finished posting lists of a range of rows, and how they are made and merged.

A list is named by field, form and term number. A stem that only one word of the segment has
is found in the same documents as that word: then both names share one list, and nothing is
stored twice.
"""

from typing import NamedTuple

import numpy as np

from luma_lab.index.rows import read_only
from luma_lab.kernels.bm25 import FEW_ROWS, FORM_BITS, KEY_BITS
from luma_lab.kernels.places import (
    copy_kept_places,
    count_kept_places,
    measure_places,
    pack_places,
)
from luma_lab.kernels.postings import (
    WINDOW,
    bake_parts,
    copy_kept,
    count_kept,
    count_postings,
    fill_places,
    fill_postings,
    window_bounds,
)

MANY_COUNTS = np.iinfo(np.uint16).max


class Forms(NamedTuple):
    """What the words of a vocabulary are found by beside themselves.

    table : int32 array of shape (n_words, count)
        Term number of each form, exact first; of shape (0, 0) when there is no other form.
    """

    table: np.ndarray
    count: int


class Baked(NamedTuple):
    """The counts of a segment weighed for certain average lengths, see `kernels.postings`."""

    averages: tuple
    parts: np.ndarray
    window_slots: np.ndarray
    window_starts: np.ndarray
    window_tops: np.ndarray


class Segment(NamedTuple):
    """Posting lists of the rows from `first_row` on; its own rows count from 0.

    keys : int64 array of shape (n_keys,)
        ``(field << FORM_BITS | form) << KEY_BITS | term``, ascending.
    lists : int32 array of shape (n_keys,)
    starts : int64 array of shape (n_lists + 1,)
    rows : int32 array of shape (n_postings,)
    counts : uint16 (or int32) array of shape (n_postings,)
    field_ends : int64 array of shape (n_fields,)
        Lists up to the end of each field.
    lengths : int32 array of shape (n_fields, total_rows)
    posted_rows : int
        Rows that were live when it was made.
    place_starts, places : int64 array of shape (n_lists,), uint8 array
        Where the tokens of exact forms stand, see `kernels.places`; of shape (0,) when not kept.
    """

    first_row: int
    posted_rows: int
    keys: np.ndarray
    lists: np.ndarray
    starts: np.ndarray
    rows: np.ndarray
    counts: np.ndarray
    field_ends: np.ndarray
    lengths: np.ndarray
    place_starts: np.ndarray
    places: np.ndarray

    @property
    def total_rows(self):
        """Rows of its range, the deleted ones included."""
        return self.lengths.shape[1]

    @property
    def stop_row(self):
        """The row behind its last."""
        return self.first_row + self.total_rows

    def list_of(self, key):
        """Return the number of a key's list, -1 if there is none."""
        place = int(np.searchsorted(self.keys, key))
        found = place < len(self.keys) and self.keys[place] == key
        return int(self.lists[place]) if found else -1

    def bake(self, averages, model):
        """Return the `Baked` counts for average lengths, one a field."""
        parts = np.empty(len(self.rows), np.float32)
        first = 0
        for field, average in enumerate(averages):
            stop = int(self.starts[self.field_ends[field]])
            norms = model.norms(self.lengths[field], average)
            bake_parts(
                self.rows, self.counts, first, stop, norms, model.kind, model.k1, model.delta, parts
            )
            first = stop
        parts = read_only(parts)
        n_lists, slots = len(self.starts) - 1, np.empty(0, np.int64)
        window_slots = np.full(n_lists, -1, np.int32)
        windows = -(-self.total_rows // WINDOW)
        if self.total_rows >= FEW_ROWS:
            slots = np.flatnonzero(np.diff(self.starts) >= windows)
            window_slots[slots] = np.arange(len(slots), dtype=np.int32)
        starts = np.empty((len(slots), windows + 1), np.int64)
        tops = np.empty((len(slots), windows), np.float32)
        window_bounds(self.starts, self.rows, parts, slots, starts, tops)
        return Baked(tuple(averages), parts, *map(read_only, (window_slots, starts, tops)))


class ListByList:
    """A segment baked only where queries look, for while average lengths keep changing.

    Threads may bake one list at the same time: they write the same numbers.
    """

    def __init__(self, segment, averages, model):
        self._segment, self._model = segment, model
        self._norms = [
            model.norms(lengths, average)
            for lengths, average in zip(segment.lengths, averages, strict=True)
        ]
        self._parts = np.empty(len(segment.rows), np.float32)
        self._done = np.zeros(len(segment.starts) - 1, bool)
        self.postings_done = 0
        nowhere = np.full(len(self._done), -1, np.int32)
        none = np.empty((0, 0), np.int64), np.empty((0, 0), np.float32)
        arrays = map(read_only, (self._parts, nowhere, *none))
        self.baked = Baked(tuple(averages), *arrays)

    def bake(self, lists):
        """Bake these lists, unless they are."""
        segment, model = self._segment, self._model
        for item in lists[~self._done[lists]].tolist():
            start, stop = int(segment.starts[item]), int(segment.starts[item + 1])
            field = int(np.searchsorted(segment.field_ends, item, "right"))
            bake_parts(
                segment.rows, segment.counts, start, stop, self._norms[field], model.kind,
                model.k1, model.delta, self._parts,
            )  # fmt: skip
            self._done[item] = True
            self.postings_done += stop - start


def term_keys(field, form, terms):
    """Return the int64 keys of an array of terms."""
    return ((np.int64(field) << FORM_BITS | form) << KEY_BITS) | np.asarray(terms, np.int64)


class _Plan(NamedTuple):
    """The lists of one field: per form its terms, their lists, and the terms of lists to make."""

    terms: list
    lists: list
    made: list


def _plan(terms, forms):
    """Return which forms of `terms` (ascending word numbers) need lists of their own."""
    total = len(terms)
    own = np.arange(total)
    plan = _Plan([terms], [own], [terms])
    before, sizes_before = own, np.ones(total, np.int64)  # groups of the form before
    for names in forms.table.T[1:]:
        ids, first, group, sizes = np.unique(
            names[terms], return_index=True, return_inverse=True, return_counts=True
        )
        # A group of the same words as one of the form before shares its list.
        there = before[first]
        strangers = np.bincount(group[before != there[group]], minlength=len(ids))
        new = (strangers > 0) | (sizes != sizes_before[there])
        lists = plan.lists[-1][there]
        lists[new] = total + np.arange(np.count_nonzero(new))
        plan.terms.append(ids)
        plan.lists.append(lists)
        plan.made.append(ids[new])
        total += np.count_nonzero(new)
        before, sizes_before = group, sizes
    return plan


def build_segment(first_row, fields, forms, with_places):
    """Return the `Segment` of documents given as tokens.

    Parameters
    ----------
    fields : list of (tokens, ends, lengths)
        Per field: int32 word numbers (negative ones are not posted), tokens up to the end of
        each document, tokens that count in its length.
    forms : list of Forms
        Of each field.
    with_places : bool
    """
    made = [
        _invert(tokens, ends, of_field, with_places)
        for (tokens, ends, _), of_field in zip(fields, forms, strict=True)
    ]
    lengths = np.stack([lengths for _, _, lengths in fields]).astype(np.int32)
    return _assembled(first_row, lengths.shape[1], made, lengths, with_places)


def _invert(tokens, ends, forms, with_places):
    """Return (plan, list sizes, rows, counts, place sizes, places) of one field."""
    top = int(tokens.max(initial=-1)) + 1
    words = None
    if 4 * len(tokens) < top:
        # Few tokens of a large vocabulary: number their words afresh, not to sweep it all.
        words, tokens = np.unique(tokens, return_inverse=True)
        tokens = (tokens - int(words[0] < 0)).astype(np.int32)
        words = words[words >= 0]
        top = len(words)
    sizes, rows, counts = _fill(tokens, ends, top)
    present = np.flatnonzero(sizes)
    terms = present if words is None else words[present]
    plan = _plan(terms.astype(np.int32), forms)
    all_sizes, all_rows, all_counts = [sizes[present]], [rows], [counts]
    place_sizes, places = np.empty(0, np.int64), np.empty(0, np.uint8)
    if with_places:
        place_sizes, places = _packed_places(tokens, ends, sizes, counts)
        place_sizes = place_sizes[present]
    for form in range(1, forms.count):
        names, made = forms.table[:, form], plan.made[form]
        spot = np.searchsorted(made, names[terms])
        wanted = spot < len(made)
        wanted[wanted] = made[spot[wanted]] == names[terms[wanted]]
        local = np.full(top + 1, -1, np.int32)  # its last entry serves tokens of -1
        local[present[wanted]] = spot[wanted]
        for pile, part in zip(
            (all_sizes, all_rows, all_counts), _fill(local[tokens], ends, len(made)), strict=True
        ):
            pile.append(part)
    joined = map(np.concatenate, (all_sizes, all_rows, all_counts))
    return plan, *joined, place_sizes, places


def _packed_places(tokens, ends, sizes, counts):
    """Return (bytes of the places of each term, the places packed)."""
    totals = np.bincount(tokens[tokens >= 0], minlength=len(sizes))
    spread = np.empty(int(totals.sum()), np.int32)
    fill_places(tokens, ends, np.cumsum(totals) - totals, spread)
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    place_sizes = np.empty(len(sizes), np.int64)
    measure_places(starts, counts, spread, place_sizes)
    packed = np.empty(int(place_sizes.sum()), np.uint8)
    pack_places(starts, counts, spread, packed)
    return place_sizes, packed


def _fill(tokens, ends, top):
    sizes, last = np.zeros(top, np.int64), np.full(top, -1, np.int32)
    count_postings(tokens, ends, last, sizes)
    total = int(sizes.sum())
    rows, counts = np.empty(total, np.int32), np.empty(total, np.int32)
    last[:] = -1
    fill_postings(tokens, ends, np.cumsum(sizes) - sizes, last, rows, counts)
    return sizes, rows, counts


def _assembled(first_row, posted_rows, made, lengths, with_places):
    """Return the segment of what fields are made of, lists numbered through."""
    keys, lists, field_ends, place_sizes = [], [], [], []
    first = 0
    for field, (plan, sizes, _, _, places_of, _) in enumerate(made):
        for form, terms in enumerate(plan.terms):
            keys.append(term_keys(field, form, terms))
            lists.append(plan.lists[form] + first)
        first += len(sizes)
        field_ends.append(first)
        if with_places:
            place_sizes.append(np.pad(places_of, (0, len(sizes) - len(places_of))))
    sizes, rows, counts, places = (
        np.concatenate([field[place] for field in made]) for place in (1, 2, 3, 5)
    )
    if counts.max(initial=0) <= MANY_COUNTS:
        counts = counts.astype(np.uint16)
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    place_starts = np.empty(0, np.int64)
    if with_places:
        of_lists = np.concatenate(place_sizes).astype(np.int64)
        place_starts = np.cumsum(of_lists) - of_lists
    arrays = (
        np.concatenate(keys), np.concatenate(lists).astype(np.int32), starts, rows, counts,
        np.array(field_ends, np.int64), lengths, place_starts, places,
    )  # fmt: skip
    return Segment(first_row, posted_rows, *map(read_only, arrays))


def merge_segments(segments, live, forms, with_places):
    """Return one segment of neighbouring ones, without the postings of deleted rows.

    live : bool array over all rows of the index
    """
    first, stop = segments[0].first_row, segments[-1].stop_row
    lengths = np.zeros((segments[0].lengths.shape[0], stop - first), np.int32)
    lives = [read_only(live[s.first_row : s.stop_row]) for s in segments]
    kept = []
    for segment, alive in zip(segments, lives, strict=True):
        at = segment.first_row - first
        lengths[:, at : at + segment.total_rows] = segment.lengths * alive
        sizes = np.zeros(len(segment.starts) - 1, np.int64)
        count_kept(segment.starts, segment.rows, alive, sizes)
        kept.append(sizes)
    made = [
        _merge_field(field, segments, lives, kept, of_field, with_places)
        for field, of_field in enumerate(forms)
    ]
    posted = int(np.count_nonzero(live[first:stop]))
    return _assembled(first, posted, made, lengths, with_places)


def renumbered(segment, live):
    """Return a segment that holds no deleted row, its rows numbered from 0 without gaps.

    live : bool array over all rows of the index
    """
    alive = live[segment.first_row : segment.stop_row]
    numbers = (np.cumsum(alive) - 1).astype(np.int32)
    return segment._replace(
        first_row=int(np.count_nonzero(live[: segment.first_row])),
        rows=read_only(numbers[segment.rows]),
        lengths=read_only(np.ascontiguousarray(segment.lengths[:, alive])),
    )


def _merge_field(field, segments, lives, kept, forms, with_places):
    """Return what :func:`_invert` does, of one field of several segments."""
    sources = [
        _named_lists(field, 0, segment, sizes)
        for segment, sizes in zip(segments, kept, strict=True)
    ]
    terms = np.unique(np.concatenate([terms for terms, _ in sources]))
    plan = _plan(terms.astype(np.int32), forms)
    sizes = np.zeros(sum(map(len, plan.made)), np.int64)
    targets, first = [], 0
    for form, wanted in enumerate(plan.made):
        for segment, lists_kept in zip(segments, kept, strict=True):
            names, lists = _named_lists(field, form, segment, lists_kept)
            spot = np.searchsorted(wanted, names)
            spot[spot == len(wanted)] = 0
            hit = wanted[spot] == names if len(wanted) else np.zeros(len(names), bool)
            into = np.full(len(segment.starts) - 1, -1, np.int64)
            into[lists[hit]] = first + spot[hit]
            targets.append(into)
            np.add.at(sizes, first + spot[hit], lists_kept[lists[hit]])
        first += len(wanted)
    total = int(sizes.sum())
    rows, counts = np.empty(total, np.int32), np.empty(total, np.int32)
    cursors, base = np.cumsum(sizes) - sizes, segments[0].first_row
    for place, into in enumerate(targets):
        segment, alive = segments[place % len(segments)], lives[place % len(segments)]
        copy_kept(
            segment.starts, segment.rows, segment.counts, alive, segment.first_row - base, into,
            cursors, rows, counts,
        )  # fmt: skip
    place_sizes, places = np.empty(0, np.int64), np.empty(0, np.uint8)
    if with_places:
        place_sizes, places = _merge_places(segments, lives, targets, len(plan.made[0]))
    return plan, sizes, rows, counts, place_sizes, places


def _merge_places(segments, lives, targets, n_terms):
    sizes = np.zeros(n_terms, np.int64)
    parts = [
        (s.starts, s.rows, s.counts, s.place_starts, s.places, alive, into)
        for s, alive, into in zip(segments, lives, targets, strict=False)
    ]
    for part in parts:
        count_kept_places(*part, sizes)
    places, cursors = np.empty(int(sizes.sum()), np.uint8), np.cumsum(sizes) - sizes
    for part in parts:
        copy_kept_places(*part, cursors, places)
    return sizes, places


def _named_lists(field, form, segment, sizes):
    """Return (terms, lists) of a field's form that still hold a live row."""
    low, high = np.searchsorted(
        segment.keys, [term_keys(field, form, 0), term_keys(field, form + 1, 0)]
    )
    lists = segment.lists[low:high]
    alive = sizes[lists] > 0
    terms = (segment.keys[low:high] & ((1 << KEY_BITS) - 1))[alive]
    return terms.astype(np.int32), lists[alive]
