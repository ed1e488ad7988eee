"""The kernel decorator: cache folder, SIMD level, and what must never break an import."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import llvmlite.binding as llvm
import pytest

import luma_lab
from luma_lab.kernels import simd_level
from luma_lab.kernels.compile import UNUSED_DAYS

PACKAGE = Path(luma_lab.__file__).parent
# What the developer set must not reach the processes started here.
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(("LUMA_SIMD", "NUMBA_"))}
X86 = llvm.get_process_triple().startswith("x86_64")


def run(code, cache, *, root=PACKAGE.parent, check=True, **variables):
    """Run `code` in a fresh interpreter that imports luma_lab from `root`."""
    environment = {
        **ENVIRONMENT,
        "LUMA_CACHE_DIR": str(cache),
        "PYTHONPATH": str(root),
        **variables,
    }
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environment, cwd=root, capture_output=True, text=True, check=check,
    )  # fmt: skip


EVERYTHING = """
import pkgutil
from importlib import import_module
import numpy as np
from numba.core.registry import CPUDispatcher
from luma_lab import kernels

made = {
    f"{name}.{kernel.__name__}": kernel
    for _, name, _ in pkgutil.iter_modules(kernels.__path__)
    for kernel in vars(import_module(f"luma_lab.kernels.{name}")).values()
    if isinstance(kernel, CPUDispatcher) and kernel.py_func.__module__.endswith(f".{name}")
}
kernels.warm_up()
if FOLDER is None:
    sys.exit()
warm = {name: kernel.signatures.copy() for name, kernel in made.items()}

from luma_lab.index import DiskIndex, FlatIndex, IVFIndex, TextIndex, VamanaIndex, exact_search
from luma_lab.index import cellrange, diskrange
from luma_lab.index.pq import PQQuantizer
from luma_lab.index.quantizer import Q4Quantizer, Q8Quantizer

vectors = np.random.default_rng(0).normal(size=(300, 20))
few, odd = np.arange(300) < 10, np.arange(300) % 2 == 1
cellrange.FEW_MATCHES, diskrange.SCAN_AHEAD = 20, 1  # so that cells and graphs are searched

def use(index):
    index.save(FOLDER)
    for one in (index, type(index).load(FOLDER), type(index).load(FOLDER, mmap=False)):
        one.search(vectors[:3], threads=2)
        one.search(vectors[0], mask=few)
        one.search(vectors[0], mask=odd)
        if hasattr(one, "neighbors_"):
            one.search(vectors[0], mask=odd, search_list_size=10)
            one.search(vectors[0], rows=np.arange(9))
            for radius, mask in ((0.5, None), (50.0, odd)):
                one.search_range(vectors[:3], radius, search_list_size=2, threads=2, mask=mask)
        else:
            for mask in (None, odd, few):
                one.search_range(vectors[:3], 0.5, nprobe=1, threads=2, mask=mask)
        one.delete(np.arange(20, 40))
        one.search(vectors[0], mask=odd)
        one.consolidate()
        one.add(vectors[:30])
        one.search(vectors[0])

for metric in ("cosine", "dot", "l2"):
    small = {"max_degree": 8, "build_list_size": 20, "threads": 2}
    for quantizer in (None, "q8"):
        index = VamanaIndex(20, metric, quantizer=quantizer, **small).build(vectors[:280])
        use(index.grown(vectors.astype(np.float32), ~few))
    for quantizer in (None, "q8", "q4"):
        use(IVFIndex(20, metric, quantizer=quantizer, threads=2).build(vectors))
    for rows, budgets in (
        (vectors, {}),
        ((vectors * 9).astype(np.int8), {"search_memory_bytes": 550_000}),
        ((vectors * 9 + 99).astype(np.uint8), {"build_memory_bytes": 100_000}),
    ):
        DiskIndex.build(rows, FOLDER, metric=metric, **budgets, **small)
        for reader in ("mmap", "aio"):
            with DiskIndex.open(FOLDER, reader=reader, cache_bytes=9999) as index:
                for mask in (None, few, odd):
                    index.search(rows[:3], threads=2, mask=mask)
                    for radius in (0.5, 900.0):
                        index.search_range(
                            rows[:3], radius, search_list_size=1, threads=2, mask=mask
                        )
                index.verify()
    FlatIndex(20, metric).build(vectors).search(vectors[:3], threads=2, mask=few)
    FlatIndex(20, metric).build(vectors).search_range(vectors[:3], 5.0, mask=few)
    exact_search(vectors.astype(np.float32), vectors, 5, metric, start=200, threads=2)
    for kind in (Q8Quantizer, Q4Quantizer, PQQuantizer):
        kind(20, metric).fit(vectors).save(FOLDER)
        quantizer = kind.load(FOLDER)
        codes = quantizer.encode(vectors, threads=2)
        quantizer.decode(codes)
        quantizer.distances(vectors[:2], codes)
        quantizer.scan(vectors[:2], codes, 5, rows=np.arange(9), threads=2)

