"""Compile every kernel before the first user needs it."""

import numpy as np

from luma_lab.kernels import (
    beam,
    blocks,
    bm25,
    build,
    cellrange,
    cellscan,
    cluster,
    codescan,
    codewalk,
    copies,
    distance,
    graph,
    mend,
    partition,
    places,
    postings,
    product,
    quantize,
    rangebeam,
    rangewalk,
    ranging,
    reach,
    record,
    scan,
    tokens,
    topk,
)
from luma_lab.kernels.addresses import addresses_of
from luma_lab.kernels.aio import EVENT_WORDS, REQUEST_WORDS, Queue
from luma_lab.kernels.distance import ONE
from luma_lab.kernels.int8 import BLOCK_BYTES
from luma_lab.kernels.space import FloatSpace, Q8Space

WARM_ROWS = 4
WARM_STRIDE = 16
WARM_DEGREE = 4


def warm_up():
    """Compile all kernels for the argument types the index layer uses, or load them.

    With an empty cache folder this takes some seconds; afterwards a fresh process loads the
    machine code in tenths of a second.
    """
    rows = np.eye(WARM_ROWS, WARM_STRIDE, dtype=np.float32)
    vectors = np.empty_like(rows)
    distance.prepare_rows(read_only(rows), True, vectors)
    vectors = read_only(vectors)
    sums = np.zeros(WARM_STRIDE, np.float64)
    quantize.column_sums(vectors, sums)
    mean = read_only(sums.astype(np.float32))
    codes = np.empty((WARM_ROWS, 2 * BLOCK_BYTES), np.uint8)
    quantize.encode_rows(vectors, mean, quantize.Q8, BLOCK_BYTES, codes)
    codes = read_only(codes)
    build.find_medoid(vectors)
    build.find_central_code(codes)
    walk = _warm_graph(FloatSpace(vectors, distance.L2))
    coded_walk = _warm_graph(Q8Space(codes, BLOCK_BYTES, WARM_STRIDE))
    rows, distances = np.empty((1, 1), np.int64), np.empty((1, 1), np.float32)
    answer = rows, distances, np.zeros((1, 4), np.int64)
    no_mask, no_rows = read_only(np.empty(0, np.bool_)), read_only(np.empty(0, np.int64))
    no_record, queries = np.empty(0, np.int64), vectors[:1]
    space, neighbors, prepared, *scratch = walk
    graph.search_batch(
        space, queries, neighbors, 0, distance.L2, no_mask, 0, ONE, *scratch, no_record, *answer
    )
    radius, sizes = ONE, np.zeros(1, np.int64)
    around = no_mask, False, radius, 0, 1
    rangewalk.range_floats(
        space, queries, vectors, neighbors, 0, distance.L2, *around, *scratch, sizes, answer[2]
    )
    ranging.scan_range(
        queries, vectors, no_rows, False, 0, WARM_ROWS, distance.L2, radius, 0, sizes
    )
    space, neighbors, prepared, *scratch = coded_walk
    keys, fresh, seen, epoch = scratch
    point = np.empty((2, WARM_STRIDE), np.float32)
    at = addresses_of(codes, *codes.shape, BLOCK_BYTES, mean, WARM_STRIDE, vectors, distance.L2)
    own = addresses_of(
        fresh, len(fresh), seen, len(seen), epoch, point, WARM_STRIDE, prepared, len(prepared)
    )
    codewalk.search_addresses(at, neighbors, 0, queries, no_mask, 0, ONE, len(keys), own, *answer)
    codewalk.scan_addresses(at, queries, no_rows, 2, own, *answer[:2])
    rangewalk.range_codes(
        space, mean, queries, vectors, neighbors, 0, distance.L2, *around, *scratch, point,
        prepared, sizes, answer[2],
    )  # fmt: skip
    scan.scan_batch(queries, vectors, no_rows, False, 0, WARM_ROWS, distance.L2, *answer[:2])
    _warm_codes(vectors, mean, codes, no_rows, rows, distances)
    _warm_cells(vectors, mean, codes, no_mask, *answer)
    _warm_shards(vectors)
    _warm_disk(codes, queries, no_mask, rows, distances)
    _warm_text()


