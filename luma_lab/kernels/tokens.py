"""Words out of UTF-8: cut, lower-cased and numbered by a hash table, one pass over the bytes.

The table lives across builds. ``slots`` is open addressing over word numbers (0 is free, else
number + 1), ``entries`` holds a word's hash, start and length, ``arena`` its bytes. Bytes are
compared, never hashes alone, so two words never share a number.

What is a word comes from a table over code points: 0 separates, else the lower-case code
point; `MARK` is set on combining marks, which continue a word but never begin one.
"""

import numpy as np

from luma_lab.kernels.compile import kernel
from luma_lab.kernels.eight import (
    digit_marks,
    first_bytes,
    first_mark,
    foreign_marks,
    letter_marks,
    load_eight,
    lower,
    other_marks,
    store_eight,
)

MARK = 1 << 31
POINT_BITS = (1 << 21) - 1
# What is behind them does not tell words apart; keeps a run of a million letters harmless.
LONGEST_WORD_BYTES = 255
# A word of so many bytes has room for eight more, and then for no part of a character.
EIGHTS_MOST = LONGEST_WORD_BYTES - 3 - 8
HASH, START, LENGTH = 0, 1, 2
# Places of `state`.
DOCUMENT, AT, TOKENS, WORDS, ARENA = 0, 1, 2, 3, 4
STATE_SIZE = 5
FULL = np.int64(-2)
UNKNOWN = np.int64(-1)
# An odd factor, so that multiplying can be undone; its high bits stir the upper half.
HASH_BASIS = np.int64(-3750763034362895579)
HASH_FACTOR = np.int64(-7046029254386353131)
TELLING_BYTES = 8  # up to so many, length and hash tell words apart
ONE_BYTE, TWO_BYTES, THREE_BYTES = 0x80, 0x800, 0x10000


@kernel(inline=True)
def decode(text, at, stop):
    """Return (code point, bytes) of the character at `at`; cut-off ones are U+FFFD."""
    lead = np.int64(text[at])
    if lead < 0x80:
        return lead, 1
    if lead < 0xE0:
        if at + 2 <= stop:
            return ((lead & 0x1F) << 6) | (np.int64(text[at + 1]) & 0x3F), 2
    elif lead < 0xF0:
        if at + 3 <= stop:
            middle = np.int64(text[at + 1]) & 0x3F
            return ((lead & 0x0F) << 12) | (middle << 6) | (np.int64(text[at + 2]) & 0x3F), 3
    elif at + 4 <= stop:
        upper = ((lead & 0x07) << 18) | ((np.int64(text[at + 1]) & 0x3F) << 12)
        lower = ((np.int64(text[at + 2]) & 0x3F) << 6) | (np.int64(text[at + 3]) & 0x3F)
        return upper | lower, 4
    return np.int64(0xFFFD), stop - at


@kernel(inline=True)
def encode(point, word, size):
    """Write a code point behind word[:size]; return the new size."""
    if point < ONE_BYTE:
        word[size] = point
        return size + 1
    if point < TWO_BYTES:
        word[size] = 0xC0 | (point >> 6)
        word[size + 1] = 0x80 | (point & 0x3F)
        return size + 2
    if point < THREE_BYTES:
        word[size] = 0xE0 | (point >> 12)
        word[size + 1] = 0x80 | ((point >> 6) & 0x3F)
        word[size + 2] = 0x80 | (point & 0x3F)
        return size + 3
    word[size] = 0xF0 | (point >> 18)
    word[size + 1] = 0x80 | ((point >> 12) & 0x3F)
    word[size + 2] = 0x80 | ((point >> 6) & 0x3F)
    word[size + 3] = 0x80 | (point & 0x3F)
    return size + 4


@kernel(inline=True)
def hash_bytes(word, start, stop):
    """Return the hash of word[start:stop], taken eight bytes at a time.

    Of words of one length up to eight bytes no two have the same: the last step, where all
    their bytes are, can be undone.
    """
    value, pack = HASH_BASIS, np.int64(0)
    for i in range(stop - start):
        pack |= np.int64(word[start + i]) << ((i & 7) << 3)
        if i & 7 == 7:
            value, pack = (value ^ pack) * HASH_FACTOR, np.int64(0)
    return (value ^ pack) * HASH_FACTOR


@kernel(inline=True)
def place_of(value, mask):
    """Return where in a table of mask + 1 slots to look for a hash first."""
    return (value ^ (value >> 32)) & mask


@kernel(inline=True)
def same_bytes(a, at, b, start, size):
    """Return whether a[at:at + size] and b[start:start + size] are equal; size at least 8."""
    first, second, last = np.int64(a.ctypes.data) + at, np.int64(b.ctypes.data) + start, size - 8
    for i in range(0, last, 8):
        if load_eight(first + i) != load_eight(second + i):
            return False
    return load_eight(first + last) == load_eight(second + last)


