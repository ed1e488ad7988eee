"""Own durability: one SQLite file holds log, state, catalog and points; matrix files hold vectors.

Useful for: committing a change together with the log entries that tell of it, reading what
is committed, in any process. Not useful for: rules (see `engine`) or ranking (see `index`).
"""
