"""Settings of the server: command line, then environment, then `.env`, then the defaults here.

`Settings` is the one place where a setting has a name, a default, a range and a sentence of
help; `SETTINGS` is the same as plain rows, for `luma serve --help`, the README and tests.
Only the command line and the service import this module: pydantic is slow to load.
"""

import ipaddress
import os
from typing import Any, Literal, NamedTuple

from dotenv import dotenv_values
from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from luma_lab.errors import InvalidArgument, UnknownName

DEFAULT_KEY = "dev"
MEGABYTE = 1024 * 1024


def _setting(default, help, env, *, flag=None, expected=None, secret=False, **limits):
    extra = {"env": (env,) if isinstance(env, str) else env, "flag": flag, "expected": expected}
    return Field(default, description=help, json_schema_extra=extra, repr=not secret, **limits)


class Settings(BaseSettings):
    """Everything the server can be told, checked before it starts.

    Keyword arguments (the command line's flags) win over the environment, the environment over
    the file ``.env`` of the working directory. Of several names of one setting the first that is
    set counts.

    Raises
    ------
    InvalidArgument
        A value can't be used: names the variable or flag, the value and what was expected.
    """

    model_config = SettingsConfigDict(
        env_file=".env", case_sensitive=True, extra="ignore", frozen=True, validate_default=True
    )

    port: int = _setting(
        8080,
        "TCP port of REST, streams and the workbench; 0 takes any free one.",
        ("PORT_LUMA_VDB", "LUMA_PORT", "PORT"),
        flag="--port",
        ge=0,
        le=65535,
    )
    bind: str = _setting(
        "127.0.0.1",
        "Address to listen on.",
        "BIND_ADDR",
        flag="--bind",
        expected="an IP address or 'localhost'",
    )
    api_key: str = _setting(
        DEFAULT_KEY,
        "The key clients must send; with the default only loopback is served.",
        ("LUMA_API_KEY", "API_KEY"),
        expected="a key of printable ASCII without spaces (or AUTH=open for none)",
        secret=True,
        pattern=r"^[\x21-\x7e]+$",
    )
    auth: Literal["key", "open"] = _setting(
        "key",
        "'key' asks every client for the key; 'open' asks nobody (a laboratory on loopback).",
        "AUTH",
        flag="--auth",
        expected="'key' or 'open'",
    )
    insecure: bool = _setting(
        False,
        "Serve beyond loopback although the key is 'dev' or AUTH=open.",
        "LUMA_INSECURE",
        flag="--insecure",
        expected="true or false",
    )
    data_dir: str = _setting(
        "./data",
        "The lab's directory; created when missing.",
        "DATA_DIR",
        flag="--data-dir",
        expected="a path",
        min_length=1,
    )
    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        "warning",
        "What is logged to standard error; 'info' has a line for each request.",
        "LUMA_LOG_LEVEL",
        flag="--log-level",
        expected="'debug', 'info', 'warning' or 'error'",
    )
    cors_allowed_origins: str | None = _setting(
        None,
        "Comma list of origins that browsers may call from; unset: any (on loopback: loopback).",
        "CORS_ALLOWED_ORIGINS",
        expected="origins such as https://example.org, separated by commas, or *",
        pattern=r"^\s*(\*|https?://[^,/\s]+)(\s*,\s*(\*|https?://[^,/\s]+))*\s*$",
    )
    max_body_mb: int = _setting(
        100, "Largest request body, in MiB.", "MAX_BODY_MB", flag="--max-body-mb", ge=1, le=65536
    )
    max_json_mb: int = _setting(
        100,
        "Largest value, meta or filter as compact JSON, in MiB; at most MAX_BODY_MB.",
        "MAX_JSON_MB",
        flag="--max-json-mb",
        ge=1,
        le=65536,
    )
    max_vector_dim: int = _setting(
        4096,
        "Most components of a vector.",
        "MAX_VECTOR_DIM",
        flag="--max-vector-dim",
        ge=1,
        le=65535,
    )
    max_k: int = _setting(
        256, "Most hits of one search.", "MAX_K", flag="--max-k", ge=1, le=1_000_000
    )
    max_key_len: int = _setting(
        512,
        "Longest state key or prefix, in bytes of UTF-8.",
        "MAX_KEY_LEN",
        flag="--max-key-len",
        ge=1,
        le=512,
    )
    max_collection_len: int = _setting(
        64,
        "Longest collection name, in bytes.",
        "MAX_COLLECTION_LEN",
        flag="--max-collection-len",
        ge=1,
        le=64,
    )
    max_id_len: int = _setting(
        128, "Longest point id, in bytes of UTF-8.", "MAX_ID_LEN", ge=1, le=512
    )
    max_state_batch: int = _setting(
        256, "Most operations of one batch_put.", "MAX_STATE_BATCH", ge=1, le=100_000
    )
    max_vector_batch: int = _setting(
        256,
        "Most items of one upsert_batch or delete_batch in JSON.",
        "MAX_VECTOR_BATCH",
        ge=1,
        le=100_000,
    )
    max_doc_find: int = _setting(
        100, "Most documents of one find.", "MAX_DOC_FIND", ge=1, le=100_000
    )
    sqlite_enabled: bool = _setting(
        True,
        "Whether users may run SQL over HTTP.",
        "SQLITE_ENABLED",
        flag="--sqlite-enabled",
        expected="true or false",
    )
    sql_timeout_secs: int = _setting(
        10, "Seconds until a running statement is stopped.", "SQL_TIMEOUT_SECS", ge=1, le=86_400
    )
    max_sql_rows: int = _setting(
        10_000, "Most rows of one SQL answer; more are cut.", "MAX_SQL_ROWS", ge=1, le=10_000_000
    )
    max_sql_mb: int = _setting(
        16, "Most MiB of one SQL answer; more is cut.", "MAX_SQL_MB", ge=1, le=1024
    )
    rate_limit_per_sec: int | None = _setting(
        None,
        "Requests a second that one key may make; unset: any number.",
        "RATE_LIMIT_PER_SEC",
        expected="an integer from 1 to 1000000",
        ge=1,
        le=1_000_000,
    )
    test_vectors: bool = _setting(
        False,
        "Read the text TEST_VEC:1.0,0.0 of /search as a vector also where a key is asked for.",
        "TEST_VECTORS",
        expected="true or false",
    )
    embedder: Literal["none", "lsa", "http"] = _setting(
        "lsa",
        "What makes the vectors of `/search`: 'lsa' learns from its texts, 'http' is an endpoint.",
        "EMBEDDER",
        expected="'none', 'lsa' or 'http'",
    )
    embedder_url: str | None = _setting(
        None,
        "Of EMBEDDER=http: where `/v1/embeddings` is, as OpenAI and Ollama have it.",
        "EMBEDDER_URL",
        expected="http(s)://host[:port][/v1]",
        pattern=r"^https?://[^/\s?#@]+(/[^\s?#]*)?$",
    )
    embedder_model: str | None = _setting(
        None,
        "Of EMBEDDER=http: the model's name.",
        "EMBEDDER_MODEL",
        expected="a name",
        min_length=1,
    )
    embedder_api_key: str | None = _setting(
        None,
        "Of EMBEDDER=http: the key sent there.",
        "EMBEDDER_API_KEY",
        expected="printable ASCII without spaces",
        secret=True,
        pattern=r"^[\x21-\x7e]+$",
    )
    search_language: str = _setting(
        "en",
        "Language of the texts of `/search`: 'none', 'es', 'en' or another of Snowball's.",
        "SEARCH_LANGUAGE",
        expected="'none' or two letters",
        pattern=r"^(none|[a-z]{2})$",
    )
    slow_query_ms: int = _setting(
        1000,
        "Requests that take longer are logged as warnings; 0: none.",
        "SLOW_QUERY_MS",
        ge=0,
        le=86_400_000,
    )
    workers: int = _setting(
        1,
        "Processes that serve the one port over the one directory.",
        "LUMA_WORKERS",
        flag="--workers",
        ge=1,
        le=256,
    )
    log_format: Literal["text", "json"] = _setting(
        "text",
        "'json' logs one object a line.",
        "LUMA_LOG_FORMAT",
        expected="'text' or 'json'",
    )
    request_timeout_secs: int = _setting(
        30,
        "Seconds until an unfinished request is answered with 408; builds and streams are exempt.",
        "REQUEST_TIMEOUT_SECS",
        flag="--request-timeout-secs",
        ge=1,
        le=86_400,
    )
    event_retention_secs: int = _setting(
        7 * 86_400, "Events older than this are dropped.", "EVENT_RETENTION_SECS", ge=1, le=2**40
    )
    event_retention_events: int = _setting(
        10_000_000, "Most events kept.", "EVENT_RETENTION_EVENTS", ge=1, le=2**62
    )
    event_retention_bytes: int = _setting(
        1 << 30, "Most bytes of events kept.", "EVENT_RETENTION_BYTES", ge=1, le=2**62
    )
    diskann_max_degree: int = _setting(
        48,
        "Graph degree when diskann/build and tune name none.",
        "DISKANN_MAX_DEGREE",
        ge=4,
        le=1024,
    )
    diskann_build_list_size: int = _setting(
        100,
        "Candidate list of a build that names none.",
        "DISKANN_BUILD_LIST_SIZE",
        ge=8,
        le=65535,
    )
    diskann_search_list_size: int = _setting(
        64, "Stored search default when none is named.", "DISKANN_SEARCH_LIST_SIZE", ge=8, le=65535
    )
    diskann_build_threads: int = _setting(
        0,
        "Threads of a build that names none; 0 = all cores.",
        "DISKANN_BUILD_THREADS",
        ge=0,
        le=1024,
    )

    auto_index: bool = _setting(
        True,
        "Build the first index of a collection in the background once it has 10,000 rows.",
        "AUTO_INDEX",
        expected="true or false",
    )
    index_memory_mb: int | None = _setting(
        None,
        "MiB of memory an index that 'auto' picks may hold; unset: a quarter of the machine's.",
        "INDEX_MEMORY_MB",
        expected="an integer from 1 to 16777216",
        ge=1,
        le=1 << 24,
    )

    def __init__(self, **flags):
        for name in flags:
            if name not in type(self).model_fields:
                raise UnknownName("setting", name, type(self).model_fields)
        try:
            super().__init__(**flags)
        except ValidationError as error:
            raise InvalidArgument(_explain(error, flags)) from None
        except (UnicodeDecodeError, OSError) as error:
            raise InvalidArgument(f".env can't be read as UTF-8 text: {error}") from None
        self._check_together()

    @classmethod
    def settings_customise_sources(
        cls, settings_cls, init_settings, env_settings, dotenv_settings, file_secret_settings
    ):
        # One source that knows every name of a setting: pydantic's own would let an alias in
        # `.env` win over another alias in the environment.
        return init_settings, _Named(cls, env_settings.env_vars, dotenv_settings.env_vars)

    def _check_together(self):
        if self.max_json_mb > self.max_body_mb:
            raise InvalidArgument(
                f"MAX_JSON_MB is {self.max_json_mb}: expected at most MAX_BODY_MB, which is "
                f"{self.max_body_mb}"
            )
        for name in ("embedder_url", "embedder_model"):
            if self.embedder == "http" and getattr(self, name) is None:
                raise InvalidArgument(f"{name.upper()} is missing: EMBEDDER=http needs it")
        if not _is_address(self.bind):
            raise InvalidArgument(
                f"BIND_ADDR (--bind) is {self.bind!r}: expected an IP address or 'localhost'"
            )
        if self.unguarded and not self.insecure and not is_loopback(self.bind):
            cause = "AUTH is 'open'" if self.auth == "open" else "the API key is 'dev'"
            raise InvalidArgument(
                f"BIND_ADDR (--bind) is {self.bind!r} while {cause}: expected a loopback address; "
                "set API_KEY to a key of your own, or add --insecure to serve it all the same"
            )

    @property
    def unguarded(self):
        """Whether anyone who reaches the port gets in: the key is `dev` or auth is open."""
        return self.auth == "open" or self.api_key == DEFAULT_KEY

    @property
    def loopback_only(self):
        """Whether only loopback Host headers and CORS origins are served."""
        return self.unguarded and not self.insecure

    @property
    def max_body_bytes(self):
        """MAX_BODY_MB in bytes."""
        return self.max_body_mb * MEGABYTE

    @property
    def index_memory_bytes(self):
        """INDEX_MEMORY_MB in bytes, or None."""
        return None if self.index_memory_mb is None else self.index_memory_mb * MEGABYTE

    @property
    def max_sql_bytes(self):
        """MAX_SQL_MB in bytes."""
        return self.max_sql_mb * MEGABYTE

    @property
    def max_json_bytes(self):
        """MAX_JSON_MB in bytes."""
        return self.max_json_mb * MEGABYTE

    @property
    def cors_origins(self):
        """The allowed origins as a tuple, lower case, or None when any is allowed."""
        if self.cors_allowed_origins is None:
            return None
        origins = tuple(o.strip().lower() for o in self.cors_allowed_origins.split(","))
        return None if "*" in origins else origins


