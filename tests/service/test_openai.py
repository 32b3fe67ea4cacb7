"""What users of OpenAI's API rely on, asked through OpenAI's own client."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from pydantic import ValidationError

from contracts.config import DrafterConfig
from contracts.types import SamplingParams, StopParams, TenantId, TokenLogprob
from engine.text.tokenizer import Tokenizer
from router.answer import AnsweredToken
from router.front import Asked, FrontLimits
from router.http.answering import ChatForm, CompletionForm
from router.http.app import run_http
from router.http.asking import chat_asked
from router.http.schemas import ChatRequest
from router.server import run_router
from tests.engine.checkpoints import metaspace_tokenizer, write_checkpoint
from tests.service.fleet import DEADLINE_S, RunningFleet, engine_of, running_fleet
from tests.service.router_process import until

TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant: "
MESSAGES = [{"role": "user", "content": "Say something about cats"}]
Scene = Callable[[RunningFleet, Any, httpx.AsyncClient], Awaitable[None]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_checkpoint(tmp_path_factory.mktemp("openai") / "tiny", "llama")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def play(folder: Path, scene: Scene, limits: FrontLimits | None = None) -> None:
    async def run() -> None:
        drafters = {"twin": DrafterConfig(kind="model", engine=engine_of(folder))}
        async with running_fleet(engine_of(folder), drafters, limits=limits) as fleet:
            url = f"http://127.0.0.1:{fleet.http_port}"
            async with (
                openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as official,
                httpx.AsyncClient(base_url=url, timeout=DEADLINE_S) as plain,
            ):
                await scene(fleet, official, plain)

    asyncio.run(run())


def test_choices_seeds_and_what_shapes_the_text(folder: Path) -> None:
    async def scene(fleet: RunningFleet, official: Any, plain: httpx.AsyncClient) -> None:
        async def complete(**asked: object) -> Any:
            common = {"model": "tiny", "prompt": "the cat", "max_tokens": 24, "extra_body": {"ignore_eos": True}}
            return await official.completions.create(**{**common, **asked})

        async def text(**asked: object) -> str:
            return str((await complete(**asked)).choices[0].text)

        # Choice i has the seed plus i, so n choices are those of n requests.
        several = await complete(n=3, seed=5, temperature=0.8)
        assert [choice.index for choice in several.choices] == [0, 1, 2]
        alone = [await text(seed=seed, temperature=0.8) for seed in (5, 6, 7)]
        assert [choice.text for choice in several.choices] == alone
        assert len(set(alone)) == 3
        assert several.usage.completion_tokens == 72
        greedy = await text(temperature=0)
        assert greedy == await text(temperature=0, seed=9)
        # A stop string ends it and is not told; several may be given.
        stop = greedy[6:9]
        for given in (stop, [stop, "never said"]):
            stopped = (await complete(temperature=0, stop=given)).choices[0]
            assert (stopped.text, stopped.finish_reason) == (greedy[: greedy.index(stop)], "stop")
        # Bias and penalties change the text, and a ban is a ban.
        first = fleet.router.front.text.tokenizer.encode(greedy, add_special_tokens=False)[0]  # type: ignore[union-attr]
        assert await text(temperature=0, logit_bias={str(first): -100}) != greedy
        only = await complete(temperature=0, logit_bias={"90": 100}, max_tokens=4, logprobs=0)
        assert len(set(only.choices[0].logprobs.tokens)) == 1
        for penalty in ({"presence_penalty": 2.0}, {"frequency_penalty": 2.0}):
            assert await text(temperature=0.5, seed=1, **penalty) != await text(temperature=0.5, seed=1)
        assert (await complete(temperature=0, top_p=0.5, max_tokens=1)).choices[0].finish_reason == "length"

    play(folder, scene)


def test_several_prompts_are_as_many_requests(folder: Path) -> None:
    async def scene(fleet: RunningFleet, official: Any, plain: httpx.AsyncClient) -> None:
        async def complete(prompt: object, **asked: object) -> Any:
            common = {"model": "tiny", "max_tokens": 12, "seed": 5, "n": 2, "extra_body": {"ignore_eos": True}}
            return await official.completions.create(prompt=prompt, **{**common, **asked})

        def usage(answer: Any) -> tuple[int, int]:
            return answer.usage.prompt_tokens, answer.usage.completion_tokens

        text = fleet.router.front.text
        assert text is not None
        prompts = ["the cat", "a dog and", "one two"]
        alone = [await complete(prompt) for prompt in prompts]
        expected = [choice.text for each in alone for choice in each.choices]
        assert len(set(expected)) == 6
        for given in (prompts, [text.tokenizer.encode(prompt) for prompt in prompts]):
            together = await complete(given)
            assert [choice.index for choice in together.choices] == list(range(6))
            assert [choice.text for choice in together.choices] == expected
            assert usage(together) == tuple(map(sum, zip(*map(usage, alone), strict=True)))
        said = [""] * 6
        async for chunk in await complete(prompts, stream=True):
            for choice in chunk.choices:
                said[choice.index] += choice.text
        assert said == expected
        # One that is refused is a refusal of all, and those before it do not run on.
        with pytest.raises(openai.BadRequestError, match="ids are 0 to"):
            await complete([[5, 6], [10**8]], max_tokens=400)
        await until(lambda: not fleet.router.scheduler.running)

    play(folder, scene)


def test_no_prompt_is_given_up_while_another_is_read(folder: Path) -> None:
    """Their client waits for the whole answer, so each of them has a reader from its beginning on."""

    async def scene(fleet: RunningFleet, official: Any, plain: httpx.AsyncClient) -> None:
        asked = {"model": "tiny", "max_tokens": 400, "temperature": 0, "extra_body": {"ignore_eos": True}}
        together = await official.completions.create(prompt=["the cat", "a dog and"], **asked)
        assert [choice.finish_reason for choice in together.choices] == ["length", "length"]
        assert together.usage.completion_tokens == 800

    play(folder, scene, FrontLimits(grace_s=0.5))


def test_logprobs_add_up(folder: Path) -> None:
    async def scene(fleet: RunningFleet, official: Any, plain: httpx.AsyncClient) -> None:
        chat = {
            "model": "tiny",
            "messages": MESSAGES,
            "max_tokens": 16,
            "temperature": 0,
            "seed": 2,
            "logprobs": True,
            "extra_body": {"ignore_eos": True},
        }
        whole = (await official.chat.completions.create(**chat, top_logprobs=5)).choices[0]
        content = whole.logprobs.content
        assert len(content) == 16
        said = b"".join(bytes(each.bytes) for each in content).decode(errors="replace")
        assert said == whole.message.content
        for each in content:
            assert [other.logprob for other in each.top_logprobs] == sorted(
                (other.logprob for other in each.top_logprobs), reverse=True
            )
            assert each.top_logprobs[0].token == each.token, "greedy takes the likeliest"
            assert sum(math.exp(other.logprob) for other in each.top_logprobs) <= 1.001
        none = (await official.chat.completions.create(**chat)).choices[0]
        assert [each.top_logprobs for each in none.logprobs.content] == [[]] * 16
        assert [each.logprob for each in none.logprobs.content] == [each.logprob for each in content]
        streamed = [
            each
            async for chunk in await official.chat.completions.create(**chat, top_logprobs=5, stream=True)
            for choice in chunk.choices
            if choice.logprobs is not None
            for each in choice.logprobs.content
        ]
        assert streamed == content
        # The older form: lists side by side, and where in the text each token begins.
        old = {"model": "tiny", "prompt": "the cat", "max_tokens": 16, "temperature": 0, "logprobs": 2}
        answer = (await official.completions.create(**old, extra_body={"ignore_eos": True})).choices[0]
        found = answer.logprobs
        assert {len(found.tokens), len(found.token_logprobs), len(found.top_logprobs), len(found.text_offset)} == {16}
        assert found.text_offset == sorted(found.text_offset)
        assert all(1 <= len(each) <= 2 for each in found.top_logprobs)

    play(folder, scene)


def test_tokens_are_spelled_with_their_spaces_and_of_one_spelling_the_likeliest_counts() -> None:
    """As Llama's tokenizers have them: with a space at the beginning of a word, and pieces of characters."""
    backend = metaspace_tokenizer()
    apart, along, piece, other = (backend.get_vocab()[token] for token in ("▁a", "a", "<0xE3>", "<0xE4>"))
    top = ((apart, -0.5), (along, -1.5), (piece, -2.5), (other, -3.5))
    said = AnsweredToken(apart, " a", None, TokenLogprob(token=apart, logprob=-0.5, top=top))
    old = CompletionForm(Tokenizer(backend), num_logprobs=4).logprobs([said], 0)
    assert old is not None
    assert (old["tokens"], old["top_logprobs"]) == ([" a"], [{" a": -0.5, "a": -1.5, "\ufffd": -2.5}])
    chat = ChatForm(Tokenizer(backend), num_logprobs=4).logprobs([said], 0)
    assert chat is not None
    assert [each["token"] for each in chat["content"][0]["top_logprobs"]] == [" a", "a", "\ufffd", "\ufffd"]


