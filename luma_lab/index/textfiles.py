"""A text index as a directory."""

from pathlib import Path

import numpy as np

from luma_lab.errors import CorruptStore, InvalidArgument
from luma_lab.files import directory_bytes, load_arrays, read_manifest, save_arrays
from luma_lab.index.rows import read_only
from luma_lab.index.segment import Segment
from luma_lab.kernels.bm25 import FORM_BITS, KEY_BITS
from luma_lab.kernels.places import places_fit

VERSION = 2
SEGMENT_ARRAYS = {
    "keys": np.int64, "lists": np.int32, "starts": np.int64, "rows": np.int32, "counts": None,
    "field_ends": np.int64, "lengths": np.int32, "place_starts": np.int64, "places": np.uint8,
}  # fmt: skip
PARAMETERS = {
    "language", "variant", "k1", "b", "delta", "fields", "stop_words", "positions",
}  # fmt: skip
COUNT_TYPES = (np.uint16, np.int32)
NARROW = np.uint32  # of numbers that are int64 in memory, if they fit


class TextDirectory:
    """Saving, loading and sizes of `TextIndex`."""

    KIND = ""
    _disk_bytes = 0

    def save(self, path):
        """Save the index as a directory that appears in one step.

        Counts are saved, not what BM25 makes of them: that is computed anew after loading, at
        hundreds of millions of postings a second.

        Raises
        ------
        IndexNotBuilt, InvalidArgument, StorageError, StoreFull
        """
        arrays, manifest = self.to_arrays()
        save_arrays(path, arrays, manifest)
        self._disk_bytes = directory_bytes(path)

    def to_arrays(self):
        """Return (arrays, manifest): all of the index, as :meth:`of_arrays` takes it."""
        view = self._view()
        arrays = {n: _narrow(array) for n, array in self._languages.arrays().items()}
        arrays["live"] = np.packbits(view.live)
        ranges = []
        for place, segment in enumerate(view.segments):
            ranges.append([segment.first_row, segment.posted_rows])
            for name in SEGMENT_ARRAYS:
                arrays[f"s{place}_{name}"] = _narrow(getattr(segment, name))
        languages = self._languages.of_fields
        fields = [
            [name, weight, *([] if own == self.language else [own])]
            for (name, weight), own in zip(self.fields.items(), languages, strict=True)
        ]
        parameters = {
            "language": self.language,
            "variant": self.model.variant,
            "k1": self.model.k1,
            "b": self.model.b,
            "delta": self.model.delta,
            "fields": None if self._single else fields,
            "stop_words": self._languages.stop_words,
            "positions": self.positions,
        }
        return arrays, {
            "kind": self.KIND,
            "version": VERSION,
            "parameters": parameters,
            "segments": ranges,
            "total_rows": view.total_rows,
        }

    @classmethod
    def load(cls, path, mmap=True):
        """Open a saved index; with `mmap` its postings stay on disk until they are touched.

        Raises
        ------
        InvalidArgument
            There is no such directory, or it holds another kind of index.
        CorruptStore
            Bytes do not match their checksum, or do not make an index.
        """
        if not Path(path).is_dir():
            raise InvalidArgument(f"no directory {path}: expected one written by save")
        manifest = read_manifest(path)
        if manifest.get("kind") != cls.KIND:
            raise InvalidArgument(
                f"{path} holds {manifest.get('kind')!r}: expected an index of kind {cls.KIND!r}"
            )
        arrays, manifest = load_arrays(path, mmap=mmap)
        index = cls.of_arrays(arrays, manifest, path)
        index._disk_bytes = directory_bytes(path)
        return index

    @classmethod
    def of_arrays(cls, arrays, manifest, path="the index", *, deferred=False):
        """Return the index that gave these :meth:`to_arrays`; others among them are ignored.

        Raises
        ------
        CorruptStore
            They do not make an index.
        """
        if manifest.get("version") != VERSION:
            raise CorruptStore(
                f"{path}: index version {manifest.get('version')}, this one reads {VERSION}"
            )
        try:
            return cls._restored(manifest, arrays, deferred)
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptStore(f"{path}: its files make no index ({error})") from None

    @classmethod
    def _restored(cls, manifest, arrays, deferred):
        given = dict(manifest["parameters"])
        if set(given) != PARAMETERS:
            raise ValueError(f"parameters {sorted(given)}, expected {sorted(PARAMETERS)}")
        fields = given.pop("fields")
        if fields is not None:
            fields = {
                name: {"weight": weight, **({"language": own[0]} if own else {})}
                for name, weight, *own in fields
            }
        index = cls(**given, fields=fields, deferred=deferred)
        index._languages.restore(arrays)
        index._shelf = index._empty_shelf()
        total = manifest["total_rows"]
        live = np.unpackbits(np.asarray(arrays["live"]))[:total].astype(bool)
        if len(live) != total:
            raise ValueError(f"{len(live)} marks of live rows, expected {total}")
        segments, first = [], 0
        for place, (first_row, posted_rows) in enumerate(manifest["segments"]):
            parts = [
                _widened(arrays[f"s{place}_{name}"], dtype)
                for name, dtype in SEGMENT_ARRAYS.items()
            ]
            segment = Segment(first_row, posted_rows, *map(read_only, parts))
            _check_segment(segment, first, len(index.fields))
            _check_terms(segment, index._languages)
            segments.append(segment)
            first = segment.stop_row
        if first != total:
            raise ValueError(f"segments hold {first} rows, expected {total}")
        index._shelf.restore(segments, live)
        index._built = True
        return index

    @property
    def memory_bytes(self):
        """Bytes of the arrays, also when they are mapped from disk."""
        view = self._shelf.view()
        held = [array for s in view.segments for array in s if isinstance(array, np.ndarray)]
        held += [array for b in view.baked for array in b[1:]]
        return sum(array.nbytes for array in held) + view.live.nbytes + self._languages.nbytes

    @property
    def disk_bytes(self):
        """Bytes of the directory last saved to or loaded from; 0 if there is none."""
        return self._disk_bytes


