"""How a text index changes: texts come and go, segments are merged, moments are kept."""

import copy

import numpy as np

from luma_lab.errors import IndexNotBuilt, InvalidArgument
from luma_lab.index.shelf import Still
from luma_lab.index.textfiles import TextDirectory
from luma_lab.index.texts import as_columns


class TextChanges(TextDirectory):
    """Building and changing of `TextIndex`."""

    def build(self, texts):
        """Index these texts and forget all others; return self.

        Parameters
        ----------
        texts : sequence of str, of lists of str (tokens, which skip the analyzer), or of dicts
            of them when the index has fields
            Text i becomes row i. Lone surrogates separate words.

        Raises
        ------
        InvalidArgument, UnknownName
            The index is left as it was.
        """
        columns = as_columns(texts, None if self._single else self.fields)
        self._shelf.replace([self._block(columns)])
        self._built, self._disk_bytes = True, 0
        return self

    def add(self, texts):
        """Append texts, as :meth:`build` takes them; return their rows (int64 array).

        Raises
        ------
        InvalidArgument, UnknownName
            The index is left as it was.
        """
        columns = as_columns(texts, None if self._single else self.fields)
        count = len(columns[0])
        first = self._shelf.add(self._block(columns))
        self._built = True
        return np.arange(first, first + count)

    def delete(self, rows):
        """Forget rows: an int, or integers without repeats.

        Raises
        ------
        InvalidArgument
            One of them is not there (any more); the index is left as it was.
        """
        array = np.atleast_1d(np.asarray(rows))
        if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
            raise InvalidArgument(
                f"rows have dtype {array.dtype} and shape {array.shape}: expected integers, (m,)"
            )
        array = array.astype(np.int64)
        if len(np.unique(array)) != len(array):
            raise InvalidArgument("rows to delete hold one twice: expected each once")
        self._shelf.delete(array)

    def consolidate(self):
        """Make one segment of all, without the postings of deleted rows; return self."""
        self._check_built()
        self._shelf.merge()
        return self

    def settle(self, whole=False):
        """Merge segments of like size, without keeping others from adding and searching.

        Parameters
        ----------
        whole : bool
            Make one of all of them.

        Returns
        -------
        bool
            Whether there were any.
        """
        return self._shelf.settle(whole)

    def compact(self):
        """Forget the numbers of deleted rows; return the former rows of those that are left.

        Returns
        -------
        int64 array of shape (len(self),)
            Row i was row ``kept[i]`` before.
        """
        self._check_built()
        return self._shelf.compact()

    def pinned(self):
        """Return this index as it is now, for searching while the other goes on changing."""
        view = self._view()
        still = copy.copy(self)
        still._shelf = Still(view)
        return still

    def _view(self):
        self._check_built()
        return self._shelf.view()

    def _check_built(self):
        if not self._built:
            raise IndexNotBuilt("TextIndex holds no texts yet: call build, add or load first")

    def _block(self, columns):
        of = self._languages.of
        return [of(field).read(column) for field, column in enumerate(columns)]