def test_streams_say_their_usage_and_choices_come_side_by_side(folder: Path) -> None:
    async def scene(fleet: RunningFleet, official: Any, plain: httpx.AsyncClient) -> None:
        chat = {"model": "tiny", "messages": MESSAGES, "max_tokens": 40, "seed": 4, "n": 3, "temperature": 0.7}
        whole = await official.chat.completions.create(**chat, extra_body={"ignore_eos": True})
        chunks = [
            chunk
            async for chunk in await official.chat.completions.create(
                **chat, stream=True, stream_options={"include_usage": True}, extra_body={"ignore_eos": True}
            )
        ]
        texts, order, ends = ["", "", ""], [], []
        for chunk in chunks[:-1]:
            (choice,) = chunk.choices
            texts[choice.index] += choice.delta.content or ""
            order.append(choice.index)
            if choice.finish_reason is not None:
                ends.append((choice.index, choice.finish_reason))
        assert texts == [choice.message.content for choice in whole.choices]
        assert sorted(ends) == [(0, "length"), (1, "length"), (2, "length")]
        assert order != sorted(order), "no choice waits for another"
        assert chunks[-1].choices == []
        assert chunks[-1].usage.completion_tokens == 120
        assert chunks[-1].usage.total_tokens == 120 + chunks[-1].usage.prompt_tokens
        # The prompt was computed for the first request; whole blocks of it were there for the second.
        assert whole.usage.prompt_tokens_details.cached_tokens == 0
        cached = chunks[-1].usage.prompt_tokens_details.cached_tokens
        assert cached == (whole.usage.prompt_tokens - 1) // 16 * 16 > 0

    play(folder, scene)


