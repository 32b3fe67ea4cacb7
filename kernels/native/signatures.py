"""The C face of the library as ctypes sees it; the mirror of src/exports.cpp."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_float, c_int, c_int32, c_int64, c_uint64, c_void_p

VERSION = 3


class Rows(ctypes.Structure):
    """Mirror of `Rows` in src/paged.h."""

    _fields_ = [
        ("count", c_int32),
        ("positions", c_void_p),
        ("write_slots", c_void_p),
        ("num_in_table", c_void_p),
        ("table_offsets", c_void_p),
        ("tables", c_void_p),
        ("tail_offsets", c_void_p),
        ("tail_slots", c_void_p),
    ]


class Shape(ctypes.Structure):
    """Mirror of `Shape` in src/step.h."""

    _fields_ = [
        ("hidden", c_int32),
        ("heads", c_int32),
        ("kv_heads", c_int32),
        ("head_dim", c_int32),
        ("mlp", c_int32),
        ("eps", c_float),
    ]


class Layer(ctypes.Structure):
    """Mirror of `Layer` in src/step.h."""

    _fields_ = [
        ("attention_norm", c_void_p),
        ("qkv", c_void_p),
        ("qkv_bias", c_void_p),
        ("query_norm", c_void_p),
        ("key_norm", c_void_p),
        ("output", c_void_p),
        ("output_bias", c_void_p),
        ("mlp_norm", c_void_p),
        ("gate_up", c_void_p),
        ("down", c_void_p),
        ("keys", c_void_p),
        ("values", c_void_p),
        ("window", c_int64),
    ]


class Buffers(ctypes.Structure):
    """Mirror of `Buffers` in src/step.h."""

    _fields_ = [
        ("residual", c_void_p),
        ("normed", c_void_p),
        ("qkv", c_void_p),
        ("queries", c_void_p),
        ("attended", c_void_p),
        ("gate_up", c_void_p),
        ("activated", c_void_p),
        ("cosines", c_void_p),
        ("sines", c_void_p),
    ]


class Choice(ctypes.Structure):
    """Mirror of `Choice` in src/noise.h."""

    _fields_ = [
        ("seed", c_uint64),
        ("position", c_uint64),
        ("inverse_temperature", c_float),
        ("threshold", c_float),
        ("noisy", c_int32),
        ("reserved", c_int32),
    ]


class Choosing(ctypes.Structure):
    """Mirror of `Choosing` in src/draft.h."""

    _fields_ = [
        ("final_norm", c_void_p),
        ("head", c_void_p),
        ("vocab", c_int32),
        ("num_real", c_int32),
        ("num_top", c_int32),
        ("choices", POINTER(Choice)),
        ("logits", c_void_p),
        ("values", c_void_p),
        ("best", c_void_p),
    ]


# In the order of src/exports.cpp.
_POINTERS = (c_void_p,) * 8

_ARGUMENTS = {
    "specfleet_packed_size": ([c_int, c_int, c_int], c_int64),
    "specfleet_pack": ([c_int, c_int, c_void_p, c_int64, c_int, c_int, c_void_p], None),
    "specfleet_linear": ([c_int, c_int, c_void_p, c_int, c_int, c_void_p, c_void_p, c_int, c_int, c_void_p], None),
    "specfleet_embed": ([c_int, c_void_p, c_int, c_void_p, c_int, c_void_p], None),
    "specfleet_rms_norm": ([c_int, c_int, c_void_p, c_void_p, c_int, c_int, c_float, c_void_p], None),
    "specfleet_rotary_into_cache": (
        [c_int, c_int, c_void_p, POINTER(Rows), c_int, c_int, c_int, *_POINTERS[:2], c_float, *_POINTERS[:5]],
        None,
    ),
    "specfleet_attention": (
        [c_int, c_int, c_void_p, POINTER(Rows), c_int, c_int, c_int, c_int, c_float, c_void_p, c_void_p, c_void_p],
        None,
    ),
    "specfleet_swiglu": ([c_int, c_int, c_void_p, c_int, c_int, c_void_p], None),
    "specfleet_step": (
        [
            *(c_int, c_int, POINTER(Shape), POINTER(Layer), c_int, c_int, POINTER(Rows), POINTER(Buffers)),
            *(*_POINTERS[:4], c_int, c_void_p, c_int, c_void_p),
        ],
        None,
    ),
    "specfleet_draft": (
        [
            *(c_int, c_int, POINTER(Shape), POINTER(Layer), c_int, POINTER(Rows), POINTER(Buffers)),
            *(*_POINTERS[:3], c_int, c_int, c_int, POINTER(Choosing)),
        ],
        None,
    ),
    "specfleet_noise": ([c_uint64, c_uint64, c_int, c_int, c_void_p], None),
    "specfleet_choose": (
        [c_int, c_void_p, c_int, c_int, c_int, POINTER(Choice), c_int, c_void_p, c_void_p],
        None,
    ),
    "specfleet_log_sum": ([c_int, c_void_p, c_int, c_int, c_void_p], None),
    "specfleet_has_bf16_dot": ([], c_int),
    "specfleet_after_fork": ([], None),
    "specfleet_version": ([], c_int),
}


def declare(library: ctypes.CDLL) -> ctypes.CDLL:
    """Gives every function its argument types; raises OSError for a library of another version."""
    for name, (arguments, result) in _ARGUMENTS.items():
        function = getattr(library, name)
        function.argtypes = arguments
        function.restype = result
    found = library.specfleet_version()
    if found != VERSION:
        raise OSError(f"the library has version {found}, this code needs {VERSION}")
    return library
