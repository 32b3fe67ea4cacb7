"""Whatever a client does to the HTTP port, it hears what was wrong, frees what it held, and disturbs nobody."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from contracts.config import DrafterConfig
from router.http.limits import HttpLimits
from tests.engine.checkpoints import write_checkpoint
from tests.service.fleet import DEADLINE_S, RunningFleet, engine_of, kept, running_fleet

HASTY = HttpLimits(max_body=200_000, head_s=1.5, body_s=1.0, stall_s=1.0)
JSON = {"content-type": "application/json"}
DEEP = 10_000
Scene = Callable[[RunningFleet, httpx.AsyncClient], Coroutine[None, None, None]]
Play = Callable[[Scene], None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_checkpoint(tmp_path_factory.mktemp("bad-http") / "tiny", "llama")
    (folder / "chat_template.jinja").write_text("{% for message in messages %}{{ message.content }}\n{% endfor %}")
    return folder


@contextlib.contextmanager
def playing(folder: Path, http_limits: HttpLimits | None = None) -> Iterator[Play]:
    """Plays scenes to one fleet, one after another; after each it is as well as before."""
    drafters = {"twin": DrafterConfig(kind="model", engine=engine_of(folder))}
    with kept(running_fleet(engine_of(folder), drafters, http_limits=http_limits)) as (runner, fleet):

        async def run(scene: Scene) -> None:
            url = f"http://127.0.0.1:{fleet.http_port}"
            async with httpx.AsyncClient(base_url=url, timeout=DEADLINE_S) as client:
                await scene(fleet, client)
                assert (await fleet.say("still here", max_tokens=2)).tokens
                assert (await client.get("/readyz")).status_code == 200

        yield lambda scene: runner.run(run(scene))


@pytest.fixture(scope="module")
def play(folder: Path) -> Iterator[Play]:
    with playing(folder) as of:
        yield of


@pytest.fixture(scope="module")
def play_hastily(folder: Path) -> Iterator[Play]:
    with playing(folder, HASTY) as of:
        yield of


def nested(before: str, around: tuple[str, str], after: str) -> bytes:
    return (before + around[0] * DEEP + "1" + around[1] * DEEP + after).encode()


COMPLETIONS = [
    (b"", "the body"),
    (b"prompt=a", "json"),
    (b'{"prompt": "a"', "json"),
    (b'{"prompt": "\xff\xfe"}', "json"),
    (b"\x00" * 1000, "json"),
    (nested("", ("[", "]"), ""), "json"),
    (nested('{"prompt": ', ("[", "]"), "}"), "json"),
    (nested('{"logit_bias": ', ('{"1":', "}"), "}"), "json"),
    (b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}", "json"),
    (b'{"prompt": "a", "seed": 18446744073709551616}', "seed is 18446744073709551616"),
    (b'{"prompt": "a", "max_tokens": 99999999999999999999}', "max_tokens is 99999999999999999999"),
    (b'{"prompt": "a", "priority": 99999999999999999999}', "priority is 99999999999999999999"),
    (b'{"prompt": "a", "temperature": NaN}', "temperature"),
    (b'{"prompt": "a", "temperature": -Infinity}', "temperature"),
    (b'{"prompt": "a", "temperature": 1e400}', "temperature"),
    (b'{"prompt": "a", "logit_bias": {"1": NaN}}', "logit_bias"),
    (b'{"prompt": "a", "max_tokens": "12"}', "max_tokens"),
    (b'{"prompt": "a", "max_tokens": true}', "max_tokens"),
    (b'{"prompt": "a", "stream": "yes"}', "stream"),
    (b'{"prompt": "a", "logprobs": -1}', "logprobs"),
    (b'{"prompt": "a", "logprobs": 1000}', "logprobs"),
    (b'{"prompt": [true]}', "prompt"),
    (b'{"prompt": [1.5]}', "prompt"),
    (b'{"prompt": [-1]}', "token -1"),
    (b'{"prompt": []}', "prompt"),
    (b'{"prompt": null}', "prompt"),
    (b'{"prompt": "\\ud800"}', "surrogate"),
    (b'{"prompt": "a", "\\udfff": 1}', "unicode"),
    (b'{"prompt": "a", "stop": ["\\ud800"]}', "stop is"),
    (b'{"prompt": "a", "speculation": {"max_draft": 0}}', "max_draft"),
    # What would be right is said, in the words of the house and not of a library.
    (b"{}", "prompt is missing; it must be a text"),
    (b"[]", 'the body is []; it must be an object such as {"prompt": "hello"'),
    (b'{"prompt": "a", "max_token": 3}', "did you mean max_tokens?"),
    (b'{"prompt": [true]}', "it must be a text, a list of token ids, or a list of 1 to 64 of either"),
    (b'{"prompt": ["a", [1]]}', "it must be a text, a list of token ids, or a list of 1 to 64 of either"),
    (b'{"prompt": [[]]}', "prompt is empty"),
    (b'{"prompt": "a", "echo": true}', "echo is true; it must be false or null"),
    (b'{"prompt": "a", "stream": "yes"}', "stream is 'yes'; it must be true or false or null"),
    (b'{"prompt": "a", "stream_options": {"a": 1}}', "keys of stream_options: include_obfuscation,"),
    (b'{"prompt": "a", "temperature": NaN}', "temperature is nan; it must be a finite number"),
]
CHATS: list[tuple[dict[str, Any], str]] = [
    ({"messages": [{"role": "user", "content": {"a": 1}}]}, "content"),
    ({"messages": [{"role": "user", "content": "\ud800"}]}, "surrogate"),
    ({"messages": [{"role": "\ud800", "content": "a"}]}, "role"),
    ({"messages": [{"role": "user", "content": "a"}] * 10_001}, "messages"),
    ({"messages": [{"role": "user", "content": "a " * 400_000}]}, "shorten the prompt"),
    ({"response_format": {"type": "json_schema"}}, "json_schema"),
    ({"response_format": {"type": "yaml"}}, "response_format"),
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "nothing"}}}}, "json_schema"),
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"enum": ["\ud800"]}}}}, "json_schema"),
]


def test_no_body_is_too_strange(play: Play) -> None:
    deep: object = {}
    for _ in range(300):  # Python writes it, and the grammar library would have to walk it
        deep = {"type": "array", "items": deep}
    chats: list[tuple[dict[str, Any], str]] = [
        *CHATS,
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": deep}}}, "recursion"),
    ]

    async def scene(fleet: RunningFleet, client: httpx.AsyncClient) -> None:
        num_before = fleet.router.front.num_requests

        async def refused(path: str, content: bytes, words: str) -> None:
            answer = await client.post(f"/v1/{path}", content=content, headers=JSON)
            assert answer.status_code == 400, (content[:60], answer.text)
            assert words in answer.json()["error"]["message"].lower(), (content[:60], answer.text)

        for content, words in COMPLETIONS:
            await refused("completions", content, words)
        for fields, words in chats:
            body = {"messages": [{"role": "user", "content": "a"}]} | fields
            await refused("chat/completions", json.dumps(body).encode(), words)
        for method, path, status in (("GET", "/v1/completions", 405), ("POST", "/v1/nothing", 404), ("GET", "/", 404)):
            answer = await client.request(method, path)
            assert answer.status_code == status
            assert answer.json()["error"]["message"]
        assert fleet.router.front.num_requests == num_before

    play(scene)


def test_prompts_are_refused_for_their_size_before_they_are_encoded(play: Play) -> None:
    async def scene(fleet: RunningFleet, client: httpx.AsyncClient) -> None:
        begun_s = time.monotonic()
        for text in ("word " * 800_000, "a" * 4_000_000, " " * 4_000_000, "ab\n" * 5_000_000):
            answer = await client.post("/v1/completions", json={"prompt": text})
            assert answer.status_code == 400
            assert "at most" in answer.text or "shorten the prompt" in answer.text
        assert time.monotonic() - begun_s < 10.0, "encoding the first alone takes longer"

    play(scene)


def test_bodies_end_by_size_and_by_time(play_hastily: Play) -> None:
    async def endless(part: bytes, pause_s: float) -> AsyncIterator[bytes]:
        yield b'{"prompt": "'
        while True:
            yield part
            await asyncio.sleep(pause_s)

    async def scene(fleet: RunningFleet, client: httpx.AsyncClient) -> None:
        answer = await client.post("/v1/completions", content=b" " * 300_000, headers=JSON)
        assert (answer.status_code, "at most 200000 are read" in answer.text) == (400, True)
        for part, pause_s, words in ((b"a" * 50_000, 0.0, b"over 200000 bytes"), (b"a", 0.05, b"send it faster")):
            head = "POST /v1/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            reader, writer = await asyncio.open_connection("127.0.0.1", fleet.http_port)
            writer.write(head.encode())
            sending = asyncio.create_task(send(writer, endless(part, pause_s)))
            async with asyncio.timeout(DEADLINE_S):
                answered = await reader.readuntil(b"}}")
            assert words in answered
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            writer.close()

    play_hastily(scene)


async def send(writer: asyncio.StreamWriter, parts: AsyncIterator[bytes]) -> None:
    async for part in parts:
        writer.write(b"%x\r\n%b\r\n" % (len(part), part))
        await writer.drain()


def test_connections_that_make_no_request_are_ended(play_hastily: Play) -> None:
    async def ended(port: int, *parts: bytes) -> bytes:
        """What a client hears that sends these, the last one again and again, until the router hangs up."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        heard = asyncio.create_task(reader.read())
        async with asyncio.timeout(DEADLINE_S):
            for part in parts[:1]:
                writer.write(part)
            while not heard.done():
                writer.write(parts[-1] if len(parts) > 1 else b"")
                await asyncio.wait({heard}, timeout=0.02)
        writer.close()
        return b"" if isinstance(heard.exception(), ConnectionError) else heard.result()

    async def scene(fleet: RunningFleet, client: httpx.AsyncClient) -> None:
        request = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\n"
        said = await asyncio.gather(
            ended(fleet.http_port),  # nothing at all
            ended(fleet.http_port, request),  # headers that stop
            ended(fleet.http_port, request, b"x: y\r\n"),  # headers that never stop
            ended(fleet.http_port, request + b"x: " + b"y" * 100_000),  # one that is too long
            ended(fleet.http_port, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x7f" * 200),  # TLS
            ended(fleet.http_port, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
            ended(fleet.http_port, b"\xff" * 70_000 + b"\r\n\r\n"),
            ended(fleet.http_port, request + b"Content-Length: -1\r\n\r\n"),
            ended(fleet.http_port, request + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n"),
            ended(fleet.http_port, b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", b"G"),  # one good, and then
        )
        codes = [answer.partition(b" ")[2][:3] for answer in said]
        assert said[0] == b"", "a client that rests might take an answer for that of its next request"
        assert codes[1] == b"408"
        assert b"the head of a request did not end within" in said[1]
        assert set(codes[2:9]) <= {b"400", b"404", b"408", b""}  # nothing: it hung up on what was still coming
        assert codes[9] == b"200"

    play_hastily(scene)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_vanishes_ends_its_request(play: Play, stream: bool) -> None:
    async def scene(fleet: RunningFleet, client: httpx.AsyncClient) -> None:
        body = {"prompt": "the cat", "max_tokens": 400, "ignore_eos": True, "n": 3, "stream": stream}
        for _ in range(3):
            _, writer = await asyncio.open_connection("127.0.0.1", fleet.http_port)
            writer.write(posted("/v1/completions", body))
            await until(lambda: len(fleet.router.scheduler.running) == 3)
            writer.transport.abort()
            await until(lambda: not fleet.router.scheduler.running)
        asked = [request for request in fleet.router.front.requests() if len(request.choices) == 3]
        ended = [choice for request in asked[-3:] for choice in request.choices]
        assert len(ended) == 9
        assert sum(len(choice.answer.tokens) == 400 for choice in ended) == 0, "none ran to its end"
        assert_nothing_is_held(fleet)

    play(scene)


def test_a_reader_that_takes_next_to_nothing_holds_nobody_up_and_is_given_up(
    play_hastily: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    def little_room(connection: socket.socket, _: float) -> None:
        """The kernel would take megabytes for the reader, and on loopback end such a connection itself."""
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)

    monkeypatch.setattr("router.http.connection._watch_peer", little_room)
    body = {
        "messages": [{"role": "user", "content": "a"}],
        "max_tokens": 200,
        "ignore_eos": True,
        "n": 3,
        "logprobs": True,
        "top_logprobs": 20,
        "stream": True,
    }

    async def scene(fleet: RunningFleet, client: httpx.AsyncClient) -> None:
        stuck = socket.socket()
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(stuck, ("127.0.0.1", fleet.http_port))
        await loop.sock_sendall(stuck, posted("/v1/chat/completions", body))
        await until(lambda: len(fleet.router.scheduler.running) == 3)
        (request,) = (each for each in fleet.router.front.requests() if not each.has_ended)
        parts: list[bytes] = []
        reading = asyncio.create_task(read_slowly(stuck, parts))
        assert (await fleet.say("another", max_tokens=4)).tokens  # beside it
        await until(lambda: request.has_ended)
        # The router hangs up: what lies in the kernels comes, and then the end, which is not the end of the stream.
        with contextlib.suppress(ConnectionResetError):
            await asyncio.wait_for(reading, DEADLINE_S)
        assert b"[DONE]" not in b"".join(parts)
        stuck.close()
        assert_nothing_is_held(fleet)

    play_hastily(scene)


async def read_slowly(connection: socket.socket, parts: list[bytes]) -> None:
    while part := await asyncio.get_running_loop().sock_recv(connection, 1024):
        parts.append(part)
        await asyncio.sleep(0.1)


def posted(path: str, body: object) -> bytes:
    """A request as it lies on the wire."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
    return head.encode() + b"\r\n\r\n" + content


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not is_so():  # noqa: ASYNC110  # the router tells nobody
            await asyncio.sleep(0.005)


def assert_nothing_is_held(fleet: RunningFleet) -> None:
    verifier = fleet.router.scheduler.verifier
    assert verifier is not None
    assert not fleet.router.scheduler.running
    assert verifier.num_reserved_blocks == 0
