"""A whole step in one call of the CPU library: the layers of model.py without returning to Python between operations.

Built once per machine for all models and shapes (kernels/native/build.py keeps it on disk), needs no compiler to run,
and gives the same bits as model.py, whose operations it calls in the same order. Where the library is missing or the
shape is not served, `CompiledStep.build` says so in one log line and the engine uses model.py.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Sequence

import torch

from engine.weights import LayerWeights, Weights
from kernels import native
from kernels.native import signatures
from kernels.noise import Choice, native_choices
from kernels.paged import KVCache, Rows
from kernels.quantised import QuantisedLinear

__all__ = ["CompiledStep"]

logger = logging.getLogger(__name__)
_HEAD_DIM_STEP = 16


class CompiledStep:
    """One rank's weights and cache as the library sees them, with buffers that grow to the largest step seen."""

    def __init__(self, library: ctypes.CDLL, weights: Weights, cache: KVCache) -> None:
        config = weights.shard.config
        self._library, self._weights, self._cache = library, weights, cache
        self._kind = native.KINDS[weights.dtype]
        self._shape = signatures.Shape(
            config.hidden_size, config.num_heads, config.num_kv_heads, config.head_dim, config.mlp_size, config.rms_eps
        )
        self._layers = (signatures.Layer * config.num_layers)(
            *(self._layer(index, layer) for index, layer in enumerate(weights.layers))
        )
        self._embedding = native.address(weights.embedding.packed)
        self._final_norm = weights.final_norm.data_ptr()
        self._head, self._vocabulary = native.address(weights.head.packed), weights.head.outputs
        self._capacity = 0
        self._buffers = signatures.Buffers()
        self._held: dict[str, torch.Tensor] = {}

    @staticmethod
    def build(weights: Weights, cache: KVCache) -> CompiledStep | None:
        """The compiled step for this model, or None with one log line that says why there is none."""
        library, config = native.library(), weights.shard.config
        reason, level = None, logging.INFO
        if cache.keys.device.type != "cpu":
            reason = f"it runs on the CPU, the model is on {cache.keys.device}"
        elif weights.shard.num_ranks > 1:
            reason = f"{weights.shard.num_ranks} ranks meet inside every layer"
        elif library is None:
            reason, level = "the CPU library could not be built", logging.WARNING
        elif config.head_dim % _HEAD_DIM_STEP != 0:
            reason = f"head_dim {config.head_dim} is not a multiple of {_HEAD_DIM_STEP}"
        elif any(isinstance(m, QuantisedLinear) for w in weights.layers for m in (w.qkv, w.output, w.gate_up, w.down)):
            reason = "rounded weights have a factor for each output, which it does not know"
        elif any(m.packed is None for w in weights.layers for m in (w.qkv, w.output, w.gate_up, w.down)):
            reason = "some matrices have an odd inner size and are not packed"
        if reason is None and library is not None:
            return CompiledStep(library, weights, cache)
        logger.log(level, "no compiled step, layers run one by one: %s", reason)
        return None

    def _layer(self, index: int, layer: LayerWeights) -> signatures.Layer:
        return signatures.Layer(
            attention_norm=layer.attention_norm.data_ptr(),
            qkv=native.address(layer.qkv.packed),
            qkv_bias=native.address(layer.qkv.bias),
            query_norm=native.address(layer.query_norm),
            key_norm=native.address(layer.key_norm),
            output=native.address(layer.output.packed),
            output_bias=native.address(self._weights.output_biases[index]),
            mlp_norm=layer.mlp_norm.data_ptr(),
            gate_up=native.address(layer.gate_up.packed),
            down=native.address(layer.down.packed),
            keys=self._cache.addresses[index][0],
            values=self._cache.addresses[index][1],
            window=layer.window,
        )

    def _reserve(self, num_rows: int) -> None:
        if num_rows <= self._capacity:
            return
        config, dtype, n = self._weights.shard.config, self._weights.dtype, max(num_rows, 2 * self._capacity)
        widths = {
            "residual": (config.hidden_size, torch.float32),
            "normed": (config.hidden_size, dtype),
            "qkv": (config.q_size + 2 * config.kv_size, torch.float32),
            "queries": (config.q_size, dtype),
            "attended": (config.q_size, dtype),
            "gate_up": (2 * config.mlp_size, torch.float32),
            "activated": (config.mlp_size, dtype),
        }
        self._held = {name: torch.empty(n, width, dtype=kind) for name, (width, kind) in widths.items()}
        self._buffers = signatures.Buffers(
            **{name: buffer.data_ptr() for name, buffer in self._held.items()},
            cosines=self._weights.cosines.data_ptr(),
            sines=self._weights.sines.data_ptr(),
        )
        self._capacity = n

    def run(
        self,
        tokens: torch.Tensor,  # [rows] int64
        rows: Rows,
        chosen: torch.Tensor,  # [num_chosen] int32
    ) -> torch.Tensor:
        """Logits [num_chosen, vocabulary] float32 of the chosen rows."""
        self._reserve(rows.count)
        return self._call(tokens, rows, 0, len(self._layers), chosen)

    def run_on(
        self,
        tokens: torch.Tensor,  # [rows] int64, of which the last are written
        rows: Rows,
        chosen: torch.Tensor,  # [num_chosen] int32
        choices: Sequence[Choice],  # [num_chosen]
        *,
        num_more: int,
        more_below: int,
        num_top: int,
        num_real_tokens: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """All rows but the last `num_more` together, then those one by one, each with the best token below the one
        before; the first of them below choice `more_below`. Values float32 and tokens int64 [num_chosen, num_top], as
        of `kernels.noise.choose`; tokens are -1 from where nothing could be chosen."""
        self._reserve(rows.count)
        num_chosen = len(choices)
        values = torch.empty(num_chosen, num_top, dtype=torch.float32)
        best = torch.empty(num_chosen, num_top, dtype=torch.int64)
        logits = torch.empty(num_chosen - num_more, self._vocabulary, dtype=torch.float32)
        how = signatures.Choosing(
            final_norm=self._final_norm,
            head=self._head,
            vocab=self._vocabulary,
            num_real=min(num_real_tokens, self._vocabulary),
            num_top=num_top,
            choices=native_choices(choices),
            logits=logits.data_ptr(),
            values=values.data_ptr(),
            best=best.data_ptr(),
        )
        self._library.specfleet_draft(
            self._kind,
            native.num_threads(),
            self._shape,
            self._layers,
            len(self._layers),
            rows.native,
            self._buffers,
            tokens.data_ptr(),
            self._embedding,
            chosen.data_ptr(),
            num_chosen,
            num_more,
            more_below,
            how,
        )
        return values, best

    def run_layers(
        self,
        residual: torch.Tensor,  # [rows, hidden] float32, changed in place
        rows: Rows,
        first: int,
        last: int,
    ) -> torch.Tensor:
        """Layers first..last-1, for steps that look at the rows in between."""
        self._reserve(rows.count)
        held = self._held["residual"][: rows.count]
        held.copy_(residual)
        self._call(None, rows, first, last, None)
        return residual.copy_(held)

    def _call(
        self, tokens: torch.Tensor | None, rows: Rows, first: int, last: int, chosen: torch.Tensor | None
    ) -> torch.Tensor:
        num_chosen = chosen.shape[0] if chosen is not None else 0
        logits = torch.empty(num_chosen, self._vocabulary, dtype=torch.float32)
        self._library.specfleet_step(
            self._kind,
            native.num_threads(),
            self._shape,
            self._layers,
            first,
            last,
            rows.native,
            self._buffers,
            native.address(tokens),
            self._embedding,
            self._final_norm,
            self._head if num_chosen > 0 else None,
            self._vocabulary,
            native.address(chosen),
            num_chosen,
            logits.data_ptr(),
        )
        return logits
