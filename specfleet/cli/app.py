"""All commands. A command is a function in a file of its own name; here it gets its place and its error messages."""

from __future__ import annotations

from typing import Annotated

import typer

from specfleet import __version__
from specfleet.cli.bench import bench
from specfleet.cli.certs import certs
from specfleet.cli.chat import chat
from specfleet.cli.doctor import doctor
from specfleet.cli.drain import drain
from specfleet.cli.generate import generate
from specfleet.cli.keys import keys
from specfleet.cli.models import models
from specfleet.cli.plan import plan
from specfleet.cli.reporting import reporting
from specfleet.cli.simulate import simulate
from specfleet.cli.status import status
from specfleet.cli.timeline import timeline
from specfleet.cli.top import top
from specfleet.cli.up import up

__all__ = ["app"]

app = typer.Typer(name="specfleet", no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)
for _command in (up, generate, chat, bench, models, status, top, timeline, drain, doctor, certs):
    app.command()(reporting(_command))
app.add_typer(keys)
# What these take is said where it is understood, which the wheel does not have.
_ANY = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
app.command(context_settings=_ANY)(reporting(simulate))
app.command(context_settings=_ANY)(reporting(plan))


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"specfleet {__version__}")
        raise typer.Exit


@app.callback()
def specfleet(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and end.")
    ] = False,
) -> None:
    """Serve large language models faster, with a fleet of small drafters.

    Where the fleet is comes with each command or from SPECFLEET_ADDRESS; a key from SPECFLEET_API_KEY or a file,
    certificates from the folder of --tls or SPECFLEET_TLS.
    """
