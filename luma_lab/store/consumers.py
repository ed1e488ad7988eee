"""Named readers of the log and how far each has acknowledged."""


def read_all(connection):
    """Return the list of (name, offset), by name."""
    return connection.execute("SELECT name, offset FROM luma_consumers ORDER BY name").fetchall()


def read(connection, name):
    """Return the offset `name` has acknowledged, or None."""
    return connection.execute("SELECT offset FROM luma_consumers WHERE name=?", (name,)).get


def write(connection, name, offset):
    """Note that `name` has acknowledged `offset`."""
    connection.execute(
        "INSERT INTO luma_consumers VALUES (?, ?) "
        "ON CONFLICT (name) DO UPDATE SET offset=excluded.offset",
        (name, offset),
    )


def delete(connection, name):
    """Forget `name`; return whether it was known."""
    connection.execute("DELETE FROM luma_consumers WHERE name=?", (name,))
    return connection.changes() > 0