@kernel(inline=True)
def find_word(word, start, stop, value, slots, entries, arena):
    """Return the number of word[start:stop], whose hash is `value`, or `UNKNOWN`."""
    size = stop - start
    mask = np.int64(slots.shape[0] - 1)
    place, found = place_of(value, mask), UNKNOWN
    while slots[place] != 0:
        number = np.int64(slots[place]) - 1
        if entries[number, HASH] == value and entries[number, LENGTH] == size:
            if size <= TELLING_BYTES or same_bytes(
                arena, entries[number, START], word, start, size
            ):
                found = number
                break
        place = (place + 1) & mask
    return found


@kernel
def add_word(word, start, stop, value, slots, entries, arena, state):
    """Return the number given to a new word, or `FULL`; parameters as :func:`find_word`."""
    size, mask = stop - start, np.int64(slots.shape[0] - 1)
    number, begin = state[WORDS], state[ARENA]
    if 2 * number >= mask or number >= entries.shape[0] or begin + size > arena.shape[0]:
        return FULL
    place = place_of(value, mask)
    while slots[place] != 0:
        place = (place + 1) & mask
    for i in range(size):
        arena[begin + i] = word[start + i]
    entries[number, HASH] = value
    entries[number, START] = begin
    entries[number, LENGTH] = size
    # The slot last: whoever reads meanwhile sees a whole word or none.
    slots[place] = number + 1
    state[WORDS], state[ARENA] = number + 1, begin + size
    return number


@kernel
def number_word(word, start, stop, value, slots, entries, arena, state, grow):
    """Return the number of word[start:stop], whose hash is `value`.

    A new word gets the next number when `grow`, if there is room, else `FULL`; without `grow`
    it is `UNKNOWN`.
    """
    number = find_word(word, start, stop, value, slots, entries, arena)
    if number == UNKNOWN and grow:
        number = add_word(word, start, stop, value, slots, entries, arena, state)
    return number


@kernel
def tokenize(text, bounds, fold, slots, entries, arena, word, tokens, ends, state, grow):
    """Number the words of documents; return whether all are done.

    False means that the table is full: enlarge it and call again with the same `state`.

    Parameters
    ----------
    text : uint8 array
        UTF-8 of all documents, one behind the other.
    bounds : int64 array of shape (n + 1,)
        Where documents begin and end in `text`.
    fold : uint32 array
        The table of code points; those behind its end separate.
    word : uint8 array of shape (LONGEST_WORD_BYTES,)
        Scratch.
    tokens : int32 array
        Receives word numbers in order, `UNKNOWN` for words not in the table without `grow`;
        needs room for half of bytes and documents together, the most there can be.
    ends : int64 array of shape (n,)
        Receives, per document, the tokens up to its end.
    state : int64 array of shape (STATE_SIZE,)
    """
    document, at, count = state[DOCUMENT], state[AT], state[TOKENS]
    points, whole = fold.shape[0], text.shape[0] - 8
    bytes_at, word_at = np.int64(text.ctypes.data), np.int64(word.ctypes.data)
    while document < ends.shape[0]:
        stop = bounds[document + 1]
        while at < stop:
            if at <= whole:
                eight = load_eight(bytes_at + at)
                plain = first_mark(letter_marks(eight) | digit_marks(eight) | foreign_marks(eight))
                if plain > 0:
                    at += min(plain, stop - at)
                    continue
            lead = text[at]
            if lead < ONE_BYTE:
                if fold[lead] == 0:
                    at += 1
                    continue
            else:
                point, width = decode(text, at, stop)
                if point >= points or fold[point] == 0 or fold[point] & MARK:
                    at += width
                    continue
            begin, size = at, 0
            value, pack = HASH_BASIS, np.int64(0)
            # As far as it is ASCII, eight bytes at a time; the loop behind goes on from there.
            while at <= whole and size <= EIGHTS_MOST:
                eight = load_eight(bytes_at + at)
                letters = letter_marks(eight)
                found = first_mark(other_marks(letters | digit_marks(eight)))
                found = min(found, stop - at)
                pack = first_bytes(lower(eight, letters), found)
                store_eight(word_at + size, pack)
                at += found
                size += found
                if found < 8:
                    break
                value, pack = (value ^ pack) * HASH_FACTOR, np.int64(0)
            while at < stop:
                lead = text[at]
                if lead < ONE_BYTE:
                    folded = np.int64(fold[lead])
                    if folded == 0:
                        break
                    at += 1
                    if size + 4 <= LONGEST_WORD_BYTES:
                        word[size] = folded
                        pack |= folded << ((size & 7) << 3)
                        if size & 7 == 7:
                            value, pack = (value ^ pack) * HASH_FACTOR, np.int64(0)
                        size += 1
                    continue
                point, width = decode(text, at, stop)
                folded = np.int64(fold[point]) if point < points else np.int64(0)
                if folded == 0:
                    break
                at += width
                if size + 4 <= LONGEST_WORD_BYTES:
                    before = size
                    size = encode(folded & POINT_BITS, word, size)
                    for i in range(before, size):
                        pack |= np.int64(word[i]) << ((i & 7) << 3)
                        if i & 7 == 7:
                            value, pack = (value ^ pack) * HASH_FACTOR, np.int64(0)
            value = (value ^ pack) * HASH_FACTOR
            number = find_word(word, 0, size, value, slots, entries, arena)
            if number == UNKNOWN and grow:
                number = add_word(word, 0, size, value, slots, entries, arena, state)
                if number == FULL:
                    state[DOCUMENT], state[AT], state[TOKENS] = document, begin, count
                    return False
            tokens[count] = number
            count += 1
        ends[document] = count
        document += 1
    state[DOCUMENT], state[AT], state[TOKENS] = document, at, count
    return True


