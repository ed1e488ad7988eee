"""Integer inner products: the same integers from every instruction set, and the one we want."""

import os
import re
import subprocess
import sys
from pathlib import Path

import llvmlite.binding as llvm
import numba
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from instructions import CHOICES, assembly_of

import luma_lab
from luma_lab.kernels import int8
from luma_lab.kernels.int8 import BLOCK_BYTES, BYTE, WORD, choose_instruction, make_dot
from luma_lab.kernels.simd import Target

PARENT = Path(luma_lab.__file__).parents[1]
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(("LUMA_SIMD", "NUMBA_"))}
X86 = llvm.get_process_triple().startswith("x86_64")


def driver(dot):
    return numba.njit(lambda query, code, size: dot(query, code, size))


DRIVERS = {
    packed: {"chosen": driver(int8.dot_u8u4 if packed else int8.dot_u8s8)}
    | {name: driver(make_dot(choice, packed)) for name, choice in CHOICES.items()}
    for packed in (False, True)
}


def unpack(codes):
    """Return the components of packed 4-bit codes."""
    blocks = codes.reshape(-1, BLOCK_BYTES)
    return np.concatenate([blocks & 15, blocks >> 4], axis=1).reshape(-1)


def at_offset(values, offset):
    """Return a copy of `values` that starts `offset` bytes behind a cache line, then 0xFF."""
    room = np.full(len(values) + 256, 0xFF, np.uint8)
    start = -room.ctypes.data % 64 + offset
    room[start : start + len(values)] = values
    return room[start : start + len(values)]


