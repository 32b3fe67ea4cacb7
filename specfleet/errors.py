"""Every error a user of the client can meet.

    SpecfleetClientError
    ├── InvalidRequest           something was asked that can never work
    │   └── AlreadyExists        that id is taken
    ├── NotFound                 no such model, request or worker
    ├── Overloaded               no room now, or a quota is used up; says when to retry
    ├── Unauthenticated          no key, or one nobody knows
    ├── PermissionDenied         a known key that may not do this
    ├── DeadlineExceeded         the deadline passed
    ├── Cancelled                someone stopped the call
    ├── Unavailable              the fleet cannot be reached, or refuses just now
    │   └── ConnectionLost       it was reached, and then lost
    └── Internal                 the fleet's own fault, or an answer that breaks its promises

A transport raises these and no other, so that nothing above it knows of gRPC.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Self


class SpecfleetClientError(Exception):
    """Root of the tree.

    `retry_after_s` says from when trying again makes sense, where that is known. `reason` is the fleet's own name of
    the error and `details` its machine-readable pairs; both are empty for what the client found by itself.
    """

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float | None = None,
        reason: str = "",
        details: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s
        self.reason = reason
        self.details: Mapping[str, str] = MappingProxyType(dict(details or {}))

    def __reduce__(self) -> tuple[Callable[[], Self], tuple[()]]:
        """For pickle and copy: the message alone would not make it again, and a mapping proxy cannot be pickled."""
        again = partial(
            type(self), self.message, retry_after_s=self.retry_after_s, reason=self.reason, details=dict(self.details)
        )
        return again, ()


class InvalidRequest(SpecfleetClientError):
    """Something was asked that can never work; the message says what would."""


class AlreadyExists(InvalidRequest):
    """That id is taken."""


class NotFound(SpecfleetClientError):
    """No such model, request or worker."""


class Overloaded(SpecfleetClientError):
    """No room now, or a quota is used up; `retry_after_s` says when there may be some."""


class Unauthenticated(SpecfleetClientError):
    """No key, or one nobody knows."""


class PermissionDenied(SpecfleetClientError):
    """A known key that may not do this."""


class DeadlineExceeded(SpecfleetClientError):
    """The deadline passed before the answer was whole."""


class Cancelled(SpecfleetClientError):
    """Someone stopped the call."""


class Unavailable(SpecfleetClientError):
    """The fleet cannot be reached, or refuses just now."""


class ConnectionLost(Unavailable):
    """The fleet was reached, and then lost: it may or may not have understood."""


class Internal(SpecfleetClientError):
    """The fleet's own fault, or an answer that breaks its promises."""
