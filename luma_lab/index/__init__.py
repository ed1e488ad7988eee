"""Indexes over plain arrays: no engine, no server needed.

What stands here is loaded when it is first asked for: an index loads numba, and much that
imports one module of this room needs none.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from luma_lab.index.disk import DiskIndex
    from luma_lab.index.flat import FlatIndex, exact_search
    from luma_lab.index.ivf import IVFIndex
    from luma_lab.index.pq import PQQuantizer
    from luma_lab.index.quantizer import Q4Quantizer, Q8Quantizer
    from luma_lab.index.text import TextHits, TextIndex
    from luma_lab.index.vamana import VamanaIndex

__all__ = [
    "DiskIndex",
    "FlatIndex",
    "IVFIndex",
    "PQQuantizer",
    "Q4Quantizer",
    "Q8Quantizer",
    "TextHits",
    "TextIndex",
    "VamanaIndex",
    "exact_search",
]

_MODULES = {
    "DiskIndex": "disk",
    "FlatIndex": "flat",
    "IVFIndex": "ivf",
    "PQQuantizer": "pq",
    "Q4Quantizer": "quantizer",
    "Q8Quantizer": "quantizer",
    "TextHits": "text",
    "TextIndex": "text",
    "VamanaIndex": "vamana",
    "exact_search": "flat",
}


def __getattr__(name):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value  # asked for once
    return value


def __dir__():
    return sorted({*globals(), *__all__})
