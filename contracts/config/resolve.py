"""From the configuration as written to the one that runs: every `auto` becomes a value, once, before anything
starts. Pure: the facts about machine and model are arguments, so the same file and facts give the same fleet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from contracts.config.engine import EngineConfig
from contracts.config.fields import MIN_SIZE_BYTES
from contracts.config.fleet import FleetConfig
from contracts.errors import ConfigError

CPU_KV_SHARE = 0.5  # of what the weights leave of host memory: others live there too
CUDA_KV_SHARE = 0.9  # of what an engine has of a GPU, weights included: the rest is for activations and captured graphs


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineFacts:
    """What a machine has; the last two are one GPU's, 0 without CUDA."""

    num_cpus: int
    memory_bytes: int
    has_cuda: bool
    cuda_memory_bytes: int
    cuda_free_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What a checkpoint says about its size; `weight_bytes` are the whole model's, as it will be held, and
    `workspace_bytes` what each GPU needs besides its part of them."""

    max_context: int
    weight_bytes: int
    workspace_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedEngineConfig:
    """EngineConfig without `auto`; each field is described there."""

    model: str
    dtype: Literal["bfloat16", "float32"]
    weights: Literal["none", "int8", "fp8"]
    device: Literal["cpu", "cuda"]
    gpu_priority: Literal["normal", "high"]
    gpu_multiprocessors: int | None  # None: all
    deterministic: bool
    num_threads: int
    tensor_parallel: int
    kv_cache_bytes: int
    max_batch_rows: int
    max_context: int
    prefix_cache: bool
    compiled_step: bool
    step_deadline_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedFleetConfig:
    """FleetConfig without `auto`."""

    engine: ResolvedEngineConfig


def resolve(config: FleetConfig, machine: MachineFacts, model: ModelFacts) -> ResolvedFleetConfig:
    """The fleet that runs when `config` meets this machine and this model."""
    return ResolvedFleetConfig(engine=resolve_engine(config.engine, machine, model))


def resolve_engine(
    config: EngineConfig, machine: MachineFacts, model: ModelFacts, *, gpu_share: float = 1.0
) -> ResolvedEngineConfig:
    """The engine that runs when `config` meets this machine and this model, where it has so much of each GPU."""
    device = _device(config, machine)
    return ResolvedEngineConfig(
        model=config.model,
        dtype="bfloat16" if config.dtype == "auto" else config.dtype,
        weights=config.weights,
        device=device,
        gpu_priority=config.gpu_priority,
        gpu_multiprocessors=None if config.gpu_multiprocessors == "all" else config.gpu_multiprocessors,
        deterministic=config.deterministic,
        num_threads=_num_threads(config, machine),
        tensor_parallel=config.tensor_parallel,
        kv_cache_bytes=_kv_cache_bytes(config, device, machine, model, gpu_share),
        max_batch_rows=config.max_batch_rows,
        max_context=_max_context(config, model),
        prefix_cache=config.prefix_cache,
        # On CUDA captured graphs do this work.
        compiled_step=device == "cpu" if config.compiled_step == "auto" else config.compiled_step == "on",
        step_deadline_s=config.step_deadline_s,
    )


def _device(config: EngineConfig, machine: MachineFacts) -> Literal["cpu", "cuda"]:
    if config.device == "auto":
        return "cuda" if machine.has_cuda else "cpu"
    if config.device == "cuda" and not machine.has_cuda:
        raise ConfigError("engine.device is 'cuda' and this machine has none; it must be auto or cpu here")
    return config.device


def _num_threads(config: EngineConfig, machine: MachineFacts) -> int:
    if config.num_threads != "auto":
        return config.num_threads
    return max(1, machine.num_cpus // config.tensor_parallel)


def _max_context(config: EngineConfig, model: ModelFacts) -> int:
    if config.max_context == "auto":
        return model.max_context
    if config.max_context > model.max_context:
        raise ConfigError(
            f"engine.max_context is {config.max_context} and the model was made for {model.max_context}; "
            f"it must be auto or an integer from 1 up to {model.max_context}"
        )
    return config.max_context


def _kv_cache_bytes(
    config: EngineConfig, device: str, machine: MachineFacts, model: ModelFacts, gpu_share: float
) -> int:
    if config.kv_cache_bytes != "auto":
        return config.kv_cache_bytes
    num_ranks = config.tensor_parallel
    if device == "cuda":  # a GPU for each rank, of which others may have their part already, or get it after this one
        memory_bytes = min(int(machine.cuda_memory_bytes * gpu_share), machine.cuda_free_bytes)
        share = int(memory_bytes * CUDA_KV_SHARE) - model.weight_bytes // num_ranks - model.workspace_bytes
    else:  # one memory for all of them
        memory_bytes = machine.memory_bytes
        share = int((memory_bytes - model.weight_bytes) * CPU_KV_SHARE) // num_ranks
    if share < MIN_SIZE_BYTES:
        beside = f", {model.workspace_bytes} of workspace beside each part," if model.workspace_bytes else ""
        whole = ""
        if device == "cuda" and memory_bytes < machine.cuda_memory_bytes:
            whole = (
                f" (of a GPU's {machine.cuda_memory_bytes}, {machine.cuda_free_bytes} are free and {gpu_share:g} of "
                "all are for this engine, by num_gpus of the verifier or the drafter)"
            )
        raise ConfigError(
            f"engine.kv_cache_bytes is 'auto' and {model.weight_bytes} bytes of weights over {num_ranks} ranks{beside} "
            f"leave no room for a KV cache in {memory_bytes} bytes of {device} memory{whole}; it must be a size given "
            "by hand, or the model smaller, or engine.tensor_parallel larger"
        )
    return share
