"""Full text beside tantivy, bm25s, rank-bm25 and SQLite's FTS5: builds and queries.

Run as a program: ``python -m luma_lab.bench.textbench texts.jsonl.gz``. All engines take the
same texts and the same query strings and answer with rows, one thread; every round asks each
engine once, so that a loud neighbour on the machine is loud for all. Queries are words of one
random text: *content* without the most frequent words, *any* with them.
"""

import gzip
import json
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from luma_lab import codec
from luma_lab.engine.lab import Lab
from luma_lab.errors import InvalidArgument, Unavailable, UnknownName
from luma_lab.index import TextIndex

FREQUENT_WORDS = 100
WORD = re.compile(r"[^\W_]+")
PEERS = ("luma", "tantivy", "bm25s-numba", "bm25s", "fts5", "rank-bm25")
ADDED_AT_ONCE = 5000
ADDED_FIRST = 5  # whose times do not count
SLOW_QUERIES = 20  # of engines that take tens of milliseconds a query


def load_texts(path):
    """Return the ``text`` of every line of a JSON lines file, gzipped or not."""
    opened = gzip.open(path, "rt") if Path(path).suffix == ".gz" else open(path, encoding="utf-8")
    with opened as lines:
        return [json.loads(line)["text"] for line in lines]


def make_queries(texts, count, *, frequent, seed=0):
    """Return query strings of 2 to 4 distinct words of one random text each.

    frequent : bool
        Whether the `FREQUENT_WORDS` most frequent words may be among them.
    """
    rng = np.random.default_rng(seed)
    tally = Counter(word for text in texts for word in WORD.findall(text.lower()))
    left_out = set() if frequent else {word for word, _ in tally.most_common(FREQUENT_WORDS)}
    queries = []
    for _ in range(50 * count):
        text = texts[rng.integers(len(texts))]
        words = sorted({*WORD.findall(text.lower())} - left_out)
        size = int(rng.integers(2, 5))
        if len(words) >= size:
            queries.append(" ".join(rng.choice(words, size, replace=False)))
        if len(queries) == count:
            return queries
    raise InvalidArgument("texts are too short: expected some of at least 4 distinct words")


class Luma:
    """This house's index, words as written."""

    def build(self, texts):
        """Index texts so far that the next query finds all ready."""
        self.index = TextIndex("none").build(texts)
        self.index.search("")

    def ask(self, query, k):
        """Return the rows of the k best texts."""
        return self.index.search(query, k).rows.tolist()


class Tantivy:
    """tantivy in memory with its default tokenizer, one writing thread."""

    def __init__(self):
        import tantivy

        self._module = tantivy

    def build(self, texts):
        """Index texts and make them searchable."""
        schema = self._module.SchemaBuilder().add_text_field("text", index_option="freq").build()
        self.index = self._module.Index(schema)
        writer = self.index.writer(500_000_000, 1)
        for text in texts:
            writer.add_document(self._module.Document(text=text))
        writer.commit()
        writer.wait_merging_threads()
        self.index.reload()
        self.searcher = self.index.searcher()

    def ask(self, query, k):
        """Return the document numbers of the k best texts."""
        parsed = self.index.parse_query(query, ["text"])
        return [hit[1].doc for hit in self.searcher.search(parsed, k, count=False).hits]


class Bm25s:
    """bm25s, fed with the same words."""

    def __init__(self, backend):
        import bm25s

        self._module, self._backend = bm25s, backend

    def build(self, texts):
        """Tokenise with its own tokenizer, and index."""
        tokenizer = self._module.tokenization.Tokenizer(splitter=WORD.pattern, stopwords=None)
        tokens = tokenizer.tokenize(texts, show_progress=False, return_as="tuple")
        self.index = self._module.BM25(backend=self._backend, k1=1.2)
        self.index.index(tokens, show_progress=False)

    def ask(self, query, k):
        """Return the rows of the k best texts."""
        vocabulary = self.index.vocab_dict
        found = (vocabulary.get(word) for word in WORD.findall(query.lower()))
        tokens = [number for number in found if number is not None]
        answer = self.index.retrieve([tokens], k=k, show_progress=False, n_threads=0)
        return answer.documents[0].tolist()


