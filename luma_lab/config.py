"""Settings of the server: command line, then environment, then `.env`, then the defaults here.

`Settings` is the one place where a setting has a name, a default, a range and a sentence of
help; `SETTINGS` is the same as plain rows, for `luma serve --help`, the README and tests.
Only the command line and the service import this module: pydantic is slow to load.
"""

import ipaddress
from typing import Literal

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from luma_lab.config_fields import NamedSource, explain, rows_of, setting
from luma_lab.config_fields import Setting as Setting
from luma_lab.errors import InvalidArgument, UnknownName

DEFAULT_KEY = "dev"
MEGABYTE = 1024 * 1024


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

    port: int = setting(
        8080,
        "TCP port of REST, streams and the workbench; 0 takes any free one.",
        ("PORT_LUMA_VDB", "LUMA_PORT", "PORT"),
        flag="--port",
        ge=0,
        le=65535,
    )
    bind: str = setting(
        "127.0.0.1",
        "Address to listen on.",
        "BIND_ADDR",
        flag="--bind",
        expected="an IP address or 'localhost'",
    )
    api_key: str = setting(
        DEFAULT_KEY,
        "The key clients must send; with the default only loopback is served.",
        ("LUMA_API_KEY", "API_KEY"),
        expected="a key of printable ASCII without spaces (or AUTH=open for none)",
        secret=True,
        pattern=r"^[\x21-\x7e]+$",
    )
    auth: Literal["key", "open"] = setting(
        "key",
        "'key' asks every client for the key; 'open' asks nobody (a laboratory on loopback).",
        "AUTH",
        flag="--auth",
        expected="'key' or 'open'",
    )
    insecure: bool = setting(
        False,
        "Serve beyond loopback although the key is 'dev' or AUTH=open.",
        "LUMA_INSECURE",
        flag="--insecure",
        expected="true or false",
    )
    data_dir: str = setting(
        "./data",
        "The lab's directory; created when missing.",
        "DATA_DIR",
        flag="--data-dir",
        expected="a path",
        min_length=1,
    )
    log_level: Literal["debug", "info", "warning", "error"] = setting(
        "warning",
        "What is logged to standard error; 'info' has a line for each request.",
        "LUMA_LOG_LEVEL",
        flag="--log-level",
        expected="'debug', 'info', 'warning' or 'error'",
    )
    cors_allowed_origins: str | None = setting(
        None,
        "Comma list of origins that browsers may call from; unset: any (on loopback: loopback).",
        "CORS_ALLOWED_ORIGINS",
        expected="origins such as https://example.org, separated by commas, or *",
        pattern=r"^\s*(\*|https?://[^,/\s]+)(\s*,\s*(\*|https?://[^,/\s]+))*\s*$",
    )
    max_body_mb: int = setting(
        100, "Largest request body, in MiB.", "MAX_BODY_MB", flag="--max-body-mb", ge=1, le=65536
    )
    max_json_mb: int = setting(
        100,
        "Largest value, meta or filter as compact JSON, in MiB; at most MAX_BODY_MB.",
        "MAX_JSON_MB",
        flag="--max-json-mb",
        ge=1,
        le=65536,
    )
    max_vector_dim: int = setting(
        4096,
        "Most components of a vector.",
        "MAX_VECTOR_DIM",
        flag="--max-vector-dim",
        ge=1,
        le=65535,
    )
    max_k: int = setting(
        256, "Most hits of one search.", "MAX_K", flag="--max-k", ge=1, le=1_000_000
    )
    max_key_len: int = setting(
        512,
        "Longest state key or prefix, in bytes of UTF-8.",
        "MAX_KEY_LEN",
        flag="--max-key-len",
        ge=1,
        le=512,
    )
    max_collection_len: int = setting(
        64,
        "Longest collection name, in bytes.",
        "MAX_COLLECTION_LEN",
        flag="--max-collection-len",
        ge=1,
        le=64,
    )
    max_id_len: int = setting(
        128, "Longest point id, in bytes of UTF-8.", "MAX_ID_LEN", ge=1, le=512
    )
    max_state_batch: int = setting(
        256, "Most operations of one batch_put.", "MAX_STATE_BATCH", ge=1, le=100_000
    )
    max_vector_batch: int = setting(
        256,
        "Most items of one upsert_batch or delete_batch in JSON.",
        "MAX_VECTOR_BATCH",
        ge=1,
        le=100_000,
    )
    max_doc_find: int = setting(
        100, "Most documents of one find.", "MAX_DOC_FIND", ge=1, le=100_000
    )
    sqlite_enabled: bool = setting(
        True,
        "Whether users may run SQL over HTTP.",
        "SQLITE_ENABLED",
        flag="--sqlite-enabled",
        expected="true or false",
    )
    sql_timeout_secs: int = setting(
        10, "Seconds until a running statement is stopped.", "SQL_TIMEOUT_SECS", ge=1, le=86_400
    )
    max_sql_rows: int = setting(
        10_000, "Most rows of one SQL answer; more are cut.", "MAX_SQL_ROWS", ge=1, le=10_000_000
    )
    max_sql_mb: int = setting(
        16, "Most MiB of one SQL answer; more is cut.", "MAX_SQL_MB", ge=1, le=1024
    )
    rate_limit_per_sec: int | None = setting(
        None,
        "Requests a second that one key may make; unset: any number.",
        "RATE_LIMIT_PER_SEC",
        expected="an integer from 1 to 1000000",
        ge=1,
        le=1_000_000,
    )
    test_vectors: bool = setting(
        False,
        "Read the text TEST_VEC:1.0,0.0 of /search as a vector also where a key is asked for.",
        "TEST_VECTORS",
        expected="true or false",
    )
    embedder: Literal["none", "lsa", "http"] = setting(
        "lsa",
        "What makes the vectors of `/search`: 'lsa' learns from its texts, 'http' is an endpoint.",
        "EMBEDDER",
        expected="'none', 'lsa' or 'http'",
    )
    embedder_url: str | None = setting(
        None,
        "Of EMBEDDER=http: where `/v1/embeddings` is, as OpenAI and Ollama have it.",
        "EMBEDDER_URL",
        expected="http(s)://host[:port][/v1]",
        pattern=r"^https?://[^/\s?#@]+(/[^\s?#]*)?$",
    )
    embedder_model: str | None = setting(
        None,
        "Of EMBEDDER=http: the model's name.",
        "EMBEDDER_MODEL",
        expected="a name",
        min_length=1,
    )
    embedder_api_key: str | None = setting(
        None,
        "Of EMBEDDER=http: the key sent there.",
        "EMBEDDER_API_KEY",
        expected="printable ASCII without spaces",
        secret=True,
        pattern=r"^[\x21-\x7e]+$",
    )
    search_language: str = setting(
        "en",
        "Language of the texts of `/search`: 'none', 'es', 'en' or another of Snowball's.",
        "SEARCH_LANGUAGE",
        expected="'none' or two letters",
        pattern=r"^(none|[a-z]{2})$",
    )
    slow_query_ms: int = setting(
        1000,
        "Requests that take longer are logged as warnings; 0: none.",
        "SLOW_QUERY_MS",
        ge=0,
        le=86_400_000,
    )
    workers: int = setting(
        1,
        "Processes that serve the one port over the one directory.",
        "LUMA_WORKERS",
        flag="--workers",
        ge=1,
        le=256,
    )
    log_format: Literal["text", "json"] = setting(
        "text",
        "'json' logs one object a line.",
        "LUMA_LOG_FORMAT",
        expected="'text' or 'json'",
    )
    request_timeout_secs: int = setting(
        30,
        "Seconds until an unfinished request is answered with 408; builds and streams are exempt.",
        "REQUEST_TIMEOUT_SECS",
        flag="--request-timeout-secs",
        ge=1,
        le=86_400,
    )
    event_retention_secs: int = setting(
        7 * 86_400, "Events older than this are dropped.", "EVENT_RETENTION_SECS", ge=1, le=2**40
    )
    event_retention_events: int = setting(
        10_000_000, "Most events kept.", "EVENT_RETENTION_EVENTS", ge=1, le=2**62
    )
    event_retention_bytes: int = setting(
        1 << 30, "Most bytes of events kept.", "EVENT_RETENTION_BYTES", ge=1, le=2**62
    )
    diskann_max_degree: int = setting(
        48,
        "Graph degree when diskann/build and tune name none.",
        "DISKANN_MAX_DEGREE",
        ge=4,
        le=1024,
    )
    diskann_build_list_size: int = setting(
        100,
        "Candidate list of a build that names none.",
        "DISKANN_BUILD_LIST_SIZE",
        ge=8,
        le=65535,
    )
    diskann_search_list_size: int = setting(
        64, "Stored search default when none is named.", "DISKANN_SEARCH_LIST_SIZE", ge=8, le=65535
    )
    diskann_build_threads: int = setting(
        0,
        "Threads of a build that names none; 0 = all cores.",
        "DISKANN_BUILD_THREADS",
        ge=0,
        le=1024,
    )

    auto_index: bool = setting(
        True,
        "Build the first index of a collection in the background once it has 10,000 rows.",
        "AUTO_INDEX",
        expected="true or false",
    )
    index_memory_mb: int | None = setting(
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
            raise InvalidArgument(explain(error, type(self), flags)) from None
        except (UnicodeDecodeError, OSError) as error:
            raise InvalidArgument(f".env can't be read as UTF-8 text: {error}") from None
        self._check_together()

    @classmethod
    def settings_customise_sources(
        cls, settings_cls, init_settings, env_settings, dotenv_settings, file_secret_settings
    ):
        # One source that knows every name of a setting: pydantic's own would let an alias in
        # `.env` win over another alias in the environment.
        return init_settings, NamedSource(cls, env_settings.env_vars, dotenv_settings.env_vars)

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


SETTINGS = rows_of(Settings)


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
