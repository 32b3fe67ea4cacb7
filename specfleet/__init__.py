"""The client side of specfleet: the only part that is published as a wheel.

from specfleet import Client

with Client("127.0.0.1:50051") as client:
    for event in client.generate("The sea is", max_tokens=64):
        print(event.text, end="", flush=True)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from specfleet.admin import Admin
    from specfleet.async_client import AsyncClient, AsyncGeneration
    from specfleet.client import Client, Generation
    from specfleet.errors import (
        AlreadyExists,
        Cancelled,
        DeadlineExceeded,
        Internal,
        InvalidRequest,
        NotFound,
        Overloaded,
        PermissionDenied,
        SpecfleetClientError,
        Unauthenticated,
        Unavailable,
    )
    from specfleet.events import Completion, Model, Started, Statistics, TokenEvent, TopLogprob, Usage
    from specfleet.options import GenerateOptions

__all__ = [
    "Admin",
    "AlreadyExists",
    "AsyncClient",
    "AsyncGeneration",
    "Cancelled",
    "Client",
    "Completion",
    "DeadlineExceeded",
    "GenerateOptions",
    "Generation",
    "Internal",
    "InvalidRequest",
    "Model",
    "NotFound",
    "Overloaded",
    "PermissionDenied",
    "SpecfleetClientError",
    "Started",
    "Statistics",
    "TokenEvent",
    "TopLogprob",
    "Unauthenticated",
    "Unavailable",
    "Usage",
    "__version__",
]

# Where each name lives. Loaded on first use: rooms that need the wire types alone do not pay for the client.
_HOMES = {
    "specfleet.admin": ("Admin",),
    "specfleet.async_client": ("AsyncClient", "AsyncGeneration"),
    "specfleet.client": ("Client", "Generation"),
    "specfleet.errors": (
        "AlreadyExists",
        "Cancelled",
        "DeadlineExceeded",
        "Internal",
        "InvalidRequest",
        "NotFound",
        "Overloaded",
        "PermissionDenied",
        "SpecfleetClientError",
        "Unauthenticated",
        "Unavailable",
    ),
    "specfleet.events": ("Completion", "Model", "Started", "Statistics", "TokenEvent", "TopLogprob", "Usage"),
    "specfleet.options": ("GenerateOptions",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'specfleet' has no attribute {name!r}; it has {', '.join(sorted(__all__))}")
    return getattr(import_module(_HOME_OF[name]), name)
