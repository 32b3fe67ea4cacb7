"""Fuzzes the HTTP face by its own schema: `python -m tests.fuzz.http --minutes 10`."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from typing import Any

import httpx
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from router.http.app import http_app
from tests.fuzz.runner import main
from tests.fuzz.target import DEADLINE_S, DOCUMENTED_HTTP, KINDS, Target

__all__ = ["attempt", "grammar"]

_BAD_REQUEST = frozenset({405, 408})  # of HTTP's own, in our words
_TEXT = st.one_of(
    st.sampled_from(["", "a", "the cat", "tiny", "lookup", "user", "\x00", "🐈", "\ud800", "x" * 3000]),
    st.text(max_size=20),
)
_ANY = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-3, 300),
        st.sampled_from([2**31, 2**64, -(2**70), 10**400]),
        st.floats(),
        _TEXT,
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_TEXT, inner, max_size=3)),
    max_leaves=6,
)
_GOOD: Mapping[str, Mapping[str, Any]] = {
    "/v1/completions": {"prompt": "the cat", "max_tokens": 3},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 3},
}
_HEADERS = st.dictionaries(
    st.sampled_from(["content-type", "accept", "authorization", "content-encoding", "x-a", "expect", "host"]),
    st.sampled_from(["application/json", "text/plain", "Bearer x", "gzip", "100-continue", "a b", "*/*"]),
    max_size=2,
)


class _Schema:
    """Values by an OpenAPI schema, one in ten of which is anything at all."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._parts = document["components"]["schemas"]

    def values(self, schema: Mapping[str, Any]) -> SearchStrategy[Any]:
        return st.integers(0, 9).flatmap(lambda chance: _ANY if chance == 0 else self._right(schema))

    def _right(self, schema: Mapping[str, Any]) -> SearchStrategy[Any]:
        if "$ref" in schema:
            return self._right(self._parts[schema["$ref"].rpartition("/")[2]])
        if "anyOf" in schema:
            return st.one_of([self._right(each) for each in schema["anyOf"]])
        if "const" in schema:
            return st.just(schema["const"])
        if "enum" in schema:
            return st.sampled_from(schema["enum"])
        match schema.get("type"):
            case "object":
                return self._object(schema)
            case "array":
                return st.lists(self.values(schema.get("items", {})), max_size=3)
            case "string":
                return _TEXT
            case "integer":
                return st.one_of(st.integers(-2, 70), st.sampled_from([2**31, 2**63, 2**64]))
            case "number":
                return st.one_of(st.sampled_from([0.0, 0.5, 1.0, 2.0, -1.0, 1e300, 1e-300]), st.floats(0.0, 2.0))
            case "boolean":
                return st.booleans()
            case "null":
                return st.none()
            case _:
                return _ANY

    def _object(self, schema: Mapping[str, Any]) -> SearchStrategy[Any]:
        properties = schema.get("properties")
        if not properties:
            further = schema.get("additionalProperties")
            inner = self.values(further) if isinstance(further, Mapping) else _ANY
            return st.dictionaries(st.one_of(_TEXT, st.integers(0, 400).map(str)), inner, max_size=3)
        some = st.lists(st.sampled_from(sorted(properties)), max_size=4, unique=True)
        return some.flatmap(
            lambda names: st.fixed_dictionaries(
                {name: self.values(properties[name]) for name in {*names, *schema.get("required", ())}}
            )
        )


def grammar() -> SearchStrategy[object]:
    """Some requests at a time: method, path, headers, body, and whether the client goes before the answer."""
    # Routes alone are asked of it, and they are the same before any front door.
    document = http_app(None).openapi()  # type: ignore[arg-type]
    schema = _Schema(document)
    bodies = {
        path: _body(schema, path, operations["post"])
        for path, operations in document["paths"].items()
        if "post" in operations
    }
    asked = st.sampled_from(sorted(bodies)).flatmap(
        lambda path: st.tuples(st.just("POST"), st.just(path), _HEADERS, bodies[path])
    )
    paths = st.one_of(
        st.sampled_from([*document["paths"], "/v1/models/tiny", "/", "/openapi.json", "/v1/models/%00", "//", "/v1/é"]),
        st.text(alphabet="/.%abz09?#", max_size=12).map(lambda rest: f"/{rest}"),
    )
    strange = st.tuples(
        st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"]),
        paths,
        _HEADERS,
        st.binary(max_size=60),
    )
    nothing: dict[str, str] = {}
    raw = st.tuples(st.just("RAW"), st.just(""), st.just(nothing), st.one_of(st.binary(max_size=200), _requests()))
    one = st.one_of(asked, asked, asked, asked, strange, raw)
    return st.lists(st.tuples(one, st.sampled_from([False, False, False, True])), min_size=1, max_size=4)


