"""What a route is, as data: the one place for its models, its role, and its page in the docs.

Each module of routes has a list ``operations``. `BaseHandler.prepare` asks it for the role, the
OpenAPI description and the tests are made from it.
"""

from dataclasses import dataclass
from typing import Any

ROLES = ("read", "write", "admin")


@dataclass(frozen=True)
class Parameter:
    """A parameter of the query string or a header.

    Parameters
    ----------
    type : type
        ``str``, ``int``, ``float`` or ``bool``.
    place : {"query", "header"}
    """

    name: str
    type: type
    about: str
    required: bool = False
    place: str = "query"


@dataclass(frozen=True)
class Operation:
    """One method of one route.

    Attributes
    ----------
    method, path : str
        The path with names in braces, ``/v1/state/{key}``.
    handler : type
        The handler class that answers.
    about : str
        One sentence.
    role : {"read", "write", "admin"} or None
        The least role a key needs; None: no key is asked for.
    body : type, optional
        The msgspec type of a JSON body.
    media : dict
        Further request media types to a sentence on what the body is then.
    answer : type, optional
        The msgspec type of the answer; None: an empty body.
    status : int
        Of success.
    answer_media : str
    parameters : tuple of Parameter
    errors : tuple of int
        Statuses of its own, beside 400, 401, 403, 404 of the path, 405, 408, 413, 415, 422,
        429, 500, 503 and 507, which are every operation's.
    """

    method: str
    path: str
    handler: type
    about: str
    role: str | None = "read"
    body: Any = None
    media: tuple[tuple[str, str], ...] = ()
    answer: Any = None
    status: int = 200
    answer_media: str = "application/json"
    parameters: tuple[Parameter, ...] = ()
    errors: tuple[int, ...] = ()


MIN_OFFSET = Parameter("min_offset", int, "Wait until this offset of the log is readable.")


def find_operation(operations, handler, method):
    """Return the `Operation` of a handler class (or the class it inherits the method from)."""
    for kind in handler.__mro__:
        found = operations.get((kind, method))
        if found is not None:
            return found
    return None
