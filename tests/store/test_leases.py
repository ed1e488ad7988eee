"""Leases: one owner at a time, until it gives back or its heart stops."""

import apsw
import pytest

from luma_lab.errors import LeaseHeld
from luma_lab.store import leases
from luma_lab.store.schema import SCHEMA


@pytest.fixture
def connection():
    connection = apsw.Connection(":memory:")
    connection.execute(SCHEMA)
    return connection


def test_a_lease_is_refused_to_others_and_the_refusal_names_the_owner(connection):
    leases.take(connection, "build:1", "me:1", 1000)
    with pytest.raises(LeaseHeld, match=f"me:1 until {1000 + leases.LEASE_MS}"):
        leases.take(connection, "build:1", "you:1", 1000 + leases.LEASE_MS - 1)
    leases.take(connection, "build:2", "you:1", 1000)
    assert leases.holder(connection, "build:1", 1000) == "me:1"


def test_an_expired_lease_is_taken_over(connection):
    leases.take(connection, "build:1", "me:1", 1000)
    leases.take(connection, "build:1", "you:1", 1000 + leases.LEASE_MS)
    assert leases.holder(connection, "build:1", 1001 + leases.LEASE_MS) == "you:1"


def test_a_heartbeat_keeps_every_lease_of_its_owner_and_no_other(connection):
    leases.take(connection, "a", "me:1", 1000)
    leases.take(connection, "b", "me:2", 1000)
    leases.take(connection, "c", "mean:1", 1000)
    leases.renew_all(connection, "me", 5000)
    late = 1000 + leases.LEASE_MS
    assert [leases.holder(connection, n, late) for n in "abc"] == ["me:1", "me:2", None]


def test_a_lease_is_given_back_only_by_its_owner(connection):
    leases.take(connection, "a", "me:1", 1000)
    leases.release(connection, "a", "you:1")
    assert leases.holder(connection, "a", 1001) == "me:1"
    leases.release(connection, "a", "me:1")
    assert leases.holder(connection, "a", 1001) is None
    leases.take(connection, "a", "you:1", 1001)


def test_its_owner_may_take_a_lease_again(connection):
    leases.take(connection, "a", "me:1", 1000)
    leases.take(connection, "a", "me:1", 5000)
    assert leases.holder(connection, "a", 4999 + leases.LEASE_MS) == "me:1"
