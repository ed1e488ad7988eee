"""The segments of a text index as they change: documents come and go, statistics stay exact.

New documents wait in a small buffer, whose segment is made when someone searches. Full
buffers become segments for good, neighbours are merged so that their number stays logarithmic:
by whoever adds, or, on a shelf of deferred merges, by whoever calls `settle`.
Deleting only clears bits; N, lengths and document frequencies are counted from live rows, so
they are what a rebuild would count.
"""

import threading
from typing import NamedTuple

import numpy as np

from luma_lab.errors import InvalidArgument
from luma_lab.index.rows import read_only
from luma_lab.index.scoring import EPSILON
from luma_lab.index.segment import ListByList, build_segment, merge_segments, renumbered
from luma_lab.kernels import bm25
from luma_lab.kernels.bm25 import FORM_BITS, KEY_BITS
from luma_lab.kernels.postings import count_kept

BUFFER_TOKENS = 1 << 17
BUFFER_ROWS = 1 << 12
# Of a buffer that a view makes a segment of for good, for the next view not to make it again.
VIEWED_TOKENS = 1 << 13
VIEWED_ROWS = 1 << 8
MOST_SEGMENTS = 24  # of deferred merges: beyond it whoever adds merges after all
# Of a segment that is baked whole when average lengths change, and not as queries need it.
FEW_POSTINGS = 1 << 14
MERGE_RATIO = 2  # a segment not so many times the next one's size is merged with it
BUILD_TOKENS = 1 << 25  # of a segment that a build makes at once


class Contents(NamedTuple):
    """Everything in the index at one moment.

    pending : tuple of lists of (tokens, ends, lengths), one a field
    live : bool array of shape (total_rows,)
    totals : tuple of int
        Tokens of the live rows, a field.
    """

    segments: tuple
    pending: tuple
    live: np.ndarray
    live_count: int
    totals: tuple

    @property
    def pending_tokens(self):
        """Tokens of documents that are in no segment yet."""
        return sum(len(tokens) for block in self.pending for tokens, _, _ in block)

    @property
    def pending_rows(self):
        """Documents that are in no segment yet."""
        return sum(len(block[0][1]) for block in self.pending)


class View:
    """Contents made ready for searching.

    Attributes
    ----------
    segments : tuple of Segment
    baked : list of Baked
    whole : list of bool
        Whether no row of a segment was deleted since it was made.
    averages : list of float
        Tokens of a live document, a field.
    """

    def __init__(self, contents, model, n_forms, known):
        self.segments, self.live = contents.segments, contents.live
        self.live_count, self.total_rows = contents.live_count, len(contents.live)
        self.averages = [total / max(1, self.live_count) for total in contents.totals]
        self.model, self.n_forms = model, n_forms
        self._partial = []
        self.baked, self.whole = [], []
        for segment in self.segments:
            baked, partial = known.get(id(segment), (None, None))
            if baked is None or (
                baked.averages != tuple(self.averages) and len(segment.rows) <= FEW_POSTINGS
            ):
                baked, partial = segment.bake(self.averages, model), None
            elif baked.averages != tuple(self.averages):
                partial = ListByList(segment, self.averages, model)
                baked = partial.baked
            self.baked.append(baked)
            self._partial.append(partial)
            alive = np.count_nonzero(self.live[segment.first_row : segment.stop_row])
            self.whole.append(int(alive) == segment.posted_rows)
        self._floors = None if model.idf_kind == bm25.OKAPI else self._no_floors()
        # Kept here by the index, which knows the weights.
        self.statistics = self.fixed = self.only_range = None
        self.widest = max((segment.total_rows for segment in self.segments), default=0)
        self.kernel_arrays = [self._arrays_of(place) for place in range(len(self.segments))]

    def by_segment(self):
        """Return (baked, what is still baked list by list) of each segment, by its identity."""
        places = zip(self.segments, self.baked, self._partial, strict=True)
        return {id(segment): (baked, partial) for segment, baked, partial in places}

    @property
    def complete(self):
        """Whether every list is baked, so that kernels need no preparing."""
        return not any(self._partial)

    def prepare(self, place, lists):
        """Have these lists of a segment baked; all of them, once the most part was needed."""
        partial, segment = self._partial[place], self.segments[place]
        if partial is None:
            return
        if partial.postings_done * 2 > len(segment.rows):
            self.baked[place] = segment.bake(self.averages, self.model)
            self.kernel_arrays[place] = self._arrays_of(place)
            self._partial[place] = None
        else:
            partial.bake(lists)

    def _arrays_of(self, place):
        """Return what kernels take of a segment, one behind the other."""
        segment = self.segments[place]
        live = self.rows_of(segment, self.live)
        names = segment.keys, segment.lists, segment.starts, segment.rows
        return (*names, *self.baked[place][1:], live)

    def _no_floors(self):
        return np.zeros(len(self.averages) * self.n_forms)

    @property
    def floors(self):
        """What an okapi idf below 0 becomes: float64 array of shape (n_fields * n_forms,)."""
        if self._floors is None:
            self._floors = self._okapi_floors()
        return self._floors

    def _okapi_floors(self):
        floors = self._no_floors()
        for place in range(len(floors)):
            field, form = divmod(place, self.n_forms)
            low_key = (field << FORM_BITS | form) << KEY_BITS
            terms, sizes = [], []
            for segment in self.segments:
                low, high = np.searchsorted(segment.keys, [low_key, low_key + (1 << KEY_BITS)])
                kept = np.zeros(len(segment.starts) - 1, np.int64)
                live = self.rows_of(segment, self.live)
                count_kept(segment.starts, segment.rows, live, kept)
                terms.append(segment.keys[low:high] - low_key)
                sizes.append(kept[segment.lists[low:high]])
            if not terms:
                continue
            df = np.bincount(np.concatenate(terms), np.concatenate(sizes))
            df = df[df > 0]
            if len(df):
                idfs = np.log(self.live_count - df + 0.5) - np.log(df + 0.5)
                floors[place] = EPSILON * idfs.mean()
        return floors

    @staticmethod
    def rows_of(segment, marks):
        """Return the part of an array over all rows that a segment's rows have."""
        return read_only(marks[segment.first_row : segment.stop_row])


