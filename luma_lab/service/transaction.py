"""``POST /v1/transaction``: operations of every engine in one commit."""

routes = []
operations = []
