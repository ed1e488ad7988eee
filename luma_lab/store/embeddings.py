"""Vectors of texts that an endpoint made, kept so that it is asked once for each.

The table comes with the first of them: labs without need no other format.
"""

import hashlib

import apsw
import numpy as np

KEY_BYTES = 16
_CREATE = (
    "CREATE TABLE IF NOT EXISTS luma_embeddings "
    "(entry INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, vector BLOB NOT NULL)"
)
_MISSING = "no such table: luma_embeddings"


def key_of(fingerprint, text):
    """Return the key of a text under an embedder."""
    whole = f"{fingerprint}\0{text}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(whole, digest_size=KEY_BYTES).digest()


def read(connection, keys, dim):
    """Return a dict from key to float32 vector of shape (dim,), of those that are kept."""
    found = {}
    try:
        for key in keys:
            row = connection.execute(
                "SELECT vector FROM luma_embeddings WHERE key=?", (key,)
            ).fetchone()
            if row is not None and len(row[0]) == 4 * dim:
                found[key] = np.frombuffer(row[0], "<f4")
    except apsw.SQLError as error:
        if _MISSING not in str(error):
            raise
    return found


def write(connection, vectors, most_bytes):
    """Keep vectors, a dict from key to float32 vector; the oldest go where there are too many."""
    connection.execute(_CREATE)
    connection.executemany(
        "INSERT OR REPLACE INTO luma_embeddings (key, vector) VALUES (?, ?)",
        [(key, vector.astype("<f4").tobytes()) for key, vector in vectors.items()],
    )
    size = 4 * max(len(vector) for vector in vectors.values())
    connection.execute(
        "DELETE FROM luma_embeddings WHERE entry <= (SELECT max(entry) FROM luma_embeddings) - ?",
        (max(1, most_bytes // size),),
    )
