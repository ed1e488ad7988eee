"""What a query's clauses find in an index: terms with their rows and counts.

This is the way of queries with syntax, and of explanations: every term is a list of its own,
whether it is stored (a word, a stem) or made for the query (a phrase, all words of a prefix).
A made term counts as one word: its df are the documents that hold any of its words.
"""

from collections import Counter
from typing import NamedTuple

import numpy as np

from luma_lab.errors import InvalidArgument
from luma_lab.index.analyzer import cut_words
from luma_lab.index.rows import read_only
from luma_lab.index.segment import term_keys
from luma_lab.index.textquery import MUST, MUST_NOT, PHRASE, PREFIX, SHOULD, WORD
from luma_lab.kernels.bm25 import EXHAUSTIVE, sum_lists
from luma_lab.kernels.places import keep_common, unpack_spots
from luma_lab.kernels.postings import bake_parts

MOST_EXPANSIONS = 1024
FORM_NAMES = ("exact", "stem", "folded")
NOTHING = (np.empty(0, np.int32), np.empty(0, np.uint16))


class Term(NamedTuple):
    """Something looked for in one field.

    word : str
        The part of the query it comes from.
    form, text : str
        Which form of it, and how that is written.
    share : float
        Its part of the word's weight, the field's weight and how often the query says it
        multiplied in.
    lists : list of (rows, counts)
        Per segment: rows count from the segment's first, deleted ones included.
    df : int
        Live documents.
    """

    word: str
    form: str
    text: str
    field: int
    share: float
    lists: list
    df: int


class Terms:
    """Finds the terms of clauses in a `View`.

    Parameters
    ----------
    view : View
    languages : Languages
    field_weights : sequence of float
    """

    def __init__(self, view, languages, field_weights, with_places):
        self.view, self.languages = view, languages
        self.field_weights, self.with_places = field_weights, with_places

    def of_tokens(self, tokens):
        """Return one list of terms per distinct token, which is looked for as it is."""
        found = []
        for token, times in Counter(tokens).items():
            found.append(self._as_written(token, token, times))
        return found

    def of_clause(self, clause):
        """Return one list of terms for each thing the clause asks for."""
        if clause.kind == WORD:
            words = Counter(word for word, _, _ in cut_words(clause.text))
            found = [self._of_word(word, times) for word, times in words.items()]
        elif clause.kind == PHRASE:
            found = [self._of_phrase(clause)]
        else:
            found = [self._of_expansion(clause)]
        return [terms for terms in found if terms is not None]

    def _of_word(self, word, times):
        terms, stopped = [], True
        for group in self.languages.groups:
            forms = group.lexicon.analyzer.forms(word)
            if forms:
                stopped = False
                terms += self._of_forms(group, word, forms, group.weights, times)
        return None if stopped else terms

    def _as_written(self, word, text, times):
        terms = []
        for group in self.languages.groups:
            terms += self._of_forms(group, word, (text,), (1.0,), times)
        return terms

    def _of_forms(self, group, word, forms, form_weights, times):
        terms, numbers = [], group.lexicon.term_numbers(forms)
        for field in group.fields:
            weight, carried = self.field_weights[field], 0.0
            for form, (number, share) in enumerate(zip(numbers, form_weights, strict=True)):
                share, carried = share + carried, 0.0
                lists = [self._stored(s, term_keys(field, form, number)) for s in self._segments]
                df = self._df(lists) if number >= 0 else 0
                if df == 0:
                    carried = share
                elif weight > 0:
                    name = FORM_NAMES[form]
                    terms.append(
                        Term(word, name, forms[form], field, times * share * weight, lists, df)
                    )
        return terms

    def _of_expansion(self, clause):
        words = [word for word, _, _ in cut_words(clause.text)]
        if not words:
            return None
        if len(words) > 1:
            raise InvalidArgument(
                f"{clause.text!r} before the {'*' if clause.kind == PREFIX else '~'} of a query "
                f"is {len(words)} words: expected one"
            )
        terms, numbers = [], {}
        for group in self.languages.groups:
            table = group.lexicon.words
            find = table.with_prefix if clause.kind == PREFIX else table.near
            numbers |= dict.fromkeys(group.fields, find(words[0]))
        for field, weight in enumerate(self.field_weights):
            keys = term_keys(field, 0, numbers[field])
            self._check_expansions(clause, keys)
            lists = [self._united(segment, keys) for segment in self._segments]
            if weight > 0 and (df := self._df(lists)):
                terms.append(Term(clause.text, clause.kind, words[0], field, weight, lists, df))
        return terms

    def _check_expansions(self, clause, keys):
        live = set()
        for segment, whole in zip(self._segments, self.view.whole, strict=True):
            held = keys[np.isin(keys, segment.keys)]
            alive = self.view.rows_of(segment, self.view.live)
            live.update(
                key for key in held.tolist() if whole or alive[self._stored(segment, key)[0]].any()
            )
        if len(live) > MOST_EXPANSIONS:
            raise InvalidArgument(
                f"{clause.text!r} stands for {len(live)} words of the index: expected at most "
                f"{MOST_EXPANSIONS}; write more of the word"
            )

    def _of_phrase(self, clause):
        words = [word for word, _, _ in cut_words(clause.text)]
        if not words:
            return None
        if len(words) == 1:
            return self._as_written(clause.text, words[0], 1)
        if not self.with_places:
            raise InvalidArgument(
                f"the phrase {clause.text!r} needs the places of words: "
                "make the index with positions=True"
            )
        terms = []
        for field, weight in enumerate(self.field_weights):
            numbers = self.languages.of(field).words.number(words, grow=False)
            keys = term_keys(field, 0, numbers) if (numbers >= 0).all() else None
            lists = [NOTHING if keys is None else _phrase(s, keys) for s in self._segments]
            if weight > 0 and (df := self._df(lists)):
                text = " ".join(words)
                terms.append(Term(clause.text, PHRASE, text, field, weight, lists, df))
        return terms

    @property
    def _segments(self):
        return self.view.segments

    @staticmethod
    def _stored(segment, key):
        item = segment.list_of(key)
        if item < 0:
            return NOTHING
        part = slice(segment.starts[item], segment.starts[item + 1])
        return segment.rows[part], segment.counts[part]

    def _united(self, segment, keys):
        """Return the rows that hold any of the keys, with their counts summed."""
        lists = [self._stored(segment, key) for key in keys[np.isin(keys, segment.keys)].tolist()]
        if not lists:
            return NOTHING
        rows, place = np.unique(np.concatenate([rows for rows, _ in lists]), return_inverse=True)
        counts = np.bincount(place, np.concatenate([counts for _, counts in lists]))
        return rows, counts.astype(np.int32)

    def _df(self, lists):
        total = 0
        for segment, whole, (rows, _) in zip(self._segments, self.view.whole, lists, strict=True):
            live = self.view.live[segment.first_row : segment.stop_row]
            total += len(rows) if whole else int(np.count_nonzero(live[rows]))
        return total


