"""The languages words can be stemmed in, by name: what can be checked without an index."""

from luma_lab.errors import UnknownName

# ISO 639-1 names of Snowball's languages; its own names are understood, too.
SNOWBALL = {
    "ar": "arabic", "ca": "catalan", "da": "danish", "de": "german", "el": "greek",
    "en": "english", "es": "spanish", "et": "estonian", "eu": "basque", "fi": "finnish",
    "fr": "french", "ga": "irish", "hu": "hungarian", "hy": "armenian", "id": "indonesian",
    "it": "italian", "lt": "lithuanian", "ne": "nepali", "nl": "dutch", "no": "norwegian",
    "pt": "portuguese", "ro": "romanian", "ru": "russian", "sv": "swedish", "ta": "tamil",
    "tr": "turkish", "yi": "yiddish",
}  # fmt: skip


def check_language(language):
    """Return the short name of a language, or raise `UnknownName`."""
    if language in SNOWBALL or language == "none":
        return language
    by_name = {name: short for short, name in SNOWBALL.items()}
    if not isinstance(language, str) or language not in by_name:
        raise UnknownName("language", language, ("none", *SNOWBALL, *by_name))
    return by_name[language]
