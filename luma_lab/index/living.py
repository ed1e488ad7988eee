"""What indexes share whose rows come and go."""

import numpy as np

from luma_lab.index.directory import Directory
from luma_lab.index.protocol import as_vectors, check_live_rows


class Living(Directory):
    """Ancestor of indexes that change: each search looks at what the index was at one moment.

    A class gives that as `_moment`, a named tuple with `live`, a bool for each row, and
    `live_count`, or None before a build; `_changing`, the lock of changes; and
    `_forget(moment, count)`, which takes over a moment with `count` fewer live rows.
    `LEARNED` names the one parameter that a build finds out.
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
