import pytest
from service_running import KEY
from serving import serving

from luma_lab import widgets

pytestmark = pytest.mark.browser


def test_the_workbench_opens_after_the_login_and_asks_no_other_host(serve, browser):
    import luma_lab as luma

    with luma.open(":memory:") as lab:
        lab.create_collection("docs", 2, "l2").upsert(["a", "b"], [[1, 2], [3, 4]])
        server = serve(lab=lab, pages={"/": widgets.page(lab)})
        page = browser.new_page()
        asked, sockets, faults = [], [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("websocket", lambda socket: sockets.append(socket.url))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(server.url + "/")
        page.fill("#key", KEY)
        page.click("button")
        page.wait_for_url(server.url + "/lab/")
        page.get_by_text("docs").first.wait_for(timeout=60_000)
        assert sockets == [sockets[0]] and sockets[0].startswith(f"ws://{server.host}/lab/ws")
        elsewhere = [
            url for url in asked if not url.startswith((server.url, "data:", "blob:", "about:"))
        ]
        assert not elsewhere and not faults
        page.close()
        server.stop()


def test_any_worker_serves_any_part_of_the_workbench(tmp_path, browser):
    import luma_lab as luma

    with luma.open(tmp_path / "lab") as lab:
        lab.create_collection("docs", 2, "l2").upsert(["a", "b"], [[1, 2], [3, 4]])
    with serving(tmp_path / "lab", "--workers", "2", pages=True) as server:
        for _ in range(4):  # each with connections of its own, to whichever worker takes them
            context = browser.new_context()
            page = context.new_page()
            asked, faults = [], []
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.on("pageerror", lambda error, faults=faults: faults.append(str(error)))
            page.goto(server.url + "/lab/")
            page.get_by_text("docs").first.wait_for(timeout=60_000)
            local = (server.url, "data:", "blob:", "about:")
            assert not faults and not [url for url in asked if not url.startswith(local)]
            context.close()
