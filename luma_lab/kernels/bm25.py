"""BM25 queries over flat postings: lists found, weighed by live statistics, summed, k best kept.

Scores are ``weight * part`` summed over lists, weights holding the idf. Three ways to sum give
the same answers: *touched* looks again only at rows some list holds, *windowed* skips windows
of rows whose bound can't reach the k best, *exhaustive* looks at all rows, many at a time.

References
----------
Turtle and Flood, "Query evaluation: strategies and optimizations", 1995 (MaxScore).
Lù, "BM25S: orders of magnitude faster lexical search via eager sparse scoring", 2024.
"""

import numpy as np

from luma_lab.kernels.compile import kernel
from luma_lab.kernels.postings import WINDOW, list_windows
from luma_lab.kernels.tokens import look_up
from luma_lab.kernels.topk import key_distance, key_row, pack_key, push_least, sort_heap

LUCENE, ROBERTSON, ATIRE, PLUS, LONG, OKAPI = 0, 1, 2, 3, 4, 5
AUTO, TOUCHED, WINDOWED, EXHAUSTIVE = 0, 1, 2, 3
# Below so many rows looking at all of them costs less than any choice.
FEW_ROWS = 16384
FEW_WORDS = 64  # of a query whose repeated words need not be joined first
# Postings summed below this share of the rows: then most rows are never touched.
TOUCHED_SHARE = 8
BLOCK = 128
# Bounds are summed in another order than scores and may be lower by roundings.
SLACK = np.float32(1 + 1e-5)
KEY_BITS = 32  # of a term number in a list's key; above them field and form
FORM_BITS = 2


@kernel
def term_key(field, form, term):
    """Return the int64 that names a posting list; -1 if there is no term."""
    if term < 0:
        return np.int64(-1)
    return (((np.int64(field) << FORM_BITS) | form) << KEY_BITS) | np.int64(term)


@kernel
def ask(words, forms, n_fields, n_forms, asked):
    """Write the keys of words' forms, (word, field, form) in order.

    Parameters
    ----------
    words : int32 array
        Numbers of exact forms; negative ones are in no list.
    forms : int32 array of shape (n_words, n_forms)
        Term number of each form of each word, -1 for stop words; of shape (0, 0) when the only
        form of a word is itself.
    """
    at, itself = 0, forms.shape[0] == 0
    for word in words:
        for field in range(n_fields):
            for form in range(n_forms):
                term = word
                if word >= 0 and not itself:
                    term = forms[word, form]
                asked[at] = term_key(field, form, term)
                at += 1


@kernel
def find_lists(asked, keys, lists, found):
    """Write the list of each asked key, -1 if there is none; keys ascend."""
    for i in range(asked.shape[0]):
        low, high, key = 0, keys.shape[0], asked[i]
        while low < high:
            middle = (low + high) >> 1
            if keys[middle] < key:
                low = middle + 1
            else:
                high = middle
        found[i] = lists[low] if low < keys.shape[0] and keys[low] == key else -1


@kernel
def add_sizes(found, starts, rows, live, all_live, df):
    """Add to `df` the live rows of each found list."""
    for i in range(found.shape[0]):
        if found[i] >= 0:
            begin, stop = starts[found[i]], starts[found[i] + 1]
            if all_live:
                df[i] += stop - begin
            else:
                for j in range(begin, stop):
                    df[i] += live[rows[j]]


@kernel
def idf(kind, documents, df, floor):
    """Return the idf of a term in `df` of `documents`, in float64.

    floor : float
        What OKAPI takes for the idf of a term in more than half of them.
    """
    if kind == LUCENE:
        return np.log(1.0 + (documents - df + 0.5) / (df + 0.5))
    if kind == ROBERTSON:
        return np.log(max(1.0, (documents - df + 0.5) / (df + 0.5)))
    if kind == ATIRE:
        return np.log(documents / df)
    if kind == PLUS:
        return np.log((documents + 1.0) / df)
    if kind == LONG:
        return np.log((documents + 1.0) / (df + 0.5))
    value = np.log(documents - df + 0.5) - np.log(df + 0.5)
    return floor if value < 0.0 else value


