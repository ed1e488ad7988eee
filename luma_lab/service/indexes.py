"""``/v1/vector/{collection}/index``: build, tune, drop and look at indexes of every kind."""

routes = []
operations = []
