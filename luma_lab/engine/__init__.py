"""The rules: one `Lab` object, one write path, searches that see every acknowledged write.

Useful for: everything a notebook, the service or the command line does to a lab. Not useful
for: bytes on disk (see `store`), distances (see `kernels`), pixels (see `widgets`).
"""
