import pytest

from luma_lab.config import SETTINGS, Settings, is_loopback
from luma_lab.errors import InvalidArgument

DEFAULTS = {
    "port": 8080,
    "bind": "127.0.0.1",
    "api_key": "dev",
    "auth": "key",
    "data_dir": "./data",
    "log_level": "warning",
    "max_body_mb": 100,
    "max_json_mb": 100,
    "max_vector_dim": 4096,
    "max_k": 256,
    "max_key_len": 512,
    "max_collection_len": 64,
    "max_id_len": 128,
    "max_state_batch": 256,
    "max_vector_batch": 256,
    "request_timeout_secs": 30,
    "cors_allowed_origins": None,
    "event_retention_secs": 604_800,
    "event_retention_events": 10_000_000,
    "event_retention_bytes": 1 << 30,
    "diskann_max_degree": 48,
    "diskann_search_list_size": 64,
}
BAD = [
    ("PORT_LUMA_VDB", "http", "an integer from 0 to 65535"),
    ("LUMA_PORT", "70000", "an integer from 0 to 65535"),
    ("PORT", "", "an integer from 0 to 65535"),
    ("BIND_ADDR", "nowhere.example", "an IP address or 'localhost'"),
    ("API_KEY", "", "printable ASCII"),
    ("LUMA_API_KEY", "two words", "printable ASCII"),
    ("AUTH", "none", "'key' or 'open'"),
    ("LUMA_INSECURE", "perhaps", "true or false"),
    ("DATA_DIR", "", "a path"),
    ("LUMA_LOG_LEVEL", "loud", "'debug', 'info', 'warning' or 'error'"),
    ("CORS_ALLOWED_ORIGINS", "example.org", "origins such as https://"),
    ("EMBEDDER", "bert", "'none', 'lsa' or 'http'"),
    ("EMBEDDER", "http", "EMBEDDER_URL is missing"),
    ("EMBEDDER_URL", "ftp://host", "http(s)://host"),
    ("EMBEDDER_MODEL", "", "a name"),
    ("EMBEDDER_API_KEY", "two words", "printable ASCII"),
    ("SEARCH_LANGUAGE", "spanish!", "'none' or two letters"),
    ("MAX_K", "0", "an integer from 1"),
    ("MAX_K", "12.5", "an integer from 1"),
    ("MAX_KEY_LEN", "513", "an integer from 1 to 512"),
    ("MAX_JSON_MB", "101", "at most MAX_BODY_MB"),
    ("EVENT_RETENTION_SECS", "-1", "an integer from 1"),
    ("DISKANN_MAX_DEGREE", "2", "an integer from 4 to 1024"),
]


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults_are_those_of_the_contract(name):
    assert getattr(Settings(), name) == DEFAULTS[name]


@pytest.mark.parametrize(("variable", "value", "expected"), BAD)
def test_a_bad_value_is_named_with_its_variable_and_what_was_expected(
    monkeypatch, variable, value, expected
):
    monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidArgument) as refused:
        Settings()
    message = str(refused.value)
    assert variable in message and expected in message and "pydantic" not in message
    if (value and "KEY" not in variable) or variable == "MAX_KEY_LEN":
        assert value in message


def test_a_bad_key_is_not_repeated_in_the_message(monkeypatch):
    monkeypatch.setenv("API_KEY", "hunter2 hunter2")
    with pytest.raises(InvalidArgument) as refused:
        Settings()
    assert "hunter2" not in str(refused.value)


def test_a_good_key_does_not_show_in_the_repr():
    assert "hunter2" not in repr(Settings(api_key="hunter2"))


def test_flags_win_over_the_environment_and_it_over_the_env_file(monkeypatch, tmp_path):
    (tmp_path / ".env").write_text("PORT_LUMA_VDB=1\nMAX_K=11\nMAX_ID_LEN=12\nOTHER=x\n")
    assert Settings().port == 1
    monkeypatch.setenv("PORT", "2")
    monkeypatch.setenv("MAX_K", "22")
    settings = Settings(max_k=33)
    assert (settings.port, settings.max_k, settings.max_id_len) == (2, 33, 12)


def test_the_more_specific_name_of_a_port_wins(monkeypatch):
    for value, variable in enumerate(("PORT", "LUMA_PORT", "PORT_LUMA_VDB"), start=1):
        monkeypatch.setenv(variable, str(value))
        assert Settings().port == value


def test_a_bad_value_in_the_env_file_is_named_too(tmp_path):
    (tmp_path / ".env").write_text("LUMA_PORT=x\n")
    with pytest.raises(InvalidArgument, match="LUMA_PORT is 'x'"):
        Settings()


def test_an_env_file_that_is_not_text_is_refused(tmp_path):
    (tmp_path / ".env").write_bytes(b"PORT=\xff\xfe\n")
    with pytest.raises(InvalidArgument, match=r"\.env"):
        Settings()


def test_an_unknown_setting_is_refused_with_a_suggestion():
    with pytest.raises(InvalidArgument, match="did you mean 'max_k'"):
        Settings(max_kk=1)


@pytest.mark.parametrize("address", ["0.0.0.0", "192.0.2.1", "::"])
def test_without_a_real_key_only_loopback_binds(address):
    for flags in ({}, {"auth": "open", "api_key": "secret"}):
        with pytest.raises(InvalidArgument, match="--insecure"):
            Settings(bind=address, **flags)
        assert Settings(bind=address, insecure=True, **flags).bind == address
    assert Settings(bind=address, api_key="secret").loopback_only is False


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("localhost", True),
        ("LOCALHOST.", True),
        ("::1", True),
        ("[::1]", True),
        ("0.0.0.0", False),
        ("localhost.example.org", False),
        ("127.0.0.1.example.org", False),
        ("", False),
    ],
)
def test_loopback_hosts_are_told_from_others(host, expected):
    assert is_loopback(host) is expected


def test_the_table_of_settings_has_a_row_for_each_with_help_and_a_variable():
    assert [row.name for row in SETTINGS] == list(Settings.model_fields)
    for row in SETTINGS:
        assert row.env and row.help.endswith(".")
        assert getattr(Settings(), row.name) == row.default
    variables = [variable for row in SETTINGS for variable in row.env]
    assert len(set(variables)) == len(variables)
