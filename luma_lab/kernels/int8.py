"""Inner products of bytes, on addresses: what distances to quantised rows are made of.

``dot_u8s8(query_address, code_address, size)``
    Sum of query[i] * code[i] as int32; query uint8, code int8, `size` bytes of each.
``dot_u8u4(query_address, code_address, size)``
    The same for codes of 4 bits: byte i of a block of 64 holds component i of the block's 128
    components in its low half and component i + 64 in its high half. The query has 2 * `size`
    bytes, in natural order.

Addresses are integers and need no alignment; `size` is a multiple of `BLOCK_BYTES`. All
instruction sets give the same integers: sums are exact up to 65,536 components.
"""

import ctypes

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic

from luma_lab.kernels.compile import TARGET
from luma_lab.kernels.simd import features_of

BLOCK_BYTES = 64
BYTE, WORD = ir.IntType(8), ir.IntType(32)
LOW_HALF = 0x0F
# One instruction multiplies 4 bytes with 4 bytes and adds them to an int32, without saturation.
VNNI = "llvm.x86.avx512.vpdpbusd.{bits}"
PORTABLE = "portable"
PORTABLE_BYTES = 32  # wider or in pairs was slower on AVX-512, AVX2 and SSE2 alike
# LLVM 21 changed the operands of vpdpbusd from int32 to the bytes they are.
OPERAND_TYPES = (BYTE, WORD)