def _warm_graph(space):
    """Compile what builds and walks a graph of a space; return arguments to search it with."""
    seen, epoch = np.zeros(WARM_ROWS, np.uint8), np.zeros(1, np.int32)
    keys, fresh = np.empty(WARM_ROWS, np.int64), np.empty(WARM_DEGREE, np.int32)
    prepared = np.zeros(4 * BLOCK_BYTES, np.uint8)
    neighbors = np.full((WARM_ROWS, WARM_DEGREE), graph.NO_NODE, np.int32)
    batch = np.arange(1, WARM_ROWS, dtype=np.int32)
    edges = np.empty((len(batch), WARM_DEGREE), np.int32)
    places, starts = np.zeros(WARM_ROWS, np.int32), np.empty(WARM_ROWS + 1, np.int64)
    targets, sources = np.empty(WARM_ROWS, np.int32), np.empty(edges.size, np.int32)
    alpha, live = np.float32(1.2), np.ones(WARM_ROWS, bool)
    build.choose_edges(
        space, batch, 0, len(batch), read_only(neighbors), 0, live, alpha, edges,
        keys, fresh, seen, epoch, prepared,
    )  # fmt: skip
    build.write_edges(batch, edges, neighbors)
    count = int(build.group_by_target(batch, edges, places, targets, starts, sources))
    build.merge_back_edges(
        space, targets, 0, count, starts, sources, neighbors, alpha, WARM_DEGREE, prepared
    )
    trimmed = np.empty_like(neighbors)
    build.trim(space, 0, WARM_ROWS, neighbors, alpha, trimmed, prepared)
    reach.attach_unreached(space, space, trimmed, 0, live, keys, fresh, seen, epoch, prepared)
    trimmed = read_only(trimmed)
    mend.mend_edges(space, 0, WARM_ROWS, trimmed, live, alpha, WARM_ROWS, neighbors, prepared)
    copies.link_back(space, batch, edges, neighbors)
    marks = np.zeros(WARM_ROWS, np.int64)
    copies.mark_rows(space, marks)
    copies.tie_rings(space, marks, np.argsort(marks, kind="stable"), live, neighbors)
    partition.merge_edges(space, 0, 0, WARM_ROWS, neighbors.copy(), alpha, neighbors, prepared)
    return space, trimmed, prepared, keys, fresh, seen, epoch


def _warm_codes(vectors, mean, codes, no_rows, rows, distances):
    """Compile what quantizers use."""
    queries = vectors[:1]
    prepared = np.empty((1, 4 * BLOCK_BYTES), np.uint8)
    quantize.prepare_queries(queries, mean, distance.L2, BLOCK_BYTES, prepared)
    prepared = read_only(prepared)
    quantize.decode_rows(codes, mean, quantize.Q8, np.empty_like(vectors))
    codescan.scan_codes(
        prepared, codes, quantize.Q8, BLOCK_BYTES, no_rows, False, 0, WARM_ROWS, rows, distances
    )
    codescan.measure_codes(
        prepared, codes, quantize.Q8, BLOCK_BYTES, np.empty((1, WARM_ROWS), np.float32)
    )
    codescan.rerank(queries, vectors, distance.L2, rows.copy(), rows, distances)
    bounds = read_only(np.array([0, 1], np.int64))
    centroids = np.zeros((1, 1, product.CENTROIDS), np.float32)
    product.fit_part(vectors, 0, 1, 1, centroids[0])
    centroids = read_only(centroids)
    codes = np.empty((WARM_ROWS, 1), np.uint8)
    product.encode_parts(vectors, bounds, centroids, codes)
    product.decode_parts(read_only(codes), bounds, centroids, np.empty_like(vectors))
    prepared = np.empty((1, product.TABLE_BYTES + product.CONSTANT_BYTES), np.uint8)
    product.prepare_tables(queries, bounds, centroids, distance.L2, prepared)


