"""CRC-32 as zlib computes it, eight bytes at a time."""

import numpy as np

from luma_lab.kernels.compile import kernel

POLYNOMIAL = 0xEDB88320
CRC_BYTES = 4
ONES = np.uint32(0xFFFFFFFF)
LOW_BYTE = np.uint32(0xFF)


def make_tables():
    """Return the uint32 tables (8, 256): what a byte contributes with 0 to 7 bytes behind it."""
    tables = np.zeros((8, 256), np.uint32)
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (POLYNOMIAL if value & 1 else 0)
        tables[0, byte] = value
    for i in range(1, 8):
        before = tables[i - 1]
        tables[i] = (before >> np.uint32(8)) ^ tables[0, before & LOW_BYTE]
    return tables


TABLES = make_tables()


@kernel
def crc32(data, start, stop, seed):
    """Return the CRC-32 of uint8 data[start:stop] going on from `seed`, like ``zlib.crc32``.

    `start` and `stop` are multiples of 4.
    """
    words = data[start:stop].view(np.uint32)
    value = np.uint32(seed) ^ ONES
    pairs = words.shape[0] >> 1
    for i in range(pairs):
        first = words[2 * i] ^ value
        second = words[2 * i + 1]
        value = (
            TABLES[7, first & LOW_BYTE]
            ^ TABLES[6, (first >> np.uint32(8)) & LOW_BYTE]
            ^ TABLES[5, (first >> np.uint32(16)) & LOW_BYTE]
            ^ TABLES[4, first >> np.uint32(24)]
            ^ TABLES[3, second & LOW_BYTE]
            ^ TABLES[2, (second >> np.uint32(8)) & LOW_BYTE]
            ^ TABLES[1, (second >> np.uint32(16)) & LOW_BYTE]
            ^ TABLES[0, second >> np.uint32(24)]
        )
    if words.shape[0] & 1:
        first = words[words.shape[0] - 1] ^ value
        value = (
            TABLES[3, first & LOW_BYTE]
            ^ TABLES[2, (first >> np.uint32(8)) & LOW_BYTE]
            ^ TABLES[1, (first >> np.uint32(16)) & LOW_BYTE]
            ^ TABLES[0, first >> np.uint32(24)]
        )
    return value ^ ONES
