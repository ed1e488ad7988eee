"""Who may come in: keys, open paths, Host headers, origins, the workbench's login cookie."""

import hashlib
import hmac
import secrets
from urllib.parse import parse_qsl, urlsplit

from tornado.web import create_signed_value, decode_signed_value

from luma_lab.config import is_loopback
from luma_lab.service.refusals import Forbidden, Unauthorized

OPEN_PATHS = frozenset(
    {
        "/",
        "/index.html",
        "/v1/health",
        "/docs",
        "/docs/openapi.json",
        "/docs/openapi.yaml",
        "/openapi.yaml",
        "/lab/login",
    }
)
OPEN_FOLDERS = ("/lab/static/", "/docs/static/")
COOKIE = "luma_session"
COOKIE_DAYS = 7
CONFIGURED_KEY_ID = "configured"
ALLOWED_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
ALLOWED_HEADERS = "Authorization, Content-Type, Last-Event-ID, X-API-Key"
EXPOSED_HEADERS = "Allow, X-Luma-Next, X-Luma-Offset"
PREFLIGHT_SECS = "600"


class Guard:
    """Checks of a request that need nothing but its head.

    Parameters
    ----------
    settings : luma_lab.config.Settings
    """

    def __init__(self, settings):
        self._open = settings.auth == "open"
        self._digest = _digest(settings.api_key.encode())
        self._loopback_only = settings.loopback_only
        self._origins = settings.cors_origins
        self._secret = secrets.token_urlsafe(32)

    @property
    def asks_for_key(self):
        """Whether clients need a key at all."""
        return not self._open

    def check_host(self, host):
        """Raise `Forbidden` for a Host header that a foreign page could have planted.

        On loopback without a real key the Host header is all that tells a browser that was
        lured by DNS rebinding from the user's own programs.
        """
        if host and self._loopback_only and not is_loopback(_hostname(f"//{host}")):
            raise Forbidden(
                f"host {host!r} is not served: with the key 'dev' or AUTH=open only loopback "
                "names are; set API_KEY, or start with --insecure"
            )

    def check_key(self, method, path, query, headers):
        """Raise `Unauthorized` unless the path is open or the request carries the key."""
        if self._open or self.is_open(method, path):
            return
        if not self.is_key(_token(query, headers)):
            raise Unauthorized("invalid api key")

    def is_open(self, method, path):
        """Return whether `path` needs no key; paths are compared exactly, as sent."""
        if path in OPEN_PATHS:
            return True
        return method in ("GET", "HEAD") and path.startswith(OPEN_FOLDERS)

    def is_key(self, token):
        """Return whether `token` (bytes) is the key, in constant time."""
        return hmac.compare_digest(_digest(token), self._digest)

    def cors_headers(self, origin):
        """Return the headers that let a browser page of `origin` read the answer."""
        if not origin:
            return {}
        if self._origins is None and not self._loopback_only:
            return {
                "Access-Control-Allow-Origin": "*",
                "Access-Control-Expose-Headers": EXPOSED_HEADERS,
            }
        if not self.allows_origin(origin):
            return {"Vary": "Origin"}
        return {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Expose-Headers": EXPOSED_HEADERS,
            "Vary": "Origin",
        }

    def allows_origin(self, origin):
        """Return whether pages of `origin` may call."""
        if self._loopback_only and not is_loopback(_hostname(origin)):
            return False
        return self._origins is None or origin.lower() in self._origins

    def preflight_headers(self, origin):
        """Return the answer to a CORS preflight; raise `Forbidden` for a foreign origin."""
        if not self.allows_origin(origin):
            raise Forbidden(f"origin {origin!r} may not call this server")
        return {
            "Access-Control-Allow-Methods": ALLOWED_METHODS,
            "Access-Control-Allow-Headers": ALLOWED_HEADERS,
            "Access-Control-Max-Age": PREFLIGHT_SECS,
        }

    def check_websocket(self, host, origin):
        """Raise `Forbidden` for a websocket opened by a page of another site."""
        if not origin or urlsplit(origin).netloc.lower() == (host or "").lower():
            return
        if self._origins is None or origin.lower() not in self._origins:
            raise Forbidden(f"origin {origin!r} may not open a websocket here")

    def new_session(self):
        """Return the value of a login cookie: a signed key id, never the key."""
        return create_signed_value(self._secret, COOKIE, CONFIGURED_KEY_ID).decode()

    def has_session(self, cookies):
        """Return whether the workbench may be shown: nobody is asked, or the cookie is good."""
        if self._open:
            return True
        value = cookies.get(COOKIE)
        key_id = decode_signed_value(self._secret, COOKIE, value, max_age_days=COOKIE_DAYS)
        return key_id == CONFIGURED_KEY_ID.encode()


def _token(query, headers):
    authorization = headers.get("Authorization")
    if authorization is not None:
        if not authorization.startswith("Bearer "):
            raise Unauthorized("invalid authorization header format")
        return authorization[7:].strip().encode("latin-1", "replace")
    key = headers.get("X-API-Key")
    if key is not None:
        return key.encode("latin-1", "replace")
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name == "api_key":
            return value.encode("utf-8", "replace")
    raise Unauthorized("missing authorization header")


def _digest(token):
    # Equal lengths: the comparison must not tell how long the key is.
    return hashlib.sha256(token).digest()


def _hostname(url):
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
