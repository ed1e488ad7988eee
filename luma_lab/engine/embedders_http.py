"""An embedder behind an OpenAI-compatible endpoint: ``POST /v1/embeddings``, as Ollama has it."""

import logging
import math
import random
import threading
import time
from urllib.parse import urlsplit

import msgspec
import numpy as np

from luma_lab.engine.embedders import PROBE, check_answer, check_texts
from luma_lab.errors import EmbedderFailed, EmbedderUnavailable, InvalidArgument
from luma_lab.store import deadline

BATCH_TEXTS = 64
TIMEOUT_SECS = 30.0
RETRIES = 4
FIRST_PAUSE_SECS = 0.5
LONGEST_PAUSE_SECS = 20.0
BUSY = (408, 425, 429, 500, 502, 503, 504, 529)
SHOWN_LETTERS = 200
log = logging.getLogger(__name__)


class _Vector(msgspec.Struct):
    embedding: list[float]
    index: int | None = None


class _Answer(msgspec.Struct):
    data: list[_Vector]


class HttpEmbedder:
    """Asks an endpoint for vectors, many texts at a time.

    Parameters
    ----------
    url : str
        ``http(s)://host[:port]``, with or without ``/v1`` or ``/v1/embeddings``.
    model : str
    api_key : str, optional
        Sent as a bearer token; shown nowhere.
    dim : int, optional
        Components to expect. Default: what the endpoint answers with, asked at first use.
    batch : int
        Most texts of one request.
    timeout : float
        Seconds for one request; a search's own time limit holds, too.
    retries : int
        How often a request is sent again when the endpoint is busy (429, 5xx), does not answer
        in time or can't be reached. The pauses double from half a second; ``Retry-After`` counts.

    Raises
    ------
    InvalidArgument
    EmbedderUnavailable
        Of a call: still busy or out of reach after the retries.
    EmbedderFailed
        Of a call: the endpoint refused, or its answer makes no sense.
    """

    local = False
    cacheable = True

    def __init__(
        self, url, model, *, api_key=None, dim=None, batch=BATCH_TEXTS, timeout=TIMEOUT_SECS,
        retries=RETRIES, sleep=time.sleep,
    ):  # fmt: skip
        self.url = _endpoint(url)
        if not isinstance(model, str) or not model:
            raise InvalidArgument(f"model is {model!r}: expected the name of a model")
        if api_key is not None and not (isinstance(api_key, str) and api_key.isprintable()):
            raise InvalidArgument("api_key: expected printable text")
        for what, value, least in (("batch", batch, 1), ("retries", retries, 0)):
            if type(value) is not int or value < least:
                raise InvalidArgument(f"{what} is {value!r}: expected an int of at least {least}")
        if dim is not None and (type(dim) is not int or dim < 1):
            raise InvalidArgument(f"dim is {dim!r}: expected an int of at least 1")
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout > 0:
            raise InvalidArgument(f"timeout is {timeout!r}: expected seconds above 0")
        self.model, self.batch, self.timeout, self.retries = model, batch, timeout, retries
        self._api_key = api_key or None
        self._dim = dim
        self._sleep = sleep
        self._client = None
        self._lock = threading.Lock()

    @property
    def name(self):
        """The model's name."""
        return self.model

    @property
    def dim(self):
        """Components of a vector; asks the endpoint when it was not told."""
        if self._dim is None:
            self._dim = self._request([PROBE]).shape[1]
        return self._dim

    @property
    def fingerprint(self):
        """Model and dimension; the host may change."""
        return f"{self.model}/{self.dim}"

    def embed(self, texts):
        """Return the vectors of texts, float32 of shape (len(texts), dim)."""
        texts = check_texts(texts)
        if not texts:
            return np.zeros((0, self.dim), np.float32)
        parts = [
            self._request(texts[start : start + self.batch])
            for start in range(0, len(texts), self.batch)
        ]
        if self._dim is None:
            self._dim = parts[0].shape[1]
        return np.concatenate([check_answer(p, len(p), self._dim, self.name) for p in parts])

    def close(self):
        """Close the connections."""
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None

    def __repr__(self):
        return f"HttpEmbedder({self.url!r}, {self.model!r}, dim={self._dim})"

    def _request(self, texts):
        for place, text in enumerate(texts):
            if not text.strip():
                raise InvalidArgument(f"text {place} is empty: {self.model} embeds words")
        try:
            body = msgspec.json.encode({"model": self.model, "input": texts})
        except UnicodeEncodeError:
            raise InvalidArgument("a text to embed is not valid Unicode") from None
        pause = FIRST_PAUSE_SECS
        for attempt in range(self.retries + 1):
            trouble, asked = self._send(body, len(texts))
            if isinstance(trouble, np.ndarray):
                return trouble
            wait = min(LONGEST_PAUSE_SECS, max(asked, pause * random.uniform(0.75, 1.25)))
            left = deadline.left()
            if attempt == self.retries or (left is not None and wait >= left):
                break
            log.info("embedder %s: %s; asking again in %.1f s", self.model, trouble, wait)
            self._sleep(wait)
            pause *= 2
        raise EmbedderUnavailable(
            f"embedder {self.model} at {self._place()} is not available after "
            f"{attempt + 1} attempts: {trouble}"
        )

    def _send(self, body, count):
        """Return (vectors, 0), or (what is wrong, seconds to wait) where a retry may help."""
        import httpx

        deadline.check()
        left = deadline.left()
        seconds = self.timeout if left is None else min(self.timeout, left)
        try:
            answer = self._connected().post(self.url, content=body, timeout=seconds)
        except httpx.TimeoutException:
            return f"no answer within {seconds:.3g} s", 0.0
        except httpx.TransportError as error:
            return f"{type(error).__name__}: {self._hidden(str(error))}", 0.0
        except httpx.HTTPError as error:
            raise EmbedderFailed(
                f"embedder {self.model} at {self._place()}: {self._hidden(str(error))}"
            ) from None
        if answer.status_code in BUSY:
            return f"status {answer.status_code}", _seconds(answer.headers.get("Retry-After"))
        if answer.status_code != 200:
            raise EmbedderFailed(
                f"embedder {self.model} at {self._place()} answered {answer.status_code}: "
                f"{self._hidden(_message(answer.content))}"
            )
        return self._read(answer.content, count), 0.0

    def _read(self, content, count):
        try:
            data = msgspec.json.decode(content, type=_Answer).data
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise EmbedderFailed(
                f"the answer of embedder {self.model} is not that of /v1/embeddings: {error}"
            ) from None
        if all(item.index is None for item in data):
            indexes = list(range(len(data)))
        else:
            indexes = [item.index for item in data]
        if sorted(indexes, key=lambda i: -1 if i is None else i) != list(range(count)):
            raise EmbedderFailed(
                f"embedder {self.model} answered with vectors {_cut(str(indexes))} for {count} "
                "texts: expected one for each"
            )
        ordered = [None] * count
        for index, item in zip(indexes, data, strict=True):
            ordered[index] = item.embedding
        if len({len(vector) for vector in ordered}) != 1:
            raise EmbedderFailed(f"embedder {self.model} answered with vectors of several lengths")
        return check_answer(ordered, count, self._dim, self.name)

    def _connected(self):
        import httpx

        with self._lock:
            if self._client is None:
                headers = {"Content-Type": "application/json"}
                if self._api_key is not None:
                    headers["Authorization"] = f"Bearer {self._api_key}"
                self._client = httpx.Client(headers=headers, follow_redirects=False)
            return self._client

    def _place(self):
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")

    def _hidden(self, text):
        if self._api_key is not None:
            text = text.replace(self._api_key, "***")
        return _cut(text)


def _endpoint(url):
    parts = urlsplit(url) if isinstance(url, str) else None
    try:
        good = parts and parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good:
        shown = url if not isinstance(url, str) or "@" not in url else "not usable"
        raise InvalidArgument(f"url is {shown!r}: expected http(s)://host[:port][/v1]")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise InvalidArgument(
            "the url of an embedder holds a name, a password or a query: expected "
            "http(s)://host[:port][/v1], and the key as api_key"
        )
    path = parts.path.rstrip("/")
    if not path.endswith("/embeddings"):
        path += "/embeddings" if path.endswith("/v1") else "/v1/embeddings"
    return f"{parts.scheme}://{parts.netloc}{path}"


def _seconds(header):
    try:
        seconds = float(header)
    except (TypeError, ValueError):
        return 0.0
    return seconds if math.isfinite(seconds) and seconds > 0 else 0.0


def _message(content):
    try:
        body = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return content[:SHOWN_LETTERS].decode("utf-8", "replace")
    error = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(error, dict):
        error = error.get("message", error)
    return str(error)


def _cut(text):
    return text if len(text) <= SHOWN_LETTERS else text[: SHOWN_LETTERS - 1] + "…"
