"""Indexes as directories: save, load, fingerprint and sizes, once for all classes."""

import hashlib
from pathlib import Path

import numpy as np

from luma_lab.errors import CorruptStore, IndexNotBuilt, InvalidArgument
from luma_lab.files import directory_bytes, load_arrays, read_manifest, save_arrays
from luma_lab.index.rows import read_only

VERSION = 1


class Directory:
    """Ancestor of indexes that are named arrays plus parameters.

    A class names its `KIND` and gives `_arrays()`, `_parameters()` and
    `_restore(parameters, arrays, check)`; `_vectors` is None until there are any.
    """

    KIND = ""
    _vectors = None
    _disk_bytes = 0

    def save(self, path, *, vectors=True):
        """Save the index as a directory that appears in one step.

        Parameters
        ----------
        vectors : bool
            False leaves out the exact vectors beside codes, for whoever keeps them elsewhere
            and gives them to :meth:`load` again; not for indexes without codes.

        Raises
        ------
        IndexNotBuilt, InvalidArgument, StorageError, StoreFull
        """
        arrays = self._arrays()
        if not vectors:
            self._check_spare()
            del arrays["vectors"]
        manifest = {"kind": self.KIND, "version": VERSION, "parameters": self._parameters()}
        save_arrays(path, arrays, manifest)
        self._disk_bytes = directory_bytes(path)

    @classmethod
    def load(cls, path, mmap=True, *, vectors=None):
        """Open a saved index; with `mmap` its arrays stay on disk until they are touched.

        Parameters
        ----------
        vectors : read-only float32 array of shape (n, dim), optional
            What ``save(vectors=False)`` left out: the very rows the index was built of.

        Raises
        ------
        InvalidArgument
            There is no such directory, it holds another kind of index, or its vectors were
            left out and not given.
        CorruptStore
            Bytes do not match their checksum, or do not make an index.
        """
        if not Path(path).is_dir():
            raise InvalidArgument(f"no directory {path}: expected one written by save")
        manifest = read_manifest(path)
        kind, version = manifest.get("kind"), manifest.get("version")
        if kind != cls.KIND:
            raise InvalidArgument(f"{path} holds {kind!r}: expected an index of kind {cls.KIND!r}")
        if version != VERSION:
            raise CorruptStore(f"{path}: index version {version}, this one reads {VERSION}")
        arrays, manifest = load_arrays(path, mmap=mmap)
        if "vectors" not in arrays and cls._spares_vectors(manifest["parameters"]):
            if vectors is None:
                raise InvalidArgument(f"{path} was saved without its vectors: pass vectors=...")
            arrays["vectors"] = read_only(vectors)

        def check(name, dtype, shape):
            array = arrays.get(name)
            fits = array is not None and array.dtype == dtype and array.ndim == len(shape)
            if not fits or any(
                want is not None and want != has
                for want, has in zip(shape, array.shape, strict=True)
            ):
                found = "missing" if array is None else f"{array.dtype} {array.shape}"
                raise CorruptStore(
                    f"{path}: array {name!r} is {found}, expected {np.dtype(dtype)} {shape}"
                )

        try:
            index = cls._restore(manifest["parameters"], arrays, check)
        except (KeyError, TypeError, InvalidArgument) as error:
            raise CorruptStore(f"{path}: its manifest makes no index ({error})") from None
        index._disk_bytes = directory_bytes(path)
        return index

    @classmethod
    def _spares_vectors(cls, parameters):
        """Return whether an index of such parameters can be saved without its vectors."""
        return False

    def _check_spare(self):
        if not self._spares_vectors(self._parameters()):
            raise InvalidArgument(f"{self!r} walks its vectors: save it with them")

    @property
    def fingerprint(self):
        """Hexadecimal hash of parameters and arrays: equal bytes, equal fingerprint.

        Reads all bytes. Raises `IndexNotBuilt` before `build` or `load`.
        """
        digest = hashlib.sha256(self.KIND.encode())
        digest.update(repr(sorted(self._parameters().items())).encode())
        for name, array in sorted(self._arrays().items()):
            digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
            if array.size:
                digest.update(array.data.cast("B"))
        return digest.hexdigest()

    @property
    def memory_bytes(self):
        """Bytes of the arrays, also when they are mapped from disk; 0 before `build` or `load`."""
        if self._vectors is None:
            return 0
        return sum(array.nbytes for array in self._arrays().values())

    @property
    def disk_bytes(self):
        """Bytes of the directory last saved to or loaded from; 0 if there is none."""
        return self._disk_bytes

    def __setstate__(self, state):
        # Pickling forgets that arrays are read-only, which is part of their type for kernels.
        for name, value in state.items():
            setattr(self, name, read_only(value) if isinstance(value, np.ndarray) else value)

    def _built(self, array):
        if array is None:
            raise IndexNotBuilt(
                f"{type(self).__name__} holds no vectors yet: call build or load first"
            )
        return array

    def __repr__(self):
        return f"{type(self).__name__}(dim={self.dim}, metric={self.metric!r}, rows={len(self)})"
