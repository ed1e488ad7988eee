"""What ``luma demo`` does with a data set: load it, build an index, measure it, show hits."""

from luma_lab.errors import Conflict, WaitTimeout

DEMO_K = 10
UPSERT_ROWS = 500
SHOWN_QUERIES = 2
SHOWN_HITS = 3
SHOWN_CHARACTERS = 90


def demonstrate(lab, name):
    """Load one shipped set, build its index, print hits; return recall@10."""
    from luma_lab import bench

    data = bench.load(name)
    ids = list(data.ids) if data.ids is not None else [str(i) for i in range(len(data.base))]
    print(f"\n{name}: {len(ids)} vectors of {data.base.shape[1]} components, {data.metric}")
    collection = _collection(lab, name, data)
    _fill(collection, ids, data)
    _build(collection)
    found = collection.search_many(data.queries, k=DEMO_K, explain=True)
    rows = _rows(found, ids)
    value = bench.recall(rows, data, k=DEMO_K)
    compared = sum(hits.receipt["comparisons"] for hits in found) / len(found)
    strategies = ", ".join(sorted({hits.receipt["strategy"] for hits in found}))
    print(
        f"  recall@{DEMO_K} {value:.4f} over {len(found)} queries, against exact search "
        f"(strategy {strategies}, {compared:.0f} comparisons a query)"
    )
    for i in range(SHOWN_QUERIES if data.texts is not None else 0):
        print(f"  {_short(data.query_texts[i])}")
        for hit in found[i][:SHOWN_HITS]:
            words = ", ".join(hit.meta.get("lemmas", ()))
            print(f"    {hit.score:.3f}  {_short(words + ': ' if words else '', hit.meta['text'])}")
    return value


def _collection(lab, name, data):
    dim = data.base.shape[1]
    known = {collection.name: collection for collection in lab.collections()}
    if name not in known:
        return lab.create_collection(name, dim, data.metric, index="vamana")
    collection = known[name]
    if (collection.dim, collection.metric) != (dim, data.metric):
        raise Conflict(
            f"collection {name!r} is already there with dim {collection.dim} and metric "
            f"{collection.metric}: choose another --dir"
        )
    return collection


def _fill(collection, ids, data):
    import numpy as np
    from tqdm import tqdm

    there = collection.snapshot()
    places = {id: i for i, id in enumerate(there.ids)}
    order = [places.get(id, -1) for id in ids]
    if len(places) == len(ids) and min(order) >= 0:
        if np.array_equal(there.vectors[order], data.base):
            print("  already loaded")
            return
    metas = data.metas if data.metas is not None else [None] * len(ids)
    with tqdm(total=len(ids), desc="  load", unit="vectors") as bar:
        for start in range(0, len(ids), UPSERT_ROWS):
            part = slice(start, start + UPSERT_ROWS)
            written = collection.upsert(ids[part], data.base[part], list(metas[part]))
            bar.update(written.count)


def _build(collection):
    from tqdm import tqdm

    status = collection.index_status()
    if status["kind"] == "vamana" and status["indexed_points"] == status["points"]:
        print("  index already built")
        return
    job = collection.build_index(kind="vamana")
    with tqdm(total=100, desc="  build", unit="%", bar_format="{l_bar}{bar}| {elapsed}") as bar:
        while True:
            try:
                job.result(timeout=0.1)
            except WaitTimeout:
                bar.update(int(100 * job.progress) - bar.n)
            else:
                bar.update(100 - bar.n)
                return


def _rows(found, ids):
    """Return the hits as an int64 array of rows of the base, padded with -1."""
    import numpy as np

    places = {id: i for i, id in enumerate(ids)}
    rows = np.full((len(found), DEMO_K), -1, dtype=np.int64)
    for i, hits in enumerate(found):
        rows[i, : len(hits)] = [places.get(hit.id, -1) for hit in hits]
    return rows


def _short(*parts):
    text = " ".join("".join(parts).split())
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"
