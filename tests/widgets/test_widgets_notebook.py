"""The tuner as the last expression of a notebook cell, in a real kernel."""

import os
import re
from pathlib import Path

import pytest

CELL = """
import numpy as np
from luma_lab import bench
from luma_lab.widgets import IndexTuner
rng = np.random.default_rng(0)
data = bench.Dataset(name="dots", metric="l2", base=rng.normal(size=(50, 4)),
                     queries=rng.normal(size=(5, 4)))
IndexTuner(data)
"""


@pytest.fixture
def run():
    """Run code in a fresh kernel; return its messages."""
    manager = pytest.importorskip("jupyter_client.manager")
    root = Path(__file__).resolve().parents[2]
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    env.pop("PANEL_INLINE", None)
    kernel, client = manager.start_new_kernel(kernel_name="python3", env=env)

    def run(code):
        messages = []
        reply = client.execute_interactive(code, output_hook=messages.append, timeout=120)
        assert reply["content"]["status"] == "ok", reply["content"]
        return messages

    yield run
    client.stop_channels()
    kernel.shutdown_kernel(now=True)


def test_a_cell_shows_the_tuner_with_scripts_from_this_machine(run):
    messages = run(CELL)
    result = next(each for each in messages if each["msg_type"] == "execute_result")
    assert "search_list_size" in result["content"]["data"]["text/html"]
    scripts = [
        each["content"]["data"].get("application/javascript", "")
        for each in messages
        if each["msg_type"] == "display_data"
    ]
    loader = max(scripts, key=len)
    assert len(loader) > 1_000_000  # the libraries themselves, not their addresses
    addresses = re.findall(r"(?:js|css)_urls = \[([^\]]*)\]", loader)
    assert addresses
    assert not any("http" in each for each in addresses)


def test_a_users_own_extension_call_wins(run):
    messages = run("import panel as pn\npn.extension(inline=True)\n" + CELL)
    loaders = [
        each
        for each in messages
        if each["msg_type"] == "display_data"
        and len(each["content"]["data"].get("application/javascript", "")) > 1_000_000
    ]
    assert len(loaders) == 1
