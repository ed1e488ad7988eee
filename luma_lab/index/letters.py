"""Letters: which code points make words, their lower case, and their unaccented forms.

Lower case goes code point by code point, so that a word looks the same wherever it stands: a
final sigma is a sigma, a dotted capital I an i.
"""

import functools
import unicodedata

import numpy as np

from luma_lab.kernels.tokens import MARK

# Behind it (planes 4 to 16) no code point is a letter or a digit.
TABLE_POINTS = 0x32400
LOWER_SPECIAL = {"İ": "i", "ς": "σ", "Σ": "σ"}
# Letters whose unaccented form is no decomposition of theirs.
FOLD_SPECIAL = {
    "ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "đ": "d", "ð": "d", "þ": "th", "ł": "l",
    "ı": "i", "ħ": "h", "ŋ": "n", "ŧ": "t",
}  # fmt: skip


@functools.cache
def word_table():
    """Return the uint32 table over code points that `kernels.tokens` cuts words by."""
    table = np.zeros(TABLE_POINTS, np.uint32)
    for point in range(TABLE_POINTS):
        letter = chr(point)
        if letter.isalnum():
            table[point] = ord(lower_letter(letter))
        elif unicodedata.category(letter)[0] == "M":
            table[point] = point | MARK
    table.flags.writeable = False
    return table


def lower_letter(letter):
    """Return the one-letter lower case of a letter; itself if there is none."""
    if letter in LOWER_SPECIAL:
        return LOWER_SPECIAL[letter]
    lower = letter.lower()
    return lower if len(lower) == 1 else letter


def composed(text):
    """Return a text in normal form C, as words are numbered in; the same object if it is."""
    if text.isascii() or unicodedata.is_normalized("NFC", text):
        return text
    return unicodedata.normalize("NFC", text)


def without_accents(word, keep=""):
    """Return a lower-case word with letters reduced to their bases, but for those in `keep`.

    >>> without_accents("corazón"), without_accents("año", keep="ñ"), without_accents("año")
    ('corazon', 'año', 'ano')
    """
    if word.isascii():
        return word
    return "".join(letter if letter in keep else _base(letter) for letter in word)


@functools.cache
def _base(letter):
    if letter in FOLD_SPECIAL:
        return FOLD_SPECIAL[letter]
    parts = unicodedata.normalize("NFKD", letter)
    kept = "".join(part for part in parts if unicodedata.category(part)[0] != "M")
    return kept.lower() or letter
