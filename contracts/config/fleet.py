"""The root of the config tree, and how it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from contracts.config.engine import EngineConfig
from contracts.config.errors import config_error
from contracts.config.fields import ConfigModel
from contracts.config.yaml import read_yaml
from contracts.errors import ConfigError, shown

TEXT_NAME = "config"


class FleetConfig(ConfigModel):
    """Everything that one YAML file says about a fleet."""

    engine: Annotated[EngineConfig, Field(description="The target model and the device group it runs on")]


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
