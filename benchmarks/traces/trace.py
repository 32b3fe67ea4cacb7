"""A trace: what a target answered, and at every place of its answers what each drafter would have proposed there.

With the shared rule a target's answer does not depend on drafts, and a draft is accepted as far as it equals that
answer. So whatever a policy does with drafts, it meets the same tokens and the same trees: one recording serves every
policy, and whoever runs a policy on it gets the acceptances that the real models would have given it.

For each place of an answer, before its token is known, and each drafter the trace holds the tree of at most `num_nodes`
nodes that the drafter answers to an ask at that place, in the drafter's own order, the best first. What it would have
answered to an ask for fewer nodes, or for less depth, is a part of that tree. Nodes off the target's path are in it,
for they cost rows, but not what hangs below a proposed token later: that is the tree at a later place, as far as it can
be accepted. So drafting ahead can be replayed along the path and not beside it.

Beside them stand measured times: of target steps by rows and context, for a cost table, and of draft steps. The target
that was timed may be another than the one that answered (an inflated one says the same and takes longer).

The file is a compressed npz without pickles:

    about           JSON: version, drafters, domains, num_levels, and whatever the recorder says about where it ran
    domain          [requests]   index into domains
    temperature, seed   [requests]
    prompt_length   [requests]   prompts one after another in `prompts`
    answer_length   [requests]   answers one after another in `answers`; a place is an index there
    prompts         [tokens]     token ids
    answers         [places]     token ids, with the end token where the target said it
    tokens          [num_nodes, drafters, places]   node ids
    parents         [num_nodes, drafters, places]   0: no such node; 1: the root; n + 2: node n
    levels          [num_nodes, drafters, places]   raw confidence: (level / (num_levels - 1))^2, the nearest there is
    step_of         [steps]      0: the target; n + 1: drafter n
    step_sequences, step_rows, step_context, step_s   [steps]   sequences, rows, keys summed over rows, seconds

Squares, because small confidences are close together. Nodes come first, so that what is alike lies side by side.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.errors import InvalidArgument
from contracts.types import DrafterId, DraftNode, StepReport

__all__ = ["NUM_LEVELS", "Request", "Trace", "TreeTable", "read_trace", "write_trace"]

NUM_LEVELS = 256
_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One prompt as the target answered it. `first_place` is the place of its first answered token."""

    domain: str
    temperature: float
    seed: int
    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    first_place: int


class TreeTable:
    """Draft trees by place and drafter, as the arrays of the file; see the module."""

    def __init__(
        self,
        tokens: NDArray[np.integer[Any]],  # [num_nodes, drafters, places]
        parents: NDArray[np.integer[Any]],  # the same
        levels: NDArray[np.integer[Any]],  # the same
    ) -> None:
        self.tokens, self.parents, self.levels = tokens, parents, levels

    @classmethod
    def empty(cls, *, num_nodes: int, num_drafters: int, num_places: int) -> TreeTable:
        """To be filled by `put`."""
        shape = (num_nodes, num_drafters, num_places)
        return cls(np.zeros(shape, np.int32), np.zeros(shape, np.int16), np.zeros(shape, np.int16))

    def put(self, place: int, drafter: int, tree: Sequence[DraftNode]) -> None:
        """What a drafter proposed at a place."""
        for index, node in enumerate(tree):
            at = index, drafter, place
            self.tokens[at], self.parents[at] = node.token, node.parent + 2
            self.levels[at] = round(node.confidence**0.5 * (NUM_LEVELS - 1))

    def at(self, place: int, drafter: int, name: DrafterId) -> tuple[DraftNode, ...]:
        """The same again, but for rounding of confidences."""
        parents = self.parents[:, drafter, place].tolist()
        tokens, levels = self.tokens[:, drafter, place].tolist(), self.levels[:, drafter, place].tolist()
        return tuple(
            DraftNode(token=token, parent=parent - 2, confidence=(level / (NUM_LEVELS - 1)) ** 2, drafter=name)
            for token, parent, level in zip(tokens, parents, levels, strict=True)
            if parent > 0
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """See the module. `step_reports` has the target's under None."""

    drafters: tuple[DrafterId, ...]
    requests: tuple[Request, ...]
    trees: TreeTable
    step_reports: dict[DrafterId | None, tuple[StepReport, ...]]
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def domains(self) -> tuple[str, ...]:
        """In the order of their first request."""
        return tuple(dict.fromkeys(request.domain for request in self.requests))

    def tree(self, request: Request, index: int, drafter: DrafterId) -> tuple[DraftNode, ...]:
        """What a drafter proposes when `index` tokens of the answer are committed."""
        if not 0 <= index < len(request.answer):
            raise InvalidArgument(f"place {index} of an answer of {len(request.answer)} tokens was not recorded")
        return self.trees.at(request.first_place + index, self.drafters.index(drafter), drafter)

    def matches(self, request: Request, drafter: DrafterId) -> list[bool]:
        """For each token of the answer: whether it is the drafter's first choice there."""
        places = slice(request.first_place, request.first_place + len(request.answer))
        of = self.drafters.index(drafter)
        said = (self.trees.tokens[0, of, places] == request.answer) & (self.trees.parents[0, of, places] > 0)
        return [bool(match) for match in said]


def write_trace(path: Path, trace: Trace) -> None:
    domains = trace.domains
    steps = [
        (of, report) for of, name in enumerate([None, *trace.drafters]) for report in trace.step_reports.get(name, ())
    ]
    about = {
        "version": _VERSION,
        "drafters": trace.drafters,
        "domains": domains,
        "num_levels": NUM_LEVELS,
        "notes": trace.notes,
    }
    requests = trace.requests
    arrays: dict[str, NDArray[Any]] = {
        "about": np.frombuffer(json.dumps(about).encode(), np.uint8),
        "domain": np.array([domains.index(request.domain) for request in requests], np.uint16),
        "temperature": np.array([request.temperature for request in requests]),
        "seed": np.array([request.seed for request in requests], np.uint64),
        "prompt_length": np.array([len(request.prompt) for request in requests], np.int32),
        "answer_length": np.array([len(request.answer) for request in requests], np.int32),
        "prompts": _small(np.array([token for request in requests for token in request.prompt], np.int64)),
        "answers": _small(np.array([token for request in requests for token in request.answer], np.int64)),
        "tokens": _small(trace.trees.tokens),
        "parents": _small(trace.trees.parents),
        "levels": _small(trace.trees.levels),
        "step_of": np.array([of for of, _ in steps], np.uint16),
        "step_sequences": np.array([report.num_sequences for _, report in steps], np.int32),
        "step_rows": np.array([report.num_rows for _, report in steps], np.int32),
        "step_context": np.array([report.num_context for _, report in steps], np.int64),
        "step_s": np.array([report.elapsed_s for _, report in steps], np.float32),
    }
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]  # its stub takes a name for one of them


