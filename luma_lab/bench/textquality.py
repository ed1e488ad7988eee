"""How well texts are found: analyzers, stop words, LSA and vectors on judged queries.

Run as a program: ``python -m luma_lab.bench.textquality perlfaq``, or with two files of JSON
lines and a language: ``... docs.jsonl.gz queries.jsonl.gz es``. Every row is held against BM25
on words as written, on the same queries.
"""

import gzip
import sys
from pathlib import Path

import msgspec

from luma_lab import codec
from luma_lab.bench.datasets import Dataset, load
from luma_lab.bench.formats import existing_file
from luma_lab.bench.fusionlab import DEPTH, as_run, fusion_lab, text_branch, vector_branch
from luma_lab.bench.judge import RESAMPLES, judge
from luma_lab.engine.embedders_lsa import LsaEmbedder
from luma_lab.errors import InvalidArgument
from luma_lab.index.letters import without_accents
from luma_lab.index.stopwords import STOP_WORDS

PLAIN = "words as written"
LSA_DIM = 256
FEW_SETTINGS = {"methods": ("rrf", "weighted"), "rrf_ks": (5, 60)}


class _Text(msgspec.Struct):
    id: str
    text: str


class _Question(msgspec.Struct):
    qid: str
    query: str
    relevant: list[str]


def load_known_items(documents, queries):
    """Read two files of JSON lines, gzipped or not, as a `Dataset` of judged texts.

    Lines of the first have ``id`` and ``text``; of the second ``qid``, ``query`` and
    ``relevant``, a list of ids.

    Raises
    ------
    NotFound, InvalidArgument
    """
    texts, asked = _lines(documents, _Text), _lines(queries, _Question)
    known = {text.id for text in texts}
    for question in asked:
        for wanted in question.relevant:
            if wanted not in known:
                raise InvalidArgument(
                    f"{queries}: query {question.qid!r} wants {wanted!r}, which is not in "
                    f"{documents}"
                )
    return Dataset(
        name=Path(documents).name.split(".")[0],
        ids=[text.id for text in texts], texts=[text.text for text in texts],
        query_ids=[question.qid for question in asked],
        query_texts=[question.query for question in asked],
        qrels={question.qid: dict.fromkeys(question.relevant, 1) for question in asked},
    )  # fmt: skip


def text_runs(data, language, *, depth=DEPTH):
    """Return the branches that texts are compared by: a dict of name to answers.

    Words as written, the language's analyzer, each with and without stop words, and the first
    two asked without accents where the queries have some.

    Parameters
    ----------
    data : Dataset with texts and query texts
    language : str
    depth : int
        Hits a query.
    """
    made = {
        PLAIN: text_branch(data, depth, language="none"),
        f"analyzer {language}": text_branch(data, depth, language=language),
    }
    if language in STOP_WORDS:
        words = STOP_WORDS[language]
        made[f"{PLAIN}, no stop words"] = text_branch(
            data, depth, language="none", stop_words=words
        )
        made[f"analyzer {language}, no stop words"] = text_branch(
            data, depth, language=language, stop_words=True
        )
    bare = tuple(map(without_accents, data.query_texts))
    if bare != data.query_texts:
        asked = Dataset(name=data.name, ids=data.ids, texts=data.texts, query_texts=bare)
        for name, code in ((PLAIN, "none"), (f"analyzer {language}", language)):
            made[f"{name}, asked without accents"] = text_branch(asked, depth, language=code)
    return made


def lsa_branch(data, language, *, dim=LSA_DIM, depth=DEPTH):
    """Return what an exact search by LSA vectors finds, fitted on the texts themselves."""
    embedder = LsaEmbedder(min(dim, max(1, len(data.texts) - 1)), language).fit(list(data.texts))
    embedded = Dataset(
        name=data.name, metric="cosine", base=embedder.embed(list(data.texts)),
        queries=embedder.embed(list(data.query_texts)), ids=data.ids, query_ids=data.query_ids,
    )  # fmt: skip
    return vector_branch(embedded, depth)


def measure_quality(data, language, *, by="mrr@10", resamples=RESAMPLES, seed=0):
    """Compare the ways texts are found on a judged data set.

    Parameters
    ----------
    data : Dataset with texts, query texts and qrels
    language : str

    Returns
    -------
    table : pandas.DataFrame
        Of :func:`luma_lab.bench.judge`, held against BM25 on words as written.
    reports : dict of str to FusionReport
        Fusions with the analyzer's BM25: ``"lsa"``, and ``"vectors"`` if the set has some.
    """
    runs = text_runs(data, language)
    branches = {"lsa": lsa_branch(data, language)}
    if data.base is not None:
        branches["vectors"] = vector_branch(data)
    answers = {**runs, **{f"{name} alone": found for name, found in branches.items()}}
    table = judge(
        data, {name: as_run(data, found) for name, found in answers.items()}, against=PLAIN,
        by=by, resamples=resamples, seed=seed,
    )  # fmt: skip
    text = runs[f"analyzer {language}"]
    reports = {
        name: fusion_lab(
            data, {name: found, "text": text}, by=by, resamples=resamples, seed=seed,
            folds=min(5, len(data.query_ids)),
            **FEW_SETTINGS,
        )
        for name, found in branches.items()
    }  # fmt: skip
    return table, reports


def _lines(path, kind):
    path = existing_file(path)
    decode, opened = msgspec.json.Decoder(kind).decode, []
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                opened.append(decode(line))
            except msgspec.DecodeError as error:
                raise InvalidArgument(f"{path}:{number}: {error}") from None
    if not opened:
        raise InvalidArgument(f"{path}: no lines in it")
    return opened


def _tell(arguments):
    """Write the figures of a shipped set, or of two files, as lines of JSON."""
    if len(arguments) == 3:
        data, language = load_known_items(*arguments[:2]), arguments[2]
    else:
        data, language = load(arguments[0]), "en"
    table, reports = measure_quality(data, language)
    for name, row in table.iterrows():
        yield {"dataset": data.name, "run": name, **row.to_dict()}
    for name, report in reports.items():
        yield {"dataset": data.name, "fusion": name, "verdict": report.verdict, **report.held_out}


if __name__ == "__main__":
    for figures in _tell(sys.argv[1:]):
        plain = {k: v if isinstance(v, str) else round(float(v), 4) for k, v in figures.items()}
        sys.stdout.buffer.write(codec.encode(plain) + b"\n")