def weigh_terms(view, terms):
    """Return the idf of each term, in float64."""
    n_forms = view.n_forms
    return [
        view.model.idf(view.live_count, term.df, view.floors[term.field * n_forms + _form(term)])
        for term in terms
    ]


def _form(term):
    return FORM_NAMES.index(term.form) if term.form in FORM_NAMES else 0


def evaluate(view, asked, allowed, heap, sums, check=None):
    """Put the best rows of a query with signs into `heap`; return (its size, absent terms' sum).

    Parameters
    ----------
    asked : list of (sign, list of Term)
    allowed : bool array of shape (total_rows,)
    check : callable, optional
        Called before each term; what it raises ends the search.
    """
    check = check or (lambda: None)
    wanted = [term for sign, terms in asked if sign != MUST_NOT for term in terms]
    if not wanted:
        return 0, 0.0
    weights = [
        term.share * idf for term, idf in zip(wanted, weigh_terms(view, wanted), strict=True)
    ]
    model, size = view.model, 0
    for place, segment in enumerate(view.segments):
        here = allowed[segment.first_row : segment.stop_row].copy()
        for sign, terms in asked:
            if sign == SHOULD:
                continue
            holds = np.zeros(len(here), bool)
            check()
            for term in terms:
                # -ano must not take años away, which it resembles in the weakest form only.
                if sign == MUST or term.form != FORM_NAMES[2]:
                    holds[term.lists[place][0]] = True
            here &= holds if sign == MUST else ~holds
        sizes = [len(term.lists[place][0]) for term in wanted]
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])
        parts = np.empty(starts[-1], np.float32)
        rows = np.empty(starts[-1], np.int32)
        for item, term in enumerate(wanted):
            check()
            own, counts = term.lists[place]
            cut = slice(starts[item], starts[item + 1])
            rows[cut] = own
            norms = model.norms(segment.lengths[term.field], view.averages[term.field])
            bake_parts(
                read_only(own), read_only(np.asarray(counts, np.int32)), 0, len(own), norms,
                model.kind, model.k1, model.delta, parts[cut],
            )  # fmt: skip
        no_slots = read_only(np.full(len(wanted), -1, np.int32))
        none = np.empty((0, 0), np.int64), np.empty((0, 0), np.float32)
        size = sum_lists(
            EXHAUSTIVE, np.arange(len(wanted)), np.array(weights, np.float32), int(starts[-1]),
            read_only(starts), read_only(rows), read_only(parts), no_slots,
            *map(read_only, none), read_only(here), False, segment.first_row,
            segment.total_rows, sums, heap, size,
        )  # fmt: skip
    return size, sum(weights) * model.absent


def _phrase(segment, keys):
    """Return the rows in which the keys' words stand one behind the other, and how often."""
    items = [segment.list_of(key) for key in keys.tolist()]
    if min(items) < 0:
        return NOTHING
    heads = None
    sizes = segment.starts[1:][items] - segment.starts[items]
    for step in np.argsort(sizes, kind="stable").tolist():  # the rarest word first
        item = items[step]
        part = slice(segment.starts[item], segment.starts[item + 1])
        rows, counts = segment.rows[part], segment.counts[part]
        spots = np.empty(int(counts.sum(dtype=np.int64)), np.int64)
        first = segment.place_starts[item]
        spots = spots[: unpack_spots(rows, counts, segment.places, first, step, spots)]
        heads = spots if heads is None else heads[: keep_common(heads, spots)]
    rows, counts = np.unique(heads >> 32, return_counts=True)
    return rows.astype(np.int32), counts.astype(np.int32)