def test_what_the_cache_had_is_told_and_never_anothers(folder: Path) -> None:
    prompt = [5 + index % 50 for index in range(70)]

    async def scene(fleet: RunningFleet, official: Any, plain: httpx.AsyncClient) -> None:
        front = fleet.router.front

        async def num_cached(tenant: str) -> int | None:
            stop = StopParams(max_tokens=2, ignore_eos=True)
            asked = Asked(prompt=prompt, sampling=SamplingParams(), stop=stop, tenant=TenantId(tenant))
            request = await front.generate(asked)
            _ = [tokens async for tokens in front.read(request, 0)]
            return request.choices[0].sequence.num_cached

        assert [await num_cached(tenant) for tenant in ("a", "a", "b", "a", "b")] == [0, 64, 0, 64, 64]
        said = await fleet.say("the cat sat on the mat and the mat sat on the cat, and so on")
        again = await fleet.say("the cat sat on the mat and the mat sat on the cat, and so on")
        assert said.finished is not None
        assert again.finished is not None
        assert said.finished.usage.num_cached_tokens == 0
        assert again.finished.usage.num_cached_tokens == (again.finished.usage.num_prompt_tokens - 1) // 16 * 16

    play(folder, scene)


def test_a_conversation_goes_on_with_the_message_that_the_client_was_given(folder: Path) -> None:
    """As what the client sends of it where it is appended as it is, or by `model_dump()`."""
    given = {"index": 0, "finish_reason": "stop", **ChatForm(Tokenizer.load(folder), num_logprobs=None).message("Meow")}
    message = openai.types.chat.chat_completion.Choice.model_validate(given).message
    for sent in (message.model_dump(exclude_unset=True), message.model_dump()):
        asked = {"messages": [*MESSAGES, sent, *MESSAGES], "response_format": None, "tools": []}
        prompt = chat_asked(ChatRequest.model_validate(asked)).prompt
        assert prompt == [*MESSAGES, {"role": "assistant", "content": "Meow"}, *MESSAGES]
    with pytest.raises(ValidationError, match=r"messages\.0\.tool_calls"):
        ChatRequest.model_validate({"messages": [{**MESSAGES[0], "tool_calls": [{"id": "a"}]}]})


