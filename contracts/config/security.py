"""Who may talk to a fleet: certificates, API keys, and what is open without them."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated

from pydantic import Field

from contracts.config.fields import ConfigModel

_File = Annotated[str, Field(min_length=1, max_length=4096)]
_OFF = "off"


class SecurityConfig(ConfigModel):
    """Closed by default wherever another machine could reach the router."""

    tls: Annotated[
        _File,
        Field(
            description="Folder with a folder of certificates for each role (router, verifier, drafter, admin), or off"
        ),
    ] = _OFF
    api_keys: Annotated[
        _File,
        Field(description="File of API keys, as `specfleet keys` makes it, or off: whoever gets in is one tenant"),
    ] = _OFF
    insecure: Annotated[
        bool,
        Field(description="Whether other machines may reach the fleet without certificates and keys"),
    ] = False

    def tls_of(self, role: str) -> Path | None:
        """Where the certificates of a role are, if there is TLS."""
        return None if self.tls == _OFF else Path(self.tls) / role

    @property
    def keys_file(self) -> Path | None:
        """Where the keys are, if there are some."""
        return None if self.api_keys == _OFF else Path(self.api_keys)


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine reaches this address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"  # another name might mean anything


def exposure_fault(host: str, security: SecurityConfig) -> str:
    """Why a router must not listen there, or nothing.

    Certificates close gRPC; HTTP has none of its clients, so that what closes it is keys.
    """
    if is_loopback(host) or security.insecure:
        return ""
    missing = [f"security.{key} is off" for key in ("tls", "api_keys") if getattr(security, key) == _OFF]
    if not missing:
        return ""
    return (
        f"router.host is {host!r}, which other machines may reach, and {' and '.join(missing)}; make certificates with "
        "`specfleet certs` and keys with `specfleet keys add` and name both, or listen on 127.0.0.1, or say "
        "security.insecure: true where everyone on the network may use the fleet and read what it says"
    )