class Shelf:
    """Segments and a buffer behind one lock; readers take views and need none.

    Parameters
    ----------
    languages : Languages
    model : Model
    n_fields : int
    with_places : bool
    defers : bool
        Leave merging to :meth:`settle`.
    """

    def __init__(self, languages, model, n_fields, with_places, defers=False):
        self.languages, self.model = languages, model
        self.n_fields, self.with_places, self.defers = n_fields, with_places, defers
        self._changing = threading.RLock()
        self._last_view = None
        self._view = None
        self._baked_ahead = []  # (segment, baked): held, for its id to stay its own
        self.contents = Contents((), (), np.zeros(0, bool), 0, (0,) * n_fields)

    def view(self):
        """Return a `View` of what is there now."""
        view = self._view
        if view is None:
            with self._changing:
                if self._view is None:
                    self._last_view = self._view = self._viewed()
                return self._view
        return view

    def _viewed(self):
        contents = sealed = self._sealed(self.contents)
        tokens, rows = self.contents.pending_tokens, self.contents.pending_rows
        if tokens > VIEWED_TOKENS or rows > VIEWED_ROWS:
            contents = self.contents = self._settled(sealed)
        known = self._last_view.by_segment() if self._last_view else {}
        known |= {id(segment): (baked, None) for segment, baked in self._baked_ahead}
        view = View(contents, self.model, self.languages.form_count, known)
        self._baked_ahead = []
        return view

    def replace(self, blocks):
        """Hold these blocks of documents and nothing else; blocks are iterated once."""
        with self._changing:
            contents = Contents((), (), np.zeros(0, bool), 0, (0,) * self.n_fields)
            segments = []
            for block in blocks:
                contents = self._with_block(contents, block)
                if contents.pending_tokens >= BUILD_TOKENS:
                    contents = self._sealed(contents)
            contents = self._sealed(contents)
            segments = contents.segments
            if len(segments) > 1:
                segments = (self._merged(segments, contents.live),)
            self._set(contents._replace(segments=segments))

    def add(self, block):
        """Append documents; return the number of the first."""
        with self._changing:
            first = len(self.contents.live)
            contents = self._with_block(self.contents, block)
            full = contents.pending_tokens > BUFFER_TOKENS or contents.pending_rows > BUFFER_ROWS
            self._set(self._settled(self._sealed(contents)) if full else contents)
            return first

    def delete(self, rows):
        """Clear the bits of rows, an int64 array without repeats.

        Raises
        ------
        InvalidArgument
            One is not there (any more).
        """
        with self._changing:
            contents = self.contents
            total = len(contents.live)
            bad = rows[(rows < 0) | (rows >= total)]
            if not len(bad):
                bad = rows[~contents.live[rows]]
            if len(bad):
                raise InvalidArgument(
                    f"row {bad[0]} is not in the index: expected live rows below {total}"
                )
            live = contents.live.copy()
            live[rows] = False
            gone = self._lengths(contents, rows).sum(axis=1)
            totals = tuple(
                total - int(less) for total, less in zip(contents.totals, gone, strict=True)
            )
            self._set(
                contents._replace(
                    live=live, live_count=contents.live_count - len(rows), totals=totals
                )
            )

    def merge(self):
        """Make one segment of all, without the postings of deleted rows."""
        with self._changing:
            contents = self._sealed(self.contents)
            segments = contents.segments
            if segments:
                segments = (self._merged(segments, contents.live),)
            self._set(contents._replace(segments=segments))

    def settle(self, whole=False):
        """Merge neighbours of like size as another thread goes on; return whether any were.

        With `whole` all become one.

        What is merged is weighed for the present average lengths at once, so that no search
        has to.
        """
        some = False
        while True:
            with self._changing:
                if whole and self.contents.pending:
                    self._set(self._sealed(self.contents))
                contents = self.contents
            run = contents.segments if whole else _like_sized(contents.segments)
            if len(run) < 2:
                return some
            merged = self._merged(run, contents.live)
            averages = [total / max(1, contents.live_count) for total in contents.totals]
            baked = merged.bake(averages, self.model)
            with self._changing:
                segments = list(self.contents.segments)
                first = next((i for i, s in enumerate(segments) if s is run[0]), None)
                if first is None or any(
                    a is not b for a, b in zip(segments[first:], run, strict=False)
                ):
                    continue  # changed as a whole meanwhile
                whole = False
                segments[first : first + len(run)] = [merged]
                self._baked_ahead.append((merged, baked))
                self._set(self.contents._replace(segments=tuple(segments)))
                some = True

    def compact(self):
        """Number the live rows from 0 on, in order; return the rows they were."""
        with self._changing:
            self.merge()
            kept = np.flatnonzero(self.contents.live)
            segments = [renumbered(s, self.contents.live) for s in self.contents.segments]
            self.restore(segments, np.ones(len(kept), bool))
            return kept

    def restore(self, segments, live):
        """Hold finished segments, as they were loaded."""
        with self._changing:
            totals = np.zeros(self.n_fields, np.int64)
            for segment in segments:
                alive = live[segment.first_row : segment.stop_row]
                totals += segment.lengths[:, alive].sum(axis=1)
            count = int(np.count_nonzero(live))
            self._set(Contents(tuple(segments), (), live, count, tuple(map(int, totals))))

    def _set(self, contents):
        self.contents, self._view = contents, None

    def _with_block(self, contents, block):
        count = len(block[0][1])
        if count == 0:
            return contents
        added = [int(lengths.sum()) for _, _, lengths in block]
        return contents._replace(
            pending=(*contents.pending, block),
            live=np.concatenate([contents.live, np.ones(count, bool)]),
            live_count=contents.live_count + count,
            totals=tuple(a + b for a, b in zip(contents.totals, added, strict=True)),
        )

    def _sealed(self, contents):
        """Return the contents with all pending documents in a segment of their own."""
        if not contents.pending:
            return contents
        fields = [_joined(blocks) for blocks in zip(*contents.pending, strict=True)]
        first = len(contents.live) - contents.pending_rows
        made = build_segment(first, fields, self.languages.forms, self.with_places)
        return contents._replace(segments=(*contents.segments, made), pending=())

    def _settled(self, contents):
        """Return the contents with neighbours of like size merged, unless that is deferred."""
        segments = contents.segments
        if self.defers and len(segments) <= MOST_SEGMENTS:
            return contents
        while run := _like_sized(segments):
            segments = (*segments[: -len(run)], self._merged(run, contents.live))
        return contents._replace(segments=segments)

    def _merged(self, segments, live):
        return merge_segments(segments, live, self.languages.forms, self.with_places)

    def _lengths(self, contents, rows):
        """Return the lengths of rows, an array of shape (n_fields, n_rows)."""
        found = np.zeros((self.n_fields, len(rows)), np.int64)
        for segment in contents.segments:
            inside = (rows >= segment.first_row) & (rows < segment.stop_row)
            found[:, inside] = segment.lengths[:, rows[inside] - segment.first_row]
        first = len(contents.live) - contents.pending_rows
        for block in contents.pending:
            stop = first + len(block[0][1])
            inside = (rows >= first) & (rows < stop)
            for field, (_, _, lengths) in enumerate(block):
                found[field, inside] = lengths[rows[inside] - first]
            first = stop
        return found


class Still:
    """A shelf of one view for good, for reading what was there at one moment."""

    def __init__(self, view):
        self._view = self.contents = view

    def view(self):
        """Return the view."""
        return self._view

    def _refuse(self, *_):
        raise InvalidArgument("this index is pinned to one moment, and only for reading")

    add = delete = replace = merge = settle = compact = _refuse


def _like_sized(segments):
    """Return the last segments that are to become one, () if their sizes are apart."""
    if len(segments) < 2:
        return ()
    first, total = len(segments) - 1, len(segments[-1].rows)
    while first > 0 and len(segments[first - 1].rows) < MERGE_RATIO * total:
        first -= 1
        total += len(segments[first].rows)
    return segments[first:] if first < len(segments) - 1 else ()


def _joined(blocks):
    """Return one (tokens, ends, lengths) of several."""
    if len(blocks) == 1:
        return blocks[0]
    before = np.cumsum([0, *(len(tokens) for tokens, _, _ in blocks[:-1])])
    return (
        np.concatenate([tokens for tokens, _, _ in blocks]),
        np.concatenate([ends + shift for (_, ends, _), shift in zip(blocks, before, strict=True)]),
        np.concatenate([lengths for _, _, lengths in blocks]),
    )
