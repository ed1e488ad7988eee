"""Writing the directory of a disk index: codes and node records streamed, the manifest last.

Until the manifest is renamed into place the directory holds what it held before; afterwards
the files of before are gone. One build at a time may write into a directory.
"""

import contextlib
import fcntl
import os
from pathlib import Path

import numpy as np

from luma_lab.errors import Conflict, CorruptStore, InvalidArgument
from luma_lab.files import CHUNK_BYTES, MANIFEST, read_manifest, save_arrays
from luma_lab.index.builder import build_graph
from luma_lab.index.diskcodes import choose_quantizer, describe, sample_rows
from luma_lab.index.nodes import CodedNodes
from luma_lab.index.quantizer import Q8Quantizer
from luma_lab.index.sectors import StreamedFile, count_blocks, make_layout, part_rows, write_nodes
from luma_lab.index.shards import ShardedGraph
from luma_lab.index.source import Source
from luma_lab.kernels.graph import NO_NODE

KIND, VERSION = "disk", 1
KEPT_FILES = [
    *(f"{stem}-{'?' * 16}.bin" for stem in ("codes", "nodes")),
    *(f"{stem}-????????.npy" for stem in ("mean", "centroids")),
]
LEFT_OVER = [
    *(f".{stem}.tmp" for stem in ("codes", "nodes", "points", "edges", "shard*")),
    *(f".{stem}.*.tmp" for stem in (MANIFEST, "mean-*", "centroids-*")),
]
CODE_ROWS = 4096
GRAPH_SHARE = 0.9  # of the progress shown; the rest is writing
WALK_BYTES = 1 << 19  # of lists and buffers that one search takes, whatever the index


def build_directory(vectors, path, parameters, budget, report, disk):
    """Build the index of `vectors` (n, dim) in a directory.

    Parameters
    ----------
    parameters : dict
        Checked: dim, metric, max_degree, build_list_size, alpha, seed, threads and
        search_memory_bytes.
    budget : int or None
        Bytes the build may take beside the vectors; None builds in memory.
    report : callable
        As for `build_graph`.

    Raises
    ------
    DimensionMismatch, InvalidArgument, Conflict, StorageError, StoreFull
        The directory is left as it was.
    """
    path = Path(path)
    dim, metric = parameters["dim"], parameters["metric"]
    source = Source(vectors, dim, budget)
    layout = make_layout(len(source), dim, source.dtype, parameters["max_degree"])
    allowed = parameters["search_memory_bytes"]
    fixed = held_beside_codes(layout)
    quantizer = choose_quantizer(len(source), dim, metric, allowed, fixed, parameters["seed"])
    with _alone_in(path):
        try:
            with (
                StreamedFile(path, "codes", disk) as codes,
                StreamedFile(path, "nodes", disk) as nodes,
            ):
                learned = source.sample(sample_rows(len(source), dim, budget))
                if len(source):
                    quantizer.fit(learned)
                else:
                    quantizer = Q8Quantizer(dim, metric).fit(learned)
                build = _build_in_memory if budget is None else _build_in_shards
                entry = build(
                    source,
                    quantizer,
                    learned,
                    layout,
                    parameters,
                    budget,
                    codes,
                    nodes,
                    report,
                    disk,
                )
                files = {"codes": codes.finish(), "nodes": nodes.finish()}
            disk.sync_directory(path)
            kept = {name: value for name, value in parameters.items() if name != "threads"}
            kept |= {"entry": entry, "rows": len(source), "dtype": source.dtype}
            manifest = {
                "kind": KIND,
                "version": VERSION,
                "parameters": kept,
                "codes": describe(quantizer),
                "files": files,
            }
            report(1.0)  # the last chance to end the build
            save_arrays(path, quantizer._arrays(), manifest, disk)
        finally:
            drop_stale(path)


def held_beside_codes(layout):
    """Return the bytes a search holds beside codes, quantizer and cache: marks and lists."""
    return layout.rows + count_blocks(layout) + WALK_BYTES


