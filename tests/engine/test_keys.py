"""API keys: hashed at rest, compared in constant time, gone everywhere once revoked."""

import hashlib
import hmac
import threading

import apsw
import pytest
from children import child, tell

from luma_lab.engine import keys
from luma_lab.engine.keys import KeyStore, check_rights
from luma_lab.errors import (
    ApiKeyNotFound,
    CorruptStore,
    InvalidArgument,
    LumaError,
    NewerFormat,
    UnknownName,
)


@pytest.fixture
def store(tmp_path):
    store = KeyStore(tmp_path)
    yield store
    store.close()


def test_no_file_is_made_before_the_first_key(store, tmp_path):
    assert (store.list(), store.find(b"x"), store.get("x"), store.fingerprint("x")) == (
        [], None, None, None,
    )  # fmt: skip
    assert list(tmp_path.iterdir()) == []
    store.create("a")
    assert (tmp_path / keys.FILE_NAME).exists()


def test_a_key_is_random_shown_once_and_found_by_its_secret_only(store):
    made = [store.create("same name") for _ in range(20)]
    assert len({id for id, _ in made}) == len({token for _, token in made}) == 20
    for id, token in made:
        assert token.startswith("rk_live_") and len(token) == len("rk_live_") + 43
        assert keys.ID_PATTERN.fullmatch(id)
        assert store.find(token.encode()).id == id
        assert token not in repr(store.find(token.encode()))
        for other in (token[:-1], token + "x", token.upper(), id, ""):
            assert store.find(other.encode()) is None


def test_only_the_hash_is_at_rest(store, tmp_path):
    id, token = store.create("a")
    rotated = store.rotate(id)
    store.close()
    connection = apsw.Connection(str(tmp_path / keys.FILE_NAME))
    [(stored,)] = connection.execute("SELECT hash FROM keys").fetchall()
    connection.close()
    assert stored == hashlib.sha256(rotated.encode()).digest()
    for file in tmp_path.iterdir():
        content = file.read_bytes()
        for secret in (token, rotated):
            assert secret.encode() not in content and secret[8:].encode() not in content
        assert file.stat().st_mode & 0o077 == 0


def test_digests_are_compared_in_constant_time(store, monkeypatch):
    _, token = store.create("a")
    compared = []
    real = hmac.compare_digest

    def recorded(one, other):
        compared.append((one, other))
        return real(one, other)

    monkeypatch.setattr(keys.hmac, "compare_digest", recorded)
    assert store.find(token.encode()) is not None
    digest = hashlib.sha256(token.encode()).digest()
    assert compared == [(digest, digest)]
    monkeypatch.setattr(keys.hmac, "compare_digest", lambda one, other: False)
    assert store.find(token.encode()) is None, "the comparison has the last word"


def test_rotation_keeps_the_key_and_replaces_its_secret(store):
    rights = {"collections": ["a"]}
    id, old = store.create("bob", "read", rights)
    before, mark = store.get(id), store.fingerprint(id)
    new = store.rotate(id)
    assert store.find(old.encode()) is None
    assert store.find(new.encode()) == store.get(id) == before
    assert store.fingerprint(id) not in (None, mark)
    assert (before.name, before.role, before.permissions) == ("bob", "read", rights)


def test_a_revoked_key_is_gone_and_others_stay(store):
    (first, token), (second, other) = store.create("a"), store.create("b")
    store.revoke(first)
    assert store.find(token.encode()) is store.get(first) is store.fingerprint(first) is None
    assert store.find(other.encode()).id == second
    for call in (store.revoke, store.rotate):
        with pytest.raises(ApiKeyNotFound, match="key id not found"):
            call(first)
    assert [key.id for key in store.list()] == [second]


def test_the_list_has_the_newest_first(store, monkeypatch):
    now = iter(range(5_000_000, 50_000_000, 5_000_000))
    monkeypatch.setattr(keys.time, "time_ns", lambda: next(now))
    ids = [store.create(str(n))[0] for n in range(4)]
    assert [key.id for key in store.list()] == ids[::-1]
    assert [key.created_at_ms for key in store.list()] == [20, 15, 10, 5]


OTHER = """
import sys
from luma_lab.engine.keys import KeyStore
store = KeyStore(sys.argv[1])
for line in sys.stdin:
    work, *rest = line.split()
    if work == "find":
        key = store.find(rest[0].encode())
        print(key and key.id, flush=True)
    elif work == "create":
        print(*store.create(*rest), flush=True)
    else:
        print(getattr(store, work)(*rest), flush=True)
"""