def test_json_by_schema_streams_too(folder: Path) -> None:
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}, "size": {"enum": [1, 2]}},
        "required": ["ok", "size"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}

    async def scene(fleet: RunningFleet, official: Any, plain: httpx.AsyncClient) -> None:
        tokenizer = fleet.router.front.text.tokenizer  # type: ignore[union-attr]
        blanks = [token for token in range(tokenizer.vocab_size) if not tokenizer.decode([token]).strip()]
        text = ""
        async for chunk in await official.chat.completions.create(
            model="tiny",
            messages=MESSAGES,
            max_tokens=60,
            seed=3,
            stream=True,
            response_format=form,
            logit_bias={str(token): -100 for token in blanks[:300]},  # or a random model says nothing but blanks
        ):
            text += chunk.choices[0].delta.content or ""
        said = json.loads(text)
        assert isinstance(said["ok"], bool)
        assert said["size"] in (1, 2)

    play(folder, scene)


def test_models_health_and_readiness_while_the_verifier_is_away(folder: Path) -> None:
    async def scene() -> None:
        async with running_fleet(engine_of(folder), {}) as fleet:
            url = f"http://127.0.0.1:{fleet.http_port}"
            async with (
                openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as official,
                httpx.AsyncClient(base_url=url, timeout=DEADLINE_S) as plain,
            ):

                async def statuses() -> list[int]:
                    return [(await plain.get(path)).status_code for path in ("/healthz", "/readyz")]

                assert await statuses() == [200, 200]
                assert (await official.models.retrieve("tiny")).id == "tiny"
                with pytest.raises(openai.NotFoundError, match="this fleet serves tiny"):
                    await official.models.retrieve("other")
                await fleet.remove("verifier")
                assert await statuses() == [200, 503]
                assert [model.id for model in (await official.models.list()).data] == ["tiny"]
                # A request waits for it, and is answered when it is back.
                four_tokens = official.completions.create(
                    model="tiny", prompt="the cat", max_tokens=4, extra_body={"ignore_eos": True}
                )
                waiting = asyncio.create_task(four_tokens)
                async with asyncio.timeout(DEADLINE_S):
                    while not fleet.router.front.requests():  # noqa: ASYNC110  # it tells nobody
                        await asyncio.sleep(0.005)
                assert not waiting.done()
                await fleet.add_verifier(engine_of(folder))
                answer: Any = await waiting
                assert answer.usage.completion_tokens == 4
                assert await statuses() == [200, 200]

    asyncio.run(scene())


def test_before_there_is_a_verifier_requests_are_told_to_come_again(folder: Path) -> None:
    async def scene() -> None:
        async with (
            run_router("127.0.0.1:0", limits=FrontLimits()) as router,
            run_http(router.front, "127.0.0.1", 0) as port,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE_S) as plain,
        ):
            assert (await plain.get("/healthz")).status_code == 200
            assert (await plain.get("/readyz")).status_code == 503
            assert (await plain.get("/v1/models")).json()["data"] == []
            refused = await plain.post("/v1/completions", json={"prompt": "a"})
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
            assert "the target is not there yet" in refused.json()["error"]["message"]

    asyncio.run(scene())
