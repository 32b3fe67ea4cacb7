"""The committed checkpoints: they load everywhere, fit their size limit, and say what they are."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from contracts.config import EngineConfig
from contracts.types import SamplingParams, SequenceId, Verdict
from engine.local_group import local_engine
from engine.work import Verify
from models.evaluate import TARGET, drafter_folders
from models.generate import continue_prompts
from models.hf_folder import load_network
from models.inflate import inflate
from models.tokenizer import load_tokenizer

MODELS = Path(__file__).parents[2] / "models"
DEMO = MODELS / "demo"
MEMBERS = [DEMO / TARGET, *drafter_folders(DEMO).values()]
MAX_BYTES = 45 * 10**6
MAX_NEW = 16
END_ID = 2

pytestmark = pytest.mark.skipif(not (DEMO / TARGET / "config.json").is_file(), reason="the family is not built yet")


def chats() -> list[list[dict[str, str]]]:
    lines = (MODELS / "test_prompts.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["messages"] for line in lines]


def prompt_tokens() -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(DEMO / TARGET)
    rendered = [tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats()]
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in rendered]


def test_the_family_is_whole_and_small() -> None:
    names = {folder.name for folder in MEMBERS}
    assert {"target", "drafter-general", "drafter-sql", "drafter-dialogue", "drafter-translation"} <= names
    assert len(names) >= 7
    assert sum(path.stat().st_size for path in DEMO.rglob("*") if path.is_file()) <= MAX_BYTES


@pytest.mark.parametrize("folder", MEMBERS, ids=lambda folder: folder.name)
def test_sizes_cards_and_tokenizer(folder: Path) -> None:
    num_parameters = load_network(folder).shape.num_parameters
    low, high = (12e6, 16e6) if folder.name == TARGET else (0.8e6, 1.5e6)
    assert low <= num_parameters <= high
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f"{num_parameters:,}" in card
    assert "license:" in card
    target_tokenizer = load_tokenizer(DEMO / TARGET / "tokenizer.json")
    assert load_tokenizer(folder / "tokenizer.json").to_str() == target_tokenizer.to_str()


@pytest.mark.parametrize("folder", MEMBERS, ids=lambda folder: folder.name)
def test_transformers_and_the_engine_generate_the_same(folder: Path) -> None:
    """Fifty test prompts, greedy, float32: a padded batch of the recipe's network, a flat one of the engine, and
    transformers, which is asked in one pass for each prompt what it would say after every token of the answer: it would
    generate the answer exactly if it chooses each token of it after those before."""
    prompts = prompt_tokens()[:50]
    ours = continue_prompts(load_network(folder), prompts, max_new=MAX_NEW, end_id=END_ID)
    assert engine_answers(folder, prompts) == ours
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for prompt, answer in zip(prompts, ours, strict=True):
        with torch.inference_mode():
            logits = theirs(torch.tensor([prompt + answer])).logits[0]  # [len(prompt) + len(answer), vocabulary]
        assert answer == logits[len(prompt) - 1 : -1].argmax(dim=-1).tolist()
        assert len(answer) == MAX_NEW or answer[-1] == END_ID


def engine_answers(folder: Path, prompts: list[list[int]]) -> list[list[int]]:
    config = EngineConfig(model=str(folder), dtype="float32", num_threads=1, kv_cache_bytes=2**28)
    with local_engine(config) as loaded:
        engine = loaded.engine
        answers: dict[SequenceId, list[int]] = {}
        for number, prompt in enumerate(prompts):
            answers[SequenceId(str(number))] = []
            engine.open(SequenceId(str(number)), prompt, SamplingParams())
            while engine.num_pending(SequenceId(str(number))) > 1:
                left = engine.num_pending(SequenceId(str(number))) - 1
                engine.step([Verify(sequence=SequenceId(str(number)), num_pending=min(left, 512))])
        running = set(answers)
        for _ in range(MAX_NEW):
            for outcome in engine.step([Verify(sequence=sequence) for sequence in sorted(running)]).outcomes:
                assert isinstance(outcome, Verdict)
                answers[outcome.sequence] += outcome.tokens
                if outcome.tokens[-1] == END_ID:
                    running.discard(outcome.sequence)
        return list(answers.values())


def test_inflated_target_gives_the_same_tokens(tmp_path: Path) -> None:
    """At 40 M, so that it takes seconds; the benchmark's 300 M has the same construction."""
    prompts = prompt_tokens()[:16]
    inflate(DEMO / TARGET, tmp_path / "big", num_parameters=40_000_000)
    small, big = (
        continue_prompts(load_network(folder), prompts, max_new=8, end_id=END_ID)
        for folder in (DEMO / TARGET, tmp_path / "big")
    )
    assert small == big
