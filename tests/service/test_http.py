"""The official OpenAI client works unchanged, and bad requests are answered by what is wrong with them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from contracts.config import DrafterConfig
from tests.engine.checkpoints import write_checkpoint
from tests.service.fleet import RunningFleet, engine_of, kept, running_fleet

TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant: "
Scene = Callable[[RunningFleet, openai.AsyncOpenAI, httpx.AsyncClient], Coroutine[None, None, None]]
Play = Callable[[Scene], None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_checkpoint(tmp_path_factory.mktemp("http") / "tiny", "llama")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


@asynccontextmanager
async def faces(folder: Path) -> AsyncIterator[tuple[RunningFleet, openai.AsyncOpenAI, httpx.AsyncClient]]:
    drafters = {"twin": DrafterConfig(kind="model", engine=engine_of(folder))}
    async with running_fleet(engine_of(folder), drafters) as fleet:
        url = f"http://127.0.0.1:{fleet.http_port}"
        async with (
            openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as official,
            httpx.AsyncClient(base_url=url, timeout=60) as plain,
        ):
            yield fleet, official, plain


@pytest.fixture(scope="module")
def play(folder: Path) -> Iterator[Play]:
    """Plays a scene to one fleet, which stands for the whole file: none of them may leave it worse."""
    with kept(faces(folder)) as (runner, (fleet, official, plain)):
        yield lambda scene: runner.run(scene(fleet, official, plain))


def test_the_official_client_completes_and_chats(play: Play) -> None:
    async def scene(fleet: RunningFleet, official: openai.AsyncOpenAI, plain: httpx.AsyncClient) -> None:
        models = await official.models.list()
        assert [model.id for model in models.data] == ["tiny"]
        over_grpc = await fleet.say("the cat", temperature=0.8, seed=7, max_tokens=12)
        asked: dict[str, Any] = {"model": "tiny", "prompt": "the cat", "max_tokens": 12, "seed": 7, "temperature": 0.8}
        extra = {"extra_body": {"ignore_eos": True, "speculation": {"mode": "pearl"}}}
        complete: Any = official.completions.create  # its overloads know no keywords from a dict
        whole = await complete(**asked, **extra)
        assert whole.choices[0].text == over_grpc.text
        assert whole.choices[0].finish_reason == "length"
        assert whole.usage is not None
        assert whole.usage.completion_tokens == 12
        assert [each["mode"] for each in whole.model_extra["speculation"]] == ["pearl"], "in the words of the request"
        pieces = [
            piece
            async for piece in await complete(**asked, **extra, stream=True, stream_options={"include_usage": True})
        ]
        assert "".join(piece.choices[0].text for piece in pieces if piece.choices) == over_grpc.text
        assert pieces[-1].usage is not None
        messages: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
        chat: dict[str, Any] = {"model": "tiny", "messages": messages, "max_completion_tokens": 10, "seed": 1, "n": 2}
        answer = await official.chat.completions.create(**chat, logprobs=True, top_logprobs=3)
        assert len(answer.choices) == 2
        logprobs = answer.choices[0].logprobs
        assert logprobs is not None
        assert logprobs.content is not None
        assert all(len(each.top_logprobs) == 3 and each.logprob <= 0 for each in logprobs.content)
        texts = ["", ""]
        async for chunk in await official.chat.completions.create(**chat, stream=True):
            texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
        assert texts == [choice.message.content for choice in answer.choices]

    play(scene)


def test_an_answer_by_schema_is_json_in_every_mode(play: Play) -> None:
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}, "sizes": {"type": "array", "items": {"enum": [1, 2]}, "maxItems": 2}},
        "required": ["ok", "sizes"],
        "additionalProperties": False,
    }

    async def scene(fleet: RunningFleet, official: openai.AsyncOpenAI, plain: httpx.AsyncClient) -> None:
        texts = set()
        for mode in ("off", "vanilla", "pearl", "fleet"):
            body = {
                "messages": [{"role": "user", "content": "Say something"}],
                "seed": 3,
                "max_tokens": 60,
                "logit_bias": {str(token): -100 for token in await white_space(plain, fleet)},
                "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}},
                "speculation": {"mode": mode},
            }
            found = (await plain.post("/v1/chat/completions", json=body)).json()
            texts.add(found["choices"][0]["message"]["content"])
        (text,) = texts
        said = json.loads(text)
        assert isinstance(said["ok"], bool)
        assert all(size in (1, 2) for size in said["sizes"])

    play(scene)


async def white_space(plain: httpx.AsyncClient, fleet: RunningFleet) -> list[int]:
    """A random model would fill its answer with blanks, which JSON allows."""
    assert fleet.router.front.text is not None
    tokenizer = fleet.router.front.text.tokenizer
    return [token for token in range(tokenizer.vocab_size) if not tokenizer.decode([token]).strip()][:300]


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("completions", {"prompt": ""}, 400, "prompt is empty"),
        ("completions", {"prompt": "a", "max_tokens": -1}, 400, "max_tokens"),
        ("completions", {"prompt": "a", "max_tokens": 0}, 400, "max_tokens is 0"),
        ("completions", {"prompt": "a", "max_tokens": 10**9}, 400, "together they may be"),
        ("completions", {"prompt": "a " * 5000}, 400, "shorten the prompt"),
        ("completions", {"prompt": [1, 10**8]}, 400, "ids are 0 to"),
        ("completions", {"prompt": [1, "a"]}, 400, "prompt"),
        ("completions", {"prompt": "a", "temperature": "hot"}, 400, "temperature"),
        ("completions", {"prompt": "a", "temperature": 1000}, 400, "temperature is 1000"),
        ("completions", {"prompt": "a", "top_p": 0}, 400, "top_p"),
        ("completions", {"prompt": "a", "model": "other"}, 404, "this fleet serves tiny"),
        ("completions", {"prompt": "a", "n": 0}, 400, "n is 0; it must be"),
        ("completions", {"prompt": "a", "n": 1000}, 400, "n is 1000; it must be"),
        ("completions", {"prompt": "a", "colour": "red"}, 400, "colour is not a known key"),
        ("completions", {"prompt": "a", "logit_bias": {"x": 1}}, 400, "logit_bias"),
        ("completions", {"prompt": "a", "logit_bias": {"99999999": 1}}, 400, "logit_bias"),
        ("completions", {"prompt": "a", "seed": -1}, 400, "seed"),
        ("completions", {"prompt": "a", "speculation": {"mode": "warp"}}, 400, 'it must be "off" or "vanilla"'),
        ("completions", {"prompt": "a", "speculation": {"drafters": ["nobody"]}}, 404, "nobody"),
        ("chat/completions", {"messages": []}, 400, "messages"),
        ("chat/completions", {"messages": [{"role": "king", "content": "x"}]}, 400, "role"),
        ("chat/completions", {"messages": [{"role": "user"}]}, 400, "messages.0.content is missing; it must be a text"),
        ("chat/completions", {"messages": [{"role": "user", "content": "x"}], "top_logprobs": 2}, 400, "logprobs"),
    ],
)
def test_every_refusal_says_what_is_wrong(play: Play, path: str, body: object, status: int, words: str) -> None:
    async def scene(fleet: RunningFleet, official: openai.AsyncOpenAI, plain: httpx.AsyncClient) -> None:
        answer = await plain.post(f"/v1/{path}", json=body)
        assert answer.status_code == status, answer.text
        error = answer.json()["error"]
        assert words in error["message"]
        assert error["type"]
        assert (await fleet.say("still here", max_tokens=2)).tokens

    play(scene)


def test_broken_bodies_and_vanishing_clients_do_no_harm(play: Play) -> None:
    async def scene(fleet: RunningFleet, official: openai.AsyncOpenAI, plain: httpx.AsyncClient) -> None:
        answer = await plain.post("/v1/completions", content=b'{"prompt": "a"}')
        assert "the content-type is ''; it must be application/json" in answer.text
        for content in (b"{", b"\xff\xfe", b"[]", b"null", b'{"prompt": "\\ud800"}'):
            answer = await plain.post("/v1/completions", content=content, headers={"content-type": "application/json"})
            assert answer.status_code == 400, answer.text
        asked = {"prompt": "the cat", "max_tokens": 400, "stream": True, "ignore_eos": True}
        for _ in range(5):
            async with plain.stream("POST", "/v1/completions", json=asked) as stream:
                await anext(stream.aiter_lines())
        async with asyncio.timeout(30):
            while fleet.router.scheduler.running:  # noqa: ASYNC110  # it tells nobody
                await asyncio.sleep(0.01)
        assert (await plain.get("/healthz")).status_code == 200
        assert (await plain.get("/readyz")).status_code == 200
        assert "specfleet_rounds_total" in (await plain.get("/metrics")).text

    play(scene)