@kernel
def number_words(text, bounds, slots, entries, arena, tokens, state, grow):
    """Number whole words as they are; return whether all are done, as :func:`tokenize` does.

    bounds : int64 array of shape (n + 1,)
        Where words begin and end in `text`.
    """
    for i in range(state[TOKENS], tokens.shape[0]):
        value = hash_bytes(text, bounds[i], bounds[i + 1])
        number = number_word(
            text, bounds[i], bounds[i + 1], value, slots, entries, arena, state, grow
        )
        if number == FULL:
            state[TOKENS] = i
            return False
        tokens[i] = number
    state[TOKENS] = tokens.shape[0]
    return True


@kernel
def refill_slots(entries, count, slots):
    """Put the first `count` words into an empty table."""
    mask = np.int64(slots.shape[0] - 1)
    for number in range(count):
        place = place_of(entries[number, HASH], mask)
        while slots[place] != 0:
            place = (place + 1) & mask
        slots[place] = number + 1


@kernel
def words_with_prefix(prefix, entries, count, arena, found):
    """Write the numbers of words that begin with the bytes `prefix`; return how many.

    found : int32 array of shape (count,)
    """
    size, total = prefix.shape[0], 0
    for number in range(count):
        if entries[number, LENGTH] < size:
            continue
        begin = entries[number, START]
        same = True
        for i in range(size):
            if arena[begin + i] != prefix[i]:
                same = False
                break
        if same:
            found[total] = number
            total += 1
    return total


@kernel
def words_one_edit_away(points, entries, count, arena, other, found):
    """Write the numbers of words at most one edit from a word; return how many.

    An edit inserts, drops or replaces one code point, or swaps two neighbours.

    Parameters
    ----------
    points : int64 array
        Code points of the word.
    other : int64 array of shape (len(points) + 2,)
        Scratch.
    found : int32 array of shape (count,)
    """
    size, total = points.shape[0], 0
    for number in range(count):
        at = entries[number, START]
        stop = at + entries[number, LENGTH]
        if stop - at + 1 < size:
            continue
        length = 0
        while at < stop and length < size + 2:
            other[length], width = decode(arena, at, stop)
            at += width
            length += 1
        if abs(length - size) <= 1 and at >= stop and within_one(points, size, other, length):
            found[total] = number
            total += 1
    return total


@kernel
def within_one(a, m, b, n):
    """Return whether a[:m] and b[:n] are one edit apart or equal."""
    head = 0
    while head < m and head < n and a[head] == b[head]:
        head += 1
    tail = 0
    while tail < m - head and tail < n - head and a[m - 1 - tail] == b[n - 1 - tail]:
        tail += 1
    left, right = m - head - tail, n - head - tail
    if left <= 1 and right <= 1:
        return True
    return left == 2 and right == 2 and a[head] == b[head + 1] and a[head + 1] == b[head]


@kernel
def look_up(text, fold, slots, entries, arena, tokens):
    """Write the numbers of one text's words, `UNKNOWN` for new ones; return (words, unknown)."""
    bounds, ends = np.zeros(2, np.int64), np.empty(1, np.int64)
    bounds[1] = text.shape[0]
    word, state = np.empty(LONGEST_WORD_BYTES, np.uint8), np.zeros(STATE_SIZE, np.int64)
    tokenize(text, bounds, fold, slots, entries, arena, word, tokens, ends, state, False)
    unknown = 0
    for i in range(ends[0]):
        unknown += tokens[i] < 0
    return ends[0], unknown