def check(query, codes, packed):
    """Compare all drivers with numpy, on whole blocks padded with zeros."""
    size = -(-len(codes) // BLOCK_BYTES) * BLOCK_BYTES
    codes = np.pad(codes, (0, size - len(codes)))
    query = np.pad(query, (0, size * (2 if packed else 1) - len(query)))
    wide = unpack(codes) if packed else codes.view(np.int8)
    expected = int(query.astype(np.int64) @ wide.astype(np.int64))
    for offset in (0, 5):
        placed, asked = at_offset(codes, offset), at_offset(query, 2 * offset)
        for name, dot in DRIVERS[packed].items():
            assert dot(asked.ctypes.data, placed.ctypes.data, size) == expected, name


EXTREMES = np.array([0, 1, 127, 128, 129, 254, 255], np.uint8)  # -128, -1, 127 as int8


@pytest.mark.parametrize("packed", [False, True])
@given(st.integers(1, 4096), st.booleans(), st.integers(0, 2**32 - 1))
@example(1, True, 0)
@example(4096, True, 1)
def test_every_instruction_set_gives_the_integers_of_numpy(packed, dim, extreme, seed):
    rng = np.random.default_rng(seed)
    bytes_ = -(-dim // 128) * 64 if packed else dim
    draw = (lambda n: rng.choice(EXTREMES, n)) if extreme else (lambda n: rng.integers(0, 256, n))
    check(draw(dim).astype(np.uint8), draw(bytes_).astype(np.uint8), packed)


@pytest.mark.parametrize("code", [-128, -1, 127])
@pytest.mark.parametrize("query", [1, 128, 255])
def test_sums_neither_saturate_nor_overflow_up_to_the_largest_dimension(query, code):
    # Pairs of 255 * 127 exceed int16: an instruction that saturates there would be seen.
    for dim in (64, 192, 4096, 65536):
        check(np.full(dim, query, np.uint8), np.full(dim, code, np.int8).view(np.uint8), False)


def test_four_bit_codes_at_their_largest_are_summed_exactly():
    for dim in (128, 4096, 65536):
        check(np.full(dim, 255, np.uint8), np.full(dim // 2, 0xFF, np.uint8), True)


def test_a_size_of_zero_gives_zero():
    for drivers in DRIVERS.values():
        assert [dot(0, 0, 0) for dot in drivers.values()] == [0] * len(drivers)


def test_the_instruction_follows_the_features_and_what_llvm_accepts():
    def target(*features):
        return Target("native", "some", ",".join(features))

    def yes(bits, element):
        return True

    wide = target("+avx512vnni", "+avx512bw", "+avxvnni")
    assert choose_instruction(wide, yes)[:2] == ("vpdpbusd", 512)
    assert choose_instruction(target("+avxvnni", "-avx512vnni"), yes)[:2] == ("vpdpbusd", 256)
    assert choose_instruction(target("+avx2", "-avx512vnni"), yes)[0] == "portable"
    assert choose_instruction(target("+avx512vnni"), yes)[0] == "portable"
    assert choose_instruction(target(""), yes)[0] == "portable"
    for known in (BYTE, WORD):
        chosen = choose_instruction(wide, lambda bits, element, known=known: element is known)
        assert chosen == ("vpdpbusd", 512, known)
    assert choose_instruction(wide, lambda bits, element: False)[0] == "portable"


@pytest.mark.skipif(not X86, reason="the instruction is one of x86-64")
def test_operands_llvm_does_not_take_are_noticed(monkeypatch):
    assert any(int8._accepts(512, element) for element in (BYTE, WORD))
    monkeypatch.setattr(int8, "VNNI", int8.VNNI.format(bits=512))
    assert not int8._accepts(256, BYTE)


# Products with 4-bit codes fit 16 bits, so multiplications that give no more do as well.
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("triple", "cpu", "features", "wanted"),
    [
        ("x86_64-unknown-linux-gnu", "sapphirerapids", "+avx512vnni,+avx512bw", r"dpbusd.*%zmm"),
        ("x86_64-unknown-linux-gnu", "x86-64-v3", "+avxvnni", r"\{vex\}\s+vpdpbusd.*%ymm"),
        ("x86_64-unknown-linux-gnu", "x86-64-v3", "", r"vpmaddwd.*%ymm"),
        ("x86_64-unknown-linux-gnu", "x86-64", "", r"\b(pmaddwd|pmullw).*%xmm"),
        ("aarch64-unknown-linux-gnu", "neoverse-n1", "", r"(smlal|umull)\s+v\d+"),
    ],
)
def test_processors_that_are_not_here_get_their_instruction(
    packed, triple, cpu, features, wanted
):  # fmt: skip
    choice = choose_instruction(Target("native", cpu, features))

    def emit(builder, *arguments):
        return int8.emit_dot(builder, choice, packed, *arguments)

    text = assembly_of(emit, WORD, 3, triple, cpu, features)
    assert re.search(wanted, text), text


RESULTS = """
import hashlib
import numba
import numpy as np
from luma_lab.index.pq import PQQuantizer
from luma_lab.index.quantizer import Q4Quantizer, Q8Quantizer
from luma_lab.kernels.int8 import dot_u8s8, dot_u8u4

@numba.njit
def both(query, codes):
    a, b = query.ctypes.data, codes.ctypes.data
    return dot_u8s8(a, b, codes.shape[0]), dot_u8u4(a, b, codes.shape[0] // 2)

rng = np.random.default_rng(5)
digest = hashlib.sha256()
for pairs in (1, 2, 3, 7, 32):
    query = rng.integers(0, 256, 128 * pairs).astype(np.uint8)
    codes = rng.choice([0, 1, 127, 128, 255], 128 * pairs).astype(np.uint8)
    digest.update(repr([int(total) for total in both(query, codes)]).encode())
vectors = rng.integers(-9, 10, size=(40, 70))
made = [Q8Quantizer(70, "l2"), Q8Quantizer(70, "dot"), Q4Quantizer(70, "l2")]
for quantizer in (*made, PQQuantizer(3, "l2"), PQQuantizer(3, "dot")):
    these = vectors[:, : quantizer.dim]
    codes = quantizer.fit(these[:12]).encode(these[:12])
    digest.update(codes.tobytes() + quantizer.distances(these[:5], codes).tobytes())
for quantizer in (Q8Quantizer(6, "l2"), Q4Quantizer(6, "l2")):
    flat = np.full((2, 6), 3.0)  # spans nothing
    codes = quantizer.fit(np.zeros((1, 6))).encode(flat)
    digest.update(codes.tobytes() + quantizer.prepare(flat).tobytes())
print(digest.hexdigest())
"""


def run(code, **variables):
    # The default cache folder, for this compiles much.
    environment = {**ENVIRONMENT, "PYTHONPATH": str(PARENT), **variables}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def levels():
    host = llvm.get_host_cpu_features() if X86 else {}
    return ["native", "generic", *(["avx2"] if host.get("avx2") and host.get("fma") else [])]


def test_codes_and_distances_are_the_same_bytes_at_every_simd_level_and_in_plain_python():
    printed = [run(RESULTS, LUMA_SIMD=level) for level in levels()]
    printed.append(run(RESULTS, NUMBA_DISABLE_JIT="1"))
    assert set(printed) == {printed[0]} and len(printed[0]) == 65


ASSEMBLY = """
import numba
import numpy as np
from luma_lab.kernels.quantize import q4_distance, q8_distance

@numba.njit
def q8_row(query, row, code_bytes, row_bytes):
    return q8_distance(query, row, code_bytes, row_bytes)

@numba.njit
def q4_row(query, row, code_bytes, row_bytes):
    return q4_distance(query, row, code_bytes, row_bytes)

zeros = np.zeros(512, np.uint8).ctypes.data
for function in (q8_row, q4_row):
    function(zeros, zeros, 128, 192)
    print("".join(function.inspect_asm().values()))
    print("=====")
"""


def registers(text):
    return {name for name in ("xmm", "ymm", "zmm") if re.search(rf"%{name}\d", text)}


@pytest.mark.skipif(not X86, reason="instructions are those of x86-64")
def test_distances_to_codes_use_the_best_integer_instruction_of_each_level():
    host = llvm.get_host_cpu_features()

    def assembly(level):
        return run(ASSEMBLY, LUMA_SIMD=level).split("=====")[:2]

    for text in assembly("generic"):
        assert re.search(r"\bpmaddwd\s", text) and registers(text) == {"xmm"}
        assert "vp" not in text
    if host.get("avx2") and host.get("fma"):
        for text in assembly("avx2"):
            if host.get("avxvnni"):
                assert re.search(r"vpdpbusd\s.*%ymm", text)
            else:
                assert re.search(r"vpmaddwd\s.*%ymm", text)
            assert "zmm" not in registers(text)
    if not (host.get("avx512vnni") and host.get("avx512bw")):
        pytest.skip("this processor has no AVX-512 VNNI")
    for text in assembly("native"):
        assert re.search(r"vpdpbusd\s.*%zmm", text)
        assert "vpmaddwd" not in text and "vpdpwssd" not in text