def vectors_of(element, size_bytes):
    """Return the LLVM vector type of so many bytes."""
    return ir.VectorType(element, size_bytes * 8 // element.width)


def _accepts(bits, element):
    """Tell whether this LLVM knows vpdpbusd of so many bits with operands of such elements."""
    sums, operand = vectors_of(WORD, bits // 8), vectors_of(element, bits // 8)
    name = VNNI.format(bits=bits)
    # Only a call is verified: a wrong declaration alone passes.
    text = f"""
        declare {sums} @{name}({sums}, {operand}, {operand})
        define {sums} @probe({sums} %a, {operand} %b, {operand} %c) {{
            %d = call {sums} @{name}({sums} %a, {operand} %b, {operand} %c)
            ret {sums} %d
        }}
    """
    try:
        llvm.parse_assembly(text).verify()
    except RuntimeError:
        return False
    return True


def choose_instruction(target, accepts=_accepts):
    """Return how to multiply bytes on `target`: (name, register bits, operand element type).

    The name is ``"vpdpbusd"``, or ``"portable"``: plain vector code in which LLVM finds the
    best instruction the target has (pmaddwd on x86-64).
    """
    has = features_of(target)
    bits = 0
    if {"avx512vnni", "avx512bw"} <= has:
        bits = 512
    elif "avxvnni" in has:
        bits = 256
    for element in OPERAND_TYPES if bits else ():
        if accepts(bits, element):
            return "vpdpbusd", bits, element
    return PORTABLE, PORTABLE_BYTES * 8, BYTE


def emit_vpdpbusd(builder, bits, element, total, query, code):
    """Return the int32 vector `total` plus the sums by fours of the products of bytes."""
    operand = vectors_of(element, bits // 8)
    call = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(total.type, [total.type, operand, operand]),
        VNNI.format(bits=bits),
    )
    return builder.call(
        call, [total, builder.bitcast(query, operand), builder.bitcast(code, operand)]
    )


class _Machine:
    """Emits multiply-adds of byte vectors for one choice of :func:`choose_instruction`."""

    def __init__(self, name, bits, element):
        self.name, self.bits, self.element = name, bits, element
        self.step = bits // 8
        # Portable sums are of whole products: one int32 lane a byte.
        self.sums = ir.VectorType(WORD, self.step if name == PORTABLE else self.step // 4)
        # Enough sums that one addition need not wait for the last; more spill registers.
        self.kept = 1 if name == PORTABLE else 2 * 512 // bits
        self.blocks = 1 if name == PORTABLE else 2

    def multiply_add(self, builder, total, query, code):
        """Return `total` plus the products of byte vectors `query` and `code`."""
        if self.name == PORTABLE:
            product = builder.mul(builder.zext(query, self.sums), builder.sext(code, self.sums))
            return builder.add(total, product)
        return emit_vpdpbusd(builder, self.bits, self.element, total, query, code)

    def load(self, builder, address, offset):
        """Return the byte vector at integer `address` plus the constant `offset`."""
        kind = ir.VectorType(BYTE, self.step)
        address = builder.add(address, ir.Constant(address.type, offset))
        return builder.load(builder.inttoptr(address, kind.as_pointer()), align=1)

    def total(self, builder, sums):
        """Return all lanes of all sums as one int32."""
        total = sums[0]
        for other in sums[1:]:
            total = builder.add(total, other)
        reduce = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(WORD, [self.sums]),
            f"llvm.vector.reduce.add.v{self.sums.count}i32",
        )
        return builder.call(reduce, [total])


def emit_loop(builder, start, stop, step, sums, body):
    """Emit ``for i in range(start, stop, step): sums = body(i, sums)``; return (i, sums)."""
    before = builder.block
    head, inside, after = (builder.append_basic_block() for _ in range(3))
    builder.branch(head)
    builder.position_at_end(head)
    position = builder.phi(start.type)
    position.add_incoming(start, before)
    carried = [builder.phi(value.type) for value in sums]
    for phi, value in zip(carried, sums, strict=True):
        phi.add_incoming(value, before)
    builder.cbranch(builder.icmp_signed("<", position, stop), inside, after)
    builder.position_at_end(inside)
    made = body(position, carried)
    position.add_incoming(builder.add(position, ir.Constant(start.type, step)), builder.block)
    for phi, value in zip(carried, made, strict=True):
        phi.add_incoming(value, builder.block)
    builder.branch(head)
    builder.position_at_end(after)
    return position, carried


def emit_dot(builder, choice, packed, query, code, size):
    """Return the int32 dot product of `size` code bytes and the query, see `make_dot`."""
    machine = _Machine(*choice)
    parts = BLOCK_BYTES // machine.step

    def block(position, number, sums):
        made = list(sums)
        turn = number * parts
        code_at = builder.add(code, position)
        query_at = builder.add(query, builder.add(position, position) if packed else position)
        for part in range(parts):
            here = number * BLOCK_BYTES + part * machine.step
            values = machine.load(builder, code_at, here)
            if not packed:
                factor = machine.load(builder, query_at, here)
                slot = (turn + part) % machine.kept
                made[slot] = machine.multiply_add(builder, made[slot], factor, values)
                continue
            lanes = values.type
            low = builder.and_(values, ir.Constant(lanes, [LOW_HALF] * lanes.count))
            high = builder.lshr(values, ir.Constant(lanes, [4] * lanes.count))
            for half, nibbles in enumerate((low, high)):
                there = (2 * number + half) * BLOCK_BYTES + part * machine.step
                factor = machine.load(builder, query_at, there)
                slot = (2 * (turn + part) + half) % machine.kept
                made[slot] = machine.multiply_add(builder, made[slot], factor, nibbles)
        return made

    def several(position, sums):
        for number in range(machine.blocks):
            sums = block(position, number, sums)
        return sums

    zero = ir.Constant(machine.sums, [0] * machine.sums.count)
    sums = [zero] * machine.kept
    stride = BLOCK_BYTES * machine.blocks
    whole = builder.and_(size, ir.Constant(size.type, -stride))
    start = ir.Constant(size.type, 0)
    start, sums = emit_loop(builder, start, whole, stride, sums, several)
    if machine.blocks > 1:
        _, sums = emit_loop(
            builder, start, size, BLOCK_BYTES, sums, lambda at, carried: block(at, 0, carried)
        )
    return machine.total(builder, sums)


def make_dot(choice, packed):
    """Return an intrinsic ``dot(query_address, code_address, size) -> int32``.

    Parameters
    ----------
    choice : tuple
        From :func:`choose_instruction`; the processor must have that instruction.
    packed : bool
        Codes of 4 bits, two a byte, instead of int8.
    """

    @intrinsic
    def dot(typing_context, query_address, code_address, size):
        """Return the inner product of a uint8 query and a code, see the module."""

        def generate(context, builder, signature, arguments):
            return emit_dot(builder, choice, packed, *arguments)

        return types.int32(types.intp, types.intp, types.intp), generate

    return dot


def bytes_at(address, size):
    """Return the `size` bytes at an integer address as a uint8 array: for plain Python only."""
    return np.frombuffer((ctypes.c_uint8 * size).from_address(int(address)), np.uint8)


if config.DISABLE_JIT:
    INSTRUCTION = PORTABLE, 0, None

    def dot_u8s8(query_address, code_address, size):
        """Return the inner product of uint8 and int8 components."""
        query = bytes_at(query_address, size).astype(np.int32)
        return np.int32(query @ bytes_at(code_address, size).view(np.int8).astype(np.int32))

    def dot_u8u4(query_address, code_address, size):
        """Return the inner product of uint8 components and 4-bit codes."""
        query = bytes_at(query_address, 2 * size).astype(np.int32)
        packed = bytes_at(code_address, size).reshape(-1, BLOCK_BYTES)
        codes = np.concatenate([packed & LOW_HALF, packed >> 4], axis=1).reshape(-1)
        return np.int32(query @ codes.astype(np.int32))

    def load_float32(address):
        """Return the float32 at an integer address."""
        return bytes_at(address, 4).view(np.float32)[0]

    def load_int32(address):
        """Return the int32 at an integer address."""
        return bytes_at(address, 4).view(np.int32)[0]

    def load_uint16(address):
        """Return the uint16 at an even integer address."""
        return bytes_at(address, 2).view(np.uint16)[0]

    def load_byte(address):
        """Return the uint8 at an integer address."""
        return bytes_at(address, 1)[0]

else:
    INSTRUCTION = choose_instruction(TARGET)
    dot_u8s8 = make_dot(INSTRUCTION, packed=False)
    dot_u8u4 = make_dot(INSTRUCTION, packed=True)

    def _make_load(kind, numba_type, table=False):
        @intrinsic
        def load(typing_context, address):
            """Return the number at an integer address."""

            def generate(context, builder, signature, arguments):
                pointer = builder.inttoptr(arguments[0], kind.as_pointer())
                if table:
                    # Atomic only so that LLVM leaves them alone: it would gather the lanes of
                    # vectors one by one, which takes four times as long.
                    return builder.load_atomic(pointer, "unordered", kind.width // 8)
                return builder.load(pointer, align=1)

            return numba_type(types.intp), generate

        return load

    load_float32 = _make_load(ir.FloatType(), types.float32)
    load_int32 = _make_load(WORD, types.int32)
    load_uint16 = _make_load(ir.IntType(16), types.uint16, table=True)
    load_byte = _make_load(BYTE, types.uint8, table=True)
