"""API keys: a file of their own beside the lab, which SQL of users can never open.

Only the SHA-256 of a key is stored: 256 random bits need no slow hash. Every look-up first asks
SQLite whether another process changed the file (``PRAGMA data_version``), so a key revoked
anywhere stops everywhere with the next request.
"""

import hashlib
import hmac
import os
import re
import secrets
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw

from luma_lab import codec
from luma_lab.errors import (
    ApiKeyNotFound,
    CorruptStore,
    InvalidArgument,
    NewerFormat,
    UnknownName,
)
from luma_lab.store.database import sqlite_errors

FILE_NAME = "keys.db"
APPLICATION_ID = 0x4C756D6B  # "Lumk"
FORMAT_VERSION = 1
PREFIX = "rk_live_"
ROLES = ("read", "write", "admin")
SCOPES = ("collections", "key_prefixes")
MAX_NAME_BYTES = 128
MAX_SCOPES = 100
BUSY_MS = 10_000
ID_PATTERN = re.compile(r"[0-9a-f]{16}")
_SCHEMA = """
CREATE TABLE keys (
    id TEXT PRIMARY KEY,
    hash BLOB NOT NULL UNIQUE,
    name TEXT NOT NULL,
    role TEXT NOT NULL,
    permissions TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A stored key, without its secret. `permissions` is ``{}`` (all) or the scopes."""

    id: str
    name: str
    role: str
    permissions: dict[str, Any]
    created_at_ms: int


