"""The ways to multiply bytes that can be tried here, and the assembly of those that can't."""

import llvmlite.binding as llvm
import pytest
from llvmlite import ir
from numba.core import config

from luma_lab.kernels import int8
from luma_lab.kernels.compile import TARGET
from luma_lab.kernels.int8 import BYTE, WORD
from luma_lab.kernels.simd import features_of

HAS = features_of(TARGET)
# Plain Python has one way only.
CHOICES = {} if config.DISABLE_JIT else {"portable": (int8.PORTABLE, 256, BYTE)}
for bits, needs in ((256, {"avx512vnni", "avx512vl"}), (512, {"avx512vnni", "avx512bw"})):
    for element in (BYTE, WORD):
        if CHOICES and needs <= HAS and int8._accepts(bits, element):
            CHOICES[f"vpdpbusd {bits} {element}"] = ("vpdpbusd", bits, element)


def assembly_of(emit, returned, count, triple, cpu, features):
    """Return the assembly of what `emit` makes, for a processor that need not be here.

    emit : callable of a builder and `count` integers of 64 bits; gives a value of `returned`
    """
    module = ir.Module()
    function = ir.Function(module, ir.FunctionType(returned, [ir.IntType(64)] * count), "made")
    builder = ir.IRBuilder(function.append_basic_block())
    builder.ret(emit(builder, *function.args))
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    try:
        target = llvm.Target.from_triple(triple)
    except RuntimeError:
        pytest.skip(f"this LLVM has no code generator for {triple}")
    parsed = llvm.parse_assembly(f'target triple = "{triple}"\n{module}')
    parsed.verify()
    return target.create_target_machine(cpu, features, opt=3).emit_assembly(parsed)