def ask(index):
    for query in ("dos", ["dos", "tres"], "dos uno", "+dos -uno", "tr*", "uno~", "ano"):
        index.search(query)
        index.search(query, mask=np.arange(index.total_rows) % 2 == 0)
    if index.positions:
        index.search('"dos tres"')
    for way in ("touched", "windowed", "exhaustive"):
        index.search("dos tres", way=way)

texts = ["uno dos", "dos tres tres", "ano a\u00f1o", ""] * 40
for language, positions in (("none", True), ("es", False), ("es", True)):
    for variant in ("lucene", "robertson", "atire", "bm25+", "bm25l", "bm25l-rank", "okapi"):
        index = TextIndex(language, variant, positions=positions).build(texts)
        index.save(FOLDER)
        for one in (index, TextIndex.load(FOLDER), TextIndex.load(FOLDER, mmap=False)):
            ask(one)
            one.add(texts[:5])
            one.add([["dos", "tres"]])
            ask(one)
            one.delete([1, 2])
            ask(one)
            one.consolidate()
            ask(one)
fielded = TextIndex("es", fields={"title": 2.0, "body": 1.0})
ask(fielded.build([{"title": "dos", "body": "uno dos"}] * 20))
fielded.add([{"title": "dos"}])
ask(fielded)

new = {n: k.signatures for n, k in made.items() if k.signatures != warm[n]}
assert not new, new
compiled = [n for n, k in made.items() if k.stats.cache_misses]
assert not compiled, compiled
print(*sorted(n for n, signatures in warm.items() if len(signatures) == 2))
assert max(map(len, warm.values())) == 2
"""
# One type for graphs of floats, one for graphs of codes; counts of words, counts of phrases.
OF_TWO_TYPES = [
    "build.choose_edges", "build.merge_back_edges", "build.trim", "copies.link_back",
    "copies.mark_rows", "copies.tie_rings", "mend.mend_edges", "partition.merge_edges",
    "postings.bake_parts", "reach.attach_unreached",
]  # fmt: skip


@pytest.mark.timeout(900)  # with an empty cache: of over a minute on a machine without other work
def test_warming_up_compiles_every_type_the_indexes_use(tmp_path):
    """It comes first, in the default cache folder, for it compiles everything."""
    environment = {**ENVIRONMENT, "PYTHONPATH": str(PACKAGE.parent)}
    for folder in (None, str(tmp_path / "index")):
        done = subprocess.run(
            [sys.executable, "-c", f"import sys\nFOLDER = {folder!r}\n{EVERYTHING}"],
            env=environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert done.stdout.split() == OF_TWO_TYPES


USE = """
import numpy as np
from luma_lab.kernels import simd_level
from luma_lab.kernels.distance import row_distance, squared_l2
a, b = np.zeros(64, np.float32), np.ones(64, np.float32)
print(simd_level(), row_distance(a, b, 0))
print("hits", sum(row_distance.stats.cache_hits.values()))
"""


def test_a_second_process_loads_what_the_first_compiled(tmp_path):
    assert run(USE, tmp_path).stdout == "native 64.0\nhits 0\n"
    assert run(USE, tmp_path).stdout == "native 64.0\nhits 1\n"


def test_an_edited_callee_is_compiled_anew_for_its_callers(tmp_path):
    package = tmp_path / "copy" / "luma_lab"
    shutil.copytree(PACKAGE / "kernels", package / "kernels")
    (package / "__init__.py").write_text("")
    cache = tmp_path / "cache"
    run(USE, cache, root=package.parent)
    assert run(USE, cache, root=package.parent).stdout == "native 64.0\nhits 1\n"
    source = package / "kernels" / "distance.py"
    edited = source.read_text().replace("total += difference * difference", "total += difference")
    assert edited != source.read_text()
    source.write_text(edited)
    assert run(USE, cache, root=package.parent).stdout == "native -64.0\nhits 0\n"


ASSEMBLY = USE + 'print("".join(row_distance.inspect_asm().values()))'


def registers(text):
    return {name for name in ("xmm", "ymm", "zmm") if re.search(rf"%{name}\d", text)}


@pytest.mark.skipif(not X86, reason="register names are those of x86-64")
def test_the_simd_level_is_forced_whatever_was_cached_before(tmp_path):
    host = llvm.get_host_cpu_features()
    assert run(USE, tmp_path).stdout.startswith("native 64.0")
    generic = run(ASSEMBLY, tmp_path, LUMA_SIMD="generic").stdout
    assert generic.startswith("generic 64.0\nhits 0")
    assert registers(generic) == {"xmm"} and "vfmadd" not in generic
    if host.get("avx2") and host.get("fma"):
        avx2 = run(ASSEMBLY, tmp_path, LUMA_SIMD="avx2").stdout
        assert avx2.startswith("avx2 64.0\nhits 0")
        assert "ymm" in registers(avx2) and "zmm" not in registers(avx2) and "vfmadd" in avx2
    assert run(USE, tmp_path, LUMA_SIMD="generic").stdout == "generic 64.0\nhits 1\n"


def test_an_unknown_simd_level_is_an_error_that_lists_the_known_ones(tmp_path):
    failed = run(USE, tmp_path, check=False, LUMA_SIMD="sse9")
    assert failed.returncode != 0
    assert "LUMA_SIMD='sse9' is unknown: expected one of native, avx2, generic" in failed.stderr


def test_a_level_asked_for_after_numba_started_is_an_error(tmp_path):
    early = "import numba\nnumba.njit(lambda x: x + 1)(1)\n"
    failed = run(early + USE, tmp_path, check=False, LUMA_SIMD="generic")
    assert failed.returncode != 0 and "LUMA_SIMD=generic came too late" in failed.stderr
    assert run(early + USE, tmp_path).stdout.startswith("native 64.0")


def test_this_process_tells_its_level():
    assert simd_level() == (os.environ.get("LUMA_SIMD") or "native")


def test_without_a_writable_cache_folder_kernels_compile_after_one_warning(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    done = run(USE, blocked / "cache")
    assert done.stdout == "native 64.0\nhits 0\n"
    assert done.stderr.count("RuntimeWarning: no folder to keep compiled kernels in") == 1


def test_a_damaged_cache_entry_is_compiled_anew(tmp_path):
    run(USE, tmp_path)
    for entry in tmp_path.glob("*/*.nb?"):
        entry.write_bytes(entry.read_bytes()[:40])
    done = run(USE, tmp_path)
    assert done.stdout.startswith("native 64.0")
    assert "compiled kernel unreadable, compiling it anew" in done.stderr
    assert run(USE, tmp_path).stdout == "native 64.0\nhits 1\n"


def test_processes_that_compile_at_once_leave_a_whole_cache(tmp_path):
    # Two signatures of one kernel: the case in which numba's own cache mixes up file names.
    code = """
