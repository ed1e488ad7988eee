"""What callers hand to a text index, checked once at the door."""

from luma_lab.errors import InvalidArgument, UnknownName
from luma_lab.index.scoring import check_number

ONLY_FIELD = "text"
MOST_QUERY_WORDS = 4096
MOST_WIDE_CLAUSES = 64  # each looks at every word there is
MOST_WEIGHT = 1e9  # so that sums of scores stay finite
FIELD_OPTIONS = ("weight", "language")


def as_columns(texts, fields):
    """Return, per field, the list of its texts or token lists.

    Parameters
    ----------
    texts : iterable of str or of lists of str, or of dicts of them when there are fields
    fields : dict, or None for documents that are texts

    Raises
    ------
    InvalidArgument, UnknownName
    """
    if isinstance(texts, str | bytes | dict) or not hasattr(texts, "__iter__"):
        raise InvalidArgument(f"texts is a {type(texts).__name__}: expected a list of texts")
    texts = list(texts)
    if fields is None:
        if not set(map(type, texts)) - {str}:
            return [texts]
        return [[check_text(text, i) for i, text in enumerate(texts)]]
    columns = [[] for _ in fields]
    for i, document in enumerate(texts):
        if not isinstance(document, dict):
            raise InvalidArgument(
                f"text {i} is a {type(document).__name__}: expected a dict of fields {list(fields)}"
            )
        for name in document:
            if name not in fields:
                raise UnknownName("field", name, fields)
        for name, column in zip(fields, columns, strict=True):
            column.append(check_text(document.get(name, ""), i))
    return columns


def check_fields(fields):
    """Return (dict of names and weights, list of languages) of fields; None: the only one.

    A field without a language of its own has None for it.
    """
    if fields is None:
        return {ONLY_FIELD: 1.0}, [None]
    if not isinstance(fields, dict) or not fields:
        raise InvalidArgument(f"fields={fields!r}: expected a dict of names and weights")
    weights, languages = {}, []
    for name, given in fields.items():
        if not isinstance(name, str) or not name:
            raise InvalidArgument(f"field name {name!r}: expected a string")
        if not isinstance(given, dict):
            given = {"weight": given}
        for key in given:
            if key not in FIELD_OPTIONS:
                raise UnknownName(f"option of field {name!r}", key, FIELD_OPTIONS)
        weights[name] = check_number(f"weight of field {name!r}", given.get("weight", 1.0))
        if weights[name] > MOST_WEIGHT:
            raise InvalidArgument(f"weight of field {name!r}: expected at most {MOST_WEIGHT:g}")
        languages.append(given.get("language"))
    return weights, languages


def check_text(text, place):
    """Return a text or a list of tokens, or raise `InvalidArgument` naming its place."""
    if isinstance(text, str):
        return text
    if not isinstance(text, list | tuple):
        raise InvalidArgument(
            f"text {place} is a {type(text).__name__}: expected a string or a list of tokens"
        )
    return check_tokens(text, f"text {place}")


def check_tokens(tokens, what="query"):
    """Return a list of tokens, or raise `InvalidArgument`."""
    if not isinstance(tokens, list | tuple):
        raise InvalidArgument(
            f"{what} is a {type(tokens).__name__}: expected a string or a list of tokens"
        )
    for token in tokens:
        if not isinstance(token, str):
            raise InvalidArgument(f"{what} holds {token!r}: expected tokens that are strings")
    return tokens


def check_clauses(wide, all):
    """Refuse a query of too many parts, `wide` of which stand for any number of words."""
    if wide > MOST_WIDE_CLAUSES:
        raise InvalidArgument(
            f"query holds {wide} words with * or ~: expected at most {MOST_WIDE_CLAUSES}"
        )
    if all > MOST_QUERY_WORDS:
        raise InvalidArgument(f"query has {all} parts: expected at most {MOST_QUERY_WORDS}")


def check_many(words):
    """Refuse a query of more than `MOST_QUERY_WORDS` distinct words."""
    if len(words) > MOST_QUERY_WORDS:
        raise InvalidArgument(
            f"query holds {len(words)} distinct words: expected at most {MOST_QUERY_WORDS}"
        )
