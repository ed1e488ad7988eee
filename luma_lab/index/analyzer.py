"""From a word as written to the forms it is found by.

A word has up to three forms, from strong to weak: *exact* (lower case, accents kept), *stem*
(stemmed, then freed of accents but for letters of their own, as ñ is in Spanish) and *folded*
(freed of all accents first, then stemmed, so that whoever types none finds the word whatever
its ending). So ``campana`` finds ``campaña``, weakly, and ``año`` prefers ``años`` to ``ano``.
Each distinct word is analysed once, whatever the corpus.
"""

import functools
from typing import NamedTuple

import numpy as np

from luma_lab.errors import InvalidArgument, UnknownName
from luma_lab.index.letters import lower_letter, without_accents, word_table
from luma_lab.index.snowball import SNOWBALL, check_language
from luma_lab.index.stopwords import STOP_WORDS
from luma_lab.kernels.tokens import LONGEST_WORD_BYTES, MARK

KEPT_LETTERS = {"es": "ñ"}
# How much of a word's score its forms carry. What is not in the index hands its share on.
FORM_WEIGHTS = {1: (1.0,), 2: (0.4, 0.6), 3: (0.4, 0.57, 0.03)}
# Endings of plurals whose singulars look like verbs, and of verbs that look like them.
VERB_LIKE_PLURALS = ("ades", "ares", "eres")
VERB_ENDINGS = ("ieres", "ueres")  # quieres, mueres
# Short words Snowball leaves alone whose last s is no plural's.
NO_PLURALS = frozenset({"dios", "pues", "tres", "seis", "adiós", "ellos", "ellas"})


class Token(NamedTuple):
    """A word of a text and what the index makes of it.

    Attributes
    ----------
    text : str
        As written.
    start, stop : int
        Its characters are ``text[start:stop]`` of the text analysed.
    forms : tuple of str
        Exact, stem, folded; fewer for languages without them, none for a stop word.
    """

    text: str
    start: int
    stop: int
    forms: tuple

    @property
    def is_stop_word(self):
        """Whether the word is left out of the index."""
        return not self.forms


class Analyzer:
    """How texts of one language become words and forms.

    Parameters
    ----------
    language : str
        "none" (words as written, in lower case), or a Snowball language by its two letters
        ("es") or by name ("spanish").
    stop_words : bool or iterable of str
        Words to leave out. True takes the list shipped for the language (es, en); False none.

    Raises
    ------
    UnknownName, InvalidArgument
    """

    def __init__(self, language="en", stop_words=False):
        self.language = check_language(language)
        self.stop_words = _stop_words(self.language, stop_words)
        self._keep = KEPT_LETTERS.get(self.language, "")
        self.form_count = 1 if self.language == "none" else 3 if self._keep else 2
        self.form_weights = FORM_WEIGHTS[self.form_count]

    def stems(self, words):
        """Return the stems of distinct exact forms, in order."""
        stemmer = _stemmer(SNOWBALL[self.language])
        found = stemmer.stemWords(list(words))
        if self.language == "es":
            found = [
                _spanish_singular(word, stem, stemmer) if word.endswith("s") else stem
                for word, stem in zip(words, found, strict=True)
            ]
            # luz, luces: what Snowball leaves of the plural is luc.
            found = [stem[:-1] + "c" if stem.endswith("z") else stem for stem in found]
        return [without_accents(stem, self._keep) for stem in found]

    def folded(self, words, stems):
        """Return the folded forms of distinct exact forms, whose stems are known."""
        plain = [without_accents(word) for word in words]
        # Not the accentless stem: Snowball cuts compania and ingles where it spares compañía
        # and inglés.
        accented = {word for word, bare in zip(words, plain, strict=True) if word != bare}
        bare = sorted({without_accents(word) for word in accented})
        again = dict(zip(bare, self.stems(bare), strict=True))
        return [again.get(word, stem) for word, stem in zip(plain, stems, strict=True)]

    def forms(self, word):
        """Return the forms of an exact form, strongest first; of a stop word none."""
        if word in self.stop_words:
            return ()
        if self.form_count == 1:
            return (word,)
        stems = self.stems([word])
        return (word, *stems, *(self.folded([word], stems) if self.form_count == 3 else ()))

    def analyze(self, text):
        """Return the `Token`s of a text.

        >>> [token.forms for token in Analyzer("es").analyze("Los años")]
        [('los', 'los', 'los'), ('años', 'año', 'ano')]
        """
        return [
            Token(text[start:stop], start, stop, self.forms(word))
            for word, start, stop in cut_words(text)
        ]


def cut_words(text):
    """Yield (exact form, start, stop) of the words of a text, as the kernels cut them."""
    import unicodedata

    table = word_table()
    points = np.fromiter(map(ord, text), np.int64, len(text))
    folded = table[np.minimum(points, len(table) - 1)]
    folded[points >= len(table)] = 0
    at, total = 0, len(text)
    while at < total:
        if folded[at] == 0 or folded[at] & MARK:
            at += 1
            continue
        start = at
        while at < total and folded[at] != 0:
            at += 1
        written = unicodedata.normalize("NFC", text[start:at])
        yield _cut_off("".join(map(lower_letter, written))), start, at


def _cut_off(word):
    """Return what the kernels keep of a long word."""
    if len(word) * 4 <= LONGEST_WORD_BYTES:
        return word
    kept, size = [], 0
    for letter in word:
        if size + 4 <= LONGEST_WORD_BYTES:
            kept.append(letter)
            size += len(letter.encode("utf-8", "surrogatepass"))
    return "".join(kept)


def _stop_words(language, wanted):
    if wanted is True:
        if language not in STOP_WORDS:
            raise InvalidArgument(
                f"stop_words=True: no list ships for language {language!r}, only for "
                f"{sorted(STOP_WORDS)}; pass the words"
            )
        return STOP_WORDS[language]
    if wanted is False or wanted is None:
        return frozenset()
    if isinstance(wanted, str) or not hasattr(wanted, "__iter__"):
        raise InvalidArgument(f"stop_words={wanted!r}: expected True, False or a list of words")
    words = list(wanted)
    for word in words:
        if not isinstance(word, str):
            raise InvalidArgument(f"stop_words holds {word!r}: expected strings")
    return frozenset("".join(map(lower_letter, word)) for word in words)


@functools.cache
def _stemmer(name):
    """Return the Snowball stemmer of a language: the compiled one when it is installed."""
    import snowballstemmer

    if name not in snowballstemmer.algorithms():
        raise UnknownName("language", name, snowballstemmer.algorithms())
    return snowballstemmer.stemmer(name)


def _spanish_singular(word, stem, stemmer):
    """Return the stem of the singular, where Snowball leaves a plural apart from it.

    Its rules need two syllables before an ending, so that ``años`` keeps its s and ``año`` its
    o; and they take ``ciudad``, ``mujer`` and ``lugar`` for verbs, but not their plurals.
    """
    if len(word) < 4 or word in NO_PLURALS:
        return stem
    if word.endswith(VERB_LIKE_PLURALS) and not word.endswith(VERB_ENDINGS) and len(word) > 5:
        return stemmer.stemWord(word[:-2])
    if stem.endswith("s") and len(stem) == len(word) and word[-2] in "aeo":
        return stemmer.stemWord(word[:-1])
    return stem