def read_trace(path: Path) -> Trace:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        about = json.loads(arrays["about"].tobytes())
        if about["version"] != _VERSION or about["num_levels"] != NUM_LEVELS:
            raise InvalidArgument(
                f"{path} is a trace of version {about['version']}; this reads version {_VERSION}: record it again"
            )
        return _trace_of(about, arrays)
    except (OSError, KeyError, ValueError, IndexError, TypeError, zipfile.BadZipFile) as error:
        raise InvalidArgument(f"{path} is no trace that benchmarks.record_traces wrote: {error}") from error


def _trace_of(about: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Trace:
    drafters = tuple(DrafterId(name) for name in about["drafters"])
    prompts, answers = arrays["prompts"].tolist(), arrays["answers"].tolist()
    prompt_ends = [0, *accumulate(arrays["prompt_length"].tolist())]
    answer_ends = [0, *accumulate(arrays["answer_length"].tolist())]
    requests = tuple(
        Request(
            domain=about["domains"][domain],
            temperature=temperature,
            seed=seed,
            prompt=tuple(prompts[prompt_ends[index] : prompt_ends[index + 1]]),
            answer=tuple(answers[answer_ends[index] : answer_ends[index + 1]]),
            first_place=answer_ends[index],
        )
        for index, (domain, temperature, seed) in enumerate(
            zip(*(arrays[name].tolist() for name in ("domain", "temperature", "seed")), strict=True)
        )
    )
    reports: dict[DrafterId | None, list[StepReport]] = {}
    names: list[DrafterId | None] = [None, *drafters]
    columns = ("step_of", "step_sequences", "step_rows", "step_context", "step_s")
    for of, num_sequences, num_rows, num_context, elapsed_s in zip(*(arrays[c].tolist() for c in columns), strict=True):
        report = StepReport(
            num_sequences=num_sequences, num_rows=num_rows, num_context=num_context, elapsed_s=elapsed_s
        )
        reports.setdefault(names[of], []).append(report)
    return Trace(
        drafters=drafters,
        requests=requests,
        trees=TreeTable(arrays["tokens"], arrays["parents"], arrays["levels"]),
        step_reports={name: tuple(of) for name, of in reports.items()},
        notes=about["notes"],
    )


def _small(values: NDArray[Any]) -> NDArray[Any]:
    """In the smallest unsigned type that holds them."""
    return values.astype(np.min_scalar_type(int(values.max(initial=0))))
