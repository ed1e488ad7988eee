"""``/search`` and ``/search/ingest``: documents with a vector, searched in one call."""

routes = []
operations = []
