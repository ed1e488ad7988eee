"""Consumers: an acknowledgement is durable, never moves back, and is no event of its own."""

import threading

import pytest
from children import child, tell

from luma_lab.engine.lab import Lab
from luma_lab.errors import ConsumerNotFound, InvalidArgument
from luma_lab.types import Consumer


def publish(lab, count):
    for n in range(count):
        lab.events.publish("told", n)


def test_an_unknown_consumer_has_no_offset_and_the_first_ack_makes_it_known(lab):
    assert (lab.consumers.offset("a"), lab.consumers.list()) == (None, [])
    assert lab.consumers.ack("a", 0) == 0
    assert lab.consumers.offset("a") == 0
    assert lab.consumers.list() == [Consumer("a", 0, 0)]


def test_an_acknowledgement_holds_and_the_lag_is_what_follows_it(lab):
    publish(lab, 5)
    assert lab.consumers.ack("b", 2) == 2
    assert lab.consumers.ack("a", 5) == 5
    assert lab.consumers.list() == [Consumer("a", 5, 0), Consumer("b", 2, 3)]
    publish(lab, 1)
    assert lab.consumers.list() == [Consumer("a", 5, 1), Consumer("b", 2, 4)]


def test_an_acknowledgement_is_no_event(lab):
    publish(lab, 3)
    lab.consumers.ack("a", 3)
    lab.consumers.delete("a")
    assert lab.head == 3


def test_an_older_offset_changes_nothing(lab):
    publish(lab, 4)
    lab.consumers.ack("a", 3)
    for offset in (0, 2, 3):
        assert lab.consumers.ack("a", offset) == 3
        assert lab.consumers.offset("a") == 3
    assert lab.consumers.ack("a", 4) == 4


def test_nothing_beyond_the_head_can_be_acknowledged(lab):
    publish(lab, 2)
    lab.consumers.ack("a", 1)
    for offset in (3, 2**63, 2**80):
        with pytest.raises(InvalidArgument, match="the head of the log is 2"):
            lab.consumers.ack("a", offset)
        with pytest.raises(InvalidArgument):
            lab.consumers.ack("new", offset)
    assert lab.consumers.list() == [Consumer("a", 1, 1)]


@pytest.mark.parametrize("offset", [-1, 1.0, "1", None, True])
def test_an_offset_that_is_none_is_refused(lab, offset):
    with pytest.raises(InvalidArgument, match="expected an int of at least 0"):
        lab.consumers.ack("a", offset)
    assert lab.consumers.list() == []


@pytest.mark.parametrize("name", ["", ".a", "a/b", "a b", "é", "x" * 65, "a\n", None, 5])
def test_a_name_that_is_none_is_refused_everywhere(lab, name):
    for call in (lab.consumers.offset, lab.consumers.delete, lambda n: lab.consumers.ack(n, 0)):
        with pytest.raises(InvalidArgument, match="invalid consumer name"):
            call(name)
    assert lab.consumers.list() == []


def test_names_are_listed_in_order_and_are_told_apart(lab):
    names = ["a", "B", "a.b", "A", "_", "-x", "x" * 64]
    for name in names:
        lab.consumers.ack(name, 0)
    assert [c.name for c in lab.consumers.list()] == sorted(names)


def test_a_forgotten_consumer_starts_anew(lab):
    publish(lab, 3)
    lab.consumers.ack("a", 3)
    lab.consumers.delete("a")
    assert lab.consumers.offset("a") is None
    with pytest.raises(ConsumerNotFound, match="consumer not found: 'a'"):
        lab.consumers.delete("a")
    assert lab.consumers.ack("a", 1) == 1, "what it was is forgotten"


def test_acknowledgements_outlive_the_lab(path):
    with Lab(path) as lab:
        publish(lab, 9)
        lab.consumers.ack("a", 2)
    with Lab(path) as lab:
        assert lab.consumers.list() == [Consumer("a", 2, 7)]


def test_many_threads_that_acknowledge_leave_the_greatest(lab):
    publish(lab, 40)
    threads = [
        threading.Thread(target=lab.consumers.ack, args=("a", offset)) for offset in range(41)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert lab.consumers.offset("a") == 40


OTHER = """
import sys, luma_lab as luma
with luma.open(sys.argv[1]) as lab:
    for line in sys.stdin:
        work, *rest = line.split()
        if work == "ack":
            print(lab.consumers.ack(rest[0], int(rest[1])), flush=True)
        elif work == "offset":
            print(lab.consumers.offset(rest[0]), flush=True)
        else:
            lab.consumers.delete(rest[0])
            print("deleted", flush=True)
"""


def test_a_consumer_goes_on_in_another_process(path):
    with Lab(path) as lab, child(OTHER, path) as other:
        publish(lab, 6)
        lab.consumers.ack("a", 2)
        assert tell(other, "offset a") == "2"
        assert tell(other, "ack a 5") == "5"
        assert lab.consumers.offset("a") == 5
        assert tell(other, "ack a 1") == "5"
        assert tell(other, "delete a") == "deleted"
        assert lab.consumers.list() == []
