"""``/v1/jobs``: long work, watched and cancelled."""

routes = []
operations = []