def _warm_cells(vectors, mean, codes, no_mask, rows, distances, counts):
    """Compile what finds and searches cells."""
    cells, gaps = np.zeros(WARM_ROWS, np.int32), np.empty(WARM_ROWS, np.float32)
    prepared = np.zeros(4 * BLOCK_BYTES, np.uint8)
    lines = blocks.CONSTANT_LINES + blocks.LINES_AT_ONCE
    lanes = read_only(np.zeros((1, lines, blocks.LANES), np.uint32))
    cluster.assign_rows(
        quantize.Q8, 4 * blocks.LINES_AT_ONCE, codes, BLOCK_BYTES, vectors, 0, 0, lanes, 1,
        prepared, cells, gaps,
    )  # fmt: skip
    starts, order = np.empty(WARM_ROWS + 1, np.int64), np.empty(WARM_ROWS, np.int64)
    cluster.group_rows(cells, starts, order)
    centroids = np.zeros((WARM_ROWS, WARM_STRIDE), np.float32)
    cluster.move_centroids(vectors, order, starts, 0, WARM_ROWS, centroids)
    cluster.revive_centroids(vectors, order, starts, gaps, centroids)
    one, none = read_only(np.ones(1, np.int64)), read_only(np.zeros(1, np.int64))
    asked = (
        quantize.Q8, BLOCK_BYTES, 2 * BLOCK_BYTES, mean, lanes, read_only(np.zeros(1, np.float32)),
        none, one, read_only(np.zeros((1, 2), np.float32)),
        read_only(np.zeros(blocks.LANES, np.int32)), lanes, vectors, vectors[:1], distance.L2,
        no_mask, False, 1,
    )  # fmt: skip
    cellscan.search_cells(*asked, 1, 1, 1, rows, distances, counts)
    cellrange.range_cells(*asked, ONE, 0, 1, np.zeros(1, np.int64), counts)


def _warm_shards(vectors):
    """Compile what cuts rows into shards, and finds what the union of their edges reaches."""
    centres = vectors[:2].copy()
    partition.fit_centres(vectors, 1, centres)
    room, shards = np.full(2, WARM_ROWS), np.empty((2, WARM_ROWS), np.int16)
    partition.assign_shards(vectors, read_only(centres), room, *shards)
    edges = read_only(np.full((WARM_ROWS, WARM_DEGREE), graph.NO_NODE, np.int32))
    parents, queue = np.full(WARM_ROWS, reach.UNREACHED, np.int32), np.zeros(WARM_ROWS, np.int32)
    reach.spread(0, edges, parents, queue, 1)


def _warm_disk(codes, queries, no_mask, rows, distances):
    """Compile what writes and searches a disk index."""
    size = 4096
    layout = record.Layout(WARM_ROWS, WARM_STRIDE, record.FLOAT32, 1, 64, 72, WARM_ROWS, size)
    sector = np.zeros((1, size), np.uint8)
    record.seal_blocks(sector, 0)
    data = read_only(sector.reshape(-1))
    record.is_sound(data, 0, 0, layout)
    queue = Queue(
        0, 0, 0, 0, 0, 0, 0, np.empty((0, REQUEST_WORDS), np.int64), np.empty(0, np.int64),
        np.empty((0, EVENT_WORDS), np.int64),
    )  # fmt: skip
    vector = np.empty(WARM_STRIDE, np.float32)
    scratch = beam.Scratch(
        np.zeros(WARM_ROWS, np.uint8), np.zeros(1, np.int32), np.empty(1, np.int32), vector,
        *(np.empty(1, np.int64) for _ in range(4)), queue,
    )  # fmt: skip
    store = beam.Store(
        layout, data, np.zeros(1, np.uint8), read_only(np.empty(0, np.int32)),
        read_only(np.empty(0, np.uint8)),
    )  # fmt: skip
    probes = read_only(np.zeros((1, 4 * BLOCK_BYTES), np.uint8))
    asked = (
        store, beam.Codes(codes, quantize.Q8, BLOCK_BYTES), scratch, probes, queries, 0, 0,
        distance.L2, no_mask, False,
    )  # fmt: skip
    counts = np.zeros((1, beam.COUNTS), np.int64)
    beam.walk_disk(*asked, np.empty(1, np.int64), 1, rows, distances, counts)
    rangebeam.range_disk(*asked, ONE, 0, 1, 1, 1, counts)
    topk.pack_key(ONE, 0)
    places, sizes = np.zeros(1, np.int64), np.zeros(1, np.int64)
    record.scan_records(
        queries, data, places, places, layout, vector, distance.L2, np.empty((1, 1), np.int64),
        sizes,
    )  # fmt: skip
    topk.write_heap(np.empty(1, np.int64), 0, rows[0], distances[0])


