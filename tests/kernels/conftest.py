"""Compiling a kernel inside an example must not count as a slow example."""

from hypothesis import settings

settings.register_profile("kernels", deadline=None)
settings.load_profile("kernels")
