"""What tests of SQL share: a query without end, and everything a lab holds."""

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "


def contents(lab):
    """Return everything a refused statement must leave as it is."""
    connection = lab._parts.database.reader()
    names = connection.execute("SELECT name, sql FROM sqlite_schema ORDER BY name").fetchall()
    tables = [n for n, s in names if s and s.startswith("CREATE TABLE")]
    return names, {t: connection.execute(f'SELECT * FROM "{t}"').fetchall() for t in tables}
