"""What is wrong with a body that pydantic turned down, in the words of the house."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel

from contracts.config.errors import findings
from contracts.errors import InvalidArgument, shown
from router.http.schemas import ChatRequest, CompletionRequest

__all__ = ["malformed_body"]

_WHOLE = "the body"
_ASKED: Mapping[str, type[BaseModel]] = {"/v1/completions": CompletionRequest, "/v1/chat/completions": ChatRequest}


def malformed_body(request: HttpRequest, error: RequestValidationError) -> InvalidArgument:
    """The first thing that is wrong, with the value, and what would be right."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        reason, at = first["ctx"]["error"], first["loc"][-1]
        return InvalidArgument(f"the body is no JSON that can be read: {reason} at character {at}")
    if isinstance(error.body, bytes):  # it was not read as JSON, because nobody said that it is
        told = request.headers.get("content-type", "")
        return InvalidArgument(f"the content-type is {shown(told)}; it must be application/json")
    if first["type"] == "string_unicode":
        return InvalidArgument("the body has a key with half of a surrogate pair; keys must be Unicode text")
    item = {**first, "loc": first["loc"][1:]}  # without FastAPI's own "body"
    found = findings(error.body, _ASKED[request.url.path], [item], whole=_WHOLE)
    ((field, message),) = found.items()
    return InvalidArgument(message, details={"field": field})
