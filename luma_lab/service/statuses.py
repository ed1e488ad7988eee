"""Errors of the house as clients see them: an HTTP status and a JSON object."""

from luma_lab import errors
from luma_lab.service import refusals

# The first class along an error's ancestry that stands here gives the status.
STATUS = {
    refusals.WrongShape: 422,
    refusals.UnsupportedMediaType: 415,
    refusals.Unauthorized: 401,
    refusals.Forbidden: 403,
    refusals.MethodNotAllowed: 405,
    refusals.RateLimited: 429,
    refusals.RequestTimeout: 408,
    errors.PayloadTooLarge: 413,
    errors.InvalidArgument: 400,
    errors.NotFound: 404,
    errors.AlreadyExists: 409,
    errors.Conflict: 409,
    errors.IndexNotBuilt: 409,
    errors.Cancelled: 409,
    errors.TransactionTimeout: 408,
    errors.WaitTimeout: 408,
    errors.SqlTimeout: 408,
    errors.NotSupported: 501,
    errors.Unavailable: 503,
    errors.EmbedderFailed: 502,
    errors.StoreClosed: 503,
    errors.StoreFull: 507,
    errors.LumaError: 500,
}


def status_of(error):
    """Return the HTTP status of an error of the house."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def error_body(error, secret_path=None):
    """Return the JSON object of an error: ``error``, ``message`` and the error's own fields.

    Parameters
    ----------
    error : LumaError
    secret_path : str, optional
        The lab's directory; never shown to clients.
    """
    status = status_of(error)
    if status == 500 and not isinstance(error, errors.CorruptStore):
        return {
            "error": error.code,
            "message": "the store refused the operation; the server's log says why",
        }
    fields = {
        name: value
        for name, value in vars(error).items()
        if not name.startswith("_") and isinstance(value, str | int | float | tuple)
    }
    message = str(error)
    if status >= 500 and secret_path:
        message = message.replace(secret_path, "DATA_DIR")
    return {**fields, "error": error.code, "message": message}


def item_error(error, secret_path):
    """Return the ``error`` object of one entry of a batch's ``results``."""
    body = error_body(error, secret_path)
    return {"error": body["error"], "message": body["message"]}
