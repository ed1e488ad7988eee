"""What an index answers hardly depends on the instructions it was compiled to."""

import os
import subprocess
import sys
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np
import pytest

import luma_lab
from luma_lab import bench
from luma_lab.index import VamanaIndex
from luma_lab.kernels.compile import TARGET
from luma_lab.kernels.simd import AVX2_NEEDS

ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(("LUMA_SIMD", "NUMBA_"))}
SEARCH = """
import sys
import numpy as np
from luma_lab import bench
from luma_lab.index import VamanaIndex
from luma_lab.kernels import simd_level

data = bench.load("wordnet2k")
index = VamanaIndex.load(sys.argv[1])
found = index.search(data.queries, k=10, search_list_size=12)
codes = index._graph.nodes.quantizer.encode(data.base)
np.savez(
    sys.argv[2], level=simd_level(), rows=found.rows, distances=found.distances, codes=codes
)
"""


@pytest.mark.parametrize("level", ["avx2", "generic"])
def test_forced_levels_recall_and_measure_what_the_best_one_does(level, tmp_path):
    host = llvm.get_host_cpu_features()
    if level == "avx2" and not all(host.get(name) for name in AVX2_NEEDS):
        pytest.skip("this processor has no AVX2")
    data = bench.load("wordnet2k")
    index = VamanaIndex(data.base.shape[1], data.metric, max_degree=24, build_list_size=50)
    index.build(data.base).save(tmp_path / "index")
    found = index.search(data.queries, k=10, search_list_size=12)
    environment = {
        **ENVIRONMENT, "PYTHONPATH": str(Path(luma_lab.__file__).parents[1]), "LUMA_SIMD": level,
    }  # fmt: skip
    subprocess.run(
        [sys.executable, "-c", SEARCH, tmp_path / "index", tmp_path / "other.npz"],
        env=environment, check=True,
    )  # fmt: skip
    other = np.load(tmp_path / "other.npz")
    assert other["level"] == level != TARGET.level
    assert np.array_equal(other["codes"], index._graph.nodes.codes), "codes are integers"
    ours, theirs = (bench.recall(rows, data) for rows in (found.rows, other["rows"]))
    assert 0.9 < ours < 1.0 and abs(ours - theirs) <= 0.002
    # Of 1 minus a cosine the rounding is relative to 1.
    same = other["rows"] == found.rows
    np.testing.assert_allclose(
        other["distances"][same], found.distances[same], rtol=1e-5, atol=1e-6
    )