@kernel
def weigh(df, times, documents, kind, statistics, n_forms, weights):
    """Write the weight of each asked list; return the sum of all.

    A form that no live document holds hands its share to the next weaker one.

    Parameters
    ----------
    df : int64 array of shape (n_words * n_fields * n_forms,)
    times : float64 array of shape (n_words,)
        How often the query says each word.
    statistics : float64 array
        Form weights, field weights, and what an okapi idf below 0 becomes in each field and
        form, one behind the other.
    weights : float64 array, shaped as `df`
    """
    at, total = 0, 0.0
    n_fields = (statistics.shape[0] - n_forms) // (1 + n_forms)
    field_weights, floors = statistics[n_forms:], statistics[n_forms + n_fields :]
    for word in range(times.shape[0]):
        for field in range(n_fields):
            carried = 0.0
            for form in range(n_forms):
                share = statistics[form] + carried
                weights[at] = 0.0
                if df[at] == 0:
                    carried = share
                else:
                    carried = 0.0
                    floor = floors[field * n_forms + form]
                    value = idf(kind, np.float64(documents), np.float64(df[at]), floor)
                    weights[at] = times[word] * share * field_weights[field] * value
                total += weights[at]
                at += 1
    return total


@kernel
def gather(found, df, weights, n_forms, starts, chosen, chosen_weights):
    """Write the lists to sum, forms that share one joined; return (how many, their postings)."""
    count, postings = 0, 0
    for i in range(found.shape[0]):
        if found[i] < 0 or df[i] == 0:
            continue
        joined = False
        for j in range(max(0, count - (i % n_forms)), count):
            if chosen[j] == found[i]:
                chosen_weights[j] += np.float32(weights[i])
                joined = True
                break
        if not joined:
            chosen[count] = found[i]
            chosen_weights[count] = np.float32(weights[i])
            postings += starts[found[i] + 1] - starts[found[i]]
            count += 1
    return count, postings


@kernel
def choose(total_rows, postings):
    """Return the fastest way to sum so many postings over so many rows."""
    if total_rows < FEW_ROWS:
        return EXHAUSTIVE
    if postings * TOUCHED_SHARE < total_rows:
        return TOUCHED
    return WINDOWED if postings < total_rows else EXHAUSTIVE


@kernel
def sum_lists(
    way, chosen, weights, postings, starts, rows, parts, window_slots, window_starts,
    window_tops, allowed, all_allowed, first_row, total_rows, sums, heap, size,
):  # fmt: skip
    """Offer the rows that some list holds to `heap`; return its new size.

    Parameters
    ----------
    way : int
        AUTO, TOUCHED, WINDOWED or EXHAUSTIVE. Weights that are not positive overrule it.
    chosen : int64 array of shape (n_lists,)
    weights : float32 array of shape (n_lists,)
    postings : int
        Of all chosen lists.
    window_slots : int32 array
        Per list its row in `window_starts` and `window_tops`, -1 if it has none.
    allowed : bool array of shape (total_rows,), read unless `all_allowed`
    first_row : int
        Added to the rows put into the heap.
    sums : float32 array of at least total_rows, all 0; all 0 again afterwards
    heap : int64 array
        Keys of `kernels.topk` with distance = -score.
    """
    for weight in weights:
        if not weight > 0:
            return _sum_signed(
                chosen, weights, starts, rows, parts, allowed, all_allowed, first_row,
                total_rows, sums, heap, size,
            )  # fmt: skip
    if way == AUTO:
        way = choose(total_rows, postings)
    if way == TOUCHED:
        return _sum_touched(
            chosen, weights, starts, rows, parts, allowed, all_allowed, first_row, sums, heap, size
        )
    if way == WINDOWED:
        return _sum_windowed(
            chosen, weights, starts, rows, parts, window_slots, window_starts, window_tops,
            allowed, all_allowed, first_row, total_rows, sums, heap, size,
        )  # fmt: skip
    for j in range(chosen.shape[0]):
        _add_postings(rows, parts, starts[chosen[j]], starts[chosen[j] + 1], weights[j], 0, sums)
    return _push_sums(sums, total_rows, 0, allowed, all_allowed, first_row, heap, size)


@kernel(inline=True)
def _add_postings(rows, parts, begin, stop, weight, shift, sums):
    # Slices and unsigned places spare the check for places counted from the end.
    own_rows, own_parts = rows[begin:stop], parts[begin:stop]
    for i in range(own_rows.shape[0]):
        sums[np.uint32(own_rows[i] - shift)] += weight * own_parts[i]


