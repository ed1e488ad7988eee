"""Words cut, lower-cased and numbered, against Python's own strings."""

import itertools
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luma_lab.index.analyzer import cut_words
from luma_lab.index.letters import lower_letter, word_table
from luma_lab.index.vocabulary import Vocabulary, one_edit_apart
from luma_lab.kernels import eight, tokens
from luma_lab.kernels.compile import kernel

TEXTS = st.text(
    st.one_of(
        st.sampled_from("ab cAÑñÁé-_'0٣ß İıΣςσ\u0301\u0303\n"), st.characters(exclude_categories=[])
    ),
    max_size=40,
)


def spelled(texts):
    """Return the words of each text, spelled."""
    words = Vocabulary()
    numbers, ends = words.tokenize(texts)
    names, begins = words.words(), [0, *ends.tolist()]
    return [[names[n] for n in numbers[a:b]] for a, b in itertools.pairwise(begins)]


@given(st.lists(TEXTS, max_size=5))
def test_kernels_and_python_cut_the_same_words(texts):
    assert spelled(texts) == [[word for word, _, _ in cut_words(text)] for text in texts]


LONG = st.text("aBz09é_ -", max_size=40) | st.integers(236, 260).map(lambda n: "Ab" * (n // 2))


@given(st.lists(st.lists(LONG, max_size=4).map("".join), max_size=6))
def test_long_words_and_texts_without_a_gap_between_them_are_cut_alike(texts):
    assert spelled(texts) == [[word for word, _, _ in cut_words(text)] for text in texts]


@given(st.binary(min_size=8, max_size=8), st.integers(0, 8))
def test_eight_bytes_are_told_apart_as_one_by_one(raw, count):
    out = np.zeros(10, np.uint8)
    seen = np.array(look(np.frombuffer(raw, np.uint8), count, out))
    value, letters, digits, lowered, first, mark = seen.tolist()
    assert value == int.from_bytes(raw, "little", signed=True)
    assert out.tobytes() == b"\0" + raw + b"\0"

    def bytes_of(number):
        return (int(number) % 2**64).to_bytes(8, "little")

    assert bytes_of(letters) == bytes(0x80 * chr(b).isalpha() * (b < 128) for b in raw)
    assert bytes_of(digits) == bytes(0x80 * chr(b).isdigit() * (b < 128) for b in raw)
    assert bytes_of(lowered) == raw.lower()  # of bytes: ASCII only
    assert bytes_of(first) == raw[:count].ljust(8, b"\0")
    words = [bool(a | b) for a, b in zip(bytes_of(letters), bytes_of(digits), strict=True)]
    assert mark == [*words, True].index(True)


@kernel
def look(data, count, out):
    """Return all that is told of eight bytes, and store them behind the first byte of `out`."""
    value = eight.load_eight(np.int64(data.ctypes.data))
    eight.store_eight(np.int64(out.ctypes.data) + 1, value)
    letters, digits = eight.letter_marks(value), eight.digit_marks(value)
    lowered, first = eight.lower(value, letters), eight.first_bytes(value, np.int64(count))
    return value, letters, digits, lowered, first, eight.first_mark(letters | digits)


@given(TEXTS)
def test_words_say_where_they_stand(text):
    for word, start, stop in cut_words(text):
        written = unicodedata.normalize("NFC", text[start:stop])
        assert "".join(map(lower_letter, written)) == word


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Hola, Mundo!", ["hola", "mundo"]),
        ("AÑO año an\u0303o", ["año", "año", "año"]),
        ("ΟΔΟΣ οδος", ["οδοσ", "οδοσ"]),
        ("İstanbul Straße", ["istanbul", "straße"]),
        ("𝐀 𐐀𐐨 x\U0001f600y", ["𝐀", "𐐨𐐨", "x", "y"]),
        ("a\ud800b", ["a", "b"]),
        ("snake_case don't 3.14", ["snake", "case", "don", "t", "3", "14"]),
        ("\u0301a", ["a"]),
        ("", []),
        (" \n", []),
    ],
)
def test_what_is_a_word(text, words):
    assert spelled([text]) == [words]


def test_numbers_stay_while_the_table_grows():
    words = Vocabulary()
    many = [f"w{i}" for i in range(5000)]
    first, _ = words.tokenize([" ".join(many[:700])])
    again, _ = words.tokenize([" ".join(many)])
    assert first.tolist() == list(range(700))
    assert again.tolist() == list(range(5000))
    assert words.words() == many
    assert words.words(10, 12) == many[10:12]


def test_looking_up_adds_nothing():
    words = Vocabulary()
    words.tokenize(["uno dos"])
    numbers, unknown = words.look_up("Dos tres UNO")
    assert (numbers.tolist(), unknown) == ([1, -1, 0], 1)
    assert len(words) == 2


def test_equal_hashes_do_not_make_equal_words():
    words = Vocabulary()
    words.number(["adelantado"])
    slots, entries, arena = words.table
    word = np.frombuffer(b"retrasados", np.uint8)
    state = np.zeros(tokens.STATE_SIZE, np.int64)
    found = tokens.number_word(
        word, 0, 10, entries[0, tokens.HASH], slots, entries, arena, state, False
    )
    assert found == tokens.UNKNOWN


@given(st.lists(st.text(max_size=6), max_size=20))
def test_whole_words_come_back_as_they_went_in(words):
    table = Vocabulary()
    numbers = table.number(words)
    spelling = table.words()
    assert [spelling[n] for n in numbers] == words
    again = Vocabulary.of_arrays(*table.arrays().values())
    assert again.words() == spelling
    assert again.number(words, grow=False).tolist() == numbers.tolist()


def test_only_the_first_bytes_of_a_very_long_word_count():
    long = "x" * 1000
    assert spelled([long]) == [["x" * 252]]
    assert [word for word, _, _ in cut_words(long)] == ["x" * 252]
    assert spelled([f"{long}y {long}z"])[0] == ["x" * 252] * 2


@given(st.lists(st.text("abñ", max_size=5), unique=True, max_size=30), st.text("abñ", max_size=5))
def test_prefixes_and_near_words_are_found(words, asked):
    table = Vocabulary()
    table.number(words)
    prefixed = [words[n] for n in table.with_prefix(asked)]
    assert prefixed == [word for word in words if word.startswith(asked)]
    near = [words[n] for n in table.near(asked)]
    assert near == [word for word in words if edits(word, asked) <= 1]
    assert near == [word for word in words if one_edit_apart(word, asked)]


def edits(a, b):
    """Damerau's distance with neighbours swapped (optimal string alignment)."""
    rows = [[i + j if i * j == 0 else 0 for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            change = rows[i - 1][j - 1] + (a[i - 1] != b[j - 1])
            rows[i][j] = min(rows[i - 1][j] + 1, rows[i][j - 1] + 1, change)
            if i > 1 and j > 1 and a[i - 1] == b[j - 2] and a[i - 2] == b[j - 1]:
                rows[i][j] = min(rows[i][j], rows[i - 2][j - 2] + 1)
    return rows[-1][-1]


def test_the_table_knows_every_letter_python_lower_cases():
    table = word_table()
    for letter in map(chr, range(len(table))):
        if letter.isalnum():
            assert table[ord(letter)] == ord(lower_letter(letter))
    assert not any(chr(p).isalnum() for p in range(len(table), 0x110000))
