"""Snippets: the passage of a text in which a query matches most, marked, safe for HTML."""

import html
import re
from typing import NamedTuple

from luma_lab.errors import InvalidArgument
from luma_lab.index.analyzer import cut_words
from luma_lab.index.textquery import FUZZY, MUST_NOT, PREFIX, clauses_of
from luma_lab.index.vocabulary import one_edit_apart

_TAG = re.compile(r"[A-Za-z][A-Za-z0-9-]*")
ELLIPSIS = "…"


class Snippet(NamedTuple):
    """A passage of a text with its matches.

    Attributes
    ----------
    html : str
        The passage, escaped, each match in its element; "…" where the text goes on.
    start, stop : int
        The passage is ``text[start:stop]``.
    spans : list of (start, stop)
        Every match of the whole text, in characters.
    """

    html: str
    start: int
    stop: int
    spans: list


def highlighted(analyzer, query, text, size, tag):
    """Return the `Snippet` of `text`; see `TextIndex.highlight`.

    Raises
    ------
    InvalidArgument
        `tag` is no name of an HTML element, or a quote of the query is not closed.
    """
    if not isinstance(tag, str) or not _TAG.fullmatch(tag):
        raise InvalidArgument(f"tag={tag!r}: expected the name of an HTML element")
    matches = _matcher(analyzer, [c for c in clauses_of(query) if c.sign != MUST_NOT])
    found = [(start, stop, word) for word, start, stop in cut_words(text) if matches(word)]
    spans = [(start, stop) for start, stop, _ in found]
    start, stop = (0, len(text)) if size == 0 else _passage(text, found, size)
    pieces, at = [ELLIPSIS] if start > 0 else [], start
    for begin, end in spans:
        if start <= begin and end <= stop:
            pieces.append(html.escape(text[at:begin]))
            pieces.append(f"<{tag}>{html.escape(text[begin:end])}</{tag}>")
            at = end
    pieces.append(html.escape(text[at:stop]))
    if stop < len(text):
        pieces.append(ELLIPSIS)
    return Snippet("".join(pieces), start, stop, spans)


def _matcher(analyzer, clauses):
    """Return a function that tells whether an exact form matches, asked once per word."""
    wanted, prefixes, near, known = set(), [], [], {}
    for clause in clauses:
        words = [word for word, _, _ in cut_words(clause.text)]
        if clause.kind == PREFIX:
            prefixes += words
        elif clause.kind == FUZZY:
            near += words
        else:
            for word in words:
                # Two words meet in their weakest form if they meet at all.
                wanted.update(analyzer.forms(word)[-1:])

    def matches(word):
        if word not in known:
            known[word] = (
                any(form in wanted for form in analyzer.forms(word)[-1:])
                or any(word.startswith(prefix) for prefix in prefixes)
                or any(one_edit_apart(word, other) for other in near)
            )
        return known[word]

    return matches


def _passage(text, found, size):
    """Return (start, stop) of a passage of about `size` characters with most distinct matches."""
    best, best_start = -1, 0
    first, counts = 0, {}
    for start, stop, word in found:
        counts[word] = counts.get(word, 0) + 1
        while stop - found[first][0] > size and found[first][0] < start:
            gone = found[first][2]
            counts[gone] -= 1
            if not counts[gone]:
                del counts[gone]
            first += 1
        worth = 1000 * len(counts) + sum(counts.values())
        if worth > best:
            best, best_start = worth, (found[first][0] + stop) // 2
    begin = max(0, min(best_start - size // 2, len(text) - size))
    end = min(len(text), begin + size)
    while begin > 0 and not text[begin - 1].isspace() and best_start - begin < size:
        begin -= 1
    while end < len(text) and not text[end].isspace() and end - best_start < size:
        end += 1
    return begin, end
