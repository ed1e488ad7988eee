"""The small query language: what a search string asks for.

========== ========================================================
``word``   should be there: adds to the score, in any of its forms
``+word``  must be there
``-word``  must not
``"a b"``  the words as written, one after the other
``begin*`` any word that begins so
``word~``  any word at most one edit away
========== ========================================================

Signs count at the beginning of a word only, ``*`` and ``~`` at its end only, so that
``well-known`` and ``c++`` are words. What is between quotes is a phrase if the opening quote
begins a word.
"""

import re
from typing import NamedTuple

from luma_lab.errors import InvalidArgument

WORD, PHRASE, PREFIX, FUZZY = "word", "phrase", "prefix", "fuzzy"
SHOULD, MUST, MUST_NOT = "", "+", "-"
_SPECIAL = re.compile(r'(?:^|\s)(?:[+-]\S|")|\S[*~](?:\s|$)')
_SIGNS = re.compile(r"(?:^|(?<=\s))[+-]+|[*~]+(?=\s|$)")
_PIECE = re.compile(r'\s*([+-]?)(?:"([^"]*)"|("[^"]*$)|([^\s]+))')


class Clause(NamedTuple):
    """One part of a query: a kind, the text it is about, and a sign."""

    kind: str
    text: str
    sign: str


def has_syntax(query):
    """Return whether a query is more than words."""
    # Most queries have none of the signs, and five looks for one cost less than a pattern.
    some = '"' in query or "+" in query or "-" in query or "*" in query or "~" in query
    return some and _SPECIAL.search(query) is not None


def parse(query):
    """Return the `Clause`s of a query string.

    Raises
    ------
    InvalidArgument
        A quote is not closed.

    Examples
    --------
    >>> [tuple(clause) for clause in parse('+luz -"de gas" lum*')]
    [('word', 'luz', '+'), ('phrase', 'de gas', '-'), ('prefix', 'lum', '')]
    """
    clauses, at = [], 0
    while found := _PIECE.match(query, at):
        sign, phrase, unclosed, word = found.groups()
        if unclosed is not None:
            raise InvalidArgument(
                f"the quote at character {found.start(3)} of the query is not closed: "
                "close it, or leave it out"
            )
        if phrase is not None:
            clauses.append(Clause(PHRASE, phrase, sign))
        elif len(word) > 1 and word[-1] in "*~":
            kind = PREFIX if word[-1] == "*" else FUZZY
            clauses.append(Clause(kind, word[:-1], sign))
        else:
            clauses.append(Clause(WORD, word, sign))
        at = found.end()
    return clauses


def clauses_of(query, syntax=True):
    """Return the `Clause`s of a query string: one of all its words, unless it is more than these.

    syntax : bool
        Whether the signs of the query language are looked for.
    """
    return parse(query) if syntax and has_syntax(query) else [Clause(WORD, query, SHOULD)]


def as_words(text):
    """Return a text in plain language as a query for its words, whatever signs it holds.

    >>> as_words('Why does "perl -w" say *** or C++?')
    'Why does  perl w  say  or C++?'
    """
    return _SIGNS.sub("", text.replace('"', " "))
