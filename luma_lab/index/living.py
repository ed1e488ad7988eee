"""What indexes share whose rows come and go."""

import numpy as np

from luma_lab.errors import InvalidArgument
from luma_lab.index.directory import Directory
from luma_lab.index.protocol import as_vectors, check_live_rows


class Living(Directory):
    """Ancestor of indexes that change: each search looks at what the index was at one moment.

    A class gives that as `_moment`, a named tuple with `live`, a bool for each row, and
    `live_count`, or None before a build; `_changing`, the lock of changes;
    `_forget(moment, count)`, which takes over a moment with `count` fewer live rows; and
    `_grown(moment, vectors, live)` and `_compacted(moment, vectors, live)`, which make another
    index of checked arguments. `LEARNED` names the one parameter that a build finds out.
    """

    LEARNED = ""

    def delete(self, rows):
        """Forget rows: none of them is answered any more.

        Their numbers and bytes are given back by :meth:`consolidate`.

        Parameters
        ----------
        rows : int or array of integers without repeats

        Raises
        ------
        IndexNotBuilt, InvalidArgument
            One of them is not there (any more); the index is left as it was.
        """
        with self._changing:
            moment = self._built(self._moment)
            rows = check_live_rows(rows, moment.live)
            live = moment.live.copy()
            live[rows] = False
            left = moment.live_count - len(rows)
            self._forget(moment._replace(live=live, live_count=left), len(rows))

    def grown(self, vectors, live):
        """Return an index of more rows, made from this one, which stays as it is.

        Unlike after ``add`` row numbers are those of `vectors`, and no number is used again.
        A graph gets new nodes, cells new members: nothing is built or trained anew.

        Parameters
        ----------
        vectors : float32 array of shape (n, dim)
            Its first `total_rows` rows are those this index has. Trusted to be finite; a
            read-only array is not copied.
        live : bool array of shape (n,)
            Rows that are to be found; the others are left out.

        Raises
        ------
        IndexNotBuilt, InvalidArgument
        """
        moment = self._built(self._moment)
        check_grown(self, vectors, live)
        return self._grown(moment, vectors, live)

    def compacted(self, vectors, live):
        """Return an index of the live rows only, numbered without gaps; this one stays as it is.

        A graph is mended where rows are gone, cells lose members: nothing is built anew.

        Parameters
        ----------
        vectors : float32 array of shape (m, dim)
            The live rows, in order. Trusted to be finite; a read-only array is not copied.
        live : bool array of shape (total_rows,)
            Rows that are to be found.

        Raises
        ------
        IndexNotBuilt, InvalidArgument
        """
        moment = self._built(self._moment)
        check_compacted(self, vectors, moment.live, live)
        return self._compacted(moment, vectors, live)

    def _as_added(self, vectors):
        """Return vectors (dim,) or (n, dim) as float32 (n, dim), checked."""
        vectors = np.asarray(vectors)
        one = vectors.ndim == 1 and vectors.size
        return as_vectors(vectors[None] if one else vectors, self.dim)

    @property
    def total_rows(self):
        """Rows a mask has entries for."""
        return 0 if self._moment is None else len(self._moment.live)

    def __len__(self):
        return 0 if self._moment is None else self._moment.live_count

    def __getstate__(self):
        arrays = None if self._moment is None else self._arrays()
        return {**self._parameters(), "threads": self.threads}, arrays

    def __setstate__(self, state):
        parameters, arrays = state
        if arrays is not None:
            made = self._restore(parameters, arrays, lambda *expected: None)
        else:
            parameters.pop(self.LEARNED)
            made = type(self)(**parameters)
        vars(self).update(vars(made))

    @classmethod
    def _spares_vectors(cls, parameters):
        return parameters["quantizer"] is not None


def check_grown(index, vectors, live):
    """Raise unless an index can grow to `vectors` with the marks `live`: kernels trust both."""
    _check_rows(index, vectors)
    if len(vectors) < index.total_rows:
        raise InvalidArgument(f"{len(vectors)} vectors: expected at least {index.total_rows}")
    _check_marks(live, len(vectors))


def check_compacted(index, vectors, kept, live):
    """Raise unless `vectors` can be the rows of an index that are `kept` and marked `live`."""
    _check_rows(index, vectors)
    _check_marks(live, index.total_rows)
    count = int(np.count_nonzero(kept & live))
    if len(vectors) != count:
        raise InvalidArgument(f"{len(vectors)} vectors: expected {count}, one for each live row")


def _check_rows(index, vectors):
    good = isinstance(vectors, np.ndarray) and vectors.dtype == np.float32 and vectors.ndim == 2
    if not good or vectors.shape[1] != index.dim or not vectors.flags.c_contiguous:
        raise InvalidArgument(f"vectors: expected a C-contiguous float32 array (n, {index.dim})")


def _check_marks(live, count):
    if not isinstance(live, np.ndarray) or live.dtype != bool or live.shape != (count,):
        raise InvalidArgument(f"live: expected an array of {count} bools")
