"""How many rows of a table to read at once, so that a page of them stays small in memory."""

PAGE = 500
PAGE_BYTES = 8 << 20
_STATE = (
    "SELECT octet_length(value) FROM luma_state WHERE key {} ? "
    "AND (expires_at_ms IS NULL OR expires_at_ms > ?) ORDER BY key LIMIT ?"
)
_DOCUMENTS = (
    "SELECT octet_length(doc) FROM luma_documents WHERE collection=? AND id > ? ORDER BY id LIMIT ?"
)
_POINTS = "SELECT octet_length(meta) FROM luma_points WHERE uid=? AND id > ? ORDER BY id LIMIT ?"


def state_page(connection, prefix, after, now_ms):
    """Return how many live entries to read next with `luma_lab.store.mappings.scan_state`."""
    low = max(prefix, after) if after is not None else prefix
    strictly = after is not None and after >= prefix
    return _fitting(
        connection.execute(_STATE.format(">" if strictly else ">="), (low, now_ms, PAGE))
    )


def documents_page(connection, collection, after):
    """Return how many documents of a collection to read next, behind the id `after`."""
    return _fitting(connection.execute(_DOCUMENTS, (collection, after, PAGE)))


def points_page(connection, uid, after):
    """Return how many points of a collection to read next, behind the id `after`."""
    return _fitting(connection.execute(_POINTS, (uid, after, PAGE)))


def _fitting(sizes):
    """Return how many of the first rows fit a page; one that doesn't makes a page of its own."""
    count = total = 0
    for (size,) in sizes:
        total += size
        if count and total > PAGE_BYTES:
            break
        count += 1
    return count
