"""How long to wait before what died is started again."""

from __future__ import annotations

__all__ = ["Backoff"]

_FIRST_S, _LAST_S = 0.5, 30.0
_WELL_S = 60.0


class Backoff:
    """Doubling delays for what dies soon after its start; what lived for a while begins anew.

    What fails at once fails again, and loading a model again and again takes from those that work.
    """

    def __init__(self) -> None:
        self._next_s = _FIRST_S

    def delay_s(self, lived_s: float) -> float:
        """The delay after a life of so many seconds."""
        if lived_s >= _WELL_S:
            self._next_s = _FIRST_S
        delay_s, self._next_s = self._next_s, min(2.0 * self._next_s, _LAST_S)
        return delay_s
