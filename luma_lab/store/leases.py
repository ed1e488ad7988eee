"""Leases: who may do work that is not a write (saving an index, sweeping) until when."""

from luma_lab.errors import LeaseHeld

HEARTBEAT_SECS = 2.0
LEASE_MS = 10_000


def take(connection, name, owner, now_ms):
    """Take or renew a lease inside a write transaction.

    Raises
    ------
    LeaseHeld
        Another owner has it and it has not expired.
    """
    held = connection.execute(
        "SELECT owner, expires_at_ms FROM luma_leases WHERE name=?", (name,)
    ).fetchone()
    if held and held[0] != owner and held[1] > now_ms:
        raise LeaseHeld(name, *held)
    connection.execute(
        "INSERT OR REPLACE INTO luma_leases VALUES (?, ?, ?)", (name, owner, now_ms + LEASE_MS)
    )


def renew_all(connection, owner, now_ms):
    """Push back the expiry of every lease held under ``owner:…``."""
    connection.execute(
        "UPDATE luma_leases SET expires_at_ms=? WHERE substr(owner, 1, ?) = ?",
        (now_ms + LEASE_MS, len(owner) + 1, owner + ":"),
    )


def release(connection, name, owner):
    """Give a lease back."""
    connection.execute("DELETE FROM luma_leases WHERE name=? AND owner=?", (name, owner))


def holder(connection, name, now_ms):
    """Return the owner of an unexpired lease, or None."""
    row = connection.execute(
        "SELECT owner FROM luma_leases WHERE name=? AND expires_at_ms > ?", (name, now_ms)
    ).fetchone()
    return row[0] if row else None


def owner(connection, name):
    """Return who took a lease last and did not give it back, expired or not, or None."""
    return connection.execute("SELECT owner FROM luma_leases WHERE name=?", (name,)).get
