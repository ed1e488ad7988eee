"""Logs: one line a request, slow ones as warnings, as text or as JSON objects.

Never a query string, a body or a header: any of them may hold a key.
"""

import logging
import time

import msgspec

FIELDS = ("method", "route", "status", "ms", "key_id", "address")
log = logging.getLogger("luma_lab.requests")


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object."""

    def format(self, record):
        """Return the line."""
        entry = {
            "ts": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name in FIELDS:
            value = getattr(record, name, None)
            if value is not None:
                entry[name] = value
        if record.exc_info:
            entry["trace"] = self.formatException(record.exc_info)
        return msgspec.json.encode(entry).decode()


def configure(settings):
    """Set up the root logger as the settings say."""
    handler = logging.StreamHandler()
    if settings.log_format == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler])


def log_answer(handler, route, slow_ms):
    """Log one answered request; those slower than `slow_ms` as a warning.

    Parameters
    ----------
    route : str
        The template of the path.
    slow_ms : int
        0: nothing is slow.
    """
    request = handler.request
    milliseconds = 1000 * request.request_time()
    slow = getattr(handler, "timed", True) and 0 < slow_ms < milliseconds
    access = getattr(handler, "access", None)
    fields = {
        "method": request.method,
        "route": route,
        "status": handler.get_status(),
        "ms": round(milliseconds, 1),
        "key_id": access and access.key_id,
        "address": request.remote_ip,
    }
    log.log(
        logging.WARNING if slow else logging.INFO,
        "%s%d %s %s (%s) %.1f ms",
        "slow: " if slow else "",
        fields["status"],
        request.method,
        request.path,
        request.remote_ip,
        milliseconds,
        extra=fields,
    )
