"""Indexes over plain arrays: no engine, no server needed."""

from luma_lab.index.flat import FlatIndex as FlatIndex
from luma_lab.index.flat import exact_search as exact_search
from luma_lab.index.vamana import VamanaIndex as VamanaIndex