def _warm_text():
    """Compile what text indexes use, on two documents that say ``a`` and ``b``."""
    text, bounds = np.frombuffer(b"ab", np.uint8), read_only(np.arange(3))
    fold, state = read_only(np.arange(128, dtype=np.uint32)), np.zeros(tokens.STATE_SIZE, np.int64)
    table = np.zeros(64, np.int32), np.empty((32, 3), np.int64), np.empty(64, np.uint8)
    word, words = np.empty(tokens.LONGEST_WORD_BYTES, np.uint8), np.empty(2, np.int32)
    ends = np.empty(2, np.int64)
    tokens.tokenize(text, bounds, fold, *table, word, words, ends, state, True)
    state[tokens.TOKENS] = 0
    tokens.number_words(text, bounds, *table, words, state, True)
    tokens.look_up(text, fold, *table, np.empty(2, np.int32))
    tokens.refill_slots(table[1], 2, np.zeros(64, np.int32))
    found, points = np.empty(2, np.int32), np.ones(1, np.int64)
    tokens.words_with_prefix(text, table[1], 2, table[2], found)
    tokens.words_one_edit_away(points, table[1], 2, table[2], np.empty(3, np.int64), found)
    last, sizes = np.full(2, -1, np.int32), np.zeros(2, np.int64)
    rows, counts, spread = (np.zeros(2, np.int32) for _ in range(3))
    postings.count_postings(words, ends, last, sizes)
    postings.fill_postings(words, ends, np.arange(2), np.full(2, -1, np.int32), rows, counts)
    postings.fill_places(words, ends, np.arange(2), spread)
    packed = np.empty(2, np.uint8)
    places.measure_places(np.arange(3), counts, spread, sizes)
    places.pack_places(np.arange(3), counts, spread, packed)
    starts, rows, live = read_only(np.arange(3)), read_only(rows), read_only(np.ones(2, bool))
    counts, packed = read_only(counts.astype(np.uint16)), read_only(packed)
    postings.count_kept(starts, rows, live, sizes)
    postings.copy_kept(
        starts, rows, counts, live, 0, np.arange(2), np.arange(2), np.empty(2, np.int32),
        np.empty(2, np.int32),
    )  # fmt: skip
    kept = starts, rows, counts, read_only(np.arange(2)), packed, live, np.arange(2)
    places.count_kept_places(*kept, np.zeros(2, np.int64))
    places.copy_kept_places(*kept, np.arange(2), np.empty(2, np.uint8))
    places.places_fit(np.arange(2), np.ones(2, np.int64), packed)
    places.unpack_spots(rows, counts, packed, 0, 0, np.empty(2, np.int64))
    places.keep_common(np.empty(0, np.int64), np.empty(0, np.int64))
    parts, tops = np.empty(2, np.float32), np.zeros((2, 1), np.float32)
    for counted in (counts, read_only(np.ones(2, np.int32))):  # of words, of phrases
        postings.bake_parts(rows, counted, 0, 2, np.ones(2), postings.SATURATED, 1.2, 0.5, parts)
    parts, begins = read_only(parts), np.zeros((2, 2), np.int64)
    postings.window_bounds(starts, rows, parts, np.arange(2), begins, tops)
    keys, lists = read_only(np.arange(2)), read_only(np.arange(2, dtype=np.int32))
    slots, begins, tops = read_only(np.full(2, -1, np.int32)), read_only(begins), read_only(tops)
    alone = read_only(np.empty((0, 0), np.int32))
    heap, sums, scores = np.empty(1, np.int64), np.zeros(2, np.float32), np.empty(1, np.float32)
    common = np.ones(3), 1, 2, bm25.LUCENE
    more = (
        0.0, bm25.AUTO, keys, lists, starts, rows, parts, slots, begins, tops, live, True, live,
        True, 0, 2, sums, heap, scores,
    )  # fmt: skip
    bm25.answer_text(text, fold, *table, alone, *common, *more)
    asked, found, df = np.arange(2), np.empty(2, np.int64), np.zeros(2, np.int64)
    bm25.answer(asked, np.ones(2), 2, bm25.LUCENE, np.ones(3), 1, *more)
    bm25.find_lists(asked, keys, lists, found)
    bm25.add_sizes(found, starts, rows, live, True, df)
    weights, chosen, chosen_weights = np.ones(2), np.empty(2, np.int64), np.ones(2, np.float32)
    bm25.weigh(df, np.ones(2), 2, bm25.LUCENE, np.ones(3), 1, weights)
    bm25.gather(found, df, weights, 1, starts, chosen, chosen_weights)
    bm25.sum_lists(
        bm25.AUTO, np.arange(2), chosen_weights, 2, starts, rows, parts, slots, begins, tops,
        live, True, 0, 2, sums, heap, 0,
    )  # fmt: skip
    bm25.term_key(0, 0, 0)
    bm25.unpack(heap, 0, 0.0, scores)


def read_only(array):
    """Return a view of `array` that can't be written: one type for arrays in memory and mapped."""
    view = array.view(np.ndarray)
    view.flags.writeable = False
    return view
