"""Full text: BM25 over flat posting lists, exact after every change."""

from collections import Counter, deque
from typing import NamedTuple

import numpy as np

from luma_lab.errors import InvalidArgument, UnknownName
from luma_lab.index.analyzer import cut_words
from luma_lab.index.explaining import explained
from luma_lab.index.highlight import highlighted
from luma_lab.index.languages import Languages
from luma_lab.index.letters import word_table
from luma_lab.index.protocol import check_integer, check_k, check_mask
from luma_lab.index.rows import read_only
from luma_lab.index.scoring import Model
from luma_lab.index.shelf import Shelf
from luma_lab.index.terms import Terms, evaluate
from luma_lab.index.textchanges import TextChanges
from luma_lab.index.textquery import FUZZY, PREFIX, SHOULD, clauses_of, has_syntax
from luma_lab.index.texts import check_clauses, check_fields, check_many, check_tokens
from luma_lab.kernels import bm25

WAYS = {
    "auto": bm25.AUTO,
    "touched": bm25.TOUCHED,
    "windowed": bm25.WINDOWED,
    "exhaustive": bm25.EXHAUSTIVE,
}


class TextHits(NamedTuple):
    """Answer of a text search: only what matched, best first; ties go to the lower row.

    Attributes
    ----------
    rows : int64 array of shape (found,), found <= k
    scores : float32 array of shape (found,), descending
    """

    rows: np.ndarray
    scores: np.ndarray


class _Asked(NamedTuple):
    """A plain query to the fields of one language, as `kernels.bm25.weigh` takes it.

    keys : int64 array
        Of each word in each field in each form.
    """

    keys: np.ndarray
    times: np.ndarray
    statistics: np.ndarray
    n_forms: int


