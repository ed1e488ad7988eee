"""The database file without its free pages: what deletes and an old log left behind."""

import apsw

LEAST_FREE_BYTES = 1 << 20
LEAST_FREE_SHARE = 0.1
CHECKPOINT_PATIENCE_MS = 1000


def vacuum(database):
    """Write the database file anew without free pages, where that is worth it and safe.

    Everyone's writes wait meanwhile, reads go on. SQLite may number the rows of a table without
    an INTEGER PRIMARY KEY anew, so while a user has such a table the file is left as it is.

    Parameters
    ----------
    database : luma_lab.store.database.Database

    Returns
    -------
    dict
        ``bytes_freed`` and, where the file was left as it was, ``kept``: why.
    """
    connection = database.connect(writes=True)
    try:
        free, pages = connection.pragma("freelist_count"), connection.pragma("page_count")
        size = connection.pragma("page_size")
        if free * size < LEAST_FREE_BYTES or free < LEAST_FREE_SHARE * pages:
            return {"bytes_freed": 0, "kept": f"{free} of {pages} pages are free"}
        table = _table_without_key(connection)
        if table is not None:
            why = f"the table {table!r} has no INTEGER PRIMARY KEY: its rowids could change"
            return {"bytes_freed": 0, "kept": why}
        before = database.file.stat().st_size
        try:
            connection.execute("VACUUM").fetchall()
        except apsw.FullError:
            return {"bytes_freed": 0, "kept": "there is no room for a second copy meanwhile"}
        except apsw.BusyError:
            return {"bytes_freed": 0, "kept": "another process was writing all the time"}
        # Behind a long read of another process the file shrinks at a later checkpoint.
        connection.set_busy_timeout(CHECKPOINT_PATIENCE_MS)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return {"bytes_freed": max(0, before - database.file.stat().st_size)}
    finally:
        connection.close()


def _table_without_key(connection):
    tables = connection.execute(
        "SELECT name FROM pragma_table_list WHERE schema='main' AND type='table' AND wr=0 "
        "AND name NOT GLOB 'sqlite_*' ORDER BY name"
    ).fetchall()
    for (name,) in tables:
        keys = connection.execute(
            "SELECT type FROM pragma_table_info(?) WHERE pk > 0", (name,)
        ).fetchall()
        if [kind.upper() for (kind,) in keys] != ["INTEGER"]:
            return name
    return None
