"""Who may come in: keys, open paths, Host headers, origins, the workbench's login cookie."""

import hashlib
import hmac
import math
import secrets
import time
from collections import OrderedDict
from urllib.parse import parse_qsl, urlsplit

from tornado.web import create_signed_value, decode_signed_value

from luma_lab.config import is_loopback
from luma_lab.service.access import ANYONE, NOBODY, Access
from luma_lab.service.refusals import Forbidden, RateLimited, Unauthorized

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
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
COOKIE = "luma_session"
COOKIE_DAYS = 7
CONFIGURED_KEY_ID = "configured"
ALLOWED_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
ALLOWED_HEADERS = "Authorization, Content-Type, Last-Event-ID, X-API-Key"
EXPOSED_HEADERS = "Allow, Retry-After, X-Luma-Next, X-Luma-Offset"
MAX_BUCKETS = 10_000
PREFLIGHT_SECS = "600"


class Guard:
    """Checks of a request that need nothing but its head.

    Parameters
    ----------
    settings : luma_lab.config.Settings
    keys : luma_lab.engine.keys.KeyStore
    secret : str, optional
        What login cookies are signed with; processes that serve one port share it.
    """

    def __init__(self, settings, keys, secret=None):
        self._keys = keys
        self._rate = settings.rate_limit_per_sec
        self._buckets = OrderedDict()
        self._open = settings.auth == "open"
        self._digest = _digest(settings.api_key.encode())
        self._loopback_only = settings.loopback_only
        self._origins = settings.cors_origins
        self._secret = secret or secrets.token_urlsafe(32)

    @property
    def page_secret(self):
        """What the pages sign their sessions with, bytes; the same in all processes of a port."""
        return hashlib.sha256(b"pages " + self._secret.encode()).digest()

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

    def check_origin(self, method, origin):
        """Raise `Forbidden` for a change asked for by a page of another site.

        A browser lets any page send a plain POST without asking first; where no secret guards
        the lab, its Origin header is all that gives it away.
        """
        if not origin or not self._loopback_only or method in SAFE_METHODS:
            return
        if not is_loopback(_hostname(origin)):
            raise Forbidden(f"origin {origin!r} may not change anything here")

    def admit(self, method, path, query, headers):
        """Return the `Access` of a request.

        Raises
        ------
        Unauthorized
            It needs a key and has none that stands.
        """
        if self._open:
            return ANYONE
        if self.is_open(method, path):
            return NOBODY
        access = self.access_of(_token(query, headers))
        if access is None:
            raise Unauthorized("invalid api key")
        return access

    def access_of(self, token):
        """Return the `Access` of a key (bytes), or None; the configured one in constant time."""
        if hmac.compare_digest(_digest(token), self._digest):
            return Access(CONFIGURED_KEY_ID, "admin")
        key = self._keys.find(token)
        if key is None:
            return None
        scopes = key.permissions
        return Access(
            key.id,
            key.role,
            tuple(scopes["collections"]) if "collections" in scopes else None,
            tuple(scopes["key_prefixes"]) if "key_prefixes" in scopes else None,
            self._keys.fingerprint(key.id),
        )

    def is_alive(self, access):
        """Return whether the key of an `Access` still stands as it did."""
        if access.key_id in (None, CONFIGURED_KEY_ID):
            return True
        return self._keys.fingerprint(access.key_id) == access.fingerprint

    def configured_key(self):
        """Return the configured key as the list of keys shows it."""
        return {
            "id": CONFIGURED_KEY_ID,
            "name": "Configured key",
            "role": "admin",
            "permissions": {},
            "created_at_ms": 0,
        }

    def check_rate(self, access, address):
        """Raise `RateLimited` when a key (without keys: an address) asks too often."""
        if self._rate is None:
            return
        who = access.key_id or address
        now = time.monotonic()
        left, at = self._buckets.pop(who, (float(self._rate), now))
        left = min(float(self._rate), left + (now - at) * self._rate)
        allowed = left >= 1
        self._buckets[who] = (left - 1 if allowed else left, now)
        while len(self._buckets) > MAX_BUCKETS:
            self._buckets.popitem(last=False)
        if not allowed:
            raise RateLimited(self._rate, math.ceil((1 - left) / self._rate))

    def is_open(self, method, path):
        """Return whether `path` needs no key; paths are compared exactly, as sent."""
        if path in OPEN_PATHS:
            return True
        return method in ("GET", "HEAD") and path.startswith(OPEN_FOLDERS)

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

    def new_session(self, access):
        """Return the value of a login cookie: a signed key id, never the key.

        Raises
        ------
        Forbidden
            The workbench can do whatever the lab can: it takes an unconfined writing key.
        """
        access.check_role("write")
        access.check_unscoped("the workbench")
        mark = access.fingerprint.hex() if access.fingerprint else ""
        return create_signed_value(self._secret, COOKIE, f"{access.key_id} {mark}").decode()

    def session(self, cookies):
        """Return the `Access` of a login cookie, or None; without keys everyone has one."""
        if self._open:
            return ANYONE
        value = decode_signed_value(
            self._secret, COOKIE, cookies.get(COOKIE), max_age_days=COOKIE_DAYS
        )
        if value is None:
            return None
        id, _, mark = value.decode().partition(" ")
        access = Access(id, "write", fingerprint=bytes.fromhex(mark) or None)
        return access if self.is_alive(access) else None


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
