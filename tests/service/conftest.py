import contextlib
import os
import shutil

import pytest
from service_running import KEY, Running

import luma_lab as luma
from luma_lab.config import SETTINGS, Settings
from luma_lab.kernels import warm_up


@pytest.fixture(scope="session", autouse=True)
def compiled():
    """No request's time limit passes while kernels are compiled for the first time."""
    warm_up()


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path):
    """No setting leaks in from outside."""
    for row in SETTINGS:
        for variable in row.env:
            monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def serve():
    """A function that starts servers on labs; all are stopped at the end."""
    with contextlib.ExitStack() as stack:

        def start(*, lab=None, pages=None, keepalive_secs=15.0, **flags):
            if lab is None:
                lab = stack.enter_context(luma.open(":memory:"))
            flags = {"port": 0, "api_key": KEY, **flags}
            running = Running(lab, Settings(**flags), pages, keepalive_secs=keepalive_secs)
            stack.callback(running.stop)
            return running

        yield start


@pytest.fixture
def server(serve):
    return serve()


@pytest.fixture
def client(server):
    with server.client() as client:
        yield client


@pytest.fixture
def browser():
    """Chromium; a test that asks for it skips where there is none, but never in CI."""
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        if os.environ.get("CI"):
            pytest.fail("there is no chromium on this machine, and CI must not skip")
        pytest.skip("there is no chromium on this machine")
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=chromium, headless=True, args=["--no-sandbox", "--disable-gpu"]
        )
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def shared():
    """One server with the collection `docs` for tests that change nothing."""
    from service_running import Running

    import luma_lab as luma
    from luma_lab.config import Settings

    with luma.open(":memory:") as lab:
        lab.create_collection("docs", 2, "l2")
        running = Running(lab, Settings(port=0, api_key=KEY))
        yield running
        running.stop()


@pytest.fixture
def ask(shared):
    """A function that asks and checks that nothing was written and errors are well formed."""
    with shared.client() as client:

        def ask(method, path, **options):
            head = shared.lab.head
            answer = client.request(method, path, **options)
            assert shared.lab.head == head
            if answer.status_code >= 400 and method != "HEAD":
                assert answer.headers["content-type"] == "application/json"
                body = answer.json()
                assert {"error", "message"} <= set(body)
                assert body["message"] and "Traceback" not in body["message"]
                assert ": " not in answer.text.partition('"message"')[0]
            return answer

        yield ask
