"""The root of the config tree, and how it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, ValidationError, model_validator

from contracts.config.drafter import DrafterConfig
from contracts.config.engine import EngineConfig
from contracts.config.errors import config_error
from contracts.config.fields import ConfigModel
from contracts.config.names import NAME_HELP, entry_of, is_name, names_of
from contracts.config.router import RouterConfig
from contracts.config.security import SecurityConfig, exposure_fault
from contracts.config.store import StoreConfig
from contracts.config.verifier import VerifierConfig
from contracts.config.yaml import read_yaml
from contracts.errors import ConfigError, shown

TEXT_NAME = "config"
MOST_GUESTS = 8
"""Drafters in the target's process."""
_EPSILON = 1e-6  # parts are fractions that are added up


class FleetConfig(ConfigModel):
    """Everything that one YAML file says about a fleet."""

    engine: Annotated[EngineConfig, Field(description="The target model and the device group it runs on")]
    verifier: Annotated[VerifierConfig, Field(description="How the target checks drafts")] = VerifierConfig()
    drafters: Annotated[
        dict[str, DrafterConfig],
        Field(description="The drafters by name; in modes with a single drafter, the first of them drafts"),
    ] = {}  # noqa: RUF012  # pydantic gives every instance its own copy
    router: Annotated[RouterConfig, Field(description="The front door: where it listens, and how much it takes on")] = (
        RouterConfig()
    )
    store: Annotated[StoreConfig, Field(description="Where the journal and what was learned are kept")] = StoreConfig()

    security: Annotated[SecurityConfig, Field(description="Who may talk to the fleet: certificates and keys")] = (
        SecurityConfig()
    )

    @model_validator(mode="after")
    def _check_exposure(self) -> Self:
        """`security.tls` and `security.api_keys` are needed where other machines may reach `router.host`."""
        if fault := exposure_fault(self.router.host, self.security):
            raise ValueError(fault)
        return self

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        """A drafter's name has 1 to 63 of the characters a-z, 0-9, - and _."""
        wrong = [name for name in self.drafters if not is_name(name)]
        if wrong:
            raise ValueError(f"drafters has the name {shown(wrong[0])}; a name must be {NAME_HELP}")
        many = {name: of.replicas for name, of in self.drafters.items() if of.replicas != 1}
        for name, replicas in many.items():
            if not all(map(is_name, names_of(name, replicas))):
                raise ValueError(
                    f"drafters.{name}.replicas is {replicas}; with a number behind it, its name is too long"
                )
        for name in self.drafters:
            if (other := entry_of(name, many)) is not None and other != name:
                raise ValueError(
                    f"drafters has the names {other!r}, with replicas, and {name!r}, which one of these may have; one "
                    "of the two must be another name"
                )
        return self

    @model_validator(mode="after")
    def _check_guests(self) -> Self:
        """Drafters `with_target` are few, and beside a target of one rank."""
        guests = [name for name, of in self.drafters.items() if of.with_target]
        if guests and self.engine.tensor_parallel != 1:
            raise ValueError(
                f"drafters.{guests[0]}.with_target is true and engine.tensor_parallel is "
                f"{self.engine.tensor_parallel}; one of the two must be left out, for a group is several processes"
            )
        if len(guests) > MOST_GUESTS:
            raise ValueError(
                f"{len(guests)} drafters are with_target; at most {MOST_GUESTS} may be, for all of them and the target "
                "share one Python"
            )
        own = 0.0 if self.engine.device == "cpu" else self.verifier.num_gpus
        parts = [own, *(self.drafters[name].num_gpus for name in guests)]
        if any(parts[1:]) and sum(parts) > 1.0 + _EPSILON:
            shares = ", ".join(f"{part:g}" for part in parts)
            raise ValueError(
                f"verifier.num_gpus and the num_gpus of drafters with_target are {shares}; together they must be at "
                "most 1, for all are on one GPU"
            )
        return self


def load_config(source: Path | str) -> FleetConfig:
    """The fleet that a YAML file (a `Path`) or YAML text (a `str`) describes, or one ConfigError naming all faults."""
    name = str(source) if isinstance(source, Path) else TEXT_NAME
    found = read_yaml(_read_text(source) if isinstance(source, Path) else source, name)
    if found is None:  # an empty file is a mapping without keys
        found = {}
    if not isinstance(found, dict):
        hint = "" if isinstance(source, Path) else "; to read a file, pass its name as a pathlib.Path"
        raise ConfigError(f"{name}: is {shown(found)}; it must be a mapping with the key engine{hint}")
    try:
        return FleetConfig.model_validate(found)
    except ValidationError as error:
        raise config_error(name, found, FleetConfig, error) from None


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; it must be a YAML file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8; it must be a YAML file in UTF-8") from error
