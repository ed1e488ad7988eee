"""``/v1/sql``: queries and statements of the users' own."""

import math
from base64 import b64encode
from typing import Any

import msgspec

from luma_lab.errors import InvalidArgument, NotEnabled, SqlError
from luma_lab.service.base import BaseHandler
from luma_lab.service.operation import Operation
from luma_lab.service.refusals import WrongShape

MAX_STATEMENTS = 1000


class QueryRequest(msgspec.Struct):
    """Body of query."""

    sql: str
    params: list[Any] | None = None
    min_offset: int | None = None


class QueryAnswer(msgspec.Struct):
    """Rows as objects, the columns in order, and whether a cap cut the rows short."""

    rows: list[dict[str, Any]]
    columns: list[str]
    truncated: bool


class Statement(msgspec.Struct):
    """One statement of a batch."""

    sql: str
    params: list[Any] | None = None


class ExecRequest(msgspec.Struct):
    """Body of exec: one statement, or a batch that is one transaction."""

    sql: str | None = None
    params: list[Any] | None = None
    statements: list[Statement] | None = None


class ExecResult(msgspec.Struct):
    """What one statement of a batch did."""

    rows_affected: int


class ExecAnswer(msgspec.Struct, omit_defaults=True):
    """How many rows were affected, and the last event's offset."""

    rows_affected: int
    offset: int
    results: list[ExecResult] | msgspec.UnsetType = msgspec.UNSET


class SqlHandler(BaseHandler):
    """What both routes share."""

    def check_enabled(self):
        """Raise `NotEnabled` when users may not run SQL, `Forbidden` for a confined key."""
        check_sql(self)

    @property
    def timeout_ms(self):
        """The time limit of a statement."""
        return min(self.limits.sql_timeout_secs, self.limits.request_timeout_secs) * 1000


class QueryHandler(SqlHandler):
    """POST /v1/sql/query"""

    async def post(self):
        self.check_enabled()
        request = await self.read_json(QueryRequest)
        await self.wait_for(request.min_offset)

        def query():
            rows = self.lab.sql(
                request.sql,
                check_parameters(request.params),
                timeout_ms=self.timeout_ms,
                max_rows=self.limits.max_sql_rows,
                max_bytes=self.limits.max_sql_bytes,
            )
            columns = rows.columns
            return {
                "rows": [dict(zip(columns, map(_value, row), strict=True)) for row in rows.rows],
                "columns": columns,
                "truncated": rows.truncated,
            }

        await self.answer(query)


class ExecHandler(SqlHandler):
    """POST /v1/sql/exec"""

    async def post(self):
        self.check_enabled()
        request = await self.read_json(ExecRequest)
        if (request.sql is None) == (request.statements is None):
            raise WrongShape("expected `sql`, or `statements`, one of the two", "sql")
        batch = request.statements
        if batch is not None and len(batch) > MAX_STATEMENTS:
            raise InvalidArgument(f"too many statements: {len(batch)}, at most {MAX_STATEMENTS}")
        pairs = [(request.sql, request.params)]
        if batch is not None:
            pairs = [(statement.sql, statement.params) for statement in batch]
        if not pairs:
            raise InvalidArgument("statements required: expected at least one")

        def execute():
            checked = [(text, check_parameters(params)) for text, params in pairs]
            results = self.lab.sql.execute_many(checked, timeout_ms=self.timeout_ms)
            body = {
                "rows_affected": sum(result.count for result in results),
                "offset": results[-1].offset,
            }
            if batch is not None:
                body["results"] = [exec_body(result) for result in results]
            return body

        await self.answer(execute)


def check_sql(handler):
    """Raise unless the users of this server, and this key, may run SQL."""
    if not handler.limits.sqlite_enabled:
        raise NotEnabled("sqlite module is disabled")
    handler.access.check_unscoped("SQL")


def check_parameters(params):
    """Return parameters from JSON; raise `SqlError` for arrays and objects."""
    for value in params or ():
        if isinstance(value, (list, dict)):
            raise SqlError(
                f"unsupported parameter type {type(value).__name__}: expected null, a boolean, "
                "a number or a string"
            )
    return params or ()


def exec_body(result):
    """Return what one statement tells."""
    return {"rows_affected": result.count}


def _value(value):
    if isinstance(value, bytes):
        return b64encode(value).rstrip(b"=").decode()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


operations = [
    Operation(
        "POST", "/v1/sql/query", QueryHandler,
        "Run one statement that only reads; blobs come as base64.",
        body=QueryRequest, answer=QueryAnswer, errors=(404,),
    ),
    Operation(
        "POST", "/v1/sql/exec", ExecHandler,
        "Run one statement that changes tables of your own, or a batch as one transaction.",
        "write", body=ExecRequest, answer=ExecAnswer, errors=(404,),
    ),
]  # fmt: skip
routes = [(r"/v1/sql/query", QueryHandler), (r"/v1/sql/exec", ExecHandler)]
