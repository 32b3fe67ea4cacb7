"""Training of one network on text: rows of the encoded corpus, weighted loss, validation per domain."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from contracts.errors import InvalidArgument
from models.batches import Batch, RowSampler, validation_batch
from models.chat import BOS_ID
from models.loop import Log, LoopSettings, TrainingLoop
from models.network import Network
from models.precision import fast_products

VALIDATION_ROWS = 4


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """One row is `length` tokens; a step takes `rows` of them, `micro_rows` at a time."""

    lr: float
    weight_decay: float
    length: int
    rows: int
    micro_rows: int
    num_warmup: int
    report_every: int  # steps
    seed: int


def weighted_loss(
    network: Network, tokens: Tensor, targets: Tensor, weights: Tensor
) -> Tensor:  # three times [rows, length]
    """Mean loss per unit of weight. A token sees its own document only, as it will when it is served."""
    logits = network.logits(tokens, document_numbers(tokens))
    losses = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")
    return (losses * weights.flatten()).sum() / weights.sum()


def document_numbers(tokens: Tensor) -> Tensor:  # [rows, length] -> the same
    """Every document begins with the same token."""
    return (tokens == BOS_ID).cumsum(-1)


class TextTraining(TrainingLoop):
    def __init__(
        self,
        network: Network,
        settings: TrainingSettings,
        domains: Mapping[str, float],
        *,
        tokens: Path,
        run: Path,
        log: Log,
        compiled: bool = True,
        device: str = "cpu",
    ) -> None:
        if settings.rows % settings.micro_rows:
            raise InvalidArgument(
                f"a step has {settings.rows} rows, {settings.micro_rows} at a time; "
                "the first must be a multiple of the second"
            )
        loop = LoopSettings(
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            num_warmup=settings.num_warmup,
            num_micro=settings.rows // settings.micro_rows,
            report_every=settings.report_every,
            conditions={
                "lr": settings.lr,
                "weight_decay": settings.weight_decay,
                "length": settings.length,
                "rows": settings.rows,
                "seed": settings.seed,
                "domains": dict(domains),
            },
        )
        self.device = torch.device(device)
        super().__init__(network.to(self.device), loop, run, log)
        self.micro_rows = settings.micro_rows
        self.sampler = RowSampler(tokens, domains, length=settings.length, seed=settings.seed)
        self.validation = {
            domain: validation_batch(tokens, domain, length=settings.length, num_rows=VALIDATION_ROWS)
            for domain in domains
        }
        self.loss = torch.compile(weighted_loss, dynamic=False) if compiled else weighted_loss

    def micro_loss(self) -> tuple[Tensor, int]:
        batch = self.sampler.batch(self.micro_rows)
        return self.batch_loss(batch), batch.tokens.numel()

    def batch_loss(self, batch: Batch) -> Tensor:
        with fast_products(self.device):
            tokens, targets, weights = (t.to(self.device) for t in (batch.tokens, batch.targets, batch.weights))
            return self.loss(self.network, tokens, targets, weights)

    def data_state(self) -> dict[str, int]:
        return self.sampler.state()

    def load_data_state(self, state: dict[str, int]) -> None:
        self.sampler.load_state(state)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        return {domain: self.batch_loss(batch).item() for domain, batch in self.validation.items()}

    def report(self) -> None:
        losses = self.validate()
        mean = sum(losses.values()) / len(losses)
        self.log(f"step {self.step} validation mean {mean:.4f} " + " ".join(f"{d} {v:.4f}" for d, v in losses.items()))
        self.run.mkdir(parents=True, exist_ok=True)
        with (self.run / "validation.jsonl").open("a", encoding="utf-8") as out:
            out.write(json.dumps({"step": self.step, "num_tokens": self.num_tokens, "losses": losses}) + "\n")
