"""All words an index has met, with their forms: each distinct word is analysed once."""

import threading

import numpy as np

from luma_lab.errors import InvalidArgument
from luma_lab.index.rows import read_only
from luma_lab.index.segment import Forms
from luma_lab.index.vocabulary import Vocabulary

ALONE = read_only(np.empty((0, 0), np.int32))


class Lexicon:
    """Words, stems and folded forms, numbered; append only.

    Parameters
    ----------
    analyzer : Analyzer
    """

    def __init__(self, analyzer):
        self.analyzer = analyzer
        self.words, self.stems, self.folded = Vocabulary(), Vocabulary(), Vocabulary()
        width = analyzer.form_count
        none = read_only(np.empty((0, width), np.int32)) if width > 1 else ALONE
        self._forms = self._query_forms = none
        self._stopped = np.empty(0, bool)
        self._analysed = 0
        self._analysing = threading.Lock()

    @property
    def forms(self):
        """The `Forms` of all words met, stop words like others."""
        return Forms(self._forms, self.analyzer.form_count)

    @property
    def query_forms(self):
        """The table of `forms` with -1 throughout for stop words."""
        return self._query_forms

    @property
    def nbytes(self):
        """Bytes held."""
        tables = self.words.nbytes + self.stems.nbytes + self.folded.nbytes
        return tables + self._forms.nbytes + self._query_forms.nbytes + self._stopped.nbytes

    def read(self, texts):
        """Turn texts into word numbers, learning new words.

        Parameters
        ----------
        texts : list of str or list of str
            Lists are tokens that skip the analyzer.

        Returns
        -------
        tokens : int32 array
            Text after text; -1 for stop words.
        ends : int64 array of shape (len(texts),)
            Tokens up to the end of each text.
        lengths : int64 array of shape (len(texts),)
            Tokens of each text that are no stop words.
        """
        plain = [isinstance(text, str) for text in texts] if set(map(type, texts)) - {str} else []
        if not plain:
            tokens, ends = self.words.tokenize(texts)
            self._learn()
            tokens = self._without_stop_words(tokens)
        else:
            tokens, ends = self._read_mixed(texts, plain)
        begins = np.concatenate([np.zeros(1, np.int64), ends[:-1]])[: len(ends)]
        lengths = ends - begins
        if len(self._stopped):
            kept = np.concatenate([np.zeros(1, np.int64), np.cumsum(tokens >= 0)])
            lengths = kept[ends] - kept[begins]
        return tokens, ends, lengths

    def _read_mixed(self, texts, plain):
        as_text = [text for text, is_plain in zip(texts, plain, strict=True) if is_plain]
        cut, stops = self.words.tokenize(as_text)
        given = self.words.number(
            [t for text, p in zip(texts, plain, strict=True) if not p for t in text]
        )
        self._learn()
        cut = self._without_stop_words(cut)
        pieces, at_text, at_given, texts_done = [], 0, 0, 0
        for text, is_plain in zip(texts, plain, strict=True):
            if is_plain:
                stop = int(stops[texts_done])
                pieces.append(cut[at_text:stop])
                at_text, texts_done = stop, texts_done + 1
            else:
                pieces.append(given[at_given : at_given + len(text)])
                at_given += len(text)
        return np.concatenate(pieces), np.cumsum([len(piece) for piece in pieces])

    def _without_stop_words(self, tokens):
        if not len(self._stopped):
            return tokens
        return np.where(self._stopped[tokens], np.int32(-1), tokens)

    def _learn(self):
        """Analyse the words that came since the last time."""
        with self._analysing:
            count, analyzer = len(self.words), self.analyzer
            if count == self._analysed or (analyzer.form_count == 1 and not analyzer.stop_words):
                return
            new = self.words.words(self._analysed, count)
            columns = [np.arange(self._analysed, count, dtype=np.int32)]
            if analyzer.form_count > 1:
                stems = analyzer.stems(new)
                columns.append(self.stems.number(stems))
            if analyzer.form_count > 2:
                columns.append(self.folded.number(analyzer.folded(new, stems)))
            more = np.stack(columns, axis=1)
            self._keep(np.concatenate([self._forms, more]) if self._analysed else more, new)

    def _keep(self, forms, new):
        """Take over a longer table of forms, whose last words are `new`."""
        if self.analyzer.stop_words:
            stopped = np.array([word in self.analyzer.stop_words for word in new], bool)
            self._stopped = np.concatenate([self._stopped, stopped])
        self._query_forms = read_only(
            np.where(self._stopped[:, None], np.int32(-1), forms) if len(self._stopped) else forms
        )
        self._forms, self._analysed = read_only(forms), len(forms)

    def term_numbers(self, forms):
        """Return the term number of each form of one word, -1 where no text has it."""
        tables = (self.words, self.stems, self.folded)
        return [
            int(table.number([form], grow=False)[0])
            for table, form in zip(tables, forms, strict=False)
        ]

    def arrays(self):
        """Return the named arrays that make the lexicon."""
        self._learn()
        made = {"forms": self._forms[:, 1:]}
        for name in ("words", "stems", "folded"):
            parts = getattr(self, name).arrays()
            made[f"{name}_bytes"], made[f"{name}_ends"] = parts["bytes"], parts["ends"]
        return made

    @classmethod
    def of_arrays(cls, analyzer, arrays):
        """Return the lexicon that gave these :meth:`arrays`.

        Raises
        ------
        InvalidArgument
            They do not fit together.
        """
        made = cls(analyzer)
        try:
            for name in ("words", "stems", "folded"):
                table = Vocabulary.of_arrays(arrays[f"{name}_bytes"], arrays[f"{name}_ends"])
                setattr(made, name, table)
        except ValueError as error:
            raise InvalidArgument(f"{name}: {error}") from None
        if analyzer.form_count == 1 and not analyzer.stop_words:
            return made
        count, others = len(made.words), np.asarray(arrays["forms"])
        sizes = [len(made.stems), len(made.folded)][: analyzer.form_count - 1]
        if others.dtype != np.int32 or others.shape != (count, len(sizes)):
            raise InvalidArgument(f"array 'forms' is {others.dtype} {others.shape}")
        if count and (others.min(initial=0) < 0 or (others.max(axis=0) >= sizes).any()):
            raise InvalidArgument("array 'forms' names stems that are not there")
        forms = np.concatenate([np.arange(count, dtype=np.int32)[:, None], others], axis=1)
        made._keep(forms, made.words.words())
        return made