def _narrow(array):
    """Return an array as it is saved."""
    wide = array.dtype == np.int64 and array.max(initial=0) <= np.iinfo(NARROW).max
    return array.astype(NARROW) if wide and array.min(initial=0) >= 0 else array


def _widened(array, dtype):
    """Return a saved array as it is used."""
    return array.astype(np.int64) if dtype is np.int64 and array.dtype == NARROW else array


def _check_segment(segment, first_row, n_fields):
    """Raise ValueError unless a segment's arrays fit each other, so that kernels stay inside."""
    for name, dtype in SEGMENT_ARRAYS.items():
        array = getattr(segment, name)
        fits = array.dtype in COUNT_TYPES if dtype is None else array.dtype == dtype
        if not fits or array.ndim != (2 if name == "lengths" else 1):
            raise ValueError(f"array {name!r} is {array.dtype} {array.shape}")
    starts, n_lists = segment.starts, len(segment.starts) - 1
    wrong = (
        segment.first_row != first_row
        or segment.lengths.shape[0] != n_fields
        or len(segment.field_ends) != n_fields
        or n_lists < 0
        or starts[0] != 0
        or starts[-1] != len(segment.rows)
        or (np.diff(starts) < 0).any()
        or len(segment.counts) != len(segment.rows)
        or len(segment.keys) != len(segment.lists)
        or (np.diff(segment.keys) <= 0).any()
        or segment.lists.min(initial=0) < 0
        or segment.lists.max(initial=-1) >= n_lists
        or segment.rows.min(initial=0) < 0
        or segment.rows.max(initial=-1) >= segment.total_rows
        or (n_lists and segment.field_ends[-1] != n_lists)
        or len(segment.place_starts) not in (0, n_lists)
    )
    if wrong:
        raise ValueError(f"the arrays of the segment at row {first_row} do not fit each other")


def _check_terms(segment, languages):
    """Raise ValueError unless a segment's terms are the lexicons' and their places are there."""
    terms = segment.keys & ((1 << KEY_BITS) - 1)
    forms = (segment.keys >> KEY_BITS) & ((1 << FORM_BITS) - 1)
    fields = segment.keys >> (KEY_BITS + FORM_BITS)
    for field in range(len(segment.lengths)):
        lexicon = languages.of(field)
        for form, table in enumerate((lexicon.words, lexicon.stems, lexicon.folded)):
            here = terms[(forms == form) & (fields == field)]
            if here.max(initial=-1) >= len(table):
                raise ValueError(f"the segment at row {segment.first_row} has terms of other words")
    if len(segment.place_starts):
        before = np.concatenate([np.zeros(1, np.int64), np.cumsum(segment.counts, dtype=np.int64)])
        exact = segment.lists[forms == 0]
        tokens = before[segment.starts[exact + 1]] - before[segment.starts[exact]]
        if not places_fit(segment.place_starts[exact], tokens, segment.places):
            raise ValueError(f"the segment at row {segment.first_row} has places missing")