class Fts5:
    """SQLite's FTS5, contentless."""

    def __init__(self):
        import apsw

        self._connection = apsw.Connection(":memory:")

    def build(self, texts):
        """Insert all texts in one transaction."""
        run = self._connection.execute
        run("DROP TABLE IF EXISTS texts").fetchall()
        run(
            "CREATE VIRTUAL TABLE texts USING fts5(text, content='', "
            "tokenize='unicode61 remove_diacritics 0')"
        ).fetchall()
        with self._connection:
            self._connection.executemany(
                "INSERT INTO texts (rowid, text) VALUES (?, ?)", enumerate(texts)
            )

    def ask(self, query, k):
        """Return the rowids of the k best texts."""
        words = " OR ".join(f'"{word}"' for word in WORD.findall(query))
        sql = "SELECT rowid FROM texts WHERE texts MATCH ? ORDER BY rank LIMIT ?"
        return [row for (row,) in self._connection.execute(sql, (words, k))]


class RankBm25:
    """rank-bm25, fed with the same words."""

    def __init__(self):
        import rank_bm25

        self._module = rank_bm25

    def build(self, texts):
        """Tokenise and index."""
        self.index = self._module.BM25Okapi([WORD.findall(text.lower()) for text in texts], k1=1.2)

    def ask(self, query, k):
        """Return the rows of the k best texts."""
        scores = self.index.get_scores(WORD.findall(query.lower()))
        best = np.argpartition(-scores, min(k, len(scores) - 1))[:k]
        return best[np.argsort(-scores[best])].tolist()


MAKERS = {
    "luma": Luma,
    "tantivy": Tantivy,
    "bm25s-numba": lambda: Bm25s("numba"),
    "bm25s": lambda: Bm25s("numpy"),
    "fts5": Fts5,
    "rank-bm25": RankBm25,
}
SLOW = {"fts5", "rank-bm25", "bm25s"}


def measure(texts, *, engines=PEERS, rounds=3, queries=300, k=10, seed=0):
    """Build and ask every engine; return one dict of figures an engine.

    Parameters
    ----------
    texts : list of str
    engines : iterable of str
    rounds, queries, k, seed : int
        Slow engines get fewer queries: the first ones.

    Returns
    -------
    list of dict
        ``engine``, ``build_docs_per_sec``, and for the query sets *content* and *any* the
        ``mean_us``, ``p50_us`` and ``p99_us`` over queries, of each query's median over rounds;
        ``over_luma`` figures are an engine's mean over luma's on the same queries, and
        ``build_under_luma`` luma's build speed over the engine's.

    Raises
    ------
    UnknownName
    Unavailable
        An engine is not installed.
    """
    made = {name: _make(name) for name in engines}
    sets = {
        name: make_queries(texts, queries, frequent=name == "any", seed=seed)
        for name in ("content", "any")
    }
    for engine in made.values():  # compiles, and loads what is loaded late
        engine.build(texts[:2000])
        for query in sets["any"][:5]:
            engine.ask(query, k)
    builds = {name: [] for name in made}
    for _ in range(rounds):
        for name, engine in made.items():
            began = time.perf_counter()
            engine.build(texts)
            builds[name].append(time.perf_counter() - began)
    times = {(name, kind): [] for name in made for kind in sets}
    for turn in range(rounds + 1):
        for kind, asked in sets.items():
            for name, engine in made.items():
                spent = _ask_all(engine, asked[: SLOW_QUERIES if name in SLOW else None], k)
                if turn > 0:
                    times[name, kind].append(spent)
    return _table(made, builds, times, sets, len(texts))


def _make(name):
    if name not in MAKERS:
        raise UnknownName("engine", name, MAKERS)
    try:
        return MAKERS[name]()
    except ImportError as error:
        raise Unavailable(f"{name} is not installed ({error}): leave it out of engines") from None


def _ask_all(engine, queries, k):
    spent = np.empty(len(queries))
    for i, query in enumerate(queries):
        began = time.perf_counter()
        engine.ask(query, k)
        spent[i] = time.perf_counter() - began
    return spent * 1e6


def _table(made, builds, times, sets, n_texts):
    rows = []
    for name in made:
        row = {"engine": name, "build_docs_per_sec": n_texts / statistics.median(builds[name])}
        if "luma" in made:
            row["build_under_luma"] = statistics.median(builds[name]) / statistics.median(
                builds["luma"]
            )
        for kind in sets:
            spent = np.median(times[name, kind], axis=0)
            row[f"{kind}_mean_us"] = float(spent.mean())
            row[f"{kind}_p50_us"] = float(np.percentile(spent, 50))
            row[f"{kind}_p99_us"] = float(np.percentile(spent, 99))
            if "luma" in made:
                same = np.median(times["luma", kind], axis=0)[: len(spent)]
                row[f"{kind}_over_luma"] = float(spent.mean() / same.mean())
        rows.append(row)
    return rows


