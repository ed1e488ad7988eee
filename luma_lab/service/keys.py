"""``/v1/auth/keys``: create, list and revoke keys."""

routes = []
operations = []
