"""Distances to rows that lie anywhere, 8 at a time, and which of 16 distances are near.

``measure_q8_rows(query, constants, codes, row_bytes, code_bytes, rows, out)``
    Measure the 8 rows of Q8 codes (see `quantize`) whose numbers are the int64 at address
    `rows`. `codes` is the address of row 0, `query` that of the prepared query's bytes and
    `constants` that of its constants. Writes 8 float32 at address `out`: to the bit the
    distances of `quantize.q8_distance`.
``near_bits(distances, limit)``
    Which of the 16 float32 at address `distances` are at most `limit`, one bit each.

Addresses are integers and need no alignment.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import config
from numba.extending import intrinsic

from luma_lab.kernels.blocks import LANES, emit_distance, load_at, near_lanes, splat
from luma_lab.kernels.int8 import (
    BLOCK_BYTES,
    BYTE,
    INSTRUCTION,
    PORTABLE,
    WORD,
    bytes_at,
    emit_dot,
    emit_loop,
    emit_vpdpbusd,
    vectors_of,
)
from luma_lab.kernels.quantize import QUERY_CONSTANTS, ROW_CONSTANT_BYTES, q8_distance

ROWS_AT_ONCE = 8
FLOAT = ir.FloatType()
WIDE = ir.IntType(64)


def _shuffle(builder, one, two, places):
    mask = ir.Constant(ir.VectorType(WORD, len(places)), places)
    return builder.shuffle_vector(one, two, mask)


def _sum_lanes(builder, sums):
    """Return the int32 vector whose lane i is the sum of all lanes of sums[i], of 8."""
    if sums[0].type.count == 16:
        sums = [
            builder.add(
                _shuffle(builder, s, s, list(range(8))), _shuffle(builder, s, s, list(range(8, 16)))
            )
            for s in sums
        ]
    low, high = [0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15]
    even, odd = [0, 2, 8, 10, 4, 6, 12, 14], [1, 3, 9, 11, 5, 7, 13, 15]
    # Halves of row i with those of row i + 4; what follows stays within halves.
    halves = [
        builder.add(_shuffle(builder, a, b, low), _shuffle(builder, a, b, high))
        for a, b in zip(sums[:4], sums[4:], strict=True)
    ]
    while len(halves) > 1:
        halves = [
            builder.add(_shuffle(builder, a, b, even), _shuffle(builder, a, b, odd))
            for a, b in zip(halves[::2], halves[1::2], strict=True)
        ]
    return halves[0]


def _turn(builder, rows):
    """Return four vectors of 8 from 8 vectors of 4: columns instead of rows."""
    pairs = [
        _shuffle(builder, a, b, list(range(8))) for a, b in zip(rows[:4], rows[4:], strict=True)
    ]
    low, high = [0, 8, 1, 9, 4, 12, 5, 13], [2, 10, 3, 11, 6, 14, 7, 15]
    mixed = [_shuffle(builder, *pairs[:2], low), _shuffle(builder, *pairs[:2], high)]
    mixed += [_shuffle(builder, *pairs[2:], low), _shuffle(builder, *pairs[2:], high)]
    first, second = [0, 1, 8, 9, 4, 5, 12, 13], [2, 3, 10, 11, 6, 7, 14, 15]
    return [
        _shuffle(builder, mixed[column // 2], mixed[column // 2 + 2], half)
        for column, half in enumerate((first, second, first, second))
    ]


def emit_products(builder, choice, query, addresses, code_bytes):
    """Return the int32 vector of the inner products of the query with 8 rows."""
    name, bits, element = choice
    if name == PORTABLE:
        total = ir.Constant(ir.VectorType(WORD, ROWS_AT_ONCE), ir.Undefined)
        for lane, address in enumerate(addresses):
            product = emit_dot(builder, choice, False, query, address, code_bytes)
            total = builder.insert_element(total, product, WORD(lane))
        return total
    step = bits // 8
    values, sums = ir.VectorType(BYTE, step), vectors_of(WORD, step)

    def body(position, carried):
        made = list(carried)
        for part in range(BLOCK_BYTES // step):
            here = builder.add(position, WIDE(part * step))
            factor = load_at(builder, builder.add(query, here), 0, values)
            for row, address in enumerate(addresses):
                code = load_at(builder, builder.add(address, here), 0, values)
                made[row] = emit_vpdpbusd(builder, bits, element, made[row], factor, code)
        return made

    zero = ir.Constant(sums, [0] * sums.count)
    _, carried = emit_loop(builder, WIDE(0), code_bytes, BLOCK_BYTES, [zero] * ROWS_AT_ONCE, body)
    return _sum_lanes(builder, carried)


def make_rows_measure(choice):
    """Return an intrinsic as `measure_q8_rows`, see the module.

    Parameters
    ----------
    choice : tuple
        From `int8.choose_instruction`; the processor must have that instruction.
    """

    @intrinsic
    def measure(typing_context, query, constants, codes, row_bytes, code_bytes, rows, out):
        """Measure 8 rows of codes, see the module."""

        def generate(context, builder, signature, arguments):
            query, constants, codes, row_bytes, code_bytes, rows, out = arguments
            addresses = [
                builder.add(codes, builder.mul(load_at(builder, rows, 8 * i, WIDE), row_bytes))
                for i in range(ROWS_AT_ONCE)
            ]
            product = emit_products(builder, choice, query, addresses, code_bytes)
            four = ir.VectorType(FLOAT, 4)
            ends = builder.sub(row_bytes, WIDE(ROW_CONSTANT_BYTES))
            scale, offset, norm, centred = _turn(
                builder,
                [load_at(builder, builder.add(address, ends), 0, four) for address in addresses],
            )
            of_query = [
                splat(builder, load_at(builder, constants, 4 * i, FLOAT), ROWS_AT_ONCE)
                for i in range(QUERY_CONSTANTS)
            ]
            centred = builder.bitcast(centred, product.type)
            distance = emit_distance(builder, of_query, scale, offset, norm, centred, product)
            place = builder.inttoptr(out, distance.type.as_pointer())
            builder.store(distance, place, align=4)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 7), generate

    return measure


if config.DISABLE_JIT:

    def measure_q8_rows(query, constants, codes, row_bytes, code_bytes, rows, out):
        """Measure 8 rows of codes, see the module."""
        distances = bytes_at(out, 4 * ROWS_AT_ONCE).view(np.float32)
        for i, row in enumerate(bytes_at(rows, 8 * ROWS_AT_ONCE).view(np.int64)):
            distances[i] = q8_distance(query, codes + row * row_bytes, code_bytes, row_bytes)

    def near_bits(distances, limit):
        """Tell which of 16 distances are at most `limit`, see the module."""
        near = bytes_at(distances, 4 * LANES).view(np.float32) <= limit
        return sum(1 << lane for lane in range(LANES) if near[lane])

else:
    measure_q8_rows = make_rows_measure(INSTRUCTION)

    @intrinsic
    def near_bits(typing_context, distances, limit):
        """Tell which of 16 distances are at most `limit`, see the module."""

        def generate(context, builder, signature, arguments):
            values = load_at(builder, arguments[0], 0, ir.VectorType(FLOAT, LANES))
            return near_lanes(builder, values, arguments[1])

        return types.int32(types.intp, types.float32), generate
