"""Words and their numbers: append only, kept across builds, small to save."""

import itertools

import numpy as np

from luma_lab.index.letters import composed, word_table
from luma_lab.index.rows import read_only
from luma_lab.kernels.tokens import (
    ARENA,
    LENGTH,
    LONGEST_WORD_BYTES,
    START,
    STATE_SIZE,
    TOKENS,
    WORDS,
    look_up,
    number_words,
    refill_slots,
    tokenize,
    within_one,
    words_one_edit_away,
    words_with_prefix,
)

LEAST_SLOTS = 1 << 10
LEAST_ARENA = 1 << 14
# Of text tokenised at once: enough for the call not to count, small beside the postings.
CHUNK_LETTERS = 1 << 22
GROUP_TEXTS = 128  # encoded at once if they are all ASCII
NO_WORDS = read_only(np.empty(0, np.int32))


class Vocabulary:
    """A set of words, numbered in the order they came.

    One thread may add words while others look them up.

    Examples
    --------
    >>> words = Vocabulary()
    >>> tokens, ends = words.tokenize(["Hola, mundo", "¡hola!"])
    >>> tokens.tolist(), ends.tolist(), words.words()
    ([0, 1, 0], [2, 3], ['hola', 'mundo'])
    """

    def __init__(self):
        self._count = self._used = 0
        self._table = (
            np.zeros(LEAST_SLOTS, np.int32),
            np.empty((LEAST_SLOTS // 2, 3), np.int64),
            np.empty(LEAST_ARENA, np.uint8),
        )

    def __len__(self):
        return self._count

    @property
    def table(self):
        """(slots, entries, arena), as `kernels.tokens` takes them."""
        return self._table

    @property
    def nbytes(self):
        """Bytes of the table, room included."""
        return sum(array.nbytes for array in self._table)

    def tokenize(self, texts):
        """Cut texts into words, adding new ones.

        Parameters
        ----------
        texts : list of str
            Lone surrogates separate words.

        Returns
        -------
        tokens : int32 array
            Word numbers, text after text.
        ends : int64 array of shape (len(texts),)
            Tokens up to the end of each text.
        """
        if not texts:
            return np.empty(0, np.int32), np.empty(0, np.int64)
        sizes = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)))
        steps = np.arange(CHUNK_LETTERS, sizes[-1], CHUNK_LETTERS)
        cuts = np.unique([0, *np.searchsorted(sizes, steps, "right").tolist(), len(texts)])
        pieces, ends, before = [], [], 0
        for start, stop in itertools.pairwise(cuts.tolist()):
            tokens, stops = self._tokenize_chunk(texts[start:stop])
            pieces.append(tokens)
            ends.append(stops + before)
            before += len(tokens)
        return np.concatenate(pieces), np.concatenate(ends)

    def _tokenize_chunk(self, texts):
        text, bounds = _encoded(texts)
        most = (len(text) + len(texts)) // 2
        tokens, ends = np.empty(most, np.int32), np.empty(len(texts), np.int64)
        word = np.empty(LONGEST_WORD_BYTES, np.uint8)
        fold, state = word_table(), self._state()
        while not tokenize(text, bounds, fold, *self._table, word, tokens, ends, state, True):
            self._enlarge(state, LONGEST_WORD_BYTES)
        self._keep(state)
        return tokens[: state[TOKENS]].copy(), ends

    @staticmethod
    def encoded(text):
        """Return the bytes in which a text's words are looked up."""
        return composed(text).encode("utf-8", "surrogatepass")

    def look_up(self, text):
        """Return (word numbers of a text, how many are -1 because they are not here)."""
        encoded = self.encoded(text)
        if not encoded:
            return NO_WORDS, 0
        tokens = np.empty(len(encoded) // 2 + 1, np.int32)
        data = np.frombuffer(encoded, np.uint8)
        count, unknown = look_up(data, word_table(), *self._table, tokens)
        return tokens[:count], unknown

    def number(self, words, grow=True):
        """Return the numbers of whole words as an int32 array; without `grow`, -1 for new ones.

        Words are taken as they are: not cut, not lower-cased.
        """
        if not words:
            return np.empty(0, np.int32)
        encoded = [word.encode("utf-8", "surrogatepass") for word in words]
        text = np.frombuffer(b"".join(encoded), np.uint8)
        bounds, tokens, state = _bounds(encoded), np.empty(len(words), np.int32), self._state()
        while not number_words(text, bounds, *self._table, tokens, state, grow):
            done = state[TOKENS]
            self._enlarge(state, int(bounds[done + 1] - bounds[done]))
        if grow:
            self._keep(state)
        return tokens

    def words(self, start=0, stop=None):
        """Return the words of numbers start:stop."""
        _, entries, arena = self._table
        stop = self._count if stop is None else stop
        if start >= stop:
            return []
        begins = entries[start:stop, START]
        last = stop - 1
        end = int(entries[last, START] + entries[last, LENGTH])
        data, first = arena[begins[0] : end].tobytes(), int(begins[0])
        cuts = [*(begins - first).tolist(), end - first]
        return [data[a:b].decode("utf-8", "surrogatepass") for a, b in itertools.pairwise(cuts)]

    def with_prefix(self, prefix):
        """Return the numbers of words that begin with `prefix`, ascending."""
        found = np.empty(self._count, np.int32)
        data = np.frombuffer(prefix.encode("utf-8", "surrogatepass"), np.uint8)
        _, entries, arena = self._table
        return found[: words_with_prefix(data, entries, len(found), arena, found)]

    def near(self, word):
        """Return the numbers of words at most one edit from `word`, ascending."""
        found = np.empty(self._count, np.int32)
        points = np.array([ord(letter) for letter in word], np.int64)
        other = np.empty(len(points) + 2, np.int64)
        _, entries, arena = self._table
        return found[: words_one_edit_away(points, entries, len(found), arena, other, found)]

    def arrays(self):
        """Return what makes the vocabulary: its bytes and where words end in them."""
        _, entries, arena = self._table
        count = self._count
        ends = entries[:count, START] + entries[:count, LENGTH]
        return {"bytes": arena[: self._used], "ends": ends}

    @classmethod
    def of_arrays(cls, data, ends):
        """Return the vocabulary that gave these :meth:`arrays`.

        Raises
        ------
        ValueError
            They are no vocabulary's.
        """
        bounds = np.concatenate([np.zeros(1, np.int64), np.asarray(ends, np.int64)])
        if (np.diff(bounds) < 0).any() or bounds[-1] != len(data):
            raise ValueError("word ends do not ascend to the end of the bytes")
        made = cls()
        text, tokens = read_only(np.asarray(data)), np.empty(len(ends), np.int32)
        state = made._state()
        while not number_words(text, read_only(bounds), *made._table, tokens, state, True):
            done = state[TOKENS]
            made._enlarge(state, int(bounds[done + 1] - bounds[done]))
        made._keep(state)
        if len(made) != len(ends):
            raise ValueError("a word is there twice")
        return made

    def _state(self):
        state = np.zeros(STATE_SIZE, np.int64)
        state[WORDS], state[ARENA] = self._count, self._used
        return state

    def _keep(self, state):
        self._used, self._count = int(state[ARENA]), int(state[WORDS])

    def _enlarge(self, state, word_bytes):
        """Double what is nearly full; readers of the old arrays keep them."""
        slots, entries, arena = self._table
        count, used = int(state[WORDS]), int(state[ARENA])
        if 2 * count >= len(slots) - 1 or count >= len(entries):
            wider = np.empty((len(slots), 3), np.int64)
            wider[:count] = entries[:count]
            entries, slots = wider, np.zeros(2 * len(slots), np.int32)
            refill_slots(entries, count, slots)
        if used + word_bytes > len(arena):
            wider = np.empty(max(2 * len(arena), used + word_bytes), np.uint8)
            wider[:used] = arena[:used]
            arena = wider
        self._table = slots, entries, arena


def one_edit_apart(word, other):
    """Return whether two words are equal or one edit apart, as :meth:`Vocabulary.near` counts."""
    a, b = (np.array([ord(letter) for letter in letters], np.int64) for letters in (word, other))
    return bool(abs(len(a) - len(b)) <= 1 and within_one(a, len(a), b, len(b)))


def _encoded(texts):
    """Return the UTF-8 of texts, as one uint8 array, and the bounds of each in it."""
    pieces, sizes = [], []
    for start in range(0, len(texts), GROUP_TEXTS):
        group = texts[start : start + GROUP_TEXTS]
        joined = "".join(group)
        if joined.isascii():
            pieces.append(joined.encode())
            sizes += map(len, group)
        else:
            encoded = [composed(text).encode("utf-8", "surrogatepass") for text in group]
            pieces += encoded
            sizes += map(len, encoded)
    bounds = np.zeros(len(texts) + 1, np.int64)
    np.cumsum(sizes, out=bounds[1:])
    return np.frombuffer(b"".join(pieces), np.uint8), read_only(bounds)


def _bounds(encoded):
    bounds = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)), out=bounds[1:])
    return read_only(bounds)
