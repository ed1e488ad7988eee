"""How long values may be in a statement: the longer its program, the shorter.

SQLite asks whether to go on only between steps of its program, never inside a function and never
in a stretch without a loop. So what happens between two such questions has to be short, and that
is the work of one step times the bytes it works on. The program (``EXPLAIN``) tells the steps;
the limit on the length of a value is chosen from them, which also bounds what one row can hold.
"""

from typing import NamedTuple

MAX_VALUE_BYTES = 16 << 20
MAX_ROW_BYTES = 128 << 20
SPAN_NS = 250e6
STEPS, CLOSE_STEPS = 50, 20
# A loop takes a few steps of its own, and a function one or two to bring its arguments.
LOOP_STEPS, STEPS_A_CALL = 5, 2
MAX_PATTERN_BYTES = 64
MAX_ARGUMENTS = 127
HEAVY_NS = 3.0
# Measured, in ns a byte of the longest argument, on the worst argument found; rounded up.
OPERATIONS_NS = {
    "AggFinal": 1.0,
    "AggStep": 1.0,
    "AggValue": 1.0,
    "Cast": 1.5,
    "Column": 0.5,
    "Concat": 1.0,
    "Copy": 0.5,
    "Function": HEAVY_NS,
    "MakeRecord": 0.5,
    "PureFunc": HEAVY_NS,
    "VColumn": 0.5,
    "Variable": 0.25,
}
FUNCTIONS_NS = {
    "glob": 1.0 * MAX_PATTERN_BYTES,
    "highlight": 1400.0,  # it copies all it has at each match: for some 60 KiB
    "like": 1.0 * MAX_PATTERN_BYTES,
    "replace": 10.0,
    "strftime": 12.0,
} | dict.fromkeys(("abs", "avg", "count", "max", "min", "round", "sum", "total", "typeof"), 1.0)
JSON_NS, JSON_PATH_NS = 10.0, 2.5


class Cost(NamedTuple):
    """What a statement may do: bytes a value, and steps between two looks at the clock."""

    value_bytes: int
    steps: int


UNKNOWN = Cost(MAX_VALUE_BYTES, STEPS)


def of_program(program, arguments):
    """Return the `Cost` that keeps a statement's program within bounds, and its longest literal.

    Parameters
    ----------
    program : iterable of tuple
        The rows of ``EXPLAIN``.
    arguments : int or None
        No more arguments than this are given to all functions of the statement together.

    Returns
    -------
    Cost
    int
        Bytes.
    """
    total, values, heavy, calls, paths, literal = 0.0, 0, 0, 0, False, 0
    for row in program:
        opcode = row[1]
        ns = OPERATIONS_NS.get(opcode)
        if ns is None:
            if opcode == "String8":
                literal = max(literal, len(row[5] or ""))
            elif opcode == "Blob":
                literal = max(literal, row[2])
            continue
        if opcode in ("Function", "PureFunc", "AggStep"):
            name = str(row[5]).partition("(")[0]
            if name.startswith(("json", "->")):
                ns, paths = JSON_NS, True
            else:
                ns = FUNCTIONS_NS.get(name, HEAVY_NS)
        total += ns
        values += 1
        calls += ns >= 1.0
        heavy += ns >= HEAVY_NS
    if paths:
        most = heavy * MAX_ARGUMENTS
        total += JSON_PATH_NS * (most if arguments is None else min(arguments, most))
    steps = CLOSE_STEPS if heavy else STEPS
    repeats = max(1.0, steps / (STEPS_A_CALL * (heavy or values) + LOOP_STEPS))
    bytes_in_time = SPAN_NS / (max(total, 1.0) * repeats)
    value_bytes = min(MAX_VALUE_BYTES, int(bytes_in_time), MAX_ROW_BYTES // max(1, values))
    return Cost(value_bytes, steps), literal
