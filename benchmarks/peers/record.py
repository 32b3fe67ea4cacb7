"""What a run has measured so far, on disk as it comes: one that takes hours and was ended goes on where it was.

A file of lines: under which conditions, then each whole alternation of a cell, what `off` can answer, each load that
arrives, and a moment of the fleet. Other conditions, another machine among them, are another run. What was being
written when a run ended is measured again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.peers.arrivals import Arrivals
from benchmarks.peers.peer import Said
from benchmarks.peers.turns import Cell, Turn
from contracts.errors import InvalidArgument
from router.timeline import Span

__all__ = ["FILE", "Record"]

FILE = "measured.jsonl"


class Record:
    """In a folder, or in memory only. `go_on`: with what is there already, and not anew."""

    def __init__(self, folder: Path | None, conditions: Mapping[str, object], *, go_on: bool = False) -> None:
        self._file = None if folder is None else folder / FILE
        self._alternations: dict[Cell, list[list[Turn]]] = {}
        self.capacity: float | None = None
        """Requests per second that `off` can answer."""
        self.arrivals: dict[str, list[Arrivals]] = {}
        """By load."""
        self.spans: list[Span] = []
        """A moment of the fleet at work."""
        head = {"conditions": json.loads(json.dumps(conditions))}
        if self._file is None:
            return
        if go_on and self._file.exists():
            self._read(self._file, head)
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text("", encoding="utf-8")
        self._write(head)

    def alternations(self, cell: Cell) -> Sequence[Sequence[Turn]]:
        """Those of a cell that are whole, each with a turn of every peer."""
        return self._alternations.get(cell, ())

    def add_alternation(self, turns: Sequence[Turn]) -> None:
        self._alternations.setdefault(turns[0].cell, []).append(list(turns))
        self._write({"alternation": [asdict(turn) for turn in turns]})

    def add_capacity(self, capacity: float) -> None:
        self.capacity = capacity
        self._write({"capacity": capacity})

    def add_arrivals(self, load: str, arrivals: Sequence[Arrivals]) -> None:
        self.arrivals[load] = list(arrivals)
        self._write({"load": load, "arrivals": [asdict(each) for each in arrivals]})

    def add_spans(self, spans: Sequence[Span]) -> None:
        self.spans = list(spans)
        self._write({"spans": [asdict(each) for each in spans]})

    @property
    def turns(self) -> list[Turn]:
        """Of all cells."""
        return [turn for of in self._alternations.values() for turns in of for turn in turns]

    def _write(self, line: Mapping[str, object]) -> None:
        if self._file is not None:
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def _read(self, file: Path, head: Mapping[str, Any]) -> None:
        whole = file.read_text(encoding="utf-8").rpartition("\n")[0]
        try:
            first, *rest = (json.loads(line) for line in whole.splitlines())
            _check_same(file, first["conditions"], head["conditions"])
            for line in rest:
                self._take(line)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidArgument(
                f"{file} is no record of a run ({error!r}); leave --go-on out to begin anew"
            ) from error
        file.write_text(whole + "\n", encoding="utf-8")  # without what was being written

    def _take(self, line: Mapping[str, Any]) -> None:
        if "alternation" in line:
            turns = [_turn(each) for each in line["alternation"]]
            self._alternations.setdefault(turns[0].cell, []).append(turns)
        elif "capacity" in line:
            self.capacity = float(line["capacity"])
        elif "spans" in line:
            self.spans = [Span(**{**each, "sequences": tuple(each["sequences"])}) for each in line["spans"]]
        else:
            self.arrivals[line["load"]] = [Arrivals(**each) for each in line["arrivals"]]


def _check_same(file: Path, before: Mapping[str, object], now: Mapping[str, object]) -> None:
    for key in sorted({*before, *now}):
        if before.get(key) != now.get(key):
            raise InvalidArgument(
                f"{file} was measured with {key} {before.get(key)!r}, and this run has {now.get(key)!r}; the rest must "
                "be measured with the same, or all of it anew, without --go-on"
            )


def _turn(said: Mapping[str, Any]) -> Turn:
    answers = tuple(
        Said(
            **{
                **answer,
                "token_ids": tuple(answer["token_ids"]),
                "acceptance_histogram": tuple(answer["acceptance_histogram"]),
            }
        )
        for answer in said["answers"]
    )
    return Turn(**{**said, "cell": Cell(**said["cell"]), "answers": answers})
