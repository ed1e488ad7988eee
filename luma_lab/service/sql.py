"""``/v1/sql``: queries and statements of the users' own."""

routes = []
operations = []
