"""Table functions that search: ``vector_search``, ``text_search`` and ``hybrid_search``.

They see the last commit.
"""

import sys

from luma_lab import codec
from luma_lab.engine import hybrid, searching, texting
from luma_lab.engine.sql_arguments import filter_of, fits, text_of, vector_of
from luma_lab.engine.sql_modules import TableFunction

RANKS = range(sys.maxsize)


def register(connection, guard, parts):
    """Give a connection the table functions.

    ``vector_search(collection, vector, k, filter)``, ``text_search(collection, query, k, filter)``
    and ``hybrid_search(collection, query, vector, k, filter)``, where one of the query and the
    vector may be NULL.
    """

    def vector_search(given):
        name, k = text_of(given, "collection"), given["k"]

        def made(points, scores):
            most = guard.value_bytes
            return [
                (
                    id,
                    score,
                    meta if 4 * len(meta) <= most or fits(meta, most) else None,
                    rank + 1,
                    name,
                    None,
                    k,
                    None,
                    rank,
                )
                for (id, meta, _), score, rank in zip(points, scores, RANKS, strict=False)
            ]

        vector = vector_of(given)
        if given.get("filter") is None:
            rows = searching.quick(parts, name, vector, k, made=made)
            if rows is not None:
                return rows
        return searching.search(parts, name, [vector], k, filter=filter_of(given), made=made)[0]

    def text_search(given):
        name, query, k = text_of(given, "collection"), text_of(given, "query"), given["k"]
        hits = texting.search_text(parts, name, query, k, filter=filter_of(given))
        return [
            (h.id, h.score, _meta(h, guard), rank + 1, name, None, k, None, rank)
            for rank, h in enumerate(hits)
        ]

    def hybrid_search(given):
        name, k = text_of(given, "collection"), given["k"]
        query = None if given["query"] is None else text_of(given, "query")
        vector = None if given["vector"] is None else vector_of(given)
        hits = hybrid.search_hybrid(parts, name, vector, query, k, filter=filter_of(given))
        return [
            (
                h.id,
                h.score,
                _meta(h, guard),
                rank + 1,
                *(h.branches[b].rank if b in h.branches else None for b in hybrid.BRANCHES),
                *(name, None, None, k, None),
                rank,
            )
            for rank, h in enumerate(hits)
        ]

    columns = ("id", "score", "meta", "rank")
    ranks = ("vector_rank", "text_rank")
    for name, shown, arguments, required, rows in (
        ("vector_search", columns, ("collection", "vector", "k", "filter"), 3, vector_search),
        ("text_search", columns, ("collection", "query", "k", "filter"), 3, text_search),
        (
            "hybrid_search",
            (*columns, *ranks),
            ("collection", "query", "vector", "k", "filter"),
            4,
            hybrid_search,
        ),
    ):
        function = TableFunction(shown, arguments, required, (), rows, guard, "rank")
        connection.create_module(
            name, function, use_bestindex_object=True, eponymous_only=True, read_only=True
        )


def _meta(hit, guard):
    text = codec.encode(hit.meta).decode()
    return text if fits(text, guard.value_bytes) else None
