"""Makes a small model big without changing what it computes: `python -m models.inflate FOLDER --params 300M --out
DIR`.

Small models run too fast for a benchmark to say anything about serving. The inflated model has the cost of its size
and the answers of the small one. In real arithmetic the two functions are equal; in floating point they differ by the
order of sums.

Why it is exact. Write h for the small hidden size and H = c * h for the big one.

- Residual stream. It carries c copies of the small stream: the embedding's columns and the output rows of `o_proj` and
  `down_proj` are repeated c times, so every copy receives what the first receives. The mean of squares over c copies
  is that of one, so RMSNorm's statistics are the small model's, with the same epsilon. (Zero padding would need every
  norm weight times sqrt(h / H), which is not a bfloat16 number unless H / h is a power of 4; copies need no rounding
  at all.)
- Norms. The small weights stand on the first copy, zeros on the others. What readers (q, k, v, gate, up, head) get is
  the small model's normed stream followed by exact zeros, so their weights on the other copies are random. The tied
  head reads repeated embedding columns there, times zero.
- Heads come in whole groups of one key-value head with its query heads. A new group has random q, k and `o_proj`
  columns and zero v: its attention does real work on real scores and mixes zeros. No query head of a new group reads
  an old key-value head.
- MLP. A new neuron has random gate weights and `down_proj` columns and zero `up_proj` row: silu(gate) * 0 = 0.
- New layers, spread evenly between the old ones, are new throughout: v and up are zero, the rest is random, so they
  add zero.

So the only zeros are the v and up rows of what is new, and the norm weights on the copies. Random numbers are finite
and the products with zero are exact, so nothing random reaches the output."""

import argparse
import math
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from contracts.errors import CheckpointError, InvalidArgument, SpecfleetError
from models.hf_folder import EMBEDDING_NAME, read_config, read_tensors, shape_of, write_folder
from models.network import Network, Shape

RANDOM_STD = 0.02
SIZE = re.compile(r"(\d+(?:\.\d+)?)([KMB]?)")
UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9}
MLP_STEP = 64
STREAM_WRITERS = ("self_attn.o_proj", "mlp.down_proj")


def parse_size(text: str) -> int:
    match = SIZE.fullmatch(text.strip().upper())
    if match is None:
        raise InvalidArgument(f"size is {text!r}; write a number of parameters such as 300M, 1.5B or 40000000")
    return int(float(match[1]) * UNITS[match[2]])


def inflated_shape(small: Shape, num_parameters: int) -> Shape:
    """The shape nearest to `num_parameters` with usual proportions that contains `small`."""
    if num_parameters < small.num_parameters:
        raise InvalidArgument(
            f"{num_parameters:,} parameters are fewer than the {small.num_parameters:,} of the model; "
            "inflation only adds"
        )
    return min(possible_shapes(small, num_parameters), key=lambda shape: oddness(shape, num_parameters))


