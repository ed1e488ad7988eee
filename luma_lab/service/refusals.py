"""What only a network face can refuse: errors of the house without an engine behind them."""

from luma_lab.errors import InvalidArgument, LumaError, NotFound


class InvalidJson(InvalidArgument):
    """A body is not JSON, not UTF-8, or nested too deep."""

    code = "invalid_json"


class WrongShape(InvalidArgument):
    """A body is JSON of the wrong shape: a wrong type, a missing field, an unknown word."""

    def __init__(self, message, field=None):
        super().__init__(message, field)
        self.field = field

    def __str__(self):
        return self.args[0]


class OutOfRange(InvalidArgument):
    """A number of a body that no number of the house can hold."""

    def __init__(self, message, field=None):
        super().__init__(message, field)
        self.field = field

    def __str__(self):
        return self.args[0]


class UnsupportedMediaType(InvalidArgument):
    """A body comes without the content type its route reads."""

    code = "unsupported_media_type"


class Unauthorized(LumaError):
    """No key, a malformed one, or one that nobody gave out."""

    code = "unauthorized"


class Forbidden(LumaError):
    """A request that no key makes acceptable, such as a foreign Host header."""

    code = "forbidden"


class RouteNotFound(NotFound):
    """No route has this path."""


class MethodNotAllowed(LumaError):
    """The path exists, the method does not."""

    code = "method_not_allowed"

    def __init__(self, method, allowed):
        super().__init__(method, tuple(allowed))
        self.method, self.allowed = method, tuple(allowed)

    def __str__(self):
        return f"method {self.method} not allowed here: expected {', '.join(self.allowed)}"


class RequestTimeout(LumaError, TimeoutError):
    """The request was not done within the server's time limit."""

    code = "timeout"


class RateLimited(LumaError):
    """A key asks more often than it may."""

    code = "rate_limited"

    def __init__(self, limit, retry_after):
        super().__init__(limit, retry_after)
        self.limit, self.retry_after = limit, retry_after

    def __str__(self):
        return f"more than {self.limit} requests a second: try again in {self.retry_after} s"
