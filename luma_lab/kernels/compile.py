"""The one decorator that makes kernels, and the cache folder their machine code lives in.

numba's own cache watches a function's file, not the files of the functions it calls: after an
edited callee it runs the old machine code of the caller. So all kernels share one folder named
by everything that shaped their code; any change starts a new folder.
"""

import contextlib
import fcntl
import functools
import hashlib
import os
import shutil
import tempfile
import time
import warnings
from pathlib import Path

import llvmlite
import numba
from numba.core import caching, config

from luma_lab.kernels.pause import paused_collector
from luma_lab.kernels.simd import force_level

CACHE_VARIABLE = "LUMA_CACHE_DIR"
FOLDER_PREFIX = "kernels-"
UNUSED_DAYS = 30
TARGET = force_level()


def simd_level():
    """Return the SIMD level of this process: ``"native"``, ``"avx2"`` or ``"generic"``."""
    return TARGET.level


def base_folder():
    """Return the folder that holds the cache folders of all versions."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen).expanduser()
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "luma_lab"


def folder_name():
    """Return the cache folder's name: SIMD level and a hash of all that shapes the code."""
    digest = hashlib.sha256()
    for part in (numba.__version__, llvmlite.__version__, *TARGET):
        digest.update(part.encode() + b"\0")
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    return f"{FOLDER_PREFIX}{TARGET.level}-{digest.hexdigest()[:20]}"


def open_folder():
    """Return the cache folder of this process, or None after a warning if there can't be one."""
    try:
        folder = base_folder() / folder_name()
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
        os.utime(folder)
        _drop_unused(folder.parent, keep=folder.name)
        return folder
    except (OSError, RuntimeError) as error:
        warnings.warn(
            f"no folder to keep compiled kernels in ({error}); every process compiles them "
            f"anew: set {CACHE_VARIABLE} to a writable directory",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


def _drop_unused(base, keep):
    """Remove cache folders of other versions that no process opened for `UNUSED_DAYS`."""
    oldest = time.time() - UNUSED_DAYS * 86400
    for folder in base.glob(f"{FOLDER_PREFIX}*"):
        with contextlib.suppress(OSError):
            if folder.name != keep and folder.stat().st_mtime < oldest:
                shutil.rmtree(folder, ignore_errors=True)


CACHE_FOLDER = None if config.DISABLE_JIT else open_folder()


class _Locator(caching.UserProvidedCacheLocator):
    """Puts a kernel's machine code into `CACHE_FOLDER`."""

    def __init__(self, py_func, py_file):
        self._py_file = py_file
        self._lineno = py_func.__code__.co_firstlineno
        self._cache_path = os.fspath(CACHE_FOLDER)

    @classmethod
    def from_function(cls, py_func, py_file):
        return cls(py_func, py_file)


class _CacheImpl(caching.CompileResultCacheImpl):
    _locator_classes = (_Locator,)

    def __init__(self, py_func):
        # The base class would prefer the user's own locators (NUMBA_CACHE_LOCATOR_CLASSES).
        self._lineno = py_func.__code__.co_firstlineno
        self._locator = _Locator(py_func, py_func.__code__.co_filename)
        module = py_func.__module__.rpartition(".")[2]
        self._filename_base = self.get_filename_base(f"{module}.{py_func.__qualname__}", "")


class _KernelCache(caching.FunctionCache):
    """numba's function cache that is safe among processes and never fails a call."""

    _impl_class = _CacheImpl

    def load_overload(self, sig, target_context):
        try:
            with paused_collector():
                return super().load_overload(sig, target_context)
        except Exception as error:  # a damaged entry raises whatever pickle meets
            warnings.warn(
                f"compiled kernel unreadable, compiling it anew ({error!r})",
                RuntimeWarning,
                stacklevel=2,
            )
            self._locked(self.flush)
            return None

    def save_overload(self, sig, data):
        self._locked(super().save_overload, sig, data)

    def _locked(self, write, *arguments):
        # numba hands out file names without a lock: two processes saving two signatures of one
        # kernel could give both the same name.
        try:
            with open(CACHE_FOLDER / "lock", "ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                write(*arguments)
        except OSError as error:
            warnings.warn(f"compiled kernel not kept: {error}", RuntimeWarning, stacklevel=3)


def kernel(function=None, *, fastmath=False, inline=False):
    """Make a nogil numba kernel whose machine code is kept between processes.

    Used as ``@kernel`` or ``@kernel(fastmath=..., inline=...)``. Under ``NUMBA_DISABLE_JIT=1``
    the function is returned as it is.

    Parameters
    ----------
    fastmath : bool or frozenset of str
        LLVM's liberties with float arithmetic; only ``kernels/distance.py`` takes any.
    inline : bool
        Put the code into every caller: for the small functions of inner loops.
    """
    if function is None:
        return functools.partial(kernel, fastmath=fastmath, inline=inline)
    fastmath = fastmath if isinstance(fastmath, bool) else set(fastmath)
    made = numba.njit(nogil=True, fastmath=fastmath, error_model="numpy", forceinline=inline)(
        function
    )
    if CACHE_FOLDER is not None:
        made._cache = _KernelCache(function)
    return made