import sys
import numpy as np
from luma_lab.kernels.distance import squared_l2
a = np.ones(8, np.float32); b = a.copy(); b.flags.writeable = False
pairs = [(a, a), (a, b), (b, a), (b, b)]
for i in map(int, sys.argv[1]): assert squared_l2(*pairs[i]) == 0.0
print("hits", sum(squared_l2.stats.cache_hits.values()))
"""
    environment = {**ENVIRONMENT, "LUMA_CACHE_DIR": str(tmp_path)}
    orders = ["0123", "3210", "1032"]
    racers = [subprocess.Popen([sys.executable, "-c", code, o], env=environment) for o in orders]
    assert [racer.wait() for racer in racers] == [0, 0, 0]
    last = subprocess.run(
        [sys.executable, "-c", code, "2130"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert last.stdout == "hits 4\n"


def test_only_cache_folders_unused_for_a_month_are_removed(tmp_path):
    def folder(name, days):
        path = tmp_path / name
        path.mkdir()
        (path / "x.nbc").write_bytes(b"x")
        then = time.time() - days * 86400
        os.utime(path, (then, then))
        return path

    old = folder("kernels-native-old", UNUSED_DAYS + 1)
    young = folder("kernels-native-young", UNUSED_DAYS - 1)
    foreign = folder("something-else", UNUSED_DAYS + 1)
    run("import luma_lab.kernels", tmp_path)
    assert [path.exists() for path in (old, young, foreign)] == [False, True, True]


def test_numbas_own_configuration_is_left_alone(tmp_path):
    code = """
from numba.core import config
before = config.CACHE_DIR, config.CPU_NAME, config.CPU_FEATURES, config.CACHE_LOCATOR_CLASSES
import luma_lab.kernels
now = config.CACHE_DIR, config.CPU_NAME, config.CPU_FEATURES, config.CACHE_LOCATOR_CLASSES
print(now == before)
"""
    assert run(code, tmp_path).stdout == "True\n"


PLAIN = """
import numpy as np
from luma_lab.index import FlatIndex, IVFIndex, VamanaIndex
vectors = np.random.default_rng(3).integers(-9, 10, size=(150, 4))
for metric in ("l2", "dot"):
    index = VamanaIndex(4, metric, max_degree=6, build_list_size=12).build(vectors)
    found = index.search(vectors[:20], k=5)
    exact = FlatIndex(4, metric).build(vectors).search(vectors[:20], k=5)
    print(index.fingerprint, found.rows.tolist(), found.stats.hops.tolist(), exact.rows.tolist())
    for quantizer in ("q8", "q4", None):
        index = IVFIndex(4, metric, quantizer=quantizer).build(vectors)
        found = index.search(vectors[:20], k=5, nprobe=3)
        print(index.cell_sizes_.tolist(), found.rows.tolist(), found.stats.comparisons.tolist())
"""


def test_kernels_run_as_plain_python_and_build_the_same_graph(tmp_path):
    # Whole numbers, so that sums are exact in whatever order vector lanes add.
    environment = {**ENVIRONMENT, "PYTHONPATH": str(PACKAGE.parent)}
    compiled, plain = (
        subprocess.run(
            [sys.executable, "-W", "error", "-c", PLAIN],
            env={**environment, **more}, capture_output=True, text=True, check=True,
        ).stdout
        for more in ({}, {"NUMBA_DISABLE_JIT": "1"})
    )  # fmt: skip
    assert compiled == plain and compiled
