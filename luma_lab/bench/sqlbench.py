"""Vector search inside SQL: what each layer costs, and the same join with sqlite-vec.

A query goes through the bare index, the collection, and SQL; each is timed in turn, so that the
differences of one round are told.

Run as a program: ``python -m luma_lab.bench.sqlbench``.
"""

import statistics
import sys
import time

import apsw
import numpy as np

from luma_lab import codec
from luma_lab.engine.lab import Lab
from luma_lab.errors import Unavailable

JOIN = (
    "SELECT v.id, v.score, t.n FROM vector_search('docs', ?, ?) AS v "
    "JOIN t ON t.id = v.id ORDER BY v.rank"
)


def measure(rows=60_000, dim=384, k=10, queries=200, *, rounds=5, peer=True, exact=False):
    """Return a dict of medians in microseconds and of ratios.

    Parameters
    ----------
    peer : bool
        Whether sqlite-vec answers the same join over the same vectors, by brute force.
    exact : bool
        Leave out the graph, so that both scan.

    Raises
    ------
    Unavailable
        sqlite-vec is not installed.
    """
    chance = np.random.default_rng(0)
    vectors = chance.normal(size=(rows, dim)).astype(np.float32)
    asked = chance.normal(size=(queries, dim)).astype(np.float32)
    with Lab(":memory:") as lab:
        docs = lab.create_collection("docs", dim, "l2")
        for start in range(0, rows, 2000):
            docs.upsert(list(range(start, min(rows, start + 2000))), vectors[start : start + 2000])
        lab.sql.execute("CREATE TABLE t (id TEXT PRIMARY KEY, n INTEGER)")
        lab.sql.execute(
            "INSERT INTO t WITH RECURSIVE i(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM i "
            "WHERE n + 1 < ?) SELECT CAST(n AS TEXT), n FROM i",
            (rows,),
        )
        if not exact:
            docs.build_index("vamana").result()
        other = _sqlite_vec(vectors) if peer else None
        # The very index the collection walks: building another would take minutes.
        index = None if exact else lab._parts.follower.snapshot("docs").index.index
        figures = {"index_us": [], "bare_us": [], "join_us": [], "sqlite_vec_us": []}
        docs.search(asked[0], k)
        lab.sql(JOIN, (asked[0], k))
        for _ in range(rounds):
            if index is not None:
                figures["index_us"].append(_median(lambda q: index.search(q, k), asked))
            figures["bare_us"].append(_median(lambda q: docs.search(q, k), asked))
            figures["join_us"].append(_median(lambda q: lab.sql(JOIN, (q, k)), asked))
            if other is not None:
                few = asked[: max(3, queries // 20)]
                figures["sqlite_vec_us"].append(_median(lambda q: other(q, k), few))
        result = {name: statistics.median(times) for name, times in figures.items() if times}
        result["overhead_us"] = statistics.median(
            join - bare for join, bare in zip(figures["join_us"], figures["bare_us"], strict=True)
        )
        if index is not None:
            result["collection_us"] = statistics.median(
                bare - walk
                for bare, walk in zip(figures["bare_us"], figures["index_us"], strict=True)
            )
        if other is not None:
            result["sqlite_vec_over_join"] = result["sqlite_vec_us"] / result["join_us"]
        return result


def _median(call, asked):
    times = []
    for query in asked:
        began = time.perf_counter()
        call(query)
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e6


def _sqlite_vec(vectors):
    """Return ``ask(query, k)``: the same join on a sqlite-vec table."""
    try:
        import sqlite_vec
    except ImportError:
        raise Unavailable("sqlite-vec is not installed: pip install sqlite-vec") from None
    connection = apsw.Connection(":memory:")  # Python's own module may lack extensions
    connection.enable_load_extension(True)
    connection.load_extension(sqlite_vec.loadable_path())
    dim = vectors.shape[1]
    connection.execute(f"CREATE VIRTUAL TABLE vec USING vec0(embedding float[{dim}])")
    connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER)")
    with connection:
        connection.executemany(
            "INSERT INTO vec (rowid, embedding) VALUES (?, ?)",
            ((i, vector.tobytes()) for i, vector in enumerate(vectors)),
        )
        connection.executemany("INSERT INTO t VALUES (?, ?)", ((i, i) for i in range(len(vectors))))
    sql = (
        "SELECT v.rowid, v.distance, t.n FROM (SELECT rowid, distance FROM vec "
        "WHERE embedding MATCH ? AND k = ?) AS v JOIN t ON t.id = v.rowid ORDER BY v.distance"
    )
    return lambda query, k: connection.execute(sql, (query.tobytes(), k)).fetchall()


if __name__ == "__main__":
    for graph in (True, False):
        found = {"graph": graph, **measure(exact=not graph)}
        sys.stdout.buffer.write(codec.encode(found) + b"\n")
