"""One engine of the disk comparison in a process of its own, driven by lines of JSON.

Run as a file, not as a module, by whatever Python has the engine: ``python disk_child.py luma``.
It imports nothing of the house but what the engine "luma" is.
"""

import json
import os
import sys
import time

import numpy as np


class Luma:
    """This house's index, read past the page cache."""

    def __init__(self, base, folder, order):
        self.base, self.folder, self.order = base, folder, order

    def build(self):
        """Write the index to its folder."""
        from luma_lab.index import DiskIndex

        DiskIndex.build(
            self.base,
            self.folder,
            metric="l2",
            max_degree=self.order["max_degree"],
            build_list_size=self.order["build_list_size"],
            search_memory_bytes=self.order["search_memory_bytes"],
            build_memory_bytes=self.order["build_memory_bytes"],
        ).close()

    def open(self, reader):
        """Open the folder's index."""
        from luma_lab.index import DiskIndex

        self.index = DiskIndex.open(self.folder, reader=reader)

    def search(self, queries, k, list_size, width, threads, batch):
        """Return (rows, reads a query)."""
        options = {"search_list_size": list_size, "beam_width": width, "threads": threads}
        if batch:
            found = self.index.search(queries, k, **options)
            return found.rows, float(found.stats.reads.mean())
        found = [self.index.search(query, k, **options) for query in queries]
        return np.concatenate([f.rows for f in found]), float(
            np.mean([f.stats.reads[0] for f in found])
        )


class DiskAnn:
    """diskannpy 0.7: the C++ library of DiskANN's authors."""

    def __init__(self, base, folder, order):
        self.base, self.folder, self.order = base, folder, order

    def build(self):
        """Write the index to its folder."""
        import diskannpy

        diskannpy.build_disk_index(
            data=np.ascontiguousarray(self.base),
            distance_metric="l2",
            index_directory=self.folder,
            complexity=self.order["build_list_size"],
            graph_degree=self.order["max_degree"],
            search_memory_maximum=self.order["search_memory_bytes"] / 2**30,
            build_memory_maximum=self.order["build_memory_bytes"] / 2**30,
            num_threads=2,
            pq_disk_bytes=0,
            vector_dtype=self.base.dtype.type,
            index_prefix="ann",
        )

    def open(self, reader):
        """Open the folder's index; it always reads past the page cache."""
        import diskannpy

        # With one thread it waits for ever while it loads its centroids.
        self.index = diskannpy.StaticDiskIndex(
            index_directory=self.folder, num_threads=2, num_nodes_to_cache=0, index_prefix="ann"
        )

    def search(self, queries, k, list_size, width, threads, batch):
        """Return (rows, None): the library does not tell its reads."""
        if batch:
            found = self.index.batch_search(queries, k, list_size, threads, beam_width=width)
            return found.identifiers.astype(np.int64), None
        found = [self.index.search(query, k, list_size, beam_width=width) for query in queries]
        return np.stack([f.identifiers for f in found]).astype(np.int64), None


SMALL = {"search_memory_bytes": 1 << 20, "build_memory_bytes": 64 << 20}


def own_bytes():
    """Return the bytes of memory that this process has for itself."""
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))


def main():
    """Answer orders until the input ends."""
    first = order = json.loads(sys.stdin.readline())
    base = np.load(order["base"], mmap_mode="r")[: order["rows"]]
    queries = np.ascontiguousarray(np.load(order["queries"])[: order["n_queries"]])
    engine = {"luma": Luma, "diskannpy": DiskAnn}[sys.argv[1]](base, order["folder"], order)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the library prints what it does
    for line in sys.stdin:
        order = json.loads(line)
        before, began, cpu = own_bytes(), time.perf_counter(), time.process_time()
        rows = reads = None
        if order["do"] == "warm":
            small = dict(base=base[:2000], folder=order["folder"], order=first | SMALL)
            other = type(engine)(**small)
            other.build()
            other.open("aio")
            other.search(queries[:64], 10, 32, 4, 1, False)
        elif order["do"] == "build":
            engine.build()
        elif order["do"] == "open":
            engine.open(order["reader"])
            engine.search(queries[:64], 10, 32, 4, 1, False)
        else:
            rows, reads = engine.search(queries, **order["options"])
            rows = rows.tolist()
        answer = {
            "seconds": time.perf_counter() - began,
            "cpu_seconds": time.process_time() - cpu,
            "grown_bytes": own_bytes() - before,
            "rows": rows,
            "reads": reads,
        }
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
