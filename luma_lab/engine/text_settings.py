"""What makes a collection searchable by words: fields, language, BM25; and the texts of a meta."""

import msgspec

from luma_lab.engine import filters
from luma_lab.engine.grouping import dig
from luma_lab.errors import InvalidArgument, UnknownName

MAX_FIELDS = 16
DEFAULT_LANGUAGE = "en"
FIELD_OPTIONS = ("weight", "language")
_decoder = msgspec.json.Decoder()


def check_settings(
    text_fields,
    language=None,
    *,
    text_variant=None,
    k1=None,
    b=None,
    stop_words=None,
    text_positions=None,
):
    """Return checked settings as plain JSON, for the catalog; None where there are no fields.

    See `Collection.set_text_fields`.

    Raises
    ------
    InvalidArgument, InvalidFilter, UnknownName
        Naming the field or the option.
    """
    options = {
        "language": language,
        "variant": text_variant,
        "k1": k1,
        "b": b,
        "stop_words": stop_words,
        "positions": text_positions,
    }
    if stop_words is not None and not isinstance(stop_words, (bool, str)):
        if hasattr(stop_words, "__iter__"):
            options["stop_words"] = list(stop_words)
    options = {name: value for name, value in options.items() if value is not None}
    if text_fields is None:
        if options:
            raise InvalidArgument(
                f"{next(iter(options))} is given without text_fields: say which texts it is for"
            )
        return None
    settings = {"fields": _check_fields(text_fields), "language": DEFAULT_LANGUAGE, **options}
    index = make_index(settings)
    settings["language"] = index.language
    settings["fields"] = [
        [name, weight, *([] if own == index.language else [own])]
        for (name, weight), own in zip(index.fields.items(), index.field_languages, strict=True)
    ]
    for name in ("k1", "b"):
        if name in settings:
            settings[name] = getattr(index.model, name)
    return settings


def make_index(settings, *, deferred=False):
    """Return an empty `TextIndex` of checked settings."""
    from luma_lab.index import TextIndex

    options = {name: value for name, value in settings.items() if name != "fields"}
    fields = {
        name: {"weight": weight, **({"language": own[0]} if own else {})}
        for name, weight, *own in settings["fields"]
    }
    return TextIndex(fields=fields, deferred=deferred, **options)


def field_weights(settings):
    """Return a dict from path to weight."""
    return {name: weight for name, weight, *_ in settings["fields"]}


def field_languages(settings):
    """Return a dict from path to language, of the fields that have one of their own."""
    return {name: own[0] for name, _, *own in settings["fields"] if own}


class Texts:
    """Takes the texts out of a point's meta.

    Parameters
    ----------
    settings : dict
        As :func:`check_settings` returned them.
    """

    def __init__(self, settings):
        self._paths = [(name, filters.split_path(name)) for name, *_ in settings["fields"]]

    def of(self, meta):
        """Return a dict with the text of each field; what is no text is an empty one.

        A list gives its strings, one a line.

        Parameters
        ----------
        meta : bytes or str
            JSON.
        """
        return self.of_value(_decoder.decode(meta))

    def of_value(self, meta):
        """Return what :meth:`of` does, of a decoded meta."""
        return {name: _text(dig(meta, path)) for name, path in self._paths}


def _text(value):
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "\n".join(item for item in value if isinstance(item, str))
    return ""


def _check_fields(text_fields):
    """Return fields as a list of [name, weight] or [name, weight, language].

    Checked but for the values of weights and languages.
    """
    if isinstance(text_fields, dict):
        fields = [_field(name, given) for name, given in text_fields.items()]
    elif isinstance(text_fields, (list, tuple)):
        fields = [[name, 1.0] for name in text_fields]
    else:
        raise InvalidArgument(
            f"text_fields is {text_fields!r}: expected a list of dotted paths into meta, "
            "or a dict of them with weights"
        )
    if not 1 <= len(fields) <= MAX_FIELDS:
        raise InvalidArgument(f"{len(fields)} text_fields: expected 1 to {MAX_FIELDS}")
    seen = set()
    for name, weight, *_ in fields:
        if not isinstance(name, str):
            raise InvalidArgument(f"text_fields holds {name!r}: expected a dotted path")
        path = filters.split_path(name)
        if path in seen:
            raise InvalidArgument(f"text_fields names {name!r} twice")
        seen.add(path)
        if isinstance(weight, bool) or not isinstance(weight, (int, float)):
            raise InvalidArgument(f"weight of text field {name!r} is {weight!r}: expected a number")
    return fields


def _field(name, given):
    if not isinstance(given, dict):
        return [name, given]
    for option in given:
        if option not in FIELD_OPTIONS:
            raise UnknownName(f"option of text field {name!r}", option, FIELD_OPTIONS)
    language = given.get("language")
    return [name, given.get("weight", 1.0), *([] if language is None else [language])]