class KeyStore:
    """The keys of one lab directory.

    Parameters
    ----------
    directory : path
        Where ``keys.db`` lies; it is created with the first key.

    Raises
    ------
    CorruptStore, NewerFormat
        The file can't be used; nobody gets in then.
    """

    def __init__(self, directory):
        self._path = Path(directory) / FILE_NAME
        self._lock = threading.Lock()
        self._connection = None
        self._version = None
        self._by_hash = {}
        self._by_id = {}

    def create(self, name, role="write", permissions=None):
        """Store a new key; return (id, key), of which the key is shown this once.

        Parameters
        ----------
        name : str
            1 to 128 bytes, for people.
        role : {"read", "write", "admin"}
            "user" means "write".
        permissions : dict, optional
            ``{"collections": ["a", "b*"], "key_prefixes": ["x:"]}`` confines the key; with one
            of them the other, left out, allows nothing. ``{}`` and ``{"allow": "*"}``: all.

        Raises
        ------
        InvalidArgument, UnknownName
        """
        role, permissions = check_rights(name, role, permissions)
        token = PREFIX + secrets.token_urlsafe(32)
        id = secrets.token_hex(8)
        row = (id, _digest(token.encode()), name, role, codec.encode(permissions).decode())
        with self._lock:
            self._write(
                "INSERT INTO keys VALUES (?, ?, ?, ?, ?, ?)", (*row, time.time_ns() // 1_000_000)
            )
        return id, token

    def list(self):
        """Return every `ApiKey`, newest first."""
        with self._lock:
            self._refresh()
            keys = list(self._by_id.values())
        return sorted(keys, key=lambda key: (-key.created_at_ms, key.id))

    def get(self, id):
        """Return the `ApiKey` with an id, or None when there is none any more."""
        with self._lock:
            self._refresh()
            return self._by_id.get(id)

    def find(self, token):
        """Return the `ApiKey` whose secret is `token` (bytes), or None."""
        digest = _digest(token)
        with self._lock:
            self._refresh()
            found = self._by_hash.get(digest)
        if found is None:
            return None
        stored, key = found
        return key if hmac.compare_digest(stored, digest) else None

    def revoke(self, id):
        """Delete a key; raise `ApiKeyNotFound`."""
        with self._lock:
            if not self._write("DELETE FROM keys WHERE id = ?", (id,)):
                raise ApiKeyNotFound(id)

    def rotate(self, id):
        """Give a key a new secret and return it; the old one stops at once."""
        token = PREFIX + secrets.token_urlsafe(32)
        with self._lock:
            digest = _digest(token.encode())
            if not self._write("UPDATE keys SET hash = ? WHERE id = ?", (digest, id)):
                raise ApiKeyNotFound(id)
        return token

    def fingerprint(self, id):
        """Return what changes when a key is rotated, None when it is gone."""
        with self._lock:
            self._refresh()
            return next((h for h, key in self._by_hash.values() if key.id == id), None)

    def close(self):
        """Close the file."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _refresh(self):
        if self._connection is None:
            if not self._path.exists():
                return
            self._open()
        with sqlite_errors(self._path):
            version = self._connection.pragma("data_version")
            if version != self._version:
                self._read()
                self._version = version

    def _read(self):
        by_hash, by_id = {}, {}
        for id, digest, name, role, permissions, created in self._connection.execute(
            "SELECT id, hash, name, role, permissions, created_at_ms FROM keys"
        ):
            key = ApiKey(id, name, role, codec.decode(permissions), created)
            if role not in ROLES or not isinstance(key.permissions, dict):
                raise CorruptStore(f"{FILE_NAME}: key {id!r} is damaged: revoke it")
            by_hash[digest], by_id[id] = (digest, key), key
        self._by_hash, self._by_id = by_hash, by_id

    def _write(self, sql, bindings):
        if self._connection is None:
            self._open()
        with sqlite_errors(self._path):
            self._connection.execute(sql, bindings)
            changed = self._connection.changes() > 0
            self._read()  # data_version tells of others' writes only
        return changed

    def _open(self):
        if not self._path.exists():
            # Nobody but the owner may read it; SQLite's side files take the same mode.
            os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
        with sqlite_errors(self._path):
            connection = apsw.Connection(str(self._path))
            try:
                connection.set_busy_timeout(BUSY_MS)
                connection.execute("PRAGMA journal_mode=WAL").fetchall()
                connection.execute("PRAGMA synchronous=FULL").fetchall()
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
        self._connection = connection

    def _prepare(self, connection):
        connection.execute("BEGIN IMMEDIATE")
        try:
            version = connection.pragma("user_version")
            if version > FORMAT_VERSION:
                raise NewerFormat(f"{self._path} has format {version}: upgrade luma_lab")
            if version == 0:
                if connection.execute("SELECT count(*) FROM sqlite_schema").get:
                    raise CorruptStore(f"{self._path} is no key store")
                connection.execute(_SCHEMA).fetchall()
                connection.execute(f"PRAGMA application_id={APPLICATION_ID}").fetchall()
                connection.execute(f"PRAGMA user_version={FORMAT_VERSION}").fetchall()
            elif connection.pragma("application_id") != APPLICATION_ID:
                raise CorruptStore(f"{self._path} is no key store")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def check_rights(name, role, permissions):
    """Return (role, permissions) as they are stored; raise on anything not understood.

    A misspelt scope must never mean "all".
    """
    if not isinstance(name, str) or not 1 <= len(name.encode("utf-8", "replace")) <= MAX_NAME_BYTES:
        raise InvalidArgument(f"name is {name!r}: expected 1 to {MAX_NAME_BYTES} bytes of text")
    if not name.isprintable():
        raise InvalidArgument(f"name is {name!r}: expected printable text")
    role = "write" if role == "user" else role
    if role not in ROLES:
        raise UnknownName("role", role, (*ROLES, "user"))
    if permissions is None or permissions == {"allow": "*"}:
        permissions = {}
    if not isinstance(permissions, dict):
        raise InvalidArgument(f"permissions is {permissions!r}: expected an object")
    for scope, names in permissions.items():
        if scope not in SCOPES:
            raise UnknownName("permission", scope, SCOPES)
        if (
            not isinstance(names, list)
            or len(names) > MAX_SCOPES
            or not all(isinstance(n, str) and 1 <= len(n) <= 512 for n in names)
        ):
            raise InvalidArgument(
                f"permissions.{scope} is {names!r}: expected a list of at most {MAX_SCOPES} names"
            )
    if permissions and role == "admin":
        raise InvalidArgument("a key with the role 'admin' can't be confined: choose another role")
    return role, permissions


def _digest(token):
    return hashlib.sha256(token).digest()
