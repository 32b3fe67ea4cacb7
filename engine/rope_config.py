"""Rotary embedding parameters: reading them from a checkpoint's config and turning them into frequencies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from engine.json_fields import MAX_INTEGER, Fields

RopeKind = Literal["none", "linear", "llama3", "yarn"]
Float32s = NDArray[np.float32]

DEFAULT_THETA = 10_000.0
_KINDS: Mapping[str, RopeKind] = {"default": "none", "linear": "linear", "llama3": "llama3", "yarn": "yarn"}
# What the YaRN paper proposes where a file leaves them out.
DEFAULT_BETA_FAST = 32.0
DEFAULT_BETA_SLOW = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RopeConfig:
    """How positions turn into rotations. Fields below `theta` matter only to the kinds named beside them."""

    kind: RopeKind = "none"
    theta: float = DEFAULT_THETA
    factor: float = 1.0  # linear, llama3, yarn
    original_max_context: int = 0  # llama3, yarn: the context length the model was trained with
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3
    beta_fast: float = DEFAULT_BETA_FAST  # yarn
    beta_slow: float = DEFAULT_BETA_SLOW  # yarn
    attention_factor: float | None = None  # yarn; None: follows from factor, mscale and mscale_all_dim
    mscale: float | None = None  # yarn
    mscale_all_dim: float | None = None  # yarn
    truncate: bool = True  # yarn: round the correction range to whole dimensions


def read_rope(config: Fields, where: str, *, max_context: int) -> RopeConfig:
    """The rope of a `config.json`, as transformers 5 spells it (`rope_parameters`) or any version before."""
    section = "rope_scaling" if config.raw("rope_scaling") else "rope_parameters"
    values = config.mapping(section)
    rope = Fields(values, f"{where}: {section}")
    nested = [key for key, value in values.items() if isinstance(value, dict)]
    if nested:
        raise config.refuse(section, f"one set of parameters for all layers, not one for each of {nested}")

    theta = rope.number("rope_theta", config.number("rope_theta", DEFAULT_THETA, above=1.0), above=1.0)
    rotated_share = rope.number("partial_rotary_factor", config.number("partial_rotary_factor", 1.0))
    if rotated_share != 1.0:
        raise config.refuse(
            "partial_rotary_factor", f"1.0, as only fully rotated heads are supported, not {rotated_share}"
        )

    kind = _read_kind(rope)
    if kind == "none":
        return RopeConfig(theta=theta)
    if kind == "linear":
        return RopeConfig(kind=kind, theta=theta, factor=rope.number("factor"))

    # transformers gives a length written beside the section precedence over one inside it.
    outer_length = config.integer("original_max_position_embeddings", max_context)
    inner_length = rope.integer("original_max_position_embeddings", outer_length)
    original = outer_length if "original_max_position_embeddings" in config else inner_length
    if kind == "llama3":
        low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
        if low >= high:
            raise rope.refuse("high_freq_factor", f"above low_freq_factor, which is {low:g}")
        return RopeConfig(
            kind=kind,
            theta=theta,
            factor=rope.number("factor"),
            original_max_context=original,
            low_freq_factor=low,
            high_freq_factor=high,
        )
    factor = rope.number("factor", max_context / original)
    if factor * original > MAX_INTEGER:
        raise rope.refuse("factor", f"at most {MAX_INTEGER / original:g} for a model trained on {original} positions")
    return RopeConfig(
        kind=kind,
        theta=theta,
        factor=factor,
        original_max_context=original,
        beta_fast=_number_or(rope, "beta_fast", DEFAULT_BETA_FAST),
        beta_slow=_number_or(rope, "beta_slow", DEFAULT_BETA_SLOW),
        attention_factor=rope.number("attention_factor") if "attention_factor" in rope else None,
        mscale=_optional(rope, "mscale"),
        mscale_all_dim=_optional(rope, "mscale_all_dim"),
        truncate=rope.flag("truncate", True),
    )


def _read_kind(rope: Fields) -> RopeKind:
    key = "rope_type" if "rope_type" in rope else "type"
    name = rope.text(key, "default")
    if name not in _KINDS:
        raise rope.refuse(key, f"one of {', '.join(_KINDS)}; other rope scalings are not supported")
    return _KINDS[name]


def _number_or(rope: Fields, key: str, default: float) -> float:
    """As in transformers, zero stands for the default."""
    return rope.number(key) if rope.raw(key) else default


def _optional(rope: Fields, key: str) -> float | None:
    return rope.number(key) if rope.raw(key) else None


def rope_inverse_frequencies(rope: RopeConfig, head_dim: int) -> tuple[Float32s, float]:
    """Angle per position of each pair of head dimensions ([head_dim / 2], float32), and the factor on cos and sin.

    The steps and their float32 roundings are those of transformers. The power alone is computed in float64 and
    rounded once, which no CPU's vector library can change; torch's own differs from that in about one entry of a
    thousand, by its last bit.
    """
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    wavelengths = np.power(np.float64(rope.theta), exponents.astype(np.float64)).astype(np.float32)
    frequencies = np.float32(1.0) / wavelengths
    if rope.kind == "none":
        return frequencies, 1.0
    if rope.kind == "linear":
        return frequencies / np.float32(rope.factor), 1.0
    if rope.kind == "llama3":
        return _llama3_frequencies(rope, frequencies), 1.0
    return _yarn_frequencies(rope, wavelengths, head_dim), _yarn_attention_factor(rope)


def _divided(number: float, values: Float32s) -> Float32s:
    """`number / values` as torch rounds it: twice, by way of the reciprocal."""
    return np.float32(number) * (np.float32(1) / values)


def _llama3_frequencies(rope: RopeConfig, frequencies: Float32s) -> Float32s:
    """Long waves are stretched by the factor, short ones kept, those between mixed by how often they fit."""
    factor = np.float32(rope.factor)
    lengths = _divided(2 * math.pi, frequencies)
    is_long = lengths > np.float32(rope.original_max_context / rope.low_freq_factor)
    is_short = lengths < np.float32(rope.original_max_context / rope.high_freq_factor)
    span = np.float32(rope.high_freq_factor - rope.low_freq_factor)
    kept_share = (_divided(rope.original_max_context, lengths) - np.float32(rope.low_freq_factor)) / span
    mixed = (np.float32(1) - kept_share) * frequencies / factor + kept_share * frequencies
    return np.where(is_long, frequencies / factor, np.where(is_short, frequencies, mixed)).astype(np.float32)


def _yarn_frequencies(rope: RopeConfig, wavelengths: Float32s, head_dim: int) -> Float32s:
    """Dimensions that turn often within the trained context are kept, those that turn rarely are stretched."""

    def dimension_turning(num_turns: float) -> float:
        turn_length = rope.original_max_context / (num_turns * 2 * math.pi)
        return head_dim * math.log(turn_length) / (2 * math.log(rope.theta))

    first, last = dimension_turning(rope.beta_fast), dimension_turning(rope.beta_slow)
    if rope.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, head_dim - 1)
    if first == last:
        last += 0.001  # a ramp of no width would divide by zero
    dimensions = np.arange(head_dim // 2, dtype=np.float32)
    ramp = np.clip((dimensions - np.float32(first)) / np.float32(last - first), 0, 1).astype(np.float32)
    kept_share = np.float32(1) - ramp
    stretched = np.float32(1) / (np.float32(rope.factor) * wavelengths)
    kept = np.float32(1) / wavelengths
    mixed: Float32s = stretched * (np.float32(1) - kept_share) + kept * kept_share
    return mixed


def _yarn_attention_factor(rope: RopeConfig) -> float:
    if rope.attention_factor is not None:
        return rope.attention_factor

    def magnitude(weight: float) -> float:
        return 1.0 if rope.factor <= 1 else 0.1 * weight * math.log(rope.factor) + 1.0

    if rope.mscale and rope.mscale_all_dim:
        return magnitude(rope.mscale) / magnitude(rope.mscale_all_dim)
    return magnitude(1.0)