class AddingLuma:
    """A collection of a lab on disk: `upsert`, then `search_text`."""

    def __init__(self, texts, path):
        self._lab = Lab(path)
        self._points = self._lab.create_collection(
            "texts", 2, text_fields=["text"], language="none"
        )
        for start in range(0, len(texts), ADDED_AT_ONCE):
            part = texts[start : start + ADDED_AT_ONCE]
            ids = range(start, start + len(part))
            self._points.upsert(ids, np.zeros((len(part), 2)), [{"text": text} for text in part])
        self._points.search_text("")

    def add_and_find(self, id, text, word):
        """Store a text so that it survives power loss, and find it; return whether it is first."""
        self._points.upsert(id, [0, 0], {"text": text})
        return [hit.id for hit in self._points.search_text(word, 1)] == [str(id)]

    def close(self):
        """Close the lab."""
        self._lab.close()


class AddingTantivy:
    """tantivy's index in a directory: add, commit, reload, search, read the stored id."""

    def __init__(self, texts, path):
        import tantivy

        self._module = tantivy
        builder = tantivy.SchemaBuilder().add_text_field("text", index_option="freq")
        schema = builder.add_unsigned_field("id", stored=True).build()
        Path(path).mkdir()
        self._index = tantivy.Index(schema, path=str(path))
        self._writer = self._index.writer(100_000_000, 1)
        for id, text in enumerate(texts):
            self._writer.add_document(tantivy.Document(text=text, id=id))
        self._writer.commit()

    def add_and_find(self, id, text, word):
        """As of `AddingLuma`."""
        self._writer.add_document(self._module.Document(text=text, id=id))
        self._writer.commit()
        self._index.reload()
        searcher = self._index.searcher()
        found = searcher.search(self._index.parse_query(word, ["text"]), 1).hits
        return [searcher.doc(address)["id"][0] for _, address in found] == [id]

    def close(self):
        """Finish what it merges."""
        self._writer.wait_merging_threads()


ADDING = {"luma": AddingLuma, "tantivy": AddingTantivy}


def measure_adding(texts, *, engines=("luma", "tantivy"), count=100):
    """Add one text and find it, durably, again and again, engines in turn.

    Returns
    -------
    list of dict
        ``engine``, ``p50_ms`` and ``p90_ms`` of an addition with its search, and ``over_luma``.

    Raises
    ------
    UnknownName, Unavailable
    """
    for name in engines:
        if name not in ADDING:
            raise UnknownName("engine", name, ADDING)
    spent, made = {name: [] for name in engines}, {}
    with tempfile.TemporaryDirectory() as home:
        try:
            for name in engines:
                try:
                    made[name] = ADDING[name](texts, Path(home) / name)
                except ImportError as error:
                    raise Unavailable(f"{name} is not installed ({error})") from None
            for turn in range(count + ADDED_FIRST):
                text = f"word{turn} {texts[turn % len(texts)]}"
                for name, engine in made.items():
                    began = time.perf_counter()
                    found = engine.add_and_find(len(texts) + turn, text, f"word{turn}")
                    if turn >= ADDED_FIRST:
                        spent[name].append((time.perf_counter() - began) * 1000)
                    if not found:
                        raise Unavailable(f"{name} did not find the text it had just added")
        finally:
            for engine in made.values():
                engine.close()
    medians = {name: statistics.median(times) for name, times in spent.items()}
    return [
        {
            "engine": name,
            "p50_ms": medians[name],
            "p90_ms": float(np.percentile(times, 90)),
            **({"over_luma": medians[name] / medians["luma"]} if "luma" in medians else {}),
        }
        for name, times in spent.items()
    ]


if __name__ == "__main__":
    for file in sys.argv[1:]:
        for figures in measure(load_texts(file)):
            sys.stdout.buffer.write(codec.encode({"file": Path(file).name, **figures}) + b"\n")
        for figures in measure_adding(load_texts(file)):
            sys.stdout.buffer.write(codec.encode({"file": Path(file).name, **figures}) + b"\n")
