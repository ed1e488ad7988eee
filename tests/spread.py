"""How the suite is spread over processes: hooks that the conftest beside this file takes in.

pytest-xdist gives whole files to its workers, in the order of collection. So the files that
take longest come first: whichever worker is done early takes from what is left, and neither
waits long for the other. The very first one compiles all kernels into the cache that the workers
share; what is beside it needs none, so that hardly a kernel is compiled twice.
"""

import os
from pathlib import Path

import pytest

WORKERS = 2  # browsers, servers and killed processes want a core each
COMPILES_EVERYTHING = "tests/kernels/test_compile.py"
NEEDS_NO_KERNEL = (
    "tests/service/test_lab_browser.py",
    "tests/service/test_schemathesis.py",
    "tests/service/test_workers.py",
    "tests/widgets/test_widgets_notebook.py",
    "tests/service/test_openapi.py",
    "tests/service/test_attacks.py",
    "tests/service/test_eventsource_browser.py",
    "tests/service/test_stream_crowd.py",
    "tests/service/test_stream.py",
    "tests/service/test_stream_lag.py",
    "tests/engine/test_filters.py",
    "tests/store/test_checkpoint.py",
    "notebooks/05_state_ttl_and_leases.ipynb",
    "notebooks/06_events_and_replay.ipynb",
)
TAKES_LONG = (
    "tests/index/test_disk.py",
    "tests/test_cli.py",
    "tests/bench/test_bench_compare.py",
    "tests/index/test_disk_faults.py",
    "tests/kernels/test_int8.py",
    "tests/engine/test_sql_limits.py",
    "tests/widgets/test_widgets_browser.py",
    "tests/test_state_machine.py",
    "tests/bench/test_bench_text.py",
    "tests/service/test_route_table.py",
    "notebooks/01_first_search.ipynb",
    "notebooks/02_how_vamana_walks.ipynb",
    "notebooks/03_ivf_q8_and_memory.ipynb",
    "tests/index/test_ivf.py",
    "tests/test_crash.py",
    "tests/test_processes.py",
)
FIRST = (COMPILES_EVERYTHING, *NEEDS_NO_KERNEL, *TAKES_LONG)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """Ask pytest-xdist for workers, unless it is off or was told what to do, as by ``-n 0``."""
    option = config.option
    here = config.pluginmanager.hasplugin("xdist") and not hasattr(config, "workerinput")
    if not here or option.numprocesses is not None or option.dist != "no" or option.usepdb:
        return
    if all(Path(argument.split("::")[0]).is_file() for argument in config.args):
        return  # files asked for by name are done before workers have started
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if cores > 1:
        option.numprocesses = min(WORKERS, cores)
        option.dist, option.loadscopereorder = "loadfile", False


def pytest_collection_modifyitems(items):
    """Put the files of `FIRST` first; the others, and the tests of a file, keep their order."""
    place = {name: number for number, name in enumerate(FIRST)}
    items.sort(key=lambda item: place.get(item.nodeid.split("::")[0], len(place)))
