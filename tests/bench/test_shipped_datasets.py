"""Promises of the shipped sets: what they hold, that they are free to ship, that they are light."""

import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from luma_lab import bench
from luma_lab.bench import datasets
from luma_lab.errors import InvalidArgument, NotFound

FOLDER = Path(__file__).resolve().parents[2] / "datasets"
SETS = sorted(path for path in FOLDER.iterdir() if path.is_dir())


def test_the_shipped_sets_are_these():
    assert bench.names() == [
        "lohelp300_en", "lohelp300_es", "perlfaq", "sift_cc0_8k", "wordnet2k",
    ]  # fmt: skip
    assert [path.name for path in SETS] == ["lohelp300", "perlfaq", "sift_cc0_8k", "wordnet2k"]


@pytest.mark.parametrize(
    ("name", "n", "n_queries", "dim", "metric"),
    [
        ("wordnet2k", 1800, 200, 384, "cosine"),
        ("perlfaq", 305, 305, 384, "cosine"),
        ("sift_cc0_8k", 8000, 100, 128, "l2"),
    ],
)
def test_vector_sets_have_the_stated_shapes(name, n, n_queries, dim, metric):
    data = bench.load(name)
    assert data.base.shape == (n, dim) and data.queries.shape == (n_queries, dim)
    assert data.base.dtype == data.queries.dtype == np.float32
    assert (data.name, data.metric) == (name, metric)
    if metric == "cosine":
        for vectors in (data.base, data.queries):
            np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)


def test_the_vectors_are_those_of_the_files():
    raw = np.load(FOLDER / "sift_cc0_8k" / "sift_cc0_8k.u8.npy")
    data = bench.load("sift_cc0_8k")
    np.testing.assert_array_equal(np.vstack([data.base, data.queries]), raw)
    raw = np.load(FOLDER / "wordnet2k" / "wordnet2k_minilm.f16.npy").astype(np.float32)
    data = bench.load("wordnet2k")
    np.testing.assert_allclose(np.vstack([data.base, data.queries]), raw, atol=1e-3)


def test_wordnet_texts_belong_to_their_vectors():
    lines = (FOLDER / "wordnet2k" / "wordnet2k.jsonl").read_bytes().splitlines()
    records = [msgspec.json.decode(line) for line in lines]
    data = bench.load("wordnet2k")
    assert data.ids + data.query_ids == tuple(record["id"] for record in records)
    assert data.texts + data.query_texts == tuple(record["text"] for record in records)
    assert data.metas[7] == {"text": records[7]["text"], "lemmas": records[7]["lemmas"]}
    assert not set(data.ids) & set(data.query_ids)


def test_perlfaq_questions_find_their_answers():
    data = bench.load("perlfaq")
    rows, _ = data.truth(10)
    hit_at_1, hit_at_10 = 0, 0
    for query_id, found in zip(data.query_ids, rows, strict=True):
        relevant = data.qrels[query_id]
        assert list(relevant.values()) == [1] and set(relevant) <= set(data.ids)
        ids = [data.ids[row] for row in found]
        hit_at_1 += ids[0] in relevant
        hit_at_10 += any(id in relevant for id in ids)
    assert hit_at_1 / 305 == pytest.approx(0.71, abs=0.01)
    assert hit_at_10 / 305 == pytest.approx(0.925, abs=0.01)


def test_help_pages_are_aligned_texts_without_vectors():
    english, spanish = bench.load("lohelp300_en"), bench.load("lohelp300_es")
    assert english.ids == spanish.ids and len(english.texts) == len(spanish.texts) == 300
    assert english.texts != spanish.texts
    assert set(english.metas[0]) == {"title", "text"}
    assert english.base is None and english.queries is None and english.metric is None
    with pytest.raises(InvalidArgument, match="texts but no vectors"):
        english.truth(10)
    with pytest.raises(InvalidArgument, match="got metric='l2'"):
        bench.load("lohelp300_en", metric="l2")


def test_another_metric_can_be_asked_for_but_not_other_queries():
    assert bench.load("wordnet2k", metric="l2").metric == "l2"
    with pytest.raises(InvalidArgument, match="brings its own queries"):
        bench.load("wordnet2k", queries="x.npy")


def test_a_data_set_shows_itself_in_one_line():
    assert repr(bench.load("perlfaq")) == (
        "Dataset('perlfaq', metric='cosine', base=305 x 384, queries=305, texts, qrels)"
    )
    assert repr(bench.load("lohelp300_es")) == "Dataset('lohelp300_es', texts=300)"


@pytest.mark.parametrize("folder", SETS, ids=lambda path: path.name)
def test_every_folder_tells_its_source_and_carries_its_licence(folder):
    readme = (folder / "README.md").read_text(encoding="utf-8")
    for heading in ("## Source and making", "## Licence"):
        assert heading in readme
    licences = {path.name for path in folder.glob("LICENSE*")}
    assert licences and all(f"`{name}`" in readme for name in licences)
    data = {path.name for path in folder.iterdir()} - licences - {"README.md"}
    assert data and all(f"`{name}`" in readme for name in data)
    assert all(path.stat().st_size < 5_000_000 for path in folder.iterdir())


@pytest.mark.parametrize(
    ("file", "notice"),
    [
        ("wordnet2k/LICENSE", "WordNet 3.0 Copyright 2006 by Princeton University."),
        ("wordnet2k/README.md", "WordNet 3.0 Copyright 2006 by Princeton University."),
        ("perlfaq/LICENSE-Artistic", 'The "Artistic License"'),
        ("perlfaq/LICENSE-GPL-1", "Version 1, February 1989"),
        ("perlfaq/README.md", "Copyright (c) 1997-2010 Tom Christiansen, Nathan Torkington"),
        ("lohelp300/LICENSE", "Mozilla Public License Version 2.0"),
        ("lohelp300/README.md", "LibreOffice contributors and/or their affiliates"),
        ("sift_cc0_8k/LICENSE", "CC0 1.0 Universal"),
        ("sift_cc0_8k/README.md", "Clemens Engelhardt"),
    ],
)
def test_the_notices_are_whole(file, notice):
    assert notice in (FOLDER / file).read_text(encoding="utf-8")


def test_a_missing_shipped_file_is_named(monkeypatch):
    monkeypatch.setattr(datasets, "__file__", "/nowhere/luma_lab/bench/datasets.py")
    with pytest.raises(NotFound, match=r"sift_cc0_8k/sift_cc0_8k\.u8\.npy is missing"):
        bench.load("sift_cc0_8k")


def test_an_installed_package_reads_its_own_copy_first(monkeypatch, tmp_path):
    shipped = tmp_path / "luma_lab" / "_shipped" / "datasets" / "sift_cc0_8k"
    shipped.mkdir(parents=True)
    np.save(shipped / "sift_cc0_8k.u8.npy", np.arange(220, dtype=np.uint8).reshape(110, 2))
    module = tmp_path / "luma_lab" / "bench" / "datasets.py"
    monkeypatch.setattr(datasets, "__file__", str(module))
    assert bench.load("sift_cc0_8k").base.shape == (10, 2)


def test_importing_the_bench_loads_no_heavy_library():
    code = (
        "import sys, luma_lab.bench;"
        "print([m for m in ('pandas','bokeh','panel','h5py','numba','faiss') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
