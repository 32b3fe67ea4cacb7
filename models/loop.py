"""The training loop that text training and distillation share: steps, schedule, checkpoints, and time that survives
pauses."""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from contracts.errors import CheckpointError, Internal
from models.checkpoint import load_newest, save_state
from models.network import Network
from models.optimiser import learning_rate_factor, make_optimisers

Log = Callable[[str], None]
CHECKPOINT_EVERY_S = 240.0
LOG_EVERY_STEPS = 10


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    lr: float
    weight_decay: float
    num_warmup: int
    num_micro: int  # gradients of so many micro batches make one step
    report_every: int  # steps
    conditions: Mapping[str, object]  # what must stay as it is while a run goes on; plain data


class TrainingLoop(ABC):
    """Time is counted in CPU seconds of this process, so that a process stopped and continued loses nothing by the
    pause."""

    def __init__(self, network: Network, settings: LoopSettings, run: Path, log: Log) -> None:
        self.network, self.settings, self.run, self.log = network, settings, run, log
        self.optimisers = make_optimisers(network, lr=settings.lr, weight_decay=settings.weight_decay)
        self.step = 0
        self.num_tokens = 0
        self.decay_start: int | None = None
        self.num_decay = 0
        self.stop_requested = False  # set by a signal handler: the step at hand is finished and saved

    @abstractmethod
    def micro_loss(self) -> tuple[Tensor, int]:
        """Loss of the next micro batch, and how many tokens it holds."""

    @abstractmethod
    def report(self) -> None:
        """Says how good the network is by now."""

    @abstractmethod
    def data_state(self) -> dict[str, int]:
        """Where in the data the run stands."""

    @abstractmethod
    def load_data_state(self, state: dict[str, int]) -> None: ...

    @property
    def finished(self) -> bool:
        return self.decay_start is not None and self.step >= self.decay_start + self.num_decay

    def begin_decay(self, num_steps: int) -> None:
        """From here the learning rate falls to zero in `num_steps` steps. A decay that has begun goes on as it is."""
        if self.decay_start is None:
            self.decay_start, self.num_decay = self.step, num_steps

    def train(self, *, until_step: float = math.inf, budget_s: float = math.inf) -> bool:
        """Steps until `until_step` or the end of the decay, and says whether it came so far.

        A spent budget of CPU seconds or a request to stop end it earlier. It always ends with a checkpoint.
        """
        began_s = saved_s = time.process_time()
        while self.step < until_step and not self.finished:
            if self.stop_requested or time.process_time() - began_s >= budget_s:
                self.save()
                return False
            self.timed_step()
            if self.step % self.settings.report_every == 0:
                self.report()
            if time.process_time() - saved_s > CHECKPOINT_EVERY_S:
                self.save()
                saved_s = time.process_time()
        self.save()
        return True

    def timed_step(self) -> None:
        began_s, num_before = time.process_time(), self.num_tokens
        loss = self.train_step()
        if self.step % LOG_EVERY_STEPS == 0:
            rate = (self.num_tokens - num_before) / (time.process_time() - began_s)
            last = f"/{self.decay_start + self.num_decay}" if self.decay_start is not None else ""
            tokens = f"tokens {self.num_tokens / 1e6:.2f}M"
            self.log(f"step {self.step}{last} {tokens} loss {loss:.4f} {rate:.0f} tokens per second of CPU time")

    def train_step(self) -> float:
        total = 0.0
        for _ in range(self.settings.num_micro):
            loss, num_tokens = self.micro_loss()
            (loss / self.settings.num_micro).backward()  # type: ignore[no-untyped-call]
            total += loss.item() / self.settings.num_micro
            self.num_tokens += num_tokens
        if not math.isfinite(total):
            raise Internal(
                f"loss is {total} at step {self.step} of {self.run}; give the command again to go on from the "
                f"last checkpoint, with a learning rate below {self.settings.lr} if it happens twice"
            )
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        lr = self.settings.lr * learning_rate_factor(
            self.step, num_warmup=self.settings.num_warmup, decay_start=self.decay_start, num_decay=self.num_decay
        )
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = lr
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.step += 1
        return total

    def save(self) -> None:
        state = {
            "shape": self.network.shape.as_dict(),
            "conditions": dict(self.settings.conditions),
            "network": self.network.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "sampler": self.data_state(),
            "step": self.step,
            "num_tokens": self.num_tokens,
            "decay_start": self.decay_start,
            "num_decay": self.num_decay,
        }
        save_state(self.run, self.step, state)

    def resume(self) -> None:
        """Goes on from the newest checkpoint of the run, where there is one."""
        state = load_newest(self.run)
        if state is not None:
            self.restore(state)

    def restore(self, state: dict[str, Any]) -> None:
        if state["shape"] != self.network.shape.as_dict():
            raise CheckpointError(
                f"checkpoint in {self.run} has shape {state['shape']}, this run has {self.network.shape.as_dict()}; "
                "use another work folder"
            )
        self.check_conditions(state.get("conditions", {}))
        self.network.load_state_dict(state["network"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.load_data_state(state["sampler"])
        self.step, self.num_tokens = state["step"], state["num_tokens"]
        self.decay_start, self.num_decay = state["decay_start"], state["num_decay"]

    def check_conditions(self, before: Mapping[str, object]) -> None:
        for name, value in self.settings.conditions.items():
            if name in before and before[name] != value:
                raise CheckpointError(
                    f"checkpoint in {self.run} was trained with {name} {before[name]!r}, and this run has {value!r}; "
                    "go on with the same, or use another work folder"
                )
