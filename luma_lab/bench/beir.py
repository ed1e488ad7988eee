"""Folders in the layout of BEIR: corpus.jsonl, queries.jsonl, qrels/<split>.tsv or qrels.tsv."""

import logging
from pathlib import Path

import msgspec

from luma_lab.bench import trec
from luma_lab.bench.formats import existing_file
from luma_lab.errors import InvalidArgument, NotFound

logger = logging.getLogger(__name__)

USUAL_SPLIT = "test"


class _Document(msgspec.Struct):
    id: str = msgspec.field(name="_id")
    text: str
    title: str = ""
    metadata: dict = {}


class _Query(msgspec.Struct):
    id: str = msgspec.field(name="_id")
    text: str


def is_folder(path):
    """Return whether a path is a folder in this layout."""
    return (Path(path) / "corpus.jsonl").is_file()


def read_folder(path, split=None):
    """Read a folder of documents, queries and judgements.

    Parameters
    ----------
    path : path
        ``corpus.jsonl`` has lines of ``_id``, ``text`` and perhaps ``title`` and ``metadata``;
        ``queries.jsonl`` lines of ``_id`` and ``text``; judgements see
        :func:`luma_lab.bench.trec.read_qrels`.
    split : str, optional
        Which judgements: ``qrels/<split>.tsv``. Default: ``qrels.tsv``, else ``qrels/test.tsv``,
        else the only file in ``qrels``.

    Returns
    -------
    dict
        ``ids``, ``texts`` (title and text in one), ``metas`` (title, text and metadata),
        ``query_ids`` and ``query_texts`` of the judged queries only, in the order of
        ``queries.jsonl``, and ``qrels`` in the same order.

    Raises
    ------
    NotFound
        A file is missing.
    InvalidArgument
        A malformed line or an id that is there twice, with file and line; judgements of a query
        that is not there; no judged document is in the corpus. If only some are missing, a
        warning tells how many: their judgements stay and count against recall, as they do
        in trec_eval.
    """
    path = Path(path)
    judged = trec.read_qrels(_qrels_file(path, split))
    documents = _read(path / "corpus.jsonl", _Document)
    queries = _read(path / "queries.jsonl", _Query)
    strangers = judged.keys() - queries.keys()
    if strangers:
        raise InvalidArgument(
            f"{path}: {len(strangers)} judged queries are not in queries.jsonl, such as "
            f"{min(strangers)!r}"
        )
    wanted = {document for grades in judged.values() for document in grades}
    missing = wanted - documents.keys()
    if missing == wanted:
        raise InvalidArgument(
            f"{path}: none of the {len(wanted)} judged documents is in corpus.jsonl, such as "
            f"{min(missing)!r}; are corpus and qrels of one set?"
        )
    if missing:
        logger.warning(
            "%s: %d of %d judged documents are not in corpus.jsonl, such as %r: no search can "
            "find them, and they count against recall", path, len(missing), len(wanted),
            min(missing),
        )  # fmt: skip
    asked = [query for query in queries.values() if query.id in judged]
    return {
        "ids": list(documents),
        "texts": [f"{d.title}\n{d.text}" if d.title else d.text for d in documents.values()],
        "metas": [{**d.metadata, "title": d.title, "text": d.text} for d in documents.values()],
        "query_ids": [query.id for query in asked],
        "query_texts": [query.text for query in asked],
        "qrels": {query.id: judged[query.id] for query in asked},
    }


def _qrels_file(path, split):
    folder = path / "qrels"
    if split is not None:
        return existing_file(folder / f"{split}.tsv")
    for usual in (path / "qrels.tsv", folder / f"{USUAL_SPLIT}.tsv"):
        if usual.is_file():
            return usual
    found = sorted(file.stem for file in folder.glob("*.tsv")) if folder.is_dir() else []
    if not found:
        raise NotFound(f"{path}: no judgements; expected qrels.tsv or qrels/{USUAL_SPLIT}.tsv")
    if len(found) > 1:
        raise InvalidArgument(f"{path}: judgements of {', '.join(found)}; name one with split=")
    return folder / f"{found[0]}.tsv"


def _read(path, kind):
    """Return a dict of id to record of a file of JSON lines."""
    decode, records = msgspec.json.Decoder(kind).decode, {}
    with open(existing_file(path), "rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                record = decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise InvalidArgument(f"{path}:{number}: {error}") from None
            if record.id in records:
                raise InvalidArgument(f"{path}:{number}: id {record.id!r} is there twice")
            records[record.id] = record
    if not records:
        raise InvalidArgument(f"{path}: no lines in it")
    return records
