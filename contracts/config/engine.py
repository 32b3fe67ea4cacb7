"""Settings of one engine: a model on one device group."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from contracts.config.fields import Auto, ConfigModel, SizeBytes


class EngineConfig(ConfigModel):
    """Which model an engine runs, on what, and how much room it gets."""

    model: Annotated[
        str,
        Field(min_length=1, max_length=4096, description="Checkpoint folder, or hub id such as Qwen/Qwen3-8B"),
    ]
    dtype: Annotated[
        Literal["auto", "bfloat16", "float32"],
        Field(description="Number format of weights and KV cache; auto: bfloat16"),
    ] = "auto"
    weights: Annotated[
        Literal["none", "int8", "fp8"],
        Field(
            description="Rounds the layers' matrices to one byte a weight, which a GPU reads in half the time; none: "
            "as they are. Answers of a target with rounded weights are another model's"
        ),
    ] = "none"
    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        Field(description="Where the model runs; auto: cuda where there is one"),
    ] = "auto"
    gpu_priority: Annotated[
        Literal["normal", "high"],
        Field(description="high: of two engines in one process, this one's kernels go first"),
    ] = "normal"
    gpu_multiprocessors: Annotated[
        Literal["all"] | Annotated[int, Field(ge=1, le=1024)],
        Field(description="On how many of the GPU's multiprocessors it runs, where driver and torch can part them"),
    ] = "all"
    deterministic: Annotated[
        bool,
        Field(
            description="Whether a text is the same whoever else is served; false: long prompts are read by "
            "FlashInfer, whose sums depend on the batch, and nothing starts without a GPU, the package "
            "flashinfer-python, bfloat16 and heads of 64, 128 or 256"
        ),
    ] = True
    num_threads: Annotated[
        Auto | Annotated[int, Field(ge=1, le=1024)],
        Field(description="CPU threads of each rank; auto: the machine's CPUs shared out over its ranks"),
    ] = "auto"
    tensor_parallel: Annotated[
        int,
        Field(ge=1, le=1024, description="Ranks that share one model"),
    ] = 1
    kv_cache_bytes: Annotated[
        Auto | SizeBytes,
        Field(description="KV cache of each rank; auto: what the weights leave of the memory, less a reserve"),
    ] = "auto"
    max_batch_rows: Annotated[
        int,
        Field(ge=1, le=65_536, description="Most rows (tokens of all sequences) in one step"),
    ] = 512
    max_context: Annotated[
        Auto | Annotated[int, Field(ge=1, le=2**24)],
        Field(description="Most tokens in one sequence; auto: as many as the model was made for"),
    ] = "auto"
    prefix_cache: Annotated[
        bool,
        Field(description="Whether sequences share the KV of equal prompt beginnings"),
    ] = True
    compiled_step: Annotated[
        Literal["auto", "on", "off"],
        Field(description="Ahead-of-time compiled step; auto: on for cpu, off for cuda"),
    ] = "auto"
    step_deadline_s: Annotated[
        float,
        Field(gt=0, le=3600, description="Seconds after which a step without answer from a rank is an error"),
    ] = 60.0