@kernel(inline=True)
def _top_bits(bits):
    """Return the greatest of some int32s, and at least 0."""
    top = np.int32(0)
    for i in range(bits.shape[0]):
        top = max(top, bits[i])
    return top


@kernel
def _sum_touched(
    chosen, weights, starts, rows, parts, allowed, all_allowed, first_row, sums, heap, size
):
    for j in range(chosen.shape[0]):
        _add_postings(rows, parts, starts[chosen[j]], starts[chosen[j] + 1], weights[j], 0, sums)
    least = _least_kept(heap, size)
    for j in range(chosen.shape[0]):
        own_rows = rows[starts[chosen[j]] : starts[chosen[j] + 1]]
        for i in range(own_rows.shape[0]):
            row = np.uint32(own_rows[i])
            score = sums[row]
            if score > 0:
                sums[row] = 0
                if score >= least and (all_allowed or allowed[row]):
                    size = push_least(heap, size, pack_key(-score, first_row + row))
                    least = _least_kept(heap, size)
    return size


@kernel
def _sum_signed(
    chosen, weights, starts, rows, parts, allowed, all_allowed, first_row, total_rows, sums,
    heap, size,
):  # fmt: skip
    """Sum weights of any sign, where a sum of 0 does not tell whether a row was touched."""
    touched = np.zeros(total_rows, np.bool_)
    for j in range(chosen.shape[0]):
        for i in range(starts[chosen[j]], starts[chosen[j] + 1]):
            sums[rows[i]] += weights[j] * parts[i]
            touched[rows[i]] = True
    for row in range(total_rows):
        if touched[row]:
            if all_allowed or allowed[row]:
                # 0 - score, not -score: there must be one zero only.
                score = np.float32(0) - sums[row]
                size = push_least(heap, size, pack_key(score, first_row + row))
            sums[row] = 0
    return size


@kernel(inline=True)
def _least_kept(heap, size):
    """Return the score below which no row enters the heap."""
    return -key_distance(heap[0]) if size == heap.shape[0] else np.float32(0)


@kernel
def _push_sums(sums, count, shift, allowed, all_allowed, first_row, heap, size):
    """Offer the rows shift:shift + count, whose sums are ``sums[:count]``; clear them."""
    # Floats above 0 order as their bits, and of integers a maximum is taken many at a time.
    bits = sums.view(np.int32)
    least = _least_kept(heap, size)
    for block in range(0, count, BLOCK):
        stop = min(block + BLOCK, count)
        top = _top_bits(bits[block:stop])
        if top == 0:
            continue
        if np.int32(top).view(np.float32) >= least:
            for i in range(block, stop):
                score = sums[i]
                if score >= least and score > 0 and (all_allowed or allowed[shift + i]):
                    key = pack_key(-score, first_row + shift + i)
                    size = push_least(heap, size, key)
                    least = _least_kept(heap, size)
        sums[block:stop] = 0
    return size


@kernel
def _sum_windowed(
    chosen, weights, starts, rows, parts, window_slots, window_starts, window_tops, allowed,
    all_allowed, first_row, total_rows, sums, heap, size,
):  # fmt: skip
    """Take windows by falling bound, and in each the lists by falling bound, while it pays."""
    n_lists, n_windows = chosen.shape[0], (total_rows + WINDOW - 1) // WINDOW
    begins = np.empty((n_lists, n_windows + 1), np.int64)
    tops = np.empty((n_lists, n_windows), np.float32)
    bounds = np.zeros(n_windows, np.float32)
    for j in range(n_lists):
        slot = window_slots[chosen[j]]
        if slot >= 0:
            begins[j], tops[j] = window_starts[slot], window_tops[slot]
        else:
            begin, stop = starts[chosen[j]], starts[chosen[j] + 1]
            list_windows(rows, parts, begin, stop, begins[j], tops[j])
        for window in range(n_windows):
            tops[j, window] *= weights[j] * SLACK
            bounds[window] += tops[j, window]
    order = np.argsort(bounds)
    ranked = np.empty(n_lists, np.int64)
    for place in range(n_windows - 1, -1, -1):
        window = order[place]
        least = _least_kept(heap, size)
        rest = bounds[window] * SLACK
        if rest < least or rest == 0:
            break
        for j in range(n_lists):
            at = j
            while at > 0 and tops[ranked[at - 1], window] < tops[j, window]:
                ranked[at] = ranked[at - 1]
                at -= 1
            ranked[at] = j
        shift = window * WINDOW
        count = min(WINDOW, total_rows - shift)
        dropped = False
        for place_in in range(n_lists):
            j = ranked[place_in]
            _add_postings(
                rows, parts, begins[j, window], begins[j, window + 1], weights[j], shift, sums
            )
            rest -= tops[j, window]
            if place_in + 1 < n_lists and rest < least:
                top = _top_bits(sums.view(np.int32)[:count])
                if (np.int32(top).view(np.float32) + rest) * SLACK < least:
                    dropped = True
                    break
        if dropped:
            sums[:count] = 0
        else:
            size = _push_sums(sums, count, shift, allowed, all_allowed, first_row, heap, size)
    return size


