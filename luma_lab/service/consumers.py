"""``/v1/consumers``: named readers of the log and what they have acknowledged."""

routes = []
operations = []
