"""Where words stand in their documents, packed into bytes.

Of each posting's places the first is kept as it is, of each further one the places left out since
the one before; seven bits a byte, the lowest first, the high bit set on all bytes but a number's
last. Most numbers take one byte. List l begins at ``place_starts[l]``; its postings follow each
other, and a posting's count says how many numbers are its own.
"""

import numpy as np

from luma_lab.kernels.compile import kernel

LAST = 128  # bytes below end a number
MOST_BYTES = 5  # of a number below 2**32


@kernel
def measure_places(starts, counts, places, sizes):
    """Write how many bytes the places of each list take.

    Parameters
    ----------
    starts : int64 array of shape (n_lists + 1,)
    counts : integer array of shape (n_postings,)
    places : int32 array
        List after list, ascending in each posting.
    sizes : int64 array of shape (n_lists,)
    """
    at = 0
    for item in range(sizes.shape[0]):
        size = 0
        for i in range(starts[item], starts[item + 1]):
            before = np.int64(-1)
            for _ in range(np.int64(counts[i])):
                gap = np.int64(places[at]) - before - 1
                size += 1
                while gap >= LAST:
                    gap >>= 7
                    size += 1
                before = np.int64(places[at])
                at += 1
        sizes[item] = size


@kernel
def pack_places(starts, counts, places, packed):
    """Write the places of lists, one behind the other; parameters as :func:`measure_places`.

    packed : uint8 array with room for the sum of the sizes
    """
    at, into = 0, 0
    for item in range(starts.shape[0] - 1):
        for i in range(starts[item], starts[item + 1]):
            before = np.int64(-1)
            for _ in range(np.int64(counts[i])):
                gap = np.int64(places[at]) - before - 1
                while gap >= LAST:
                    packed[into] = gap & (LAST - 1) | LAST
                    gap >>= 7
                    into += 1
                packed[into] = gap
                into += 1
                before = np.int64(places[at])
                at += 1


@kernel
def unpack_spots(rows, counts, packed, at, step, spots):
    """Write row and place of each token of a list; return how many.

    Parameters
    ----------
    rows, counts : arrays of shape (n,)
        The list's postings.
    packed : uint8 array
    at : int
        Where the list begins in `packed`.
    step : int
        Taken from every place; tokens nearer to their document's start are left out.
    spots : int64 array with room for the sum of the counts
        ``row << 32 | place``, ascending.
    """
    total = 0
    for i in range(rows.shape[0]):
        place, row = np.int64(-1), np.int64(rows[i]) << 32
        for _ in range(np.int64(counts[i])):
            gap, shift = np.int64(packed[at]), 0
            value = gap & (LAST - 1)
            while gap >= LAST:
                at += 1
                shift += 7
                gap = np.int64(packed[at])
                value |= (gap & (LAST - 1)) << shift
            at += 1
            place += value + 1
            if place >= step:
                spots[total] = row | (place - step)
                total += 1
    return total


@kernel
def keep_common(spots, others):
    """Move the spots that are also among `others` to the front; return how many.

    Both ascend, without repeats.
    """
    total, j = 0, 0
    for i in range(spots.shape[0]):
        spot = spots[i]
        while j < others.shape[0] and others[j] < spot:
            j += 1
        if j == others.shape[0]:
            break
        if others[j] == spot:
            spots[total] = spot
            total += 1
    return total


@kernel(inline=True)
def behind_places(packed, at, count):
    """Return where `count` numbers that begin at `at` end."""
    while count > 0:
        if packed[at] < LAST:
            count -= 1
        at += 1
    return at


@kernel
def count_kept_places(starts, rows, counts, place_starts, packed, live, targets, sizes):
    """Add the bytes of live postings' places to ``sizes[targets[l]]``; targets below 0 don't count.

    Parameters
    ----------
    targets : int64 array of shape (n_lists,)
    sizes : int64 array
    """
    for item in range(targets.shape[0]):
        at, target = place_starts[item], targets[item]
        if target < 0:
            continue
        for i in range(starts[item], starts[item + 1]):
            stop = behind_places(packed, at, np.int64(counts[i]))
            if live[rows[i]]:
                sizes[target] += stop - at
            at = stop


@kernel
def copy_kept_places(
    starts, rows, counts, place_starts, packed, live, targets, cursors, out_packed
):
    """Append the places of live postings to list ``targets[l]``, from where `cursors` point on."""
    for item in range(targets.shape[0]):
        at, target = place_starts[item], targets[item]
        if target < 0:
            continue
        into = cursors[target]
        for i in range(starts[item], starts[item + 1]):
            stop = behind_places(packed, at, np.int64(counts[i]))
            if live[rows[i]]:
                for j in range(at, stop):
                    out_packed[into] = packed[j]
                    into += 1
            at = stop
        cursors[target] = into


@kernel
def places_fit(begins, tokens, packed):
    """Return whether at each of `begins` as many whole numbers follow as `tokens` says."""
    for item in range(begins.shape[0]):
        at, left, run = begins[item], tokens[item], 0
        if at < 0:
            return False
        while left > 0:
            if at >= packed.shape[0] or run == MOST_BYTES:
                return False
            if packed[at] < LAST:
                left, run = left - 1, 0
            else:
                run += 1
            at += 1
    return True
