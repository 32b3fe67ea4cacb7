"""The one YAML file that configures a fleet: read strictly, checked as a whole, resolved before anything starts.

`load_config` gives the tree as written, where a value may be `auto`; `resolve` gives the tree as it runs, where
none is.
"""

from contracts.config.drafter import DrafterConfig
from contracts.config.engine import EngineConfig
from contracts.config.fleet import FleetConfig, load_config
from contracts.config.resolve import (
    MachineFacts,
    ModelFacts,
    ResolvedEngineConfig,
    ResolvedFleetConfig,
    resolve,
    resolve_engine,
)
from contracts.config.router import RouterConfig
from contracts.config.security import SecurityConfig
from contracts.config.store import StoreConfig
from contracts.config.verifier import VerifierConfig

__all__ = [
    "DrafterConfig",
    "EngineConfig",
    "FleetConfig",
    "MachineFacts",
    "ModelFacts",
    "ResolvedEngineConfig",
    "ResolvedFleetConfig",
    "RouterConfig",
    "SecurityConfig",
    "StoreConfig",
    "VerifierConfig",
    "load_config",
    "resolve",
    "resolve_engine",
]
