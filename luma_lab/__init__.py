"""Luma Lab: try out vector search, state and events in a notebook, then serve them unchanged."""
