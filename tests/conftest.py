"""Fixtures shared by all rooms: labs that must not leak, a clock moved by hand."""

import os
import threading
from pathlib import Path

import pytest
from hand_clock import HandClock
from spread import pytest_cmdline_main, pytest_collection_modifyitems  # noqa: F401

from luma_lab.engine.lab import Lab


def luma_threads():
    return {t for t in threading.enumerate() if t.name.startswith("luma-")}


def open_files(path):
    """Return what this process holds open for writing below `path`, by name.

    Read-only descriptors belong to mapped arrays, which live as long as someone uses them.
    """
    names = []
    for entry in os.listdir("/proc/self/fd"):
        try:
            name = os.readlink(f"/proc/self/fd/{entry}")
            info = Path(f"/proc/self/fdinfo/{entry}").read_text()
        except OSError:
            continue
        flags = int(info.split("flags:")[1].split()[0], 8)
        if name.startswith(str(path)) and flags & os.O_ACCMODE != os.O_RDONLY:
            names.append(name)
    return sorted(names)


@pytest.fixture
def clock():
    return HandClock()


@pytest.fixture
def path(tmp_path):
    """The directory of a lab on disk; whatever opened it must be closed at the end."""
    before = luma_threads()
    yield tmp_path / "lab"
    assert luma_threads() <= before, "a lab was left open"
    assert open_files(tmp_path / "lab") == [], "files of a closed lab are still open"


@pytest.fixture
def lab_on_disk(path, clock):
    with Lab(path, clock=clock) as lab:
        yield lab


@pytest.fixture
def lab(clock):
    """A lab without a past or a future, whose time stands still."""
    before = luma_threads()
    with Lab(":memory:", clock=clock) as lab:
        yield lab
    assert luma_threads() <= before
    assert not lab.path.exists()
    assert open_files(lab.path) == []
