"""`specfleet doctor`: what is wrong, and what to do."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from statistics import median

import typer
from rich.text import Text

from specfleet import __version__
from specfleet.admin import Admin
from specfleet.cli.options import DEFAULT_ADDRESS, Address, ApiKeyFile, Fleet, TlsOption
from specfleet.cli.reporting import error_line
from specfleet.cli.screen import duration, percent, printable, screen
from specfleet.client import Client
from specfleet.errors import SpecfleetClientError
from specfleet.v1 import admin_pb2 as pb

__all__ = ["doctor"]

_MIN_ACCEPTANCE = 0.05  # low, for the siblings of a tree compete for one place: most must be wrong
_MIN_DRAFTED = 200  # too few guesses say nothing
_MAX_AHEAD_S = 0.05
_MAX_BEHIND_S = 1.0  # a span may be told that much later than it ended
_DEADLINE_S = 60.0


class _Grade(Enum):
    GOOD = ("✓", "green")
    DOUBTFUL = ("!", "yellow")
    BAD = ("✗", "red")


@dataclass(frozen=True, slots=True)
class _Finding:
    """What was found, and for what is not good, what to do."""

    grade: _Grade
    what: str
    to_do: str = ""


def doctor(address: Address = DEFAULT_ADDRESS, api_key_file: ApiKeyFile = None, tls: TlsOption = None) -> None:
    """Check the fleet from here, and say what to do.

    One line for each finding. The exit code is 1 where something must be done.
    """
    console, is_well = screen(), True
    for finding in _findings(Fleet(address, api_key_file, tls)):
        sign, style = finding.grade.value
        line = Text.assemble(
            (sign, style), " ", printable(finding.what), (f": {finding.to_do}" if finding.to_do else "")
        )
        console.print(line, soft_wrap=not console.is_terminal)
        is_well &= finding.grade is not _Grade.BAD
    if not is_well:
        raise typer.Exit(1)


def _findings(fleet: Fleet) -> Iterator[_Finding]:
    with Admin(**fleet.arguments(), timeout_s=10.0) as admin:
        began_s = time.perf_counter()
        try:
            status = admin.status()
        except SpecfleetClientError as error:
            to_do = "check the address, the key and whether the fleet runs"
            yield _Finding(_Grade.BAD, error_line(error), to_do)
            return
        answered_s = time.perf_counter() - began_s
    yield _Finding(_Grade.GOOD, f"the fleet at {fleet.address} answers in {duration(answered_s)}")
    yield _version(status)
    yield from _verifier(status)
    yield from _drafters(status)
    if status.model.name and not status.is_draining:
        yield from _trial(fleet)


def _version(status: pb.StatusResponse) -> _Finding:
    if status.version == __version__:
        return _Finding(_Grade.GOOD, f"client and fleet are both specfleet {__version__}")
    what = f"the fleet is specfleet {status.version}, this client {__version__}"
    return _Finding(_Grade.DOUBTFUL, what, f"pip install specfleet=={printable(status.version)}")


def _verifier(status: pb.StatusResponse) -> Iterator[_Finding]:
    if status.is_draining:
        yield _Finding(_Grade.BAD, "the fleet is being drained", "use another, or start it again")
    elif not status.model.name or status.verifier.state == "away":
        yield _Finding(_Grade.BAD, "the verifier is away", "wait while it loads; if it stays away, read its log")
    else:
        yield _Finding(_Grade.GOOD, f"model {status.model.name} is ready on {status.verifier.device}")
    if status.verifier.num_blocks and not status.verifier.num_free_blocks:
        yield _Finding(_Grade.DOUBTFUL, "the verifier's cache is full", "expect waiting; give it more memory")


def _drafters(status: pb.StatusResponse) -> Iterator[_Finding]:
    if not status.drafters:
        yield _Finding(_Grade.DOUBTFUL, "no drafter has joined", "start some; until then decoding is plain")
    for drafter in status.drafters:
        if drafter.num_draft_tokens < _MIN_DRAFTED:
            what = f"drafter {drafter.name} has joined; its {drafter.num_draft_tokens} guesses are too few to judge it"
            yield _Finding(_Grade.GOOD, what)
            continue
        acceptance = drafter.num_accepted_tokens / drafter.num_draft_tokens
        what = f"drafter {drafter.name} is right in {percent(acceptance)} of {drafter.num_draft_tokens} guesses"
        if acceptance >= _MIN_ACCEPTANCE:
            yield _Finding(_Grade.GOOD, what)
        else:
            to_do = f"under {percent(_MIN_ACCEPTANCE)}; check that it fits model and traffic, or remove it"
            yield _Finding(_Grade.DOUBTFUL, what, to_do)


def _trial(fleet: Fleet) -> Iterator[_Finding]:
    """A short generation, and the clocks of all who worked on it."""
    lags = _Lags(fleet)
    lags.start()
    try:
        with Client(**fleet.arguments(), timeout_s=_DEADLINE_S) as client:
            completion = client.complete("The", max_tokens=16, ignore_eos=True)
        lags.wait_for_some()
    except SpecfleetClientError as error:
        yield _Finding(_Grade.BAD, f"a trial failed: {error_line(error)}", "read the logs of router and verifier")
        return
    finally:
        lags.stop()
    took = duration(completion.statistics.elapsed_s)
    yield _Finding(_Grade.GOOD, f"a trial gave {len(completion.token_ids)} tokens in {took}")
    if not lags.by_process:
        yield _Finding(_Grade.DOUBTFUL, "no work was seen in the timeline", "clocks could not be compared; try again")
    for process, lag_s in sorted(lags.by_process.items()):
        yield _clock(process, lag_s)


def _clock(process: str, lag_s: float) -> _Finding:
    to_do = "synchronise the clocks (NTP); until then timelines mislead"
    if lag_s < -_MAX_AHEAD_S:
        return _Finding(_Grade.DOUBTFUL, f"the clock of {process} is {duration(-lag_s)} ahead of this one", to_do)
    if lag_s > _MAX_BEHIND_S:
        return _Finding(_Grade.DOUBTFUL, f"the clock of {process} seems {duration(lag_s)} behind this one", to_do)
    return _Finding(_Grade.GOOD, f"the clock of {process} agrees with this one")


class _Lags(threading.Thread):
    """Listens to the timeline: how long after its end, by our clock, is each process's work heard of?

    Nobody hears of work before it has ended, so a lag below zero is a clock that goes ahead.
    """

    def __init__(self, fleet: Fleet) -> None:
        super().__init__(name="timeline", daemon=True)
        self._admin = Admin(**fleet.arguments())
        self._seen: defaultdict[str, list[float]] = defaultdict(list)
        self._has_some = threading.Event()

    @property
    def by_process(self) -> dict[str, float]:
        return {process: median(lags) for process, lags in self._seen.items()}

    def run(self) -> None:
        try:
            for span in self._admin.timeline(_DEADLINE_S):
                self._seen[span.process].append(time.time() - span.ended_s)
                self._has_some.set()
        except SpecfleetClientError:
            return  # closed by stop(), or out of reach, which the trial tells

    def wait_for_some(self) -> None:
        """Work may be told a moment after the answer that it gave."""
        self._has_some.wait(_MAX_BEHIND_S)

    def stop(self) -> None:
        self._admin.close()
        self.join()
