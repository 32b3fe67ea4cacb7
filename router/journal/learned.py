"""What the fleet learned about its drafters, kept in the store every so often, and read when a router begins to lead.

Expertise is kept for each tenant apart, as it is learned; calibration holds no text and is one for all.
"""

from __future__ import annotations

import asyncio
import json
import logging

from contracts.clock import Clock
from contracts.errors import InvalidArgument
from contracts.types import TenantId
from router.journal.journal import Journal, LeaseLost, StoreLost
from router.journal.leadership import Leadership
from speculation.calibration_state import calibrator_from_state, calibrator_to_state
from speculation.expertise_state import expertise_from_state, expertise_to_state
from speculation.roster import Roster

__all__ = ["Learned"]

_log = logging.getLogger(__name__)
_CALIBRATION, _EXPERTISE = "calibration", "expertise:"
_MOST_TENANTS = 256  # whose expertise is kept: tens of kilobytes for each of a tenant's drafters


class Learned:
    """See the module."""

    def __init__(
        self, roster: Roster, journal: Journal, leadership: Leadership, clock: Clock, *, every_s: float
    ) -> None:
        self._roster, self._journal, self._leadership, self._clock = roster, journal, leadership, clock
        self._every_s = every_s
        self._num_tokens: dict[TenantId, float] = {}
        """Of each tenant, that had taught when it was kept last."""

    async def read(self) -> None:
        """Takes over what was learned. What cannot be read is learned again."""
        try:
            kept = await self._journal.kept()
        except StoreLost as error:
            _log.warning("what was learned is not read: %s", error)
            return
        for name, content in kept.items():
            try:
                self._take(name, content)
            except (InvalidArgument, ValueError) as error:  # JSON's own errors are ValueErrors
                _log.warning("%s in the store cannot be read and is learned again: %s", name, error)

    async def run(self) -> None:
        """Keeps it, for ever."""
        while True:
            await self._clock.sleep(self._every_s)
            await self.keep()

    async def keep(self) -> None:
        """Keeps what is new; what fails is tried the next time."""
        try:
            state = calibrator_to_state(self._roster.calibrator)
            await self._journal.keep(self._leadership.owner, _CALIBRATION, json.dumps(state).encode())
            for tenant, expertise in self._roster.learned()[-_MOST_TENANTS:]:
                num_tokens = sum(model.num_tokens for _, model in expertise.models())
                if num_tokens != self._num_tokens.get(tenant, 0.0):
                    content = json.dumps(expertise_to_state(expertise)).encode()
                    await self._journal.keep(self._leadership.owner, f"{_EXPERTISE}{tenant}", content)
                    self._num_tokens[tenant] = num_tokens
                    await asyncio.sleep(0)  # rounds go first
        except (StoreLost, LeaseLost) as error:
            _log.warning("what was learned is not kept this time: %s", error)

    def _take(self, name: str, content: bytes) -> None:
        state = json.loads(content)
        if name == _CALIBRATION:
            self._roster.calibrator = calibrator_from_state(state)
        elif name.startswith(_EXPERTISE):
            self._roster.restore(TenantId(name.removeprefix(_EXPERTISE)), expertise_from_state(state))