def test_what_another_process_does_to_a_key_holds_with_the_next_request(store, tmp_path):
    with child(OTHER, tmp_path) as other:
        id, token = store.create("mine")
        assert tell(other, f"find {token}") == id
        rotated = tell(other, f"rotate {id}")
        assert store.find(token.encode()) is None
        assert store.find(rotated.encode()).id == id
        assert tell(other, f"revoke {id}") == "None"
        assert store.find(rotated.encode()) is store.fingerprint(id) is None
        theirs, secret = tell(other, "create theirs read").split()
        assert store.find(secret.encode()).role == "read"
        store.revoke(theirs)
        assert tell(other, f"find {secret}") == "None"


def test_threads_share_one_store(store):
    made, faults = [], []

    def work(n):
        try:
            for i in range(5):
                id, token = store.create(f"{n}-{i}")
                assert store.find(token.encode()).id == id
                made.append(id)
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not faults and {key.id for key in store.list()} == set(made) and len(made) == 20


@pytest.mark.parametrize(
    ("permissions", "stored"),
    [
        (None, {}),
        ({}, {}),
        ({"allow": "*"}, {}),
        ({"collections": []}, {"collections": []}),
        ({"key_prefixes": ["x:"]}, {"key_prefixes": ["x:"]}),
        ({"collections": ["a*"], "key_prefixes": []}, {"collections": ["a*"], "key_prefixes": []}),
    ],
)
def test_scopes_are_stored_as_they_are_meant(store, permissions, stored):
    id, _ = store.create("a", "user", permissions)
    assert (store.get(id).role, store.get(id).permissions) == ("write", stored)


@pytest.mark.parametrize(
    ("name", "role", "permissions", "kind", "words"),
    [
        ("", "read", None, InvalidArgument, "1 to 128 bytes"),
        ("é" * 65, "read", None, InvalidArgument, "1 to 128 bytes"),
        (5, "read", None, InvalidArgument, "1 to 128 bytes"),
        ("a\nb", "read", None, InvalidArgument, "printable"),
        ("a\u202eb", "read", None, InvalidArgument, "printable"),
        ("a", "root", None, UnknownName, "role"),
        ("a", "Admin", None, UnknownName, "did you mean 'admin'"),
        ("a", None, None, UnknownName, "role"),
        ("a", "read", [], InvalidArgument, "expected an object"),
        ("a", "read", {"collection": ["a"]}, UnknownName, "did you mean 'collections'"),
        ("a", "read", {"allow": "none"}, UnknownName, "allow"),
        ("a", "read", {"allow": "*", "collections": ["a"]}, UnknownName, "allow"),
        ("a", "read", {"collections": "a"}, InvalidArgument, "a list"),
        ("a", "read", {"collections": [""]}, InvalidArgument, "a list"),
        ("a", "read", {"collections": [None]}, InvalidArgument, "a list"),
        ("a", "read", {"key_prefixes": ["x" * 513]}, InvalidArgument, "a list"),
        ("a", "read", {"key_prefixes": ["x"] * 101}, InvalidArgument, "at most 100"),
        ("a", "admin", {"collections": ["a"]}, InvalidArgument, "can't be confined"),
    ],
)
def test_rights_that_are_not_understood_make_no_key(store, name, role, permissions, kind, words):
    with pytest.raises(kind, match=words):
        check_rights(name, role, permissions)
    with pytest.raises(kind):
        store.create(name, role, permissions)
    assert store.list() == []


def damage(path, *statements):
    connection = apsw.Connection(str(path))
    for sql in statements:
        connection.execute(sql).fetchall()
    connection.close()


@pytest.mark.parametrize(
    ("statements", "kind"),
    [
        (("PRAGMA user_version = 9",), NewerFormat),
        (("PRAGMA application_id = 1",), CorruptStore),
        (("UPDATE keys SET role = 'root'",), CorruptStore),
        (("UPDATE keys SET permissions = '[]'",), CorruptStore),
        (("DROP TABLE keys",), LumaError),
    ],
)
def test_a_file_that_can_not_be_understood_lets_nobody_in(tmp_path, statements, kind):
    first = KeyStore(tmp_path)
    _, token = first.create("a")
    first.close()
    damage(tmp_path / keys.FILE_NAME, *statements)
    store = KeyStore(tmp_path)
    for call in (lambda: store.find(token.encode()), store.list, lambda: store.find(b"x")):
        with pytest.raises(kind):
            call()
    store.close()


def test_another_database_in_its_place_is_not_taken_for_keys(tmp_path):
    damage(tmp_path / keys.FILE_NAME, "CREATE TABLE t (a)")
    store = KeyStore(tmp_path)
    with pytest.raises(CorruptStore, match="no key store"):
        store.create("a")
    store.close()
