"""Masks along a tree are those of walking each of its paths, and an answer that follows them fits the schema."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from contracts.errors import InvalidArgument
from contracts.types import ROOT
from engine.text.tokenizer import Tokenizer
from router.json_answer import Grammars
from tests.engine.checkpoints import write_checkpoint

SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 6}, "age": {"type": "integer", "maximum": 99}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("json") / "model", "llama")


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.load(folder)


@pytest.fixture(scope="module")
def grammars(folder: Path, tokenizer: Tokenizer) -> Grammars:
    return Grammars(folder / "tokenizer.json", vocab_size=tokenizer.vocab_size, end_tokens=[end_of(tokenizer)])


def end_of(tokenizer: Tokenizer) -> int:
    return tokenizer.eos_token_id if tokenizer.eos_token_id is not None else 0


def allowed(mask: bytes) -> list[int]:
    return [token for token in range(8 * len(mask)) if mask[token // 8] >> token % 8 & 1]


def test_masks_of_a_tree_are_those_of_its_paths(grammars: Grammars) -> None:
    rng = random.Random(0)
    for _ in range(10):
        committed: list[int] = []
        answer = grammars.answer(SCHEMA)
        for _ in range(rng.randint(0, 6)):
            committed.append(rng.choice(allowed(answer.masks([], [])[0])))
            answer.advance(committed[-1:])
        tokens: list[int] = []
        parents: list[int] = []
        paths: dict[int, list[int]] = {ROOT: []}
        for node in range(8):
            parent = rng.choice(list(paths))
            along = grammars.answer(SCHEMA)
            along.advance([*committed, *paths[parent]])
            choices = allowed(along.masks([], [])[0])
            tokens.append(rng.choice(choices))
            parents.append(parent)
            paths[node] = [*paths[parent], tokens[-1]]
        masks = answer.masks(tokens, parents)
        assert len(masks) == 9
        for node in range(8):
            along = grammars.answer(SCHEMA)
            along.advance([*committed, *paths[node]])
            assert masks[node + 1] == along.masks([], [])[0] or along._matcher.is_stopped()
        assert answer.masks(tokens, parents) == masks  # looking changed nothing


def test_whoever_follows_the_masks_fits_the_schema(grammars: Grammars, tokenizer: Tokenizer) -> None:
    rng = random.Random(1)
    for _ in range(5):
        answer, tokens = grammars.answer(SCHEMA), []
        for _ in range(400):
            token = rng.choice(allowed(answer.masks([], [])[0]))
            if token == end_of(tokenizer):
                break
            tokens.append(token)
            answer.advance([token])
        else:
            continue  # endless white space is allowed too
        found = json.loads(tokenizer.decode(tokens))
        assert set(found) == {"name", "age"}
        assert len(found["name"]) <= 6
        assert found["age"] <= 99


def test_drafts_that_do_not_fit_are_passed_over(grammars: Grammars, tokenizer: Tokenizer) -> None:
    answer = grammars.answer(SCHEMA)
    wrong = next(token for token in range(tokenizer.vocab_size) if token not in allowed(answer.masks([], [])[0]))
    masks = answer.masks([wrong, wrong], [ROOT, 0])
    assert masks[0] == answer.masks([], [])[0]
    assert all(set(mask) == {255} for mask in masks[1:])


@pytest.mark.parametrize(
    "schema", ["{", "[]", '{"type": "no such type"}', '{"$ref": "#/nowhere"}', '"' + "x" * 300_000 + '"']
)
def test_what_is_no_schema_is_refused_by_name(grammars: Grammars, schema: str) -> None:
    with pytest.raises(InvalidArgument, match="json_schema"):
        grammars.answer(schema)


@pytest.mark.parametrize(
    ("schema", "words"), [({"type": "x" * 9000}, "Invalid type"), ({"pattern": f"({'x' * 9000}"}, "unclosed group")]
)
def test_a_refusal_says_what_is_wrong_and_does_not_repeat_the_schema(
    grammars: Grammars, schema: dict[str, str], words: str
) -> None:
    with pytest.raises(InvalidArgument, match=words) as refused:
        grammars.answer(json.dumps({"type": "string", **schema}))
    assert len(refused.value.message) < 400
