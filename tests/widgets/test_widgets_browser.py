"""The workbench in a real browser: it works, it moves, and it asks no other host."""

import contextlib
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from luma_lab.widgets.tuner import LIST_SIZES

pytestmark = pytest.mark.browser
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SERVER = """
import numpy as np
import panel as pn
from luma_lab.engine.lab import Lab
from luma_lab.widgets import page

rng = np.random.default_rng(7)
centres = rng.normal(size=(12, 16))
vectors = (centres[rng.integers(0, 12, 1500)] + 0.6 * rng.normal(size=(1500, 16))).astype("f4")
with Lab(":memory:") as lab:
    cubes = lab.create_collection("cubes", 16, metric="l2")
    ids = [f"p{i}" for i in range(1500)]
    cubes.upsert(ids, vectors, [{"text": f"cube {id}"} for id in ids])
    server = pn.serve(
        {"/lab": page(lab)}, port=0, address="127.0.0.1", show=False, start=False,
        websocket_origin="*",
    )
    print(f"port {server.port}", flush=True)
    server.run_until_shutdown()
"""
# The data behind the drawn figure, as the browser holds it.
POINTS = """() => {
  const found = {};
  for (const doc of window.Bokeh.documents)
    for (const model of doc._all_models.values())
      if (model.type === "ColumnDataSource" && "search_list_size" in model.data) {
        const sizes = Array.from(model.data.search_list_size);
        found[sizes.length === 1 ? "current" : "sweep"] =
          {sizes, recall: Array.from(model.data.recall)};
      }
  return found;
}"""


def chromium():
    """Return the path of a Chromium, or skip; under CI its absence is a failure."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None and os.environ.get("CI"):
        pytest.fail(f"no Chromium: CI is set, so one of {', '.join(NAMES)} has to be on the PATH")
    if path is None:
        pytest.skip(f"no Chromium: none of {', '.join(NAMES)} is on the PATH")
    return path


@pytest.fixture
def address():
    """Serve the page from a process of its own; yield where."""
    root = Path(__file__).resolve().parents[2]
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        said = iter(process.stdout.readline, "")
        port = next(line.split()[1] for line in said if line.startswith("port "))
        url = f"http://127.0.0.1:{port}/lab"
        for _ in range(600):
            assert process.poll() is None, "the server ended before it served"
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                urllib.request.urlopen(url, timeout=30).read()
                break
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
        yield url
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def visit(address, tmp_path):
    """A browser page at the workbench, and the list of everything it asked for."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = chromium()
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, headless=True, args=FLAGS)
        tab = browser.new_page(viewport={"width": 1360, "height": 1500})
        asked, complaints = [], []
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("websocket", lambda socket: asked.append(socket.url))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.goto(address)
        tab.get_by_text("Index tuner").wait_for(timeout=60_000)
        yield tab, asked, complaints
        browser.close()


def test_the_slider_moves_the_measured_point_and_nothing_leaves_this_machine(visit):
    tab, asked, complaints = visit
    tab.get_by_role("button", name="Build", exact=True).click()
    wanted = len([size for size in LIST_SIZES if size >= 10])
    swept = f"() => (({POINTS})().sweep || {{sizes: []}}).sizes.length === {wanted}"
    tab.wait_for_function(swept, timeout=180_000)
    before = tab.evaluate(POINTS)
    assert before["current"]["sizes"] == [64]
    assert all(0.5 < recall <= 1.0 for recall in before["sweep"]["recall"])
    figure = tab.locator(".bk-Figure")
    tab.wait_for_timeout(500)  # let the last point be painted
    pixels = figure.screenshot()

    handle = tab.locator(".search-list-size .noUi-handle")
    handle.focus()
    for _ in range(3):
        handle.press("PageUp")
    tab.wait_for_function(f"() => ({POINTS})().current.sizes[0] > 64", timeout=60_000)
    tab.wait_for_timeout(500)
    after = tab.evaluate(POINTS)
    assert after["current"]["sizes"][0] > 64
    assert after["sweep"] == before["sweep"]
    assert figure.screenshot() != pixels

    tab.get_by_role("button", name="Random point").click()
    tab.get_by_text("exact scan").wait_for(timeout=60_000)
    tab.get_by_role("button", name="Apply to collection").click()
    tab.get_by_text("now searches a Vamana index").wait_for(timeout=180_000)
    tab.get_by_text("index_built").first.wait_for(timeout=60_000)

    hosts = {urllib.parse.urlsplit(url).hostname for url in asked if not _inline(url)}
    assert hosts == {"127.0.0.1"}
    assert complaints == []


def _inline(url):
    return url.startswith(("data:", "blob:"))
