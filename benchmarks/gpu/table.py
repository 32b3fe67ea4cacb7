"""The one table of `python -m benchmarks.gpu`, printed row by row: what fails is one row, and the others stay."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["HEADER", "Row", "failed", "not_measured"]

_COLUMNS = ("part", "input", "error", "allowed", "row alone", "us", "floor us", "share of floor", "beside")
HEADER = f"| {' | '.join(_COLUMNS)} |\n{'|---' * len(_COLUMNS)}|"


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One measurement; what does not apply to it stays empty."""

    part: str
    name: str
    error: str = ""
    allowed: str = ""
    alone: str = ""
    elapsed_s: float | None = None
    floor_s: float | None = None
    beside: str = ""
    complaint: str | None = None
    """What is wrong, where something is."""

    @property
    def markdown(self) -> str:
        """Its line of the table."""
        times = [f"{1e6 * time_s:.1f}" if time_s is not None else "" for time_s in (self.elapsed_s, self.floor_s)]
        share = f"{self.floor_s / self.elapsed_s:.0%}" if self.floor_s and self.elapsed_s else ""
        cells = (self.part, self.name, self.error, self.allowed, self.alone, *times, share, self.beside)
        return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def failed(part: str, name: str, error: Exception) -> Row:
    """What could not be measured, though it should have been."""
    words = _in_one_line(error)
    return Row(part=part, name=name, beside=f"FAILED: {words}", complaint=f"{part}, {name}: {words}")


def not_measured(part: str, name: str, error: Exception) -> Row:
    """What need not be here to be measured, and is not."""
    return Row(part=part, name=name, beside=f"not measured: {_in_one_line(error)}")


def _in_one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:160]