def _body(schema: _Schema, path: str, operation: Mapping[str, Any]) -> SearchStrategy[bytes]:
    of = operation["requestBody"]["content"]["application/json"]["schema"]
    wholly, partly = schema.values(of), schema.values(of)
    merged = partly.map(lambda body: {**body, **_GOOD[path]} if isinstance(body, dict) else body)
    written = st.one_of(merged, merged, wholly).map(lambda body: json.dumps(body).encode())
    cut = st.tuples(written, st.integers(0, 400)).map(lambda pair: pair[0][: pair[1]])
    return st.one_of(*[written] * 5, cut, st.binary(max_size=60))


def _requests() -> SearchStrategy[bytes]:
    """Nearly HTTP."""
    lines = st.sampled_from(
        [
            b"GET /healthz HTTP/1.1",
            b"POST /v1/completions HTTP/1.1",
            b"Host: a",
            b"Content-Length: 5",
            b"Content-Length: 99999999999999999999",
            b"Content-Length: -1",
            b"Transfer-Encoding: chunked",
            b"Connection: close",
            b"",
            b"5",
            b'{"a":',
            b"\xff\xfe",
            b"x" * 300,
        ]
    )
    return st.lists(lines, max_size=8).map(b"\r\n".join)


async def attempt(target: Target, example: object) -> None:
    assert isinstance(example, list)
    await asyncio.wait_for(asyncio.gather(*(_one(target, *said) for said in example)), DEADLINE_S)


async def _one(target: Target, said: tuple[str, str, dict[str, str], bytes], leaves: bool) -> None:
    method, path, headers, body = said
    if method == "RAW":
        await _raw(target, body)
        return
    asking = asyncio.create_task(_ask(target, method, path, headers, body))
    if leaves:
        await asyncio.wait({asking}, timeout=0.01)
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking
        return
    await asking


async def _ask(target: Target, method: str, path: str, headers: dict[str, str], body: bytes) -> None:
    try:
        request = target.http.build_request(
            method, path, headers={"content-type": "application/json", **headers}, content=body
        )
    except (httpx.InvalidURL, UnicodeError):  # the client says it itself
        return
    try:
        answer = await target.http.send(request)
    except (httpx.ReadError, httpx.RemoteProtocolError):
        # A kept connection may be given up in the moment in which it is used again: clients ask once more.
        target.heard["hung up"] += 1
        answer = await target.http.send(request)
    code = answer.status_code
    target.heard[str(code)] += 1
    if code in (200, 307):  # of a path with one slash too many
        return
    assert code in DOCUMENTED_HTTP | _BAD_REQUEST or (path == "/readyz" and code == 503), (said_of(request), code)
    if method != "HEAD":
        error = answer.json()["error"]
        assert error["code"] in KINDS, (said_of(request), error)
        assert error["message"], (said_of(request), error)
    if code == 503 and path in _GOOD:
        assert int(answer.headers["retry-after"]) >= 1


def said_of(request: httpx.Request) -> str:
    return f"{request.method} {request.url} {request.headers} {request.content[:500]!r}"


async def _raw(target: Target, content: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", target.fleet.http_port)
    try:
        writer.write(content)
        if writer.can_write_eof():
            writer.write_eof()
        answer = await reader.read()
        target.heard[answer[9:12].decode() or "hung up"] += 1
        assert not answer.startswith(b"HTTP/1.1 500"), (content, answer)
    except ConnectionError:  # another way to hang up
        target.heard["hung up"] += 1
    finally:
        writer.close()


if __name__ == "__main__":
    main("http", grammar, attempt)
