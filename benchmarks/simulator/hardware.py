"""What a step of a model takes on hardware that is not here: by its memory, its arithmetic and its links.

    step = the longer of read and compute + gaps of every layer + exchanges of tensor parallelism + base

- *read*: every weight once, and the keys and values of every row, over the share of the memory bandwidth that decoding
  reaches. Rows of one sequence share their keys in truth; here each reads its own, which overstates long contexts.
- *compute*: two operations for each weight and row, at the share of the peak that a matrix product of few rows reaches.
  The longer of reading and computing counts: while weights are read, the arithmetic of some rows is free.
- *gaps*: what passes between the kernels of a layer; the reason why small drafters are not as quick as their size.
- *exchanges*: two all-reduces a layer, each with a latency and the rows' activations over the link.
- *base*: sampling, and what the host does for every step.

The constants are one set for all GPUs. They were chosen by hand so that the A100 figures of gpt-fast come out, and
`published.py` says how far off they are for those and for figures that had no part in it. For H200, L4, RTX 2080 Ti and
CPU nodes no published figure was found to check them against: there they are the makers' figures and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from contracts.errors import InvalidArgument
from speculation.cost import StepCost

__all__ = ["DEVICES", "LINKS", "MODELS", "Device", "Hardware", "Link", "ModelShape", "analytic_cost", "hardware"]

_WEIGHT_BYTES = 2  # bfloat16


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """Peaks are the makers' figures, dense, in bfloat16 or float16. `price` is dollars an hour: what such a device was
    offered for somewhere, to be replaced by one's own."""

    name: str
    memory_bytes: float
    bytes_per_s: float
    operations_per_s: float
    price: float
    read_share: float = 0.8
    compute_share: float = 0.6
    gap_s: float = 30e-6
    base_s: float = 0.3e-3
    exchange_s: float = 12e-6
    exchange_bytes_per_s: float = 200e9


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """`num_read`: parameters that every step reads; an embedding table that is not the output too is not among them."""

    name: str
    num_parameters: float
    num_read: float
    num_layers: int
    hidden_size: int
    kv_size: int
    """Keys and values of one token in one layer, in numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One way."""

    name: str
    latency_s: float
    bytes_per_s: float

    def seconds(self, num_bytes: float = 500.0) -> float:
        """A message of a few dozen draft nodes has some hundred bytes."""
        return self.latency_s + num_bytes / self.bytes_per_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """So many devices that hold one model together."""

    device: Device
    num_devices: int = 1

    @property
    def name(self) -> str:
        return self.device.name if self.num_devices == 1 else f"{self.num_devices}x{self.device.name}"

    @property
    def price(self) -> float:
        return self.num_devices * self.device.price


def _by_name(*devices: Device) -> Mapping[str, Device]:
    return MappingProxyType({device.name: device for device in devices})


DEVICES = _by_name(
    Device(name="a100", memory_bytes=80e9, bytes_per_s=2.039e12, operations_per_s=312e12, price=1.8),
    Device(
        name="h100",
        memory_bytes=80e9,
        bytes_per_s=3.35e12,
        operations_per_s=989e12,
        price=3.0,
        exchange_bytes_per_s=300e9,
    ),
    Device(
        name="h200",
        memory_bytes=141e9,
        bytes_per_s=4.8e12,
        operations_per_s=989e12,
        price=3.3,
        exchange_bytes_per_s=300e9,
    ),
    Device(
        name="l4",
        memory_bytes=24e9,
        bytes_per_s=300e9,
        operations_per_s=121e12,
        price=0.7,
        exchange_s=30e-6,
        exchange_bytes_per_s=20e9,
    ),
    Device(
        name="rtx2080ti",
        memory_bytes=11e9,
        bytes_per_s=616e9,
        operations_per_s=54e12,
        price=0.1,
        exchange_s=30e-6,
        exchange_bytes_per_s=8e9,
    ),
    Device(
        name="rtx3090",
        memory_bytes=24e9,
        bytes_per_s=936e9,
        operations_per_s=71e12,
        price=0.2,
        exchange_s=30e-6,
        exchange_bytes_per_s=16e9,
    ),
    # A server of 32 cores with bfloat16 products: no kernels to launch, but threads that wait for each other.
    Device(
        name="cpu32",
        memory_bytes=256e9,
        bytes_per_s=200e9,
        operations_per_s=6e12,
        price=1.2,
        gap_s=20e-6,
        base_s=0.2e-3,
        exchange_s=1e-3,
        exchange_bytes_per_s=5e9,
    ),
)

