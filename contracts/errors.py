"""Every error a user of specfleet can meet, and the one table that gives each its gRPC and HTTP code.

    SpecfleetError
    ├── InvalidArgument          the caller asked for something that can never work
    │   ├── ConfigError          a fleet's YAML: unknown key, wrong type, value out of range
    │   ├── CheckpointError      weights or config.json: missing, mis-shaped, pickled, unknown architecture
    │   ├── TokenizerError       tokenizer files or chat template: missing, broken, refused
    │   └── TopologyError        sizes that do not divide over ranks
    ├── NotFound                 no such model, request or drafter
    ├── AlreadyExists            that id is taken
    ├── OutOfBlocks              the KV cache has no room for this now
    ├── Overloaded               queues, or a device's memory, are full; says when to retry
    ├── QuotaExceeded            this tenant's share is used up; says when to retry
    ├── Unauthenticated          no key, or one nobody knows
    ├── PermissionDenied         a known key that may not do this
    ├── DeadlineExceeded         the caller's own deadline passed
    ├── Cancelled                the caller, or someone for them, stopped it
    ├── RankLost                 a tensor-parallel rank died or did not answer in time
    ├── Unavailable              a part that is needed is away just now
    └── Internal                 our fault: a broken promise of the code itself

A message is one clear sentence: what was wrong, the value found, and what would be right.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


class SpecfleetError(Exception):
    """Root of the tree; raise one of its subclasses.

    `details` are machine-readable pairs that travel with the error over gRPC and HTTP; `retry_after_s` is a promise
    that trying again earlier is useless, and None where trying again does not help or nothing is known.
    """

    def __init__(
        self, message: str, *, details: Mapping[str, str] | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details: Mapping[str, str] = MappingProxyType(dict(details or {}))
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[object, ...]:
        # The default would call the class with the message alone, which loses details and fails for the classes
        # below that need more; errors do cross process borders (multiprocessing, Ray), so rebuild from the state.
        state = {**self.__dict__, "details": dict(self.details)}
        return _rebuild, (type(self), self.message, state)


def _rebuild(kind: type[SpecfleetError], message: str, state: dict[str, object]) -> SpecfleetError:
    error = kind.__new__(kind, message)
    SpecfleetError.__init__(error, message)
    details = state["details"]
    assert isinstance(details, dict), "state comes from __reduce__ above, which puts a dict there"
    error.__dict__.update({**state, "details": MappingProxyType(details)})
    return error


class InvalidArgument(SpecfleetError):
    """The caller asked for something that can never work."""


class ConfigError(InvalidArgument):
    """A fleet's configuration is wrong; the message names the key, the value and what would be right."""


class CheckpointError(InvalidArgument):
    """A checkpoint folder cannot be used: missing or mis-shaped weights, pickles, unknown architecture."""


class TokenizerError(InvalidArgument):
    """Tokenizer files or a chat template are missing, broken or refused."""


class TopologyError(InvalidArgument):
    """Sizes that do not divide over ranks; the message shows all the factors."""


class NotFound(SpecfleetError):
    """No such model, request, sequence or drafter."""


class AlreadyExists(SpecfleetError):
    """That id is taken."""


class OutOfBlocks(SpecfleetError):
    """The KV cache is exhausted: nothing was allocated, and the caller may evict, wait or refuse."""

    def __init__(self, message: str | None = None, *, num_needed: int, num_free: int) -> None:
        super().__init__(
            message or f"the KV cache needs {num_needed} more blocks and has {num_free} free",
            details={"num_needed": str(num_needed), "num_free": str(num_free)},
        )
        self.num_needed = num_needed
        self.num_free = num_free


class Overloaded(SpecfleetError):
    """Queues, or a device's memory, are full; `retry_after_s` says when it is worth trying again."""


class QuotaExceeded(SpecfleetError):
    """This tenant's share is used up; `retry_after_s` says when there is some again."""


class Unauthenticated(SpecfleetError):
    """No key, or one nobody knows."""


class PermissionDenied(SpecfleetError):
    """A known key that may not do this."""


class DeadlineExceeded(SpecfleetError):
    """The caller's own deadline passed."""


class Cancelled(SpecfleetError):
    """The caller, or someone for them, stopped it."""


class RankLost(SpecfleetError):
    """A tensor-parallel rank died or did not answer in time; `rank` is None when nobody knows which."""

    def __init__(self, message: str | None = None, *, rank: int | None, waited_s: float) -> None:
        who = "a tensor-parallel rank" if rank is None else f"tensor-parallel rank {rank}"
        super().__init__(
            message or f"{who} died or did not answer within {waited_s:.3g} s; restart the group",
            details={"rank": "unknown" if rank is None else str(rank), "waited_s": f"{waited_s:.6g}"},
        )
        self.rank = rank
        self.waited_s = waited_s


class Unavailable(SpecfleetError):
    """A part that is needed is away just now."""


class Internal(SpecfleetError):
    """Our fault: a broken promise of the code itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How an error looks from outside: gRPC's code by name and number, and the HTTP status."""

    grpc: str
    grpc_code: int
    http: int


_INVALID_ARGUMENT = Status(grpc="INVALID_ARGUMENT", grpc_code=3, http=400)
_NO_ROOM = Status(grpc="RESOURCE_EXHAUSTED", grpc_code=8, http=503)
_UNAVAILABLE = Status(grpc="UNAVAILABLE", grpc_code=14, http=503)
_INTERNAL = Status(grpc="INTERNAL", grpc_code=13, http=500)

STATUS: Mapping[type[SpecfleetError], Status] = MappingProxyType(
    {
        SpecfleetError: _INTERNAL,
        InvalidArgument: _INVALID_ARGUMENT,
        ConfigError: _INVALID_ARGUMENT,
        CheckpointError: _INVALID_ARGUMENT,
        TokenizerError: _INVALID_ARGUMENT,
        TopologyError: _INVALID_ARGUMENT,
        NotFound: Status(grpc="NOT_FOUND", grpc_code=5, http=404),
        AlreadyExists: Status(grpc="ALREADY_EXISTS", grpc_code=6, http=409),
        # No room is the service's state: 503 in HTTP. 429 blames the caller and is kept for quotas.
        OutOfBlocks: _NO_ROOM,
        Overloaded: _NO_ROOM,
        QuotaExceeded: Status(grpc="RESOURCE_EXHAUSTED", grpc_code=8, http=429),
        Unauthenticated: Status(grpc="UNAUTHENTICATED", grpc_code=16, http=401),
        PermissionDenied: Status(grpc="PERMISSION_DENIED", grpc_code=7, http=403),
        DeadlineExceeded: Status(grpc="DEADLINE_EXCEEDED", grpc_code=4, http=504),
        # 499 is the code that proxies log when the client went away first; nobody is left to read it.
        Cancelled: Status(grpc="CANCELLED", grpc_code=1, http=499),
        RankLost: _UNAVAILABLE,
        Unavailable: _UNAVAILABLE,
        Internal: _INTERNAL,
    }
)


def status_of(error: BaseException) -> Status:
    """The codes of an error: those of its nearest class in the table, and INTERNAL for one that is not ours."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), _INTERNAL)


def without_password(value: object) -> object:
    """An address without the password that it may hold, so that it can be shown; any other value as it is."""
    return re.sub(r"://.*@", "://***@", value, flags=re.DOTALL) if isinstance(value, str) else value


def shown(value: object) -> str:
    """A value as a message shows it: one short line of ASCII, however hostile the value."""
    try:
        text = ascii(value)
    except (ValueError, RecursionError):  # an integer of many thousand digits; a container in itself, or very deep
        text = f"a huge {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."