class Setting(NamedTuple):
    """One row of the documented table of settings."""

    name: str
    env: tuple[str, ...]
    flag: str | None
    default: Any
    help: str


def _rows():
    for name, field in Settings.model_fields.items():
        extra = field.json_schema_extra
        yield Setting(name, extra["env"], extra["flag"], field.default, field.description)


SETTINGS = tuple(_rows())


def is_loopback(host):
    """Return whether `host` (a name or IP address, IPv6 with or without brackets) is loopback."""
    bare = host.strip("[]").rstrip(".").lower()
    if bare == "localhost":
        return True
    try:
        return ipaddress.ip_address(bare).is_loopback
    except ValueError:
        return False


def _is_address(host):
    try:
        return host == "localhost" or bool(ipaddress.ip_address(host))
    except ValueError:
        return False


class _Named(PydanticBaseSettingsSource):
    """Finds each setting under any of its names: the environment first, then `.env`."""

    def __init__(self, settings_cls, *places):
        super().__init__(settings_cls)
        self._places = places

    def get_field_value(self, field, field_name):
        for place in self._places:
            for variable in field.json_schema_extra["env"]:
                if place.get(variable) is not None:
                    return place[variable], field_name, False
        return None, field_name, False

    def __call__(self):
        found = {}
        for name, field in self.settings_cls.model_fields.items():
            value, _, _ = self.get_field_value(field, name)
            if value is not None:
                found[name] = value
        return found


def _explain(error, flags):
    return "; ".join(_explain_one(problem, flags) for problem in error.errors())


def _explain_one(problem, flags):
    name = str(problem["loc"][0]) if problem["loc"] else "settings"
    field = Settings.model_fields.get(name)
    if field is None:
        return f"{name}: {problem['msg']}"
    extra = field.json_schema_extra
    if name in flags:
        variable = extra["flag"] or name
    else:
        places = (os.environ, dotenv_values(Settings.model_config["env_file"]))
        known = [v for place in places for v in extra["env"] if place.get(v) is not None]
        variable = known[0] if known else extra["env"][0]
    value = "not usable" if not field.repr else repr(problem["input"])
    return f"{variable} is {value}: expected {extra['expected'] or _expected(field)}"


def _expected(field):
    low, high = (
        next((getattr(m, side) for m in field.metadata if hasattr(m, side)), None)
        for side in ("ge", "le")
    )
    return f"an integer from {low} to {high}"
