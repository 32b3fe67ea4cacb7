"""What all peers are asked: token ids, so that no tokenizer or chat template can make a difference."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, cycle, islice, zip_longest
from pathlib import Path

from tokenizers import Tokenizer

from benchmarks.generation import read_prompts
from contracts.errors import InvalidArgument
from models.chat import Message, prompt_text
from models.corpus import DOMAINS, check_corpus
from models.prompts import domain_prompts

__all__ = ["WORKLOADS", "Question", "Workload", "workload"]

WORKLOADS = ("domain", "spec-bench", "mixed")
_TEST_PROMPTS = Path(__file__).parents[2] / "models" / "test_prompts.jsonl"
_SPEC_BENCH = Path("prompts") / "spec_bench.jsonl"
_MAX_SPEC_BENCH_TOKENS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    task: str
    tokens: tuple[int, ...]


_Questions = Callable[[Tokenizer, Path | None, int], list[Question]]
"""At most so many of a kind, one of each task after the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    name: str
    count: int
    """Of a turn."""
    warm_up: tuple[Question, ...]
    alternations: tuple[tuple[Question, ...], ...]
    """What everyone is asked in each, or its first ones: see `of_turn`. All are different prompts, those of the warm-up
    too, as far as there are so many."""
    lessons: tuple[Question, ...] = ()
    """Others than all of these, from which our router learns who is good at what before anything is timed."""

    @property
    def questions(self) -> list[Question]:
        """Of all turns; without the lessons."""
        return [*self.warm_up, *chain.from_iterable(self.alternations)]

    def of_turn(self, questions: Sequence[Question], *, together: int) -> Sequence[Question]:
        """Those that a turn asks where so many are asked at a time: more than usual where that is less."""
        return questions[: max(self.count, together)]


def workload(
    name: str,
    tokenizer: Tokenizer,
    *,
    corpus: Path | None,
    count: int,
    most_together: int = 1,
    num_alternations: int = 1,
    num_lessons: int = 0,
) -> Workload:
    """`domain`: test prompts of the demo family's domains, the committed ones where no corpus is given. `spec-bench`:
    first turns of its tasks. `mixed`: half of each, shuffled. `count`: of a turn, if no more are asked at a time."""
    num, most = 1 + num_alternations, max(count, most_together)

    def dealt(questions: _Questions, count: int, num_lessons: int) -> tuple[list[list[Question]], list[Question]]:
        """The turns, and lessons of what comes after them."""
        found = questions(tokenizer, corpus, num * count + num_lessons)
        lessons = found[num * count :]
        if len(lessons) < num_lessons:
            raise InvalidArgument(
                f"{name} has {len(lessons)} prompts besides the {num * count} of its turns; {num_lessons} were to be "
                "taught from: ask for fewer of either, or give a larger corpus"
            )
        return _turns(found[: num * count], count, num), lessons

    match name:
        case "domain":
            turns, lessons = dealt(_domain, most, num_lessons)
        case "spec-bench":
            turns, lessons = dealt(_spec_bench, most, num_lessons)
        case "mixed":
            half, half_lessons = most - most // 2, num_lessons - num_lessons // 2
            one, one_lessons = dealt(_domain, half, half_lessons)
            other, other_lessons = dealt(_spec_bench, most - half, num_lessons - half_lessons)
            turns, lessons = [[*a, *b] for a, b in zip(one, other, strict=True)], [*one_lessons, *other_lessons]
            for turn in (*turns, lessons):
                random.Random(1).shuffle(turn)
        case _:
            raise InvalidArgument(f"workload is {name!r}; right is one of {', '.join(WORKLOADS)}")
    warm_up, *alternations = map(tuple, turns)
    return Workload(name=name, count=count, warm_up=warm_up, alternations=tuple(alternations), lessons=tuple(lessons))


def _domain(tokenizer: Tokenizer, corpus: Path | None, count: int) -> list[Question]:
    if corpus is None:
        found = [
            Question(task=prompt.domain, tokens=_tokens(tokenizer, prompt.messages))
            for prompt in read_prompts(_TEST_PROMPTS)
        ]
    else:
        check_corpus(corpus)
        found = [
            Question(task=domain, tokens=prompt.tokens)
            for domain in DOMAINS
            for prompt in domain_prompts(corpus, domain, "test", tokenizer, count)
        ]
    return _in_turn(found, count)


def _spec_bench(tokenizer: Tokenizer, corpus: Path | None, count: int) -> list[Question]:
    if corpus is None:
        raise InvalidArgument(f"Spec-Bench prompts are read from {_SPEC_BENCH} of a corpus; give --corpus DIR")
    path = corpus / _SPEC_BENCH
    try:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        found = [
            Question(
                task=str(record["task"]),
                tokens=_tokens(tokenizer, [{"role": "user", "content": str(record["turns"][0])}]),
            )
            for record in records
        ]
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise InvalidArgument(
            f'cannot read Spec-Bench prompts from {path} ({error!r}); it has a record {{"task", "turns"}} a line'
        ) from error
    return _in_turn([question for question in found if len(question.tokens) <= _MAX_SPEC_BENCH_TOKENS], count)


def _tokens(tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]]) -> tuple[int, ...]:
    text = prompt_text(tuple(Message(role=each["role"], content=each["content"]) for each in messages))
    return tuple(tokenizer.encode(text, add_special_tokens=False).ids)


def _turns(questions: Sequence[Question], count: int, num: int) -> list[list[Question]]:
    """One after the other, from the beginning again where there are too few."""
    endless = cycle(questions)
    return [list(islice(endless, min(count, len(questions)))) for _ in range(num)]


def _in_turn(questions: Sequence[Question], count: int) -> list[Question]:
    """So many, one of each task after the other."""
    tasks = dict.fromkeys(question.task for question in questions)
    columns = [[question for question in questions if question.task == task] for task in tasks]
    rows: Iterator[Question | None] = chain.from_iterable(zip_longest(*columns))
    return list(islice((question for question in rows if question is not None), count))
