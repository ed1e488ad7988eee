"""Many points at once: batches of searches, pages, counts, binary and NDJSON bodies."""

routes = []
operations = []