def possible_shapes(small: Shape, num_parameters: int) -> Iterator[Shape]:
    yield small
    copies = 1
    while True:
        hidden = copies * small.hidden_size
        if small.vocab_size * hidden > num_parameters:
            return
        groups = max(small.num_kv_heads, round(hidden / small.head_dim * small.num_kv_heads / small.num_heads))
        for num_layers in range(small.num_layers, 161):
            wide = replace(
                small,
                hidden_size=hidden,
                num_layers=num_layers,
                num_kv_heads=groups,
                num_heads=groups * (small.num_heads // small.num_kv_heads),
                mlp_size=small.mlp_size,
            )
            per_neuron = 3 * hidden * num_layers
            spare = (num_parameters - wide.num_parameters) // per_neuron
            if spare < 0:
                break
            yield replace(wide, mlp_size=small.mlp_size + spare // MLP_STEP * MLP_STEP)
        copies += 1


def oddness(shape: Shape, num_parameters: int) -> float:
    """How far a shape is from the wanted size, first of all, and from proportions that models of that size have."""
    usual_layers = 24 * (num_parameters / 300e6) ** 0.2
    return (
        40 * abs(math.log(shape.num_parameters / num_parameters))
        + abs(math.log(shape.num_layers / usual_layers))
        + abs(math.log(shape.mlp_size / (2.75 * shape.hidden_size)))
    )


class Inflation:
    """Yields the big model's tensors one by one, so that memory holds the small model and one shard."""

    def __init__(self, small: Shape, big: Shape, tensors: dict[str, Tensor], *, seed: int) -> None:
        self.small, self.big, self.tensors = small, big, tensors
        self.copies = big.hidden_size // small.hidden_size
        self.generator = torch.Generator().manual_seed(seed)

    def run(self) -> Iterator[tuple[str, Tensor]]:
        yield EMBEDDING_NAME, self.tensors[EMBEDDING_NAME].repeat(1, self.copies)
        origins = layer_origins(self.small.num_layers, self.big.num_layers)
        for index, origin in enumerate(origins):
            for name, tensor in self.layer(origin).items():
                yield f"model.layers.{index}.{name}.weight", tensor
        yield "model.norm.weight", self.norm(self.tensors["model.norm.weight"])

    def layer(self, origin: int | None) -> dict[str, Tensor]:
        big = self.big
        q_size, kv_size = big.num_heads * big.head_dim, big.num_kv_heads * big.head_dim
        new = {
            "input_layernorm": 1 + 5 * self.noise(big.hidden_size),
            "self_attn.q_proj": self.noise(q_size, big.hidden_size),
            "self_attn.k_proj": self.noise(kv_size, big.hidden_size),
            "self_attn.v_proj": torch.zeros(kv_size, big.hidden_size, dtype=torch.bfloat16),
            "self_attn.o_proj": self.noise(big.hidden_size, q_size),
            "post_attention_layernorm": 1 + 5 * self.noise(big.hidden_size),
            "mlp.gate_proj": self.noise(big.mlp_size, big.hidden_size),
            "mlp.up_proj": torch.zeros(big.mlp_size, big.hidden_size, dtype=torch.bfloat16),
            "mlp.down_proj": self.noise(big.hidden_size, big.mlp_size),
        }
        if origin is None:
            return new
        return {name: self.place(name, self.tensors[f"model.layers.{origin}.{name}.weight"], new[name]) for name in new}

    def place(self, name: str, old: Tensor, new: Tensor) -> Tensor:  # both vectors, or both [outputs, inputs]
        """The old weights inside the new ones: the docstring of this file says what each place means."""
        if old.dim() == 1:
            return self.norm(old)
        rows, columns = old.shape
        if name in STREAM_WRITERS:
            new[:, :columns] = old.repeat(self.copies, 1)
        else:
            new[:rows, :columns] = old
            new[:rows, columns:] = self.noise(rows, new.shape[1] - columns)
        return new

    def norm(self, old: Tensor) -> Tensor:  # [small hidden] -> [big hidden]
        wide = torch.zeros(self.big.hidden_size, dtype=torch.bfloat16)
        wide[: self.small.hidden_size] = old
        return wide

    def noise(self, *sizes: int) -> Tensor:
        return (torch.randn(*sizes, generator=self.generator) * RANDOM_STD).bfloat16()


def layer_origins(num_old: int, num_new: int) -> list[int | None]:
    """For each layer of the big model the old layer it holds, or None; old layers stand in order and evenly spread."""
    places = {index * num_new // num_old: index for index in range(num_old)}
    return [places.get(index) for index in range(num_new)]


def inflate(source: Path, out: Path, *, num_parameters: int, seed: int = 0) -> Shape:
    """Writes the inflated model of folder `source` to folder `out` and returns its shape."""
    if source.resolve().is_relative_to(out.resolve()):
        raise InvalidArgument(f"--out is {out}, in which the model itself is; choose another folder")
    config = read_config(source)
    if "inflated" in config:
        raise InvalidArgument(f"{source} is itself inflated; inflate the model that it was made from")
    small = shape_of(config, source)
    big = inflated_shape(small, num_parameters)
    tensors = {name: tensor.bfloat16() for name, tensor in read_tensors(source).items()}
    check_tensors(source, small, tensors)
    note = {
        "from": source.resolve().name,
        "num_parameters": small.num_parameters,
        "shape": small.as_dict(),
        "seed": seed,
    }
    write_folder(
        out,
        shape=big,
        tensors=Inflation(small, big, tensors, seed=seed).run(),
        tokenizer_json=(source / "tokenizer.json").read_text(encoding="utf-8"),
        card=inflated_card(source.resolve().name, small, big),
        extra={"inflated": note},
    )
    return big


def check_tensors(source: Path, small: Shape, tensors: dict[str, Tensor]) -> None:
    """Refuses what would be placed wrongly or in part: every tensor must be there in the shape that the config
    implies."""
    with torch.device("meta"):
        wanted = {f"model.{name}": parameter.shape for name, parameter in Network(small).named_parameters()}
    found = {name: tensor.shape for name, tensor in tensors.items()}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise CheckpointError(
                f"{name} in {source} has shape {list(found.get(name, []))}; "
                f"config.json implies {list(wanted.get(name, []))}"
            )


def inflated_card(name: str, small: Shape, big: Shape) -> str:
    return f"""---
license: cc-by-sa-4.0
library_name: transformers
tags: [specfleet, inflated]
---
# {name}, inflated to {big.num_parameters:,} parameters

This is **not** a model of that size. It computes exactly the function of `{name}`
({small.num_parameters:,} parameters), widened and deepened with random weights that cannot reach the output, so that it
costs what a model of {big.num_parameters:,} parameters costs. It is for benchmarks of serving only. Data and licences
are those of `{name}`.

| | {name} | this |
|---|---|---|
| hidden size | {small.hidden_size} | {big.hidden_size} |
| layers | {small.num_layers} | {big.num_layers} |
| heads (key-value) | {small.num_heads} ({small.num_kv_heads}) | {big.num_heads} ({big.num_kv_heads}) |
| MLP size | {small.mlp_size} | {big.mlp_size} |
"""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m models.inflate", description="Make a small model big; its answers stay the same."
    )
    parser.add_argument("model", type=Path, help="checkpoint folder of the small model")
    parser.add_argument("--params", required=True, help="how many parameters: 300M, 1.5B, ...")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random weights")
    given = parser.parse_args(arguments)
    began_s = time.monotonic()
    try:
        big = inflate(given.model, given.out, num_parameters=parse_size(given.params), seed=given.seed)
    except SpecfleetError as error:
        sys.exit(f"error: {error}")
    print(
        f"{given.out}: {big.num_parameters:,} parameters, hidden {big.hidden_size}, {big.num_layers} layers, "
        f"{big.num_heads} heads ({big.num_kv_heads} key-value), MLP {big.mlp_size}; {time.monotonic() - began_s:.1f} s"
    )


if __name__ == "__main__":
    main()
