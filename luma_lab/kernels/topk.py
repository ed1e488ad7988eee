"""Keys that order (distance, row) in one int64, and a bounded heap of the k least.

A key holds the float32 distance in its upper half, as an integer of the same order, and
``row << 1 | expanded`` in its lower half. One comparison orders by distance and then by row,
so ties always go to the lower row and every result is determined.
"""

import numpy as np

from luma_lab.kernels.compile import kernel

EXPANDED = np.int64(1)
SIGN_FLIP = np.int64(0x7FFFFFFF)
LOWER_HALF = np.int64(0xFFFFFFFF)
INFINITE = np.float32(np.inf)
HALF = np.float32(0.5)
HALVINGS = 16


@kernel
def pack_key(distance, row):
    """Return the int64 key of a float32 distance and a row below 2**31."""
    bits = np.int64(np.float32(distance).view(np.int32))
    # Negative floats order backwards as integers; flipping all but the sign turns them round.
    ordered = bits ^ ((bits >> 31) & SIGN_FLIP)
    return (ordered << 32) | (np.int64(row) << 1)


@kernel
def key_row(key):
    """Return the row of a key."""
    return (key & LOWER_HALF) >> 1


@kernel
def key_distance(key):
    """Return the float32 distance of a key."""
    ordered = key >> 32
    bits = ordered ^ ((ordered >> 31) & SIGN_FLIP)
    return np.int32(bits).view(np.float32)


@kernel
def sift_down(heap, size, root):
    """Restore the max-heap order of heap[:size] below `root`."""
    key = heap[root]
    while True:
        child = 2 * root + 1
        if child >= size:
            break
        if child + 1 < size and heap[child + 1] > heap[child]:
            child += 1
        if heap[child] <= key:
            break
        heap[root] = heap[child]
        root = child
    heap[root] = key


@kernel
def push_least(heap, size, key):
    """Offer `key` to the max-heap heap[:size] that keeps the least keys; return its new size.

    The heap's capacity is its length; once full, heap[0] is the largest key kept.
    """
    if size < heap.shape[0]:
        child = size
        while child > 0:
            parent = (child - 1) >> 1
            if heap[parent] >= key:
                break
            heap[child] = heap[parent]
            child = parent
        heap[child] = key
        return size + 1
    if key < heap[0]:
        heap[0] = key
        sift_down(heap, size, 0)
    return size


@kernel
def sort_heap(heap, size):
    """Turn the max-heap heap[:size] into ascending order."""
    for last in range(size - 1, 0, -1):
        key = heap[last]
        heap[last] = heap[0]
        heap[0] = key
        sift_down(heap, last, 0)


@kernel
def write_heap(heap, size, rows, distances):
    """Write a heap of keys as ascending rows (k,) and distances, padded with -1 and inf."""
    sort_heap(heap, size)
    for j in range(size):
        rows[j] = key_row(heap[j])
        distances[j] = key_distance(heap[j])
    for j in range(size, rows.shape[0]):
        rows[j] = -1
        distances[j] = np.inf


@kernel
def sort_keys(keys, size):
    """Sort keys[:size] ascending, in place."""
    for root in range((size - 2) >> 1, -1, -1):
        sift_down(keys, size, root)
    sort_heap(keys, size)


@kernel
def limit_of_least(values, least, largest, wanted):
    """Return a limit that at least `wanted` of the values are at most, and not many more.

    Found by halving, which looks at all values a few times but takes no branch on any.

    Parameters
    ----------
    values : float32 array, at least `wanted` long
    least, largest : float32
        The extremes of the values.
    """
    enough = wanted + (wanted >> 1)
    for _ in range(HALVINGS):
        middle = HALF * least + HALF * largest
        count = np.int32(0)
        for i in range(values.shape[0]):
            count += np.int32(values[i] <= middle)
        if count >= wanted:
            largest = middle
            if count <= enough:
                break
        else:
            least = middle
    return largest