class TextIndex(TextChanges):
    """BM25 over texts, with statistics that are exact after any additions and deletions.

    Parameters
    ----------
    language : str, default "en"
        "none", or a Snowball language ("en", "es", "de", ...): see `Analyzer`.
    variant : {"lucene", "robertson", "atire", "bm25+", "bm25l", "bm25l-rank", "okapi"}
        See `luma_lab.index.scoring`.
    k1, b, delta : float
    fields : dict of str to float or dict, optional
        Names and weights: documents are then dicts of them, and the score of a document is the
        weighted sum over its fields. Default: documents are texts. A field with a language of
        its own is given as ``{"weight": 2.0, "language": "es"}``.
    stop_words : bool, iterable of str, or dict of them by language, default False
        Words left out; True takes the list shipped for the language.
    positions : bool, default False
        Keep where words stand, which phrase queries need.
    deferred : bool, default False
        Leave it to :meth:`settle`, which another thread may call, to merge what was added.

    Notes
    -----
    A word counts in up to three forms whose shares add up to 1: as written, stemmed, and
    stemmed with ñ as n. A form that no document holds hands its share to the next weaker one.
    With language "none" there is one form, and scores are plain BM25.

    Searching is thread-safe, also while one thread changes the index. A row keeps its number
    for good; numbers of deleted rows are not given out again.

    Examples
    --------
    >>> index = TextIndex("es").build(["Las campañas", "una campana", "dos años"])
    >>> index.search("campaña").rows.tolist(), index.search("año").rows.tolist()
    ([0, 1], [2])
    """

    KIND = "text"

    def __init__(
        self, language="en", variant="lucene", k1=1.2, b=0.75, delta=0.5, *, fields=None,
        stop_words=False, positions=False, deferred=False,
    ):  # fmt: skip
        self.model = Model(variant, k1, b, delta)
        self.fields, of_fields = check_fields(fields)
        if not isinstance(positions, bool):
            raise InvalidArgument(f"positions={positions!r}: expected True or False")
        self.positions = positions
        self._deferred = deferred
        self._single = fields is None
        self._field_weights = np.array(list(self.fields.values()))
        self._languages = Languages(language, of_fields, stop_words)
        self._shelf = self._empty_shelf()
        self._built = False
        self._sums = deque()  # append and pop are atomic

    def _empty_shelf(self):
        return Shelf(self._languages, self.model, len(self.fields), self.positions, self._deferred)

    @property
    def language(self):
        """Short name of the language."""
        return self._languages.main.analyzer.language

    @property
    def field_languages(self):
        """Short name of each field's language, in order."""
        return list(self._languages.of_fields)

    def search(self, query, k=10, *, mask=None, syntax=True, way="auto", check=None):
        """Find the `k` best rows of a query.

        Parameters
        ----------
        query : str or list of str
            A string may use the syntax of `luma_lab.index.textquery`. A list holds tokens, to be
            found as they are. A word said twice counts twice. A query without words, or of
            stop words only, or of nothing but words that must not be there, finds nothing.
        k : int
        mask : bool array of shape (total_rows,), optional
            Only these rows may be answered.
        syntax : bool
            False takes signs and quotes of a string as spaces.
        way : {"auto", "touched", "windowed", "exhaustive"}
            How to sum; all give the same rows. Not for queries with syntax.
        check : callable, optional
            Called between the steps of a query with syntax; what it raises ends the search.

        Returns
        -------
        TextHits

        Raises
        ------
        IndexNotBuilt, InvalidArgument, UnknownName
        """
        view, k = self._view(), check_k(k)
        if way not in WAYS:
            raise UnknownName("way", way, WAYS)
        allowed = None
        if mask is not None:
            allowed = view.live & check_mask(mask, view.total_rows)
        heap = np.empty(min(k, max(1, view.total_rows)), np.int64)
        scores = np.empty(len(heap), np.float32)
        sums = self._take_sums(view)
        try:
            if isinstance(query, str) and syntax and has_syntax(query):
                marks = view.live if allowed is None else allowed
                asked = self._clauses(view, query, check=check)
                size, constant = evaluate(view, asked, marks, heap, sums, check)
                bm25.unpack(heap, size, constant, scores)
            elif len(view.segments) == 1 and view.complete and len(self._languages.groups) == 1:
                size = self._answer(view, query, allowed, WAYS[way], sums, heap, scores)
            else:
                size = self._gather(view, query, allowed, WAYS[way], sums, heap, scores)
        finally:
            self._sums.append(sums)
        return TextHits(heap[:size], scores[:size])

    def search_many(self, queries, k=10, *, mask=None, syntax=True):
        """Search each of a list of queries; return a list of `TextHits`."""
        if isinstance(queries, str):
            raise InvalidArgument("queries is a string: expected a list of queries")
        return [self.search(query, k, mask=mask, syntax=syntax) for query in queries]

    def explain(self, query, row, *, syntax=True):
        """Return the `Explanation` of a row's score, computed in float64.

        Raises
        ------
        IndexNotBuilt, InvalidArgument
            The row is not live, or as :meth:`search` raises.
        """
        view = self._view()
        row = check_integer("row", row, 0, view.total_rows - 1)
        if not view.live[row]:
            raise InvalidArgument(f"row {row} is deleted: nothing of it is searched")
        asked = self._clauses(view, query, syntax)
        return explained(view, asked, row, list(self.fields), self._take_sums(view))

    def analyze(self, text, field=None):
        """Return the `Token`s of a text: each word as written, its place, and its forms.

        Parameters
        ----------
        text : str
        field : str, optional
            The one whose language is taken; by default the index's.
        """
        if not isinstance(text, str):
            raise InvalidArgument(f"text is a {type(text).__name__}: expected a string")
        return self._analyzer(field).analyze(text)

    def _analyzer(self, field):
        if field is None:
            return self._languages.main.analyzer
        if field not in self.fields:
            raise UnknownName("field", field, self.fields)
        return self._languages.of(list(self.fields).index(field)).analyzer

    def highlight(self, query, text, *, size=200, tag="mark", field=None):
        """Return the `Snippet` of a text that shows best what a query finds in it.

        Parameters
        ----------
        query, text : str
        size : int
            Characters of the snippet, about; 0 stands for the whole text.
        tag : str
            HTML element round each match.
        field : str, optional
            The one whose language is taken; by default the index's.
        """
        for name, value in (("query", query), ("text", text)):
            if not isinstance(value, str):
                raise InvalidArgument(f"{name} is a {type(value).__name__}: expected a string")
        size = check_integer("size", size, 0)
        return highlighted(self._analyzer(field), query, text, size, tag)

    @property
    def total_rows(self):
        """Rows a mask has entries for."""
        return len(self._shelf.contents.live)

    @property
    def live(self):
        """Which rows are not deleted: bool array of shape (total_rows,)."""
        return self._shelf.contents.live

    def __len__(self):
        return self._shelf.contents.live_count

    @property
    def words(self):
        """Number of distinct words the index has met, as written."""
        return self._languages.word_count

    @property
    def postings(self):
        """Number of postings, those of deleted rows included."""
        return sum(len(segment.rows) for segment in self._shelf.contents.segments)

    @property
    def segments(self):
        """Number of segments a search visits now."""
        return len(self._shelf.view().segments)

    def __repr__(self):
        return (
            f"TextIndex(language={self.language!r}, variant={self.model.variant!r}, "
            f"rows={len(self)})"
        )

    def _answer(self, view, query, allowed, way, sums, heap, scores):
        """Answer a plain query from a view of one segment; return how many rows are found."""
        whole, live = view.whole[0], view.kernel_arrays[0][-1]
        marks = live if allowed is None else read_only(allowed)
        if view.fixed is None:
            self._fix(view)
        rest = marks, whole and allowed is None, *view.only_range, sums, heap, scores
        fixed, arrays = view.fixed
        if isinstance(query, str) and query:
            lexicon = self._languages.groups[0].lexicon
            words = lexicon.words
            text = np.frombuffer(words.encoded(query), np.uint8)
            forms = lexicon.query_forms
            size = bm25.answer_text(
                text, word_table(), *words.table, forms, *fixed, way, *arrays, *rest
            )
            if size >= 0:
                return size
        (asked,) = self._ask(view, query)
        _, n_forms, documents, kind, absent = fixed
        return bm25.answer(
            asked.keys, asked.times, documents, kind, asked.statistics, n_forms, absent, way,
            *arrays, *rest,
        )  # fmt: skip

    def _fix(self, view):
        """Keep with a view of one segment what kernels take of it at every query."""
        numbers = view.live_count, self.model.idf_kind, self.model.absent
        view.only_range = view.segments[0].first_row, view.segments[0].total_rows
        arrays = (*view.kernel_arrays[0], view.whole[0])
        view.fixed = (self._statistics(view)[0], self._languages.form_count, *numbers), arrays

    def _gather(self, view, query, allowed, way, sums, heap, scores):
        """Answer a plain query from any view; return how many rows are found."""
        model, asked = self.model, self._ask(view, query)
        keys = np.concatenate([part.keys for part in asked])
        df, lists = np.zeros(len(keys), np.int64), []
        weights = np.empty(len(keys), np.float64)
        for segment, whole, arrays in zip(
            view.segments, view.whole, view.kernel_arrays, strict=True
        ):
            found = np.empty(len(keys), np.int64)
            bm25.find_lists(keys, segment.keys, segment.lists, found)
            bm25.add_sizes(found, segment.starts, segment.rows, arrays[-1], whole, df)
            lists.append(found)
        total, cuts, first = 0.0, [], 0
        for part in asked:
            cut = slice(first, first + len(part.keys))
            total += bm25.weigh(
                df[cut], part.times, view.live_count, model.idf_kind, part.statistics,
                part.n_forms, weights[cut],
            )  # fmt: skip
            cuts.append((cut, part.n_forms))
            first = cut.stop
        size, chosen = 0, np.empty(len(keys), np.int64)
        chosen_weights = np.empty(len(keys), np.float32)
        for place, (segment, whole) in enumerate(zip(view.segments, view.whole, strict=True)):
            count = postings = 0
            for cut, n_forms in cuts:
                found = bm25.gather(
                    lists[place][cut], df[cut], weights[cut], n_forms, segment.starts,
                    chosen[count:], chosen_weights[count:],
                )  # fmt: skip
                count, postings = count + found[0], postings + found[1]
            view.prepare(place, chosen[:count])
            arrays = view.kernel_arrays[place]
            marks = arrays[-1] if allowed is None else view.rows_of(segment, allowed)
            size = bm25.sum_lists(
                way, chosen[:count], chosen_weights[:count], postings, *arrays[2:-1], marks,
                whole and allowed is None, segment.first_row, segment.total_rows, sums, heap, size,
            )  # fmt: skip
        bm25.unpack(heap, size, model.absent * total, scores)
        return size

    def _ask(self, view, query):
        """Return the `_Asked` of each language."""
        plain = isinstance(query, str)
        words = (word for word, _, _ in cut_words(query)) if plain else check_tokens(query)
        counts = Counter(words)
        check_many(counts)
        times, asked = np.array([*counts.values()], float), []
        for group, statistics in zip(self._languages.groups, self._statistics(view), strict=True):
            lexicon, n_forms = group.lexicon, len(group.weights)
            if plain:
                found = [lexicon.term_numbers(lexicon.analyzer.forms(word)) for word in counts]
            else:
                found = [lexicon.term_numbers((token,)) for token in counts]
                statistics = statistics.copy()
                statistics[:n_forms] = np.eye(1, n_forms)[0]
            keys = [
                int(bm25.term_key(field, form, numbers[form] if form < len(numbers) else -1))
                for numbers in found
                for field in group.fields
                for form in range(n_forms)
            ]
            asked.append(_Asked(np.array(keys, np.int64), times, statistics, n_forms))
        return asked

    def _statistics(self, view):
        """Return what `kernels.bm25.weigh` calls so, of a view, for each language."""
        if view.statistics is None:
            floors = view.floors.reshape(len(self.fields), self._languages.form_count)
            view.statistics = [
                np.concatenate(
                    [weights, self._field_weights[fields], floors[fields, : len(weights)].ravel()]
                )
                for _, fields, weights in self._languages.groups
            ]
        return view.statistics

    def _clauses(self, view, query, syntax=True, check=None):
        """Return a query as (sign, terms) pairs."""
        finder = Terms(view, self._languages, list(self.fields.values()), self.positions)
        if not isinstance(query, str):
            times = Counter(check_tokens(query))
            check_many(times)
            return [(SHOULD, terms) for terms in finder.of_tokens(list(times.elements()))]
        clauses = clauses_of(query, syntax)
        check_many({word for clause in clauses for word, _, _ in cut_words(clause.text)})
        check_clauses(sum(c.kind in (PREFIX, FUZZY) for c in clauses), len(clauses))
        asked = []
        for clause in clauses:
            if check is not None:
                check()
            asked += [(clause.sign, terms) for terms in finder.of_clause(clause)]
        return asked

    def _take_sums(self, view):
        """Return a zero float32 array for the widest segment."""
        try:
            sums = self._sums.pop()
        except IndexError:
            sums = np.zeros(view.widest, np.float32)
        return sums if len(sums) >= view.widest else np.zeros(view.widest, np.float32)
