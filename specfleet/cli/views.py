"""A fleet's status as tables, for `status` and `top`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from specfleet.cli.screen import bar, console, count, duration, percent, printable, table
from specfleet.v1 import admin_pb2 as pb

__all__ = ["drafters_table", "headline", "rounds_chart", "verifier_table"]

_BAR_WIDTH, _SMALL_BAR = 40, 10
_ANY_WIDTH = 1000
_DRAFTER_COLUMNS = (
    "drafter",
    "kind",
    "state",
    "device",
    "sequences",
    "accepted",
    "",
    "step",
    "idle",
    "calibration\nerror",
)
_DRAFTER_NUMBERS = frozenset({"sequences", "accepted", "step", "idle", "calibration\nerror"})
# The frontiers that are told apart: the small ones each, the larger ones by doubling.
_BUCKETS = ((0, 0), (1, 1), (2, 2), (3, 4), (5, 8), (9, 16), (17, 32), (33, None))


def headline(status: pb.StatusResponse) -> RenderableType:
    """What is served, and how much of it."""
    model = status.model
    what = f"{printable(model.name)}, {count(model.num_parameters)} parameters" if model.name else "no model yet"
    if model.dtype:
        what += f" in {printable(model.dtype)}"
    first = Text.assemble(
        ("specfleet", "bold"), f" {printable(status.version)}, up {duration(status.uptime_s)}: {what}"
    )
    if status.is_draining:
        first.append("  draining: nothing new begins", style="bold yellow")
    now = (
        f"{status.num_running} running, {status.num_waiting} waiting",
        f"{status.tokens_per_s:.1f} tokens/s",
        f"{status.mean_acceptance_length:.2f} tokens per round",
    )
    in_all = (
        f"{count(status.num_requests)} requests",
        f"{count(status.num_tokens)} tokens",
        f"{count(status.num_rounds)} rounds",
        f"{count(status.num_stale_messages)} stale messages",
    )
    return Group(first, Text(" · ".join(now)), Text(" · ".join(in_all), style="dim"))


def verifier_table(verifier: pb.VerifierStatus) -> Table:
    """The verifier's one line."""
    rows = table(
        "verifier",
        "state",
        "ranks",
        "device",
        "round",
        "idle",
        "cache in use",
        numbers=frozenset({"ranks", "round", "idle"}),
    )
    num_used = verifier.num_blocks - verifier.num_free_blocks
    cache = f"{num_used} of {verifier.num_blocks} blocks ({percent(num_used / max(verifier.num_blocks, 1))})"
    rows.add_row(
        printable(verifier.name) or "-",
        _state(verifier.state),
        str(verifier.num_ranks),
        printable(verifier.device) or "-",
        duration(verifier.round_s),
        percent(verifier.idle_share),
        cache,
    )
    return rows


def drafters_table(
    drafters: Iterable[pb.DrafterStatus], before: Mapping[str, pb.DrafterStatus], *, width: int
) -> Table:
    """A line for each drafter. Acceptance since `before`; over its whole life where nothing has been drafted since.
    Where not all columns fit the width, there are no kinds, devices and bars.
    """
    cells = [_cells(drafter, before.get(drafter.name)) for drafter in drafters]
    whole = _rows(cells, _DRAFTER_COLUMNS)
    if console(width=_ANY_WIDTH).measure(whole).maximum <= width:
        return whole
    return _rows(cells, [column for column in _DRAFTER_COLUMNS if column not in ("kind", "device", "")])


def rounds_chart(rounds: Mapping[int, int]) -> Table:
    """How often a round checked how many guesses of a sequence."""
    rows = table("guesses checked", "rounds", "", numbers=frozenset({"guesses checked", "rounds"}))
    sums = [
        (low, high, sum(number for size, number in rounds.items() if low <= size and (high is None or size <= high)))
        for low, high in _BUCKETS
    ]
    most = max(number for _, _, number in sums)
    while len(sums) > 1 and not sums[-1][2]:
        sums.pop()
    for low, high, number in sums:
        name = str(low) if low == high else f"{low} or more" if high is None else f"{low} to {high}"
        rows.add_row(name, str(number), Text(bar(number / max(most, 1), _BAR_WIDTH), style="cyan"))
    return rows


def _rows(cells: Sequence[Mapping[str, str | Text]], columns: Sequence[str]) -> Table:
    rows = table(*columns, numbers=_DRAFTER_NUMBERS)
    for of in cells:
        rows.add_row(*(of[column] for column in columns))
    return rows


def _cells(drafter: pb.DrafterStatus, before: pb.DrafterStatus | None) -> Mapping[str, str | Text]:
    """By column."""
    acceptance = _acceptance(drafter, before)
    return {
        "drafter": printable(drafter.name),
        "kind": printable(drafter.kind),
        "state": _state(drafter.state),
        "device": printable(drafter.device),
        "sequences": str(drafter.num_sequences),
        "accepted": "-" if acceptance is None else percent(acceptance),
        "": Text(bar(acceptance or 0.0, _SMALL_BAR).ljust(_SMALL_BAR), style="green"),
        "step": duration(drafter.step_s),
        "idle": percent(drafter.idle_share),
        "calibration\nerror": f"{drafter.calibration_error:.3f}",
    }


def _acceptance(now: pb.DrafterStatus, before: pb.DrafterStatus | None) -> float | None:
    num_draft, num_accepted = now.num_draft_tokens, now.num_accepted_tokens
    # A drafter that joined anew counts from nothing: then what it had before says nothing.
    if before is not None and before.num_draft_tokens < num_draft and before.num_accepted_tokens <= num_accepted:
        num_draft, num_accepted = num_draft - before.num_draft_tokens, num_accepted - before.num_accepted_tokens
    return num_accepted / num_draft if num_draft else None


def _state(state: str) -> Text:
    styles = {"serving": "green", "drafting": "green", "draining": "yellow", "away": "red", "quarantined": "red"}
    return Text(printable(state), style=styles.get(state, ""))