@kernel
def unpack(heap, size, constant, out_scores):
    """Turn the keys of a heap into rows, best first; write their scores, `constant` added."""
    sort_heap(heap, size)
    for i in range(size):
        out_scores[i] = np.float32(constant - key_distance(heap[i]))
        heap[i] = key_row(heap[i])


@kernel
def answer(
    asked, times, documents, kind, statistics, n_forms, absent, way, keys, lists, starts, rows,
    parts, window_slots, window_starts, window_tops, live, whole, allowed, all_allowed,
    first_row, total_rows, sums, heap, out_scores,
):  # fmt: skip
    """Answer a query on an index of one segment; return how many rows are in `heap`.

    `absent` is the part of a term a document does not hold; the other arguments are those of
    `find_lists`, `add_sizes`, `weigh`, `sum_lists` and `unpack`.
    """
    found, df = np.empty(asked.shape[0], np.int64), np.zeros(asked.shape[0], np.int64)
    weights = np.empty(asked.shape[0], np.float64)
    find_lists(asked, keys, lists, found)
    add_sizes(found, starts, rows, live, whole, df)
    total = weigh(df, times, documents, kind, statistics, n_forms, weights)
    chosen, chosen_weights = np.empty_like(found), np.empty(asked.shape[0], np.float32)
    count, postings = gather(found, df, weights, n_forms, starts, chosen, chosen_weights)
    size = sum_lists(
        way, chosen[:count], chosen_weights[:count], postings, starts, rows, parts, window_slots,
        window_starts, window_tops, allowed, all_allowed, first_row, total_rows, sums, heap, 0,
    )  # fmt: skip
    unpack(heap, size, absent * total, out_scores)
    return size


@kernel
def answer_text(
    text, fold, slots, entries, arena, forms, statistics, n_forms, documents, kind, absent, way,
    keys, lists, starts, rows, parts, window_slots, window_starts, window_tops, live, whole,
    allowed, all_allowed, first_row, total_rows, sums, heap, out_scores,
):  # fmt: skip
    """Answer the words of a text on an index of one segment, as :func:`answer` does.

    Returns how many rows were written into `heap`, or -1 when the words need a slower look:
    there are more than `FEW_WORDS`, or the forms of a new word are not known.

    Parameters
    ----------
    forms : int32 array of shape (n_words, n_forms)
        Term number of each form of each word, -1 for stop words; of shape (0, 0) when the only
        form of a word is itself.
    statistics : float64 array
        Form weights, field weights and floors, one behind the other.
    """
    tokens = np.empty((text.shape[0] >> 1) + 1, np.int32)
    count, unknown = look_up(text, fold, slots, entries, arena, tokens)
    if count > FEW_WORDS or (unknown > 0 and n_forms > 1):
        return -1
    n_fields = (statistics.shape[0] - n_forms) // (1 + n_forms)
    asked = np.empty(count * n_fields * n_forms, np.int64)
    ask(tokens[:count], forms, n_fields, n_forms, asked)
    return answer(
        asked, np.ones(count), documents, kind, statistics, n_forms, absent, way, keys, lists,
        starts, rows, parts, window_slots, window_starts, window_tops, live, whole, allowed,
        all_allowed, first_row, total_rows, sums, heap, out_scores,
    )  # fmt: skip
