"""The error tree as OpenAI's error objects, with the HTTP code from the one table."""

from __future__ import annotations

import math
from typing import Any

from fastapi.responses import JSONResponse

from contracts.errors import SpecfleetError, status_of

__all__ = ["error_body", "error_response"]

_TYPES = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error"}
_TYPES |= {409: "conflict_error", 429: "rate_limit_error", 503: "overloaded_error"}


def error_body(error: SpecfleetError) -> dict[str, Any]:
    code = status_of(error).http
    return {
        "error": {
            "message": error.message,
            "type": _TYPES.get(code, "server_error"),
            "param": error.details.get("field"),
            "code": type(error).__name__,
        }
    }


def error_response(error: SpecfleetError, status: int | None = None) -> JSONResponse:
    """With the code of its kind, or one that says more."""
    headers = {} if error.retry_after_s is None else {"Retry-After": str(math.ceil(error.retry_after_s))}
    return JSONResponse(error_body(error), status_code=status or status_of(error).http, headers=headers)
