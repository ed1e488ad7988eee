"""The languages of an index's fields: one lexicon each, shared by the fields that speak it."""

from typing import NamedTuple

import numpy as np

from luma_lab.errors import InvalidArgument
from luma_lab.index.analyzer import Analyzer
from luma_lab.index.lexicon import Lexicon
from luma_lab.index.snowball import check_language


class Group(NamedTuple):
    """The fields of one language.

    fields : list of int
    weights : float64 array
        Of the forms, strongest first.
    """

    lexicon: Lexicon
    fields: list
    weights: np.ndarray


class Languages:
    """Which lexicon reads which field.

    Parameters
    ----------
    main : str
        Language of the index: that of fields which have none of their own.
    of_fields : list of (str or None)
    stop_words : as of `Analyzer`, or dict of them by language

    Attributes
    ----------
    main : Lexicon
    lexicons : dict of str to Lexicon
    groups : list of Group
    form_count : int
        The most forms that a word of any field has.
    """

    def __init__(self, main, of_fields, stop_words):
        main = check_language(main)
        self.of_fields = [main if name is None else check_language(name) for name in of_fields]
        names = dict.fromkeys([main, *self.of_fields])
        analyzers = {name: Analyzer(name, _stop_words_of(stop_words, name)) for name in names}
        self._take({name: Lexicon(analyzer) for name, analyzer in analyzers.items()})

    def _take(self, lexicons):
        self.lexicons = lexicons
        self.main = next(iter(lexicons.values()))
        self._of_fields = [lexicons[name] for name in self.of_fields]
        self.groups = []
        for lexicon in lexicons.values():
            fields = [i for i, other in enumerate(self._of_fields) if other is lexicon]
            if fields:
                weights = np.array(lexicon.analyzer.form_weights)
                self.groups.append(Group(lexicon, fields, weights))
        self.form_count = max(len(group.weights) for group in self.groups)

    def of(self, field):
        """Return the lexicon of a field's number."""
        return self._of_fields[field]

    @property
    def forms(self):
        """The `Forms` of each field."""
        return [lexicon.forms for lexicon in self._of_fields]

    @property
    def word_count(self):
        """Distinct words met, once for each language that met them."""
        return sum(len(lexicon.words) for lexicon in self.lexicons.values())

    @property
    def nbytes(self):
        """Bytes held."""
        return sum(lexicon.nbytes for lexicon in self.lexicons.values())

    @property
    def stop_words(self):
        """Words left out, sorted; by language if there are several."""
        found = {name: sorted(lex.analyzer.stop_words) for name, lex in self.lexicons.items()}
        return found if len(found) > 1 else next(iter(found.values()))

    def arrays(self):
        """Return the named arrays of all lexicons."""
        return {
            _prefix(place) + name: array
            for place, lexicon in enumerate(self.lexicons.values())
            for name, array in lexicon.arrays().items()
        }

    def restore(self, arrays):
        """Take over lexicons that gave these :meth:`arrays`.

        Raises
        ------
        InvalidArgument, KeyError
        """
        self._take(
            {
                name: Lexicon.of_arrays(lexicon.analyzer, _Prefixed(arrays, _prefix(place)))
                for place, (name, lexicon) in enumerate(self.lexicons.items())
            }
        )


class _Prefixed:
    """Arrays whose names begin alike, by the rest of their names."""

    def __init__(self, arrays, prefix):
        self._arrays, self._prefix = arrays, prefix

    def __getitem__(self, name):
        return self._arrays[self._prefix + name]


def _prefix(place):
    return f"l{place}_" if place else ""


def _stop_words_of(stop_words, language):
    if not isinstance(stop_words, dict):
        return stop_words
    for name in stop_words:
        if not isinstance(name, str):
            raise InvalidArgument(f"stop_words names the language {name!r}: expected a string")
    return stop_words.get(language, False)
