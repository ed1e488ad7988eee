"""The stream as a browser's own EventSource hears it."""

import signal

import httpx
import pytest
from serving import Serving

pytestmark = [pytest.mark.browser, pytest.mark.crash]
FOLLOW = """() => {
  window.heard = [];
  window.opened = 0;
  const source = new EventSource("/v1/stream");
  source.onopen = () => { window.opened += 1; };
  for (const kind of ["told", "gap"])
    source.addEventListener(kind, event =>
      window.heard.push([kind, event.lastEventId, JSON.parse(event.data).data]));
}"""


@pytest.fixture
def page(browser):
    return browser.new_page()


def publish(server, numbers):
    with httpx.Client(base_url=server.url, timeout=30, verify=False) as client:
        for n in numbers:
            client.post("/v1/events", json={"type": "told", "data": n}).raise_for_status()


def wait_for(page, heard, opened):
    page.wait_for_function(
        f"() => window.heard.length >= {heard} && window.opened >= {opened}", timeout=60_000
    )


def test_an_eventsource_comes_back_by_itself_and_hears_every_event_once(page, tmp_path):
    directory = tmp_path / "lab"
    server = Serving(directory)
    try:
        publish(server, range(5))
        page.goto(server.url + "/v1/health")
        page.evaluate(FOLLOW)
        wait_for(page, heard=5, opened=1)
        publish(server, range(5, 10))
        wait_for(page, heard=10, opened=1)

        server.kill()
        server = Serving(directory, port=server.port)
        publish(server, range(10, 20))  # most likely before the browser is back
        wait_for(page, heard=20, opened=2)
        publish(server, range(20, 25))
        wait_for(page, heard=25, opened=2)

        server.process.send_signal(signal.SIGTERM)
        assert server.wait()[0] == 0
        server = Serving(directory, port=server.port)
        publish(server, range(25, 30))
        wait_for(page, heard=30, opened=3)
        publish(server, [30])
        wait_for(page, heard=31, opened=3)
        assert page.evaluate("window.heard") == [["told", str(n + 1), n] for n in range(31)]
    finally:
        server.kill()
