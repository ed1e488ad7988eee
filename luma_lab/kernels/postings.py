"""Posting lists as flat arrays: made from tokens, joined, counted, weighed.

List l holds ``rows[starts[l]:starts[l + 1]]``, ascending, beside ``counts`` (how often) and
``parts`` (what BM25 makes of the count, without idf). Several lists may have one name only if
they hold the same postings: then they are one list.
"""

import numpy as np

from luma_lab.kernels.compile import kernel

WINDOW = 2048  # rows of a window: its sums stay in the L1 cache
# BM25's treatment of the count, see `term_part`.
SATURATED, SCALED, SHIFTED, SHIFTED_RANK = 0, 1, 2, 3


@kernel
def count_postings(tokens, ends, last, sizes):
    """Count in `sizes` how many documents hold each term.

    Parameters
    ----------
    tokens : int32 array
        Terms, document after document; negative ones are left out.
    ends : int64 array of shape (n_documents,)
    last : int32 array of shape (n_terms,)
        All -1; afterwards the last document of each.
    sizes : int64 array of shape (n_terms,), zero
    """
    at = 0
    for document in range(ends.shape[0]):
        while at < ends[document]:
            term = tokens[at]
            if term >= 0 and last[term] != document:
                last[term] = document
                sizes[term] += 1
            at += 1


@kernel
def fill_postings(tokens, ends, cursors, last, rows, counts):
    """Write rows and counts of each term's list, from where `cursors` point on.

    cursors : int64 array of shape (n_terms,)
        Where lists start; afterwards where they end.
    last : int32 array of shape (n_terms,), all -1
    """
    at = 0
    for document in range(ends.shape[0]):
        while at < ends[document]:
            term = tokens[at]
            if term >= 0:
                if last[term] != document:
                    last[term] = document
                    rows[cursors[term]] = document
                    counts[cursors[term]] = 1
                    cursors[term] += 1
                else:
                    counts[cursors[term] - 1] += 1
            at += 1


@kernel
def fill_places(tokens, ends, cursors, places):
    """Write where in their documents the tokens stand, list after list.

    cursors : int64 array of shape (n_terms,)
        Where the places of each term start.
    places : int32 array
        The first token of a document has place 0.
    """
    at = 0
    for document in range(ends.shape[0]):
        begin = at
        while at < ends[document]:
            term = tokens[at]
            if term >= 0:
                places[cursors[term]] = at - begin
                cursors[term] += 1
            at += 1


@kernel
def count_kept(starts, rows, live, sizes):
    """Count in `sizes` the postings of each list whose row is live."""
    for item in range(sizes.shape[0]):
        size = 0
        for i in range(starts[item], starts[item + 1]):
            size += live[rows[i]]
        sizes[item] = size


@kernel
def copy_kept(starts, rows, counts, live, shift, targets, cursors, out_rows, out_counts):
    """Append the live postings of each list to list ``targets[l]`` of others.

    Parameters
    ----------
    shift : int
        Added to rows.
    targets : int64 array of shape (n_lists,)
        Negative: not wanted.
    cursors : int64 array
        Where each target list goes on; moved.
    """
    for item in range(targets.shape[0]):
        target = targets[item]
        if target < 0:
            continue
        at = cursors[target]
        for i in range(starts[item], starts[item + 1]):
            if live[rows[i]]:
                out_rows[at] = rows[i] + shift
                out_counts[at] = counts[i]
                at += 1
        cursors[target] = at


@kernel(inline=True)
def term_part(kind, count, norm, k1, delta):
    """Return what BM25 makes of a count, in float64, without idf and less its value at 0.

    norm : float
        ``1 - b + b * length / average length``.
    """
    if kind == SATURATED:
        return count / (count + k1 * norm)
    if kind == SCALED:
        return count * (k1 + 1.0) / (count + k1 * norm)
    shifted = count / norm + delta
    part = (k1 + 1.0) * shifted / (k1 + shifted)
    if kind == SHIFTED_RANK:
        return count * part
    return part - absent_part(k1, delta)


@kernel(inline=True)
def absent_part(k1, delta):
    """Return what BM25L gives a document without the term."""
    return (k1 + 1.0) * delta / (k1 + delta) if delta > 0.0 else 0.0


@kernel
def bake_parts(rows, counts, start, stop, norms, kind, k1, delta, parts):
    """Write `term_part` of postings start:stop; norms is a float64 array over rows."""
    for i in range(start, stop):
        parts[i] = np.float32(term_part(kind, np.float64(counts[i]), norms[rows[i]], k1, delta))


@kernel
def window_bounds(starts, rows, parts, chosen, window_starts, window_tops):
    """Write where each window's postings start and their greatest part, for chosen lists.

    Parameters
    ----------
    chosen : int64 array of shape (n_chosen,)
        List numbers.
    window_starts : int64 array of shape (n_chosen, n_windows + 1)
    window_tops : float32 array of shape (n_chosen, n_windows)
    """
    for slot in range(chosen.shape[0]):
        list_windows(
            rows, parts, starts[chosen[slot]], starts[chosen[slot] + 1],
            window_starts[slot], window_tops[slot],
        )  # fmt: skip


@kernel
def list_windows(rows, parts, start, stop, window_starts, window_tops):
    """Do for one list what :func:`window_bounds` does."""
    at = start
    for window in range(window_tops.shape[0]):
        window_starts[window] = at
        top, edge = np.float32(0), (window + 1) * WINDOW
        while at < stop and rows[at] < edge:
            top = max(top, parts[at])
            at += 1
        window_tops[window] = top
    window_starts[window_tops.shape[0]] = at
