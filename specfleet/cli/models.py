"""`specfleet models`: what the fleet serves."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table

from specfleet.cli.options import DEFAULT_ADDRESS, Address, ApiKeyFile, Fleet, TlsOption
from specfleet.cli.screen import count, notices, printable, screen, table
from specfleet.client import Client
from specfleet.events import Model

__all__ = ["models", "models_table"]


def models(address: Address = DEFAULT_ADDRESS, api_key_file: ApiKeyFile = None, tls: TlsOption = None) -> None:
    """List the models, and who drafts for them."""
    with Client(**Fleet(address, api_key_file, tls).arguments(), timeout_s=10.0) as client:
        found = client.list_models()
    if not found:
        notices().print("No model is there yet: the verifier has not joined. `specfleet doctor` tells more.")
        return
    screen().print(models_table(found))


def models_table(found: Iterable[Model]) -> Table:
    """A line for each model, or several where its drafters need them."""
    rows = table("model", "architecture", "size", "type", "context", "ready", numbers=frozenset({"context"}))
    rows.add_column("drafters", overflow="fold")
    for model in found:
        rows.add_row(
            printable(model.name),
            printable(model.architecture),
            count(model.num_parameters),
            printable(model.dtype),
            str(model.max_context),
            "yes" if model.is_ready else "no",
            printable(", ".join(model.drafters)) or "none",
        )
    return rows
