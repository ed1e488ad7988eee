"""Measuring: real data sets, exact neighbours, recall, speed, sweeps and their plots.

>>> from luma_lab import bench
>>> bench.load("wordnet2k")
Dataset('wordnet2k', metric='cosine', base=1800 x 384, queries=200, texts)
"""

from luma_lab.bench.compare import compare
from luma_lab.bench.datasets import Dataset, load, names
from luma_lab.bench.fusionlab import fusion_lab, text_branch, vector_branch
from luma_lab.bench.judge import judge
from luma_lab.bench.measure import measure, recall
from luma_lab.bench.plots import plot_recall_latency, plot_recall_qps, plot_scale
from luma_lab.bench.sweep import sweep
from luma_lab.bench.trec import evaluate
from luma_lab.bench.truth import exact_neighbors

__all__ = [
    "Dataset",
    "compare",
    "evaluate",
    "exact_neighbors",
    "fusion_lab",
    "judge",
    "load",
    "measure",
    "names",
    "plot_recall_latency",
    "plot_recall_qps",
    "plot_scale",
    "recall",
    "sweep",
    "text_branch",
    "vector_branch",
]
