"""Distances to 16 rows at a time, whose components lie side by side.

A block holds 16 rows as `lines` of 64 bytes, 4 bytes of each row a line. So every row has a lane
of its own in the processor's registers, and no sum runs across lanes.

``measure_q8_block(query, constants, block, lines, out, limit)``
    Lines of 4 int8 components of each row, then 4 lines of row constants (see `quantize`:
    float32 scale, offset, norm, int32 128 * sum c). `query` is the address of the prepared
    query's bytes, `constants` that of its constants.
``measure_q4_block(query, constants, block, lines, out, limit)``
    Lines of 8 components of 4 bits: the first 4 in the low halves of the bytes, the others in
    the high ones; then the row constants.
``measure_float_block(query, block, lines, out, limit, by_l2)``
    Lines of one float32 component of each row; `query` is the address of float32 ones. The
    distance is squared L2 if `by_l2`, else minus the inner product.

``lowest_bit(bits)``
    Number of the lowest bit that is set, of an int32 that is not 0.

Each measure writes the float32 distances to the 16 rows at address `out`, and returns which of
them are at most `limit`, one bit a row. Addresses are integers and need no alignment; lines of
codes are a multiple of `LINES_AT_ONCE`.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic

from luma_lab.kernels.int8 import (
    BYTE,
    INSTRUCTION,
    LOW_HALF,
    PORTABLE,
    WORD,
    bytes_at,
    emit_loop,
    emit_vpdpbusd,
)

FLOATS = 3  # a kind of blocks, beside quantize.Q8 and Q4
LANES = 16
LINE_BYTES = 64
CONSTANT_LINES = 4
LINES_AT_ONCE = 4
FLOATS_AT_ONCE = 4  # sums side by side, so that one addition need not wait for the last
FLOAT = ir.FloatType()


def load_at(builder, address, offset, kind):
    """Load a value of LLVM type `kind` at integer `address` plus the constant `offset`."""
    address = builder.add(address, ir.Constant(address.type, offset))
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=1)


def splat(builder, value, lanes):
    """Return the vector with `value` in all lanes."""
    kind = ir.VectorType(value.type, lanes)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, WORD(0))
    return builder.shuffle_vector(
        first, first, ir.Constant(ir.VectorType(WORD, lanes), [0] * lanes)
    )


def emit_distance(builder, of_query, scale, offset, norm, centred, product):
    """Return distances from vectors of constants and products, as `quantize.combine` does.

    of_query : the five constants of the query, each in all lanes
    """
    base, weight, slope, lift, factor = of_query
    floats = scale.type
    inner = builder.fmul(slope, builder.sitofp(builder.sub(product, centred), floats))
    inner = builder.fadd(inner, builder.fmul(lift, builder.sitofp(centred, floats)))
    distance = builder.fadd(base, builder.fmul(weight, norm))
    distance = builder.fadd(distance, builder.fmul(factor, offset))
    return builder.fadd(distance, builder.fmul(scale, inner))


class _Lanes:
    """Emits sums of products of bytes by lanes, for one choice of `int8.choose_instruction`."""

    def __init__(self, name, bits, element):
        self.name, self.bits, self.element = name, bits, element
        self.bytes = bits // 8
        self.lanes = self.bytes // 4
        self.parts = LINE_BYTES // self.bytes
        self.sums = ir.VectorType(WORD, self.lanes)

    def multiply_add(self, builder, total, word, code):
        """Return `total` plus the products of the 4 bytes of `word` with those of each lane."""
        query = splat(builder, word, self.lanes)
        if self.name == PORTABLE:
            wide = ir.VectorType(WORD, self.bytes)
            query = builder.zext(builder.bitcast(query, code.type), wide)
            products = builder.mul(query, builder.sext(code, wide))
            for byte in range(4):
                picked = [4 * lane + byte for lane in range(self.lanes)]
                total = builder.add(
                    total,
                    builder.shuffle_vector(products, products, ir.Constant(self.sums, picked)),
                )
            return total
        return emit_vpdpbusd(builder, self.bits, self.element, total, query, code)


def near_lanes(builder, values, limit):
    """Return which lanes of a vector are at most `limit`, one bit each of an int32."""
    lanes = values.type.count
    near = builder.fcmp_ordered("<=", values, splat(builder, limit, lanes))
    return builder.zext(builder.bitcast(near, ir.IntType(lanes)), WORD)


def _finish(builder, distances, out, limit):
    """Store parts of the distances at `out`; return the bits of those of at most `limit`."""
    mask = WORD(0)
    for part, values in enumerate(distances):
        lanes = values.type.count
        address = builder.add(out, ir.Constant(out.type, 4 * lanes * part))
        builder.store(values, builder.inttoptr(address, values.type.as_pointer()), align=4)
        bits = near_lanes(builder, values, limit)
        mask = builder.or_(mask, builder.shl(bits, WORD(lanes * part)))
    return mask


def _emit_codes(builder, machine, packed, query, constants, block, lines, out, limit):
    parts, lanes = machine.parts, machine.lanes
    at_once = LINES_AT_ONCE // 2 if packed else LINES_AT_ONCE
    word_bytes = 8 if packed else 4
    code_type = ir.VectorType(BYTE, machine.bytes)

    def body(line, sums):
        made = list(sums)
        code_at = builder.add(block, builder.mul(line, ir.Constant(line.type, LINE_BYTES)))
        query_at = builder.add(query, builder.mul(line, ir.Constant(line.type, word_bytes)))
        for number in range(at_once):
            words = [load_at(builder, query_at, number * word_bytes, WORD)]
            if packed:
                words.append(load_at(builder, query_at, number * word_bytes + 4, WORD))
            for part in range(parts):
                here = number * LINE_BYTES + part * machine.bytes
                values = [load_at(builder, code_at, here, code_type)]
                if packed:
                    low = builder.and_(
                        values[0], ir.Constant(code_type, [LOW_HALF] * machine.bytes)
                    )
                    high = builder.lshr(values[0], ir.Constant(code_type, [4] * machine.bytes))
                    values = [low, high]
                for half, (word, code) in enumerate(zip(words, values, strict=True)):
                    slot = (number * len(words) + half) * parts + part
                    made[slot] = machine.multiply_add(builder, made[slot], word, code)
        return made

    zero = ir.Constant(machine.sums, [0] * lanes)
    start = ir.Constant(lines.type, 0)
    _, sums = emit_loop(builder, start, lines, at_once, [zero] * (LINES_AT_ONCE * parts), body)
    of_query = [splat(builder, load_at(builder, constants, 4 * i, FLOAT), lanes) for i in range(5)]
    floats = ir.VectorType(FLOAT, lanes)
    behind = builder.add(block, builder.mul(lines, ir.Constant(lines.type, LINE_BYTES)))
    distances = []
    for part in range(parts):
        product = sums[part]
        for other in sums[part + parts :: parts]:
            product = builder.add(product, other)
        scale, offset, norm = (
            load_at(builder, behind, i * LINE_BYTES + part * machine.bytes, floats)
            for i in range(3)
        )
        centred = load_at(builder, behind, 3 * LINE_BYTES + part * machine.bytes, machine.sums)
        distances.append(emit_distance(builder, of_query, scale, offset, norm, centred, product))
    return _finish(builder, distances, out, limit)


def _emit_floats(builder, query, block, lines, out, limit, by_l2):
    floats = ir.VectorType(FLOAT, LANES)
    zero = ir.Constant(floats, [0.0] * LANES)

    def lines_of(count, squared):
        def body(line, sums):
            made = list(sums)
            row_at = builder.add(block, builder.mul(line, ir.Constant(line.type, LINE_BYTES)))
            query_at = builder.add(query, builder.mul(line, ir.Constant(line.type, 4)))
            for number in range(count):
                values = load_at(builder, row_at, number * LINE_BYTES, floats)
                factor = splat(builder, load_at(builder, query_at, 4 * number, FLOAT), LANES)
                if squared:
                    values = factor = builder.fsub(factor, values)
                product = builder.fmul(factor, values, flags=("contract",))
                join = builder.fadd if squared else builder.fsub
                made[number] = join(made[number], product, flags=("contract",))
            return made

        return body

    def total(squared):
        at_once = FLOATS_AT_ONCE
        whole = builder.and_(lines, ir.Constant(lines.type, -at_once))
        start = ir.Constant(lines.type, 0)
        start, sums = emit_loop(
            builder, start, whole, at_once, [zero] * at_once, lines_of(at_once, squared)
        )
        _, sums = emit_loop(builder, start, lines, 1, sums, lines_of(1, squared))
        distances = sums[0]
        for other in sums[1:]:
            distances = builder.fadd(distances, other)
        return _finish(builder, [distances], out, limit)

    mask = cgutils.alloca_once(builder, WORD)
    with builder.if_else(builder.trunc(by_l2, ir.IntType(1))) as (then, otherwise):
        with then:
            builder.store(total(True), mask)
        with otherwise:
            builder.store(total(False), mask)
    return builder.load(mask)


def make_block_measure(choice, packed):
    """Return an intrinsic ``measure(query, constants, block, lines, out, limit) -> int32``.

    Parameters
    ----------
    choice : tuple
        From `int8.choose_instruction`; the processor must have that instruction.
    packed : bool
        Codes of 4 bits, two a byte, instead of int8.
    """
    machine = _Lanes(*choice)

    @intrinsic
    def measure(typing_context, query, constants, block, lines, out, limit):
        """Measure the rows of a block, see the module."""

        def generate(context, builder, signature, arguments):
            return _emit_codes(builder, machine, packed, *arguments)

        return types.int32(*[types.intp] * 5, types.float32), generate

    return measure


def _finished(distances, out, limit):
    """Do what `_finish` does, in plain Python."""
    bytes_at(out, LINE_BYTES).view(np.float32)[:] = distances
    return sum(1 << lane for lane in range(LANES) if distances[lane] <= limit)


def _finished_codes(components, query, constants, behind, out, limit):
    product = components.astype(np.int32) @ query.astype(np.int32)
    rows = bytes_at(behind, CONSTANT_LINES * LINE_BYTES).reshape(CONSTANT_LINES, LINE_BYTES)
    scale, offset, norm = rows[:3].view(np.float32)
    centred = rows[3].view(np.int32)
    base, weight, slope, lift, factor = bytes_at(constants, 20).view(np.float32)
    inner = slope * (product - centred).astype(np.float32) + lift * centred.astype(np.float32)
    distances = ((base + weight * norm) + factor * offset) + scale * inner
    return _finished(distances.astype(np.float32), out, limit)


if config.DISABLE_JIT:

    def measure_q8_block(query, constants, block, lines, out, limit):
        """Measure the rows of a block of int8 codes."""
        codes = bytes_at(block, lines * LINE_BYTES).view(np.int8).reshape(lines, LANES, 4)
        rows = codes.transpose(1, 0, 2).reshape(LANES, 4 * lines)
        behind = block + lines * LINE_BYTES
        return _finished_codes(rows, bytes_at(query, 4 * lines), constants, behind, out, limit)

    def measure_q4_block(query, constants, block, lines, out, limit):
        """Measure the rows of a block of 4-bit codes."""
        codes = bytes_at(block, lines * LINE_BYTES).reshape(lines, LANES, 4)
        halves = np.stack([codes & LOW_HALF, codes >> 4], axis=2)
        rows = halves.transpose(1, 0, 2, 3).reshape(LANES, 8 * lines)
        behind = block + lines * LINE_BYTES
        return _finished_codes(rows, bytes_at(query, 8 * lines), constants, behind, out, limit)

    def measure_float_block(query, block, lines, out, limit, by_l2):
        """Measure the rows of a block of floats."""
        rows = bytes_at(block, lines * LINE_BYTES).view(np.float32).reshape(lines, LANES).T
        query = bytes_at(query, 4 * lines).view(np.float32)
        distances = ((query - rows) ** 2).sum(axis=1) if by_l2 else 0 - rows @ query
        return _finished(distances, out, limit)

    def lowest_bit(bits):
        """Return the number of the lowest bit set."""
        return (int(bits) & -int(bits)).bit_length() - 1

else:
    measure_q8_block = make_block_measure(INSTRUCTION, packed=False)
    measure_q4_block = make_block_measure(INSTRUCTION, packed=True)

    @intrinsic
    def measure_float_block(typing_context, query, block, lines, out, limit, by_l2):
        """Measure the rows of a block of floats, see the module."""

        def generate(context, builder, signature, arguments):
            return _emit_floats(builder, *arguments)

        signature = types.int32(*[types.intp] * 4, types.float32, types.boolean)
        return signature, generate

    @intrinsic
    def lowest_bit(typing_context, bits):
        """Return the number of the lowest bit set."""

        def generate(context, builder, signature, arguments):
            return builder.sext(builder.cttz(arguments[0], ir.IntType(1)(1)), ir.IntType(64))

        return types.int64(types.int32), generate
