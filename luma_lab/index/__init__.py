"""Indexes over plain arrays: no engine, no server needed."""

from luma_lab.index.disk import DiskIndex as DiskIndex
from luma_lab.index.flat import FlatIndex as FlatIndex
from luma_lab.index.flat import exact_search as exact_search
from luma_lab.index.ivf import IVFIndex as IVFIndex
from luma_lab.index.pq import PQQuantizer as PQQuantizer
from luma_lab.index.quantizer import Q4Quantizer as Q4Quantizer
from luma_lab.index.quantizer import Q8Quantizer as Q8Quantizer
from luma_lab.index.text import TextHits as TextHits
from luma_lab.index.text import TextIndex as TextIndex
from luma_lab.index.vamana import VamanaIndex as VamanaIndex
