"""Product quantisation: a byte for each part of a vector, the fewest bytes of all quantizers."""

import numpy as np

from luma_lab.errors import InvalidArgument
from luma_lab.index.protocol import check_integer, check_threads
from luma_lab.index.quantizer import Quantizer, share
from luma_lab.index.rows import METRIC_CODES, read_only
from luma_lab.kernels.codescan import PQ
from luma_lab.kernels.product import (
    CENTROIDS,
    CONSTANT_BYTES,
    TABLE_BYTES,
    decode_parts,
    encode_parts,
    fit_part,
    prepare_tables,
)

COMPONENTS_A_PART = 8
SAMPLE_ROWS = 64 * CENTROIDS  # twice as many gained nothing we could measure
ROUNDS = 12


class PQQuantizer(Quantizer):
    """Each vector is cut into parts; a part is kept as the number of one of 256 centroids.

    The centroids are learned per part by k-means. A query is turned into a table of its
    distances to all centroids, so that a distance to a row is the sum of `parts` table entries.

    Parameters
    ----------
    dim : int
        Components per vector.
    metric : {"cosine", "dot", "l2"}, default "cosine"
    parts : int, optional
        Bytes a row, from 1 to `dim`; components are shared out evenly. Default: one byte for 8
        components.
    seed : int, default 0
        Chooses the sample that k-means learns from, and its first guess.
    threads : int, default 0
        Threads of :meth:`fit`; 0 stands for all cores. They change no byte.

    Attributes
    ----------
    centroids_ : float32 array of shape (parts, most components a part has, 256)

    References
    ----------
    .. [1] Jégou et al., "Product quantization for nearest neighbor search", TPAMI 2011.

    Examples
    --------
    >>> import numpy as np
    >>> vectors = np.array([[0, 0], [3, 4], [6, 8]], "float32")
    >>> quantizer = PQQuantizer(2, "l2", parts=1).fit(vectors)
    >>> quantizer.distances([[3, 4]], quantizer.encode(vectors)).round(2).tolist()
    [[25.0, 0.0, 25.0]]
    """

    KIND = "pq"
    CODE = PQ

    def __init__(self, dim, metric="cosine", *, parts=None, seed=0, threads=0):
        super().__init__(dim, metric)
        if parts is None:
            parts = -(-self.dim // COMPONENTS_A_PART)
        self.parts = check_integer("parts", parts, 1, self.dim)
        self.seed = check_integer("seed", seed, 0, 2**63 - 1)
        check_threads(threads)
        self.threads = threads
        self.centroids_ = None
        self.code_bytes = self.row_bytes = self.parts
        self.query_bytes = self.parts * TABLE_BYTES + CONSTANT_BYTES
        self._bounds = read_only(np.arange(self.parts + 1, dtype=np.int64) * self.dim // self.parts)

    def _learn(self, vectors):
        if not len(vectors):
            raise InvalidArgument("no vectors to learn from: expected at least one")
        chance = np.random.default_rng(self.seed)
        order = chance.permutation(len(vectors))[:SAMPLE_ROWS]
        sample = self._rows(np.ascontiguousarray(vectors[order]))
        # The sample is in random order, so its first rows are as good a guess as any.
        guess = sample[np.arange(CENTROIDS) % len(sample)]
        width = int(np.diff(self._bounds).max())
        centroids = np.zeros((self.parts, width, CENTROIDS), np.float32)

        def run(part):
            start, stop = self._bounds[part], self._bounds[part + 1]
            centroids[part, : stop - start] = guess[:, start:stop].T
            fit_part(sample, start, stop, ROUNDS, centroids[part])

        share(run, [(part,) for part in range(self.parts)], check_threads(self.threads))
        self.centroids_ = read_only(centroids)

    def _encode(self, rows, codes):
        encode_parts(rows, self._bounds, self.centroids_, codes)

    def _decode(self, codes, rows):
        decode_parts(codes, self._bounds, self.centroids_, rows)

    def _prepare(self, rows, prepared):
        metric = METRIC_CODES[self.metric]
        prepare_tables(rows, self._bounds, self.centroids_, metric, prepared)

    def _arrays(self):
        return {"centroids": self._built(self.centroids_)}

    def _parameters(self):
        return {**super()._parameters(), "parts": self.parts, "seed": self.seed}

    @classmethod
    def _restore(cls, parameters, arrays, check):
        made = cls(**parameters)
        width = int(np.diff(made._bounds).max())
        check("centroids", np.float32, (made.parts, width, CENTROIDS))
        made.centroids_ = read_only(arrays["centroids"])
        return made
