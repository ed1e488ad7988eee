"""``/docs``: the OpenAPI description, made from the operations, and a page that shows it."""

routes = []
operations = []
