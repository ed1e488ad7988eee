"""The SIMD level kernels are compiled for, from the environment variable ``LUMA_SIMD``.

``native`` uses all the processor has, ``avx2`` at most AVX2 with FMA, ``generic`` only what
every processor of the architecture has (SSE2 on x86-64). The level holds for all numba code
of the process, because numba has one code generator per process.
"""

import os
from typing import NamedTuple

import llvmlite.binding as llvm
from numba.core import config
from numba.core.registry import cpu_target

SIMD_VARIABLE = "LUMA_SIMD"
SIMD_LEVELS = ("native", "avx2", "generic")
X86_TRIPLES = ("x86_64", "amd64")
# What AVX2 code needs beside the baseline; FMA came with the same processors.
AVX2_NEEDS = ("avx2", "fma")
# Feature names of registers or encodings wider than AVX2's, as LLVM spells them.
BEYOND_AVX2 = ("avx512", "avx10", "amx", "evex512")


class Target(NamedTuple):
    """What LLVM is told: level, processor name and ``+a,-b`` feature list."""

    level: str
    cpu: str
    features: str


def resolve_target(level):
    """Return the `Target` of a SIMD level on this machine.

    Raises
    ------
    ValueError
        Unknown level, or one this processor does not have.
    """
    if level not in SIMD_LEVELS:
        listed = ", ".join(SIMD_LEVELS)
        raise ValueError(f"{SIMD_VARIABLE}={level!r} is unknown: expected one of {listed}")
    if level == "native":
        # The user's own NUMBA_CPU_NAME and NUMBA_CPU_FEATURES are respected.
        cpu = config.CPU_NAME or llvm.get_host_cpu_name()
        features = config.CPU_FEATURES
        return Target(level, cpu, _host_features() if features is None else features)
    x86 = llvm.get_process_triple().lower().startswith(X86_TRIPLES)
    if level == "generic":
        return Target(level, "x86-64" if x86 else "generic", "")
    host = llvm.get_host_cpu_features() if x86 else {}
    missing = [name for name in AVX2_NEEDS if not host.get(name)]
    if missing:
        raise ValueError(
            f"{SIMD_VARIABLE}=avx2 needs a processor with {' and '.join(AVX2_NEEDS)}; this one "
            f"lacks {' and '.join(missing)}: use native or generic"
        )
    kept = (f"+{name}" for name, has in sorted(host.items()) if has and _within_avx2(name))
    return Target(level, "x86-64-v3", ",".join(kept))


def _within_avx2(name):
    return not name.startswith(BEYOND_AVX2)


def _host_features():
    return llvm.get_host_cpu_features().flatten()


def features_of(target):
    """Return the set of feature names a `Target` switches on, as LLVM spells them."""
    return {name[1:] for name in target.features.split(",") if name.startswith("+")}


def force_level():
    """Make numba compile for the level ``LUMA_SIMD`` asks for; return the `Target`.

    Raises
    ------
    ValueError
        Unknown level, or one this processor does not have.
    RuntimeError
        numba's code generator already exists and was made for another target.
    """
    target = resolve_target(os.environ.get(SIMD_VARIABLE) or "native")
    if target.level == "native" or config.DISABLE_JIT:
        return target
    if "_toplevel_target_context" in vars(cpu_target):
        codegen = cpu_target.target_context.codegen()
        _, cpu, features = codegen.magic_tuple()
        if (cpu, features) != (target.cpu, target.features):
            raise RuntimeError(
                f"{SIMD_VARIABLE}={target.level} came too late: numba was already started for "
                f"processor {cpu!r} in this process; import luma_lab.kernels before other numba "
                f"code, or unset {SIMD_VARIABLE}"
            )
    # They stay set: numba reads them again to name entries of every cache of this process.
    config.CPU_NAME, config.CPU_FEATURES = target.cpu, target.features
    return target