@contextlib.contextmanager
def _alone_in(path):
    """Make the directory if there is none, and keep other builds out of it for a block."""
    if path.exists() and not path.is_dir():
        raise InvalidArgument(f"{path} is a file: expected a directory to build in")
    made = not path.exists()
    path.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"{path}: another build is writing into it") from None
        for pattern in LEFT_OVER:
            for file in path.glob(pattern):
                file.unlink(missing_ok=True)
        yield
    except BaseException:
        if made:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise
    finally:
        os.close(descriptor)


def drop_stale(path):
    """Remove files named like those of a disk index that the manifest does not name."""
    named = set()
    if (path / MANIFEST).exists():
        try:
            body = read_manifest(path)
        except CorruptStore:
            return
        for entries in (body.get("files", {}), body["arrays"]):
            named |= {entry["file"] for entry in entries.values()}
    for pattern in KEPT_FILES:
        for file in path.glob(pattern):
            if file.name not in named:
                file.unlink(missing_ok=True)


def _graph_parameters(parameters):
    names = "max_degree", "build_list_size", "alpha", "seed", "threads"
    return {name: parameters[name] for name in names}


def _build_in_memory(
    source, quantizer, learned, layout, parameters, budget, codes, nodes, report, disk
):
    floats = source.floats(0, len(source))
    own = Q8Quantizer(layout.dim, parameters["metric"]).fit(learned)
    if quantizer.KIND == own.KIND:
        own = quantizer
    points = own.encode(floats, threads=parameters["threads"])
    entry, neighbors = NO_NODE, np.empty((0, layout.max_degree), np.int32)
    if len(source):
        neighbors, entry = build_graph(
            CodedNodes(floats, points, own).building_space,
            **_graph_parameters(parameters),
            report=lambda fraction: report(GRAPH_SHARE * fraction),
            with_rings=False,
        )
    if own is quantizer:
        codes.write(points)
    else:
        for start in range(0, len(source), CODE_ROWS):
            codes.write(quantizer.encode(floats[start : start + CODE_ROWS]))
    step = part_rows(layout)
    write_nodes(
        nodes,
        layout,
        (
            (source.raw(start, start + step), neighbors[start : start + step])
            for start in range(0, len(source), step)
        ),
    )
    return entry


def _build_in_shards(
    source, quantizer, learned, layout, parameters, budget, codes, nodes, report, disk
):
    if not len(source):
        return NO_NODE
    graph = ShardedGraph(
        source, parameters["metric"], learned, _graph_parameters(parameters), budget,
        codes.path.parent, disk,
    )  # fmt: skip
    del learned
    with graph:
        for start in range(0, len(source), graph.plan.part_rows):
            rows = source.floats(start, min(len(source), start + graph.plan.part_rows))
            codes.write(quantizer.encode(rows))
            graph.take(start, rows)
            source.release()
        entry = graph.build(lambda fraction: report(GRAPH_SHARE * fraction))
        step = max(1, min(part_rows(layout), graph.plan.part_rows) // layout.per_block)
        step *= layout.per_block

        def parts():
            for start in range(0, len(source), step):
                stop = min(len(source), start + step)
                yield source.raw(start, stop), graph.edges(start, stop)
                source.release()

        write_nodes(nodes, layout, parts())
    return entry


def write_copy(nodes_path, codes, quantizer, manifest, path, disk):
    """Write an open index to another directory.

    Parameters
    ----------
    nodes_path : Path
        Of its node records.
    codes : uint8 array
    quantizer : Quantizer
    manifest : dict
        As it was read.
    """
    path = Path(path)
    with _alone_in(path):
        try:
            with StreamedFile(path, "codes", disk) as target:
                target.write(codes)
                files = {"codes": target.finish()}
            with StreamedFile(path, "nodes", disk) as target, open(nodes_path, "rb") as stream:
                while part := stream.read(CHUNK_BYTES):
                    target.write(np.frombuffer(part, np.uint8))
                files["nodes"] = target.finish()
            if files != manifest["files"]:
                raise CorruptStore(f"{nodes_path}: does not match its digest")
            disk.sync_directory(path)
            kept = {name: manifest[name] for name in ("kind", "version", "parameters", "codes")}
            save_arrays(path, quantizer._arrays(), {**kept, "files": files}, disk)
        finally:
            drop_stale(path)
