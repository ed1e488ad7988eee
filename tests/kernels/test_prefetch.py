"""Prefetching asks for every cache line of a row, and for no other."""

import numba
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llvmlite import binding as llvm
from numba.core import config

from luma_lab.kernels import prefetch


def lines_asked_for(kernel, address, size):
    asked = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefetch, "prefetch", asked.append)
        getattr(kernel, "py_func", kernel)(address, size)
    return [address // 64 for address in asked]


@given(st.integers(0, 10_000), st.integers(1, 1000))
def test_a_row_at_any_address_has_all_its_lines_asked_for_once(address, size):
    touched = sorted(
        {byte // 64 for byte in (*range(address, address + size, 32), address + size - 1)}
    )
    assert lines_asked_for(prefetch.prefetch_row, address, size) == touched


def test_an_aligned_span_has_all_its_lines_asked_for_once():
    assert lines_asked_for(prefetch.prefetch_span, 640, 130) == [10, 11, 12]


@pytest.mark.skipif(config.DISABLE_JIT, reason="plain Python has no instructions")
@pytest.mark.skipif(
    not llvm.get_process_triple().startswith("x86_64"), reason="prefetcht1 is of x86-64"
)
def test_a_prefetch_is_one_instruction_and_never_faults():
    ask = numba.njit(lambda address, size: prefetch.prefetch_row(address, size))
    ask(0, 64)
    ask(-100, 300)
    assert "prefetcht1" in "".join(ask.inspect_asm().values())