MODELS: Mapping[str, ModelShape] = MappingProxyType(
    {
        shape.name: shape
        for shape in (
            ModelShape(
                name="llama-2-7b",
                num_parameters=6.74e9,
                num_read=6.61e9,
                num_layers=32,
                hidden_size=4096,
                kv_size=2 * 4096,
            ),
            ModelShape(
                name="llama-2-70b",
                num_parameters=68.98e9,
                num_read=68.71e9,
                num_layers=80,
                hidden_size=8192,
                kv_size=2 * 1024,
            ),
            ModelShape(
                name="llama-3.1-8b",
                num_parameters=8.03e9,
                num_read=7.50e9,
                num_layers=32,
                hidden_size=4096,
                kv_size=2 * 1024,
            ),
            ModelShape(
                name="llama-3.1-70b",
                num_parameters=70.55e9,
                num_read=69.50e9,
                num_layers=80,
                hidden_size=8192,
                kv_size=2 * 1024,
            ),
            ModelShape(
                name="llama-3.2-1b",
                num_parameters=1.24e9,
                num_read=1.24e9,
                num_layers=16,
                hidden_size=2048,
                kv_size=2 * 512,
            ),
            ModelShape(
                name="qwen3-32b",
                num_parameters=32.76e9,
                num_read=31.98e9,
                num_layers=64,
                hidden_size=5120,
                kv_size=2 * 1024,
            ),
            ModelShape(
                name="qwen3-0.6b",
                num_parameters=0.60e9,
                num_read=0.60e9,
                num_layers=28,
                hidden_size=1024,
                kv_size=2 * 1024,
            ),
            ModelShape(
                name="qwen2.5-0.5b",
                num_parameters=0.49e9,
                num_read=0.49e9,
                num_layers=24,
                hidden_size=896,
                kv_size=2 * 128,
            ),
            ModelShape(
                name="llama-68m",
                num_parameters=0.068e9,
                num_read=0.044e9,
                num_layers=2,
                hidden_size=768,
                kv_size=2 * 768,
            ),
        )
    }
)

LINKS: Mapping[str, Link] = MappingProxyType(
    {
        link.name: link
        for link in (
            Link(name="machine", latency_s=0.1e-3, bytes_per_s=5e9),
            Link(name="datacentre", latency_s=0.3e-3, bytes_per_s=1.25e9),
            Link(name="office", latency_s=0.6e-3, bytes_per_s=12.5e6),
            Link(name="region", latency_s=2e-3, bytes_per_s=125e6),
            Link(name="wide", latency_s=20e-3, bytes_per_s=12.5e6),
        )
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Analytic:
    """The sum of the module, with everything but rows and keys worked out."""

    read_s: float
    key_s: float
    row_s: float
    fixed_s: float
    exchanged_row_s: float

    def cost_s(self, num_rows: float, num_context: float) -> float:
        reading_s = self.read_s + self.key_s * num_context
        return self.fixed_s + max(reading_s, self.row_s * num_rows) + self.exchanged_row_s * num_rows

    def costs_s(
        self,
        num_rows: NDArray[np.float64],  # [n]
        num_context: NDArray[np.float64],  # [n]
    ) -> NDArray[np.float64]:
        reading_s = self.read_s + self.key_s * num_context
        costs: NDArray[np.float64] = (
            self.fixed_s + np.maximum(reading_s, self.row_s * num_rows) + self.exchanged_row_s * num_rows
        )
        return costs


def analytic_cost(model: ModelShape, on: Hardware) -> StepCost:
    """A step of the model on the hardware; refused where its weights do not fit."""
    device, num = on.device, on.num_devices
    if model.num_parameters * _WEIGHT_BYTES > 0.95 * num * device.memory_bytes:
        raise InvalidArgument(
            f"{model.name} has {model.num_parameters * _WEIGHT_BYTES / 1e9:.0f} GB of weights; {on.name} has "
            f"{num * device.memory_bytes / 1e9:.0f} GB of memory: take more devices, or larger ones"
        )
    bytes_per_s = num * device.bytes_per_s * device.read_share
    exchanges = 2 * model.num_layers if num > 1 else 0
    moved = 2.0 * (num - 1) / num * model.hidden_size * _WEIGHT_BYTES
    return _Analytic(
        read_s=model.num_read * _WEIGHT_BYTES / bytes_per_s,
        key_s=model.kv_size * model.num_layers * _WEIGHT_BYTES / bytes_per_s,
        row_s=2.0 * model.num_read / (num * device.operations_per_s * device.compute_share),
        fixed_s=device.base_s + model.num_layers * device.gap_s + exchanges * device.exchange_s,
        exchanged_row_s=exchanges * moved / device.exchange_bytes_per_s,
    )


def hardware(said: str) -> Hardware:
    """From `h100` or `4xh100`."""
    match = re.fullmatch(r"(?:(\d+)x)?(\w+)", said)
    if match is None or match[2] not in DEVICES or match[1] == "0":
        raise InvalidArgument(f"hardware is {said!r}; right is one of {', '.join(DEVICES)}, or several such as 4xh100")
    return Hardware(device=DEVICES[match[2]], num_devices=int(match[1] or 1))
