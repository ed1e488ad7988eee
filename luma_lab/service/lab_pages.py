"""``/lab``: the Panel workbench on the same port, behind a login where a key is asked for.

The pages themselves are handed in; this module knows only how to serve them.
"""

import html
from http.client import responses

import msgspec
from tornado.ioloop import IOLoop

from luma_lab.errors import NotSupported
from luma_lab.service.access import ANYONE
from luma_lab.service.base import CODES, BaseHandler, log_request
from luma_lab.service.guard import COOKIE, COOKIE_DAYS
from luma_lab.service.refusals import Forbidden, RouteNotFound

PREFIX = "/lab"
LOGIN = "/lab/login"
WEBSOCKET = "/lab/ws"
INSTALL = "there is no workbench here; install it with: pip install 'luma_lab[lab]'"
TITLE = "Luma Lab"
_LOGIN_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Luma Lab</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; display: grid; place-items: center;
       min-height: 90vh; color: #222; background: #f6f7f9 }}
form {{ background: #fff; padding: 2rem; border-radius: 8px; box-shadow: 0 1px 4px #0003 }}
label, input, button {{ display: block; width: 18rem; box-sizing: border-box }}
input, button {{ font: inherit; padding: .5rem; margin-top: .5rem }}
p {{ color: #a00 }}
</style></head>
<body><form method="post" action="/lab/login">
<label for="key">API key</label>
<input id="key" name="key" type="password" autocomplete="current-password" autofocus required>
<button type="submit">Open the workbench</button>{message}
</form></body></html>
"""


class RootHandler(BaseHandler):
    """GET /, /index.html and /lab lead to the workbench."""

    asks_for_key = False

    def get(self):
        if not self.service.has_pages:
            raise NotSupported(INSTALL)
        self.redirect(PREFIX + "/")


class NoPagesHandler(BaseHandler):
    """Everything under /lab/ when no pages were handed in."""

    def get(self):
        raise NotSupported(INSTALL)


class LoginHandler(BaseHandler):
    """GET shows the form, POST checks the key and sets the cookie."""

    def prepare(self):
        super().prepare()
        if not self.service.has_pages and self.request.method != "OPTIONS":
            raise NotSupported(INSTALL)

    def get(self):
        guard = self.service.guard
        if not guard.asks_for_key:
            self.redirect(PREFIX + "/")
            return
        self._show("")

    def post(self):
        """Log in."""
        guard = self.service.guard
        key = self.request.body_arguments.get("key", [b""])[0].strip()
        access = guard.access_of(key) if guard.asks_for_key else ANYONE
        if access is None:
            self.set_status(401)
            self._show("<p>This is not the key.</p>")
            return
        try:
            session = guard.new_session(access)
        except Forbidden as error:
            self.set_status(403)
            self._show(f"<p>{html.escape(str(error))}.</p>")
            return
        self.set_cookie(
            COOKIE,
            session,
            path=PREFIX,
            expires_days=COOKIE_DAYS,
            httponly=True,
            samesite="Strict",
            secure=self.request.protocol == "https",
        )
        self.redirect(PREFIX + "/", status=303)

    def _show(self, message):
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.set_header("Cache-Control", "no-store")
        self.finish(_LOGIN_PAGE.format(message=message))


class PageNotFoundHandler(BaseHandler):
    """A path under /lab/ that is no page; whoever gets here is logged in."""

    asks_for_key = False

    def prepare(self):
        super().prepare()
        raise RouteNotFound(f"no such page: {self.request.path}")

    def get(self, *args):
        """Never reached: `prepare` refuses."""

    post = put = delete = patch = get


class JsonErrors:
    """Mixed into Bokeh's handlers, whose errors would be HTML."""

    def write_error(self, status_code, **_):
        """Send the error as the REST routes do."""
        self.set_header("Content-Type", "application/json")
        code = CODES.get(status_code, "internal" if status_code >= 500 else "invalid_argument")
        message = f"{self.request.path}: {responses.get(status_code, 'unknown')}"
        self.finish(msgspec.json.encode({"error": code, "message": message}))


def make_pages(pages, service):
    """Return a Bokeh server application that serves `pages` under ``/lab``.

    Parameters
    ----------
    pages : dict
        From slug (``"/"`` is the front page) to a callable that returns a new Panel viewable
        for each session.
    service : luma_lab.service.base.Service
    """
    from bokeh.server.tornado import BokehTornado
    from panel.io.application import build_applications
    from panel.io.resources import DIST_DIR

    application = BokehTornado(
        build_applications(pages, title=dict.fromkeys(pages, TITLE)),
        prefix=PREFIX,
        # The front compares the origin of a websocket with its Host header before this does.
        extra_websocket_origins=["*"],
        secret_key=service.guard.page_secret,
        sign_sessions=True,
        exclude_cookies=[COOKIE],
        exclude_headers=["Cookie", "Authorization", "X-Api-Key"],
        ico_path=str(DIST_DIR / "images" / "favicon.ico"),
        service=service,
        default_handler_class=PageNotFoundHandler,
        log_function=log_request,
    )
    for rule in application.wildcard_router.rules:
        rule.target = type(rule.target.__name__, (JsonErrors, rule.target), {})
    return application


def start_pages(application):
    """Start the sessions' housekeeping on the running event loop."""
    application.initialize(IOLoop.current())
    application.start()


async def stop_pages(pages):
    """End every session of the pages."""
    # Bokeh 3.10 can't be stopped by a blocking call from its own loop, 3.9 has no other.
    stop_async = getattr(pages, "stop_async", None)
    if stop_async is None:
        pages.stop()
    else:
        await stop_async()


routes = [
    (r"/(?:index\.html)?", RootHandler),
    (r"/lab", RootHandler),
    (r"/lab/login", LoginHandler),
    (r"/lab/.*", NoPagesHandler),
]
