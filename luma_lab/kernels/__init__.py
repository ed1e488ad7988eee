"""Numba kernels: arrays in, arrays and counts out.

Kernels never raise, print, log, read the clock or keep state; they import nothing of the
house. The index layer checks arguments once, then trusts the arrays. All are made by one
decorator, :func:`kernel`.
"""

from luma_lab.kernels.pause import paused_collector

with paused_collector():
    from luma_lab.kernels.compile import kernel as kernel
    from luma_lab.kernels.compile import simd_level as simd_level
    from luma_lab.kernels.warmup import warm_up as warm_up
