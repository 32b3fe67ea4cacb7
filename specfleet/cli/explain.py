"""Who guessed which token: colours while it streams, and the legend below."""

from __future__ import annotations

from collections import Counter

from rich.console import Console
from rich.text import Text

from specfleet.cli.screen import percent, printable, table
from specfleet.events import Statistics, TokenEvent

__all__ = ["Explanation", "summary"]

_COLOURS = ("green", "cyan", "magenta", "yellow", "blue", "red", "bright_green", "bright_cyan", "bright_magenta")
_TARGET = "the target itself"


class Explanation:
    """Gives every drafter a colour when it is first seen, and counts. The target's own tokens keep the plain one."""

    def __init__(self) -> None:
        self._colours: dict[str, str] = {}
        self._num_tokens: Counter[str] = Counter()

    def show(self, event: TokenEvent) -> Text:
        """The event's text in its drafter's colour."""
        if event.token_id is not None:
            self._num_tokens[event.drafter or _TARGET] += 1
        return Text(printable(event.text), style=self._colour(event.drafter))

    def legend(self, console: Console) -> None:
        """Who guessed how many."""
        rows = table("", "guessed by", "tokens", "share", numbers=frozenset({"tokens", "share"}))
        total = self._num_tokens.total()
        for name, num_tokens in self._num_tokens.most_common():
            square = Text("■", style=self._colours.get(name, ""))
            rows.add_row(square, printable(name), str(num_tokens), percent(num_tokens / total))
        console.print(rows)

    def _colour(self, drafter: str | None) -> str:
        if drafter is None:
            return ""
        return self._colours.setdefault(drafter, _COLOURS[len(self._colours) % len(_COLOURS)])


def summary(statistics: Statistics, num_tokens: int) -> str:
    """One line on how speculation did."""
    parts = [f"{num_tokens} tokens in {statistics.num_rounds} rounds"]
    parts.append(f"{statistics.mean_acceptance_length:.2f} tokens per round")
    if statistics.num_draft_tokens:
        accepted = percent(statistics.num_accepted_tokens / statistics.num_draft_tokens)
        parts.append(f"{accepted} of {statistics.num_draft_tokens} checked guesses accepted")
    if statistics.elapsed_s > 0.0:
        parts.append(f"{num_tokens / statistics.elapsed_s:.1f} tokens/s")
    if statistics.mode:
        parts.append(f"mode {statistics.mode}")
    return " · ".join(parts)
