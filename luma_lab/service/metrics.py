"""``/v1/metrics``: counters and histograms for Prometheus."""

routes = []
operations = []
