"""``/v1/doc``: documents by collection and id, found with filters."""

routes = []
operations = []
