"""Distils a drafter from the target: first on the target's own continuations, then also on what the drafter itself
proposes.

The loss is the divergence of the drafter's distribution from the target's at every token of a continuation. It sees
the target's likeliest tokens one by one and the rest as one lump. Forward KL learns fast; total variation is what
acceptance with shared noise follows, so it is added.

On-policy texts: a continuation of the target is cut somewhere, the drafter goes on by itself, and the target says what
it would have said there. Verification of a chain only ever uses drafts that stand on the target's own tokens, so these
texts are a part of the diet and not all of it; they matter where drafts stand below other drafts that are kept as
siblings and re-rooted.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor

from contracts.errors import CheckpointError, InvalidArgument
from models.acceptance import Text, acceptance
from models.chat import END_ID
from models.generate import continue_prompts
from models.loop import Log, LoopSettings, TrainingLoop
from models.network import Network
from models.packing import PackedRows, PackedTop, pack, pack_top, plan_rows
from models.precision import fast_products
from models.teacher import TeacherTexts, TopLogprobs, mixed_temperature, top_logprobs


@dataclass(frozen=True, kw_only=True)
class DistilSettings:
    lr: float
    weight_decay: float
    num_steps: int
    length: int  # tokens in a row of packed texts
    rows: int  # rows in a step
    on_policy_every: int  # each so many-th step is on-policy; 0: never
    num_rollout: int  # tokens that the drafter proposes in an on-policy text
    rollout_temperature: float  # of every second of these; the others are greedy, as the target's own texts
    variation_weight: float  # of total variation beside forward KL
    report_every: int
    seed: int


_MAY_CHANGE = ("num_steps", "report_every")  # while a run goes on


def divergence(
    student_logits: Tensor,  # [positions, vocab]
    top: TopLogprobs,  # [positions, NUM_TOP]
    variation_weight: float,
) -> Tensor:
    """KL(teacher || student) plus `variation_weight` times total variation; all outside `top` is one event.

    [positions] float32.
    """
    student = student_logits.float().log_softmax(-1).gather(-1, top.tokens)
    teacher_probs, student_probs = top.logprobs.exp(), student.exp()
    teacher_rest = (1 - teacher_probs.sum(-1)).clamp(min=1e-6)
    student_rest = (1 - student_probs.sum(-1)).clamp(min=1e-6)
    kl = (teacher_probs * (top.logprobs - student)).sum(-1) + teacher_rest * (teacher_rest.log() - student_rest.log())
    variation = 0.5 * ((teacher_probs - student_probs).abs().sum(-1) + (teacher_rest - student_rest).abs())
    return kl + variation_weight * variation


def packed_divergence(
    network: Network,
    tokens: Tensor,  # [rows, length]
    documents: Tensor,  # [rows, length]
    places: Tensor,  # [places] int64: positions of the flattened rows that predict answers, and some more at the end
    num_answers: Tensor,  # [] int64: of these places, the ones that count
    top_tokens: Tensor,  # [places, NUM_TOP]
    top_logprobs: Tensor,  # [places, NUM_TOP] float32
    variation_weight: float,
) -> Tensor:
    """Mean divergence over the positions that predict answers. The head, half of a small model's work, reads no
    others."""
    hidden = network(tokens, documents).flatten(0, 1)[places]
    top = TopLogprobs(tokens=top_tokens.long(), logprobs=top_logprobs)
    found = divergence(F.linear(hidden, network.embed_tokens.weight), top, variation_weight)
    counts = torch.arange(len(places), device=places.device) < num_answers
    return found.masked_fill(~counts, 0.0).sum() / num_answers


def answer_places(answers: Tensor) -> Tensor:  # [rows, length] bool -> [places]
    """Positions of answers in the flattened rows, filled up with zeros to half of all positions or to all: each length
    is compiled anew, so there are two."""
    found = answers.flatten().nonzero().flatten()
    half = answers.numel() // 2
    size = half if len(found) <= half else answers.numel()
    return F.pad(found, (0, size - len(found)))


class DomainRows:
    """The packed texts of one domain."""

    def __init__(self, texts: TeacherTexts, length: int) -> None:
        self.texts = texts.texts
        self.plan = plan_rows(texts.texts, length)
        self.rows = pack(texts.texts, self.plan, length)
        self.top = pack_top(texts.texts, texts.top, self.plan, length)


class Distillation(TrainingLoop):
    def __init__(
        self,
        drafter: Network,
        target: Network,
        settings: DistilSettings,
        domains: Mapping[str, float],
        *,
        train_texts: Mapping[str, TeacherTexts],
        valid_texts: Mapping[str, TeacherTexts],
        run: Path,
        log: Log,
        compiled: bool = True,
    ) -> None:
        empty = [domain for domain in domains if not len(train_texts[domain])]
        if empty:
            raise InvalidArgument(f"no continuations of the target in {', '.join(empty)}; one per domain is the least")
        loop = LoopSettings(
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            num_warmup=20,
            num_micro=1,
            report_every=settings.report_every,
            conditions={
                **{name: value for name, value in asdict(settings).items() if name not in _MAY_CHANGE},
                "domains": dict(domains),
            },
        )
        super().__init__(drafter, loop, run, log)
        self.distil, self.target = settings, target
        self.domains = dict(domains)
        self.packed = {domain: DomainRows(train_texts[domain], settings.length) for domain in domains}
        self.valid_texts = valid_texts
        self.num_given = dict.fromkeys(domains, 0)
        self.loss = torch.compile(packed_divergence, dynamic=False) if compiled else packed_divergence
        self.judge = torch.compile(network_logits, dynamic=False) if compiled else network_logits

    def micro_loss(self) -> tuple[Tensor, int]:
        picked = [self.next_row() for _ in range(self.distil.rows)]
        every = self.distil.on_policy_every
        if every and self.step % every == every - 1:
            rows, top = self.propose([domain.texts[i] for domain, row in picked for i in domain.plan[row]])
        else:
            rows, top = join([domain for domain, _ in picked], [row for _, row in picked])
        device, num_answers = self.network.device, rows.answers.sum()
        places = answer_places(rows.answers)
        with fast_products(device):
            loss = self.loss(
                self.network,
                rows.tokens.to(device),
                rows.documents.to(device),
                places.to(device),
                num_answers.to(device),
                top.tokens.flatten(0, 1)[places].to(device),
                top.logprobs.flatten(0, 1)[places].to(device).float(),
                self.distil.variation_weight,
            )
        return loss, int(num_answers)

    def next_row(self) -> tuple[DomainRows, int]:
        """Domains by their share, and every row of a domain once before any twice."""
        total = sum(self.num_given.values()) + 1
        weight = sum(self.domains.values())
        domain = max(self.domains, key=lambda name: self.domains[name] / weight * total - self.num_given[name])
        packed = self.packed[domain]
        epoch, place = divmod(self.num_given[domain], len(packed.rows))
        self.num_given[domain] += 1
        # Steps of a number prime to the count are a cheap permutation, another one in every epoch.
        stride = coprime(len(packed.rows), epoch + self.distil.seed)
        return packed, (place * stride + epoch) % len(packed.rows)

    @torch.no_grad()
    def propose(self, texts: Sequence[Text]) -> tuple[PackedRows, PackedTop]:
        """Cuts each text at a random place, lets the drafter go on from there, and asks the target about all of it.

        As many rows as a step has: a shape of its own would be compiled anew. Texts that find no room are left out.
        """
        chance = Random(f"{self.distil.seed}/{self.step}")
        cuts = [chance.randrange(len(text.answer)) for text in texts]
        starts = [[*text.prompt, *text.answer[:cut]] for text, cut in zip(texts, cuts, strict=True)]
        seeds = [chance.getrandbits(63) for _ in texts]
        room = self.distil.length - max(len(start) for start in starts)
        proposals = continue_prompts(
            self.network,
            starts,
            max_new=min(self.distil.num_rollout, room),
            end_id=END_ID,
            choose=mixed_temperature(self.distil.rollout_temperature, seeds),
        )
        # The target is asked about its own words before the cut too, which costs nothing more.
        proposed = [
            Text(prompt=text.prompt, answer=[*text.answer[:cut], *proposal], seed=seed)
            for text, cut, proposal, seed in zip(texts, cuts, proposals, seeds, strict=True)
        ]
        plan = plan_rows(proposed, self.distil.length)[: self.distil.rows]
        rows = pack(proposed, plan + [[]] * (self.distil.rows - len(plan)), self.distil.length)
        device = self.target.device
        with fast_products(device):
            logits = self.judge(self.target, rows.tokens.to(device), rows.documents.to(device))
        top = top_logprobs(logits.flatten(0, 1))
        shape = (*rows.tokens.shape, -1)
        tokens, logprobs = top.tokens.to(torch.int16).view(shape), top.logprobs.half().view(shape)
        return rows, PackedTop(tokens=tokens.cpu(), logprobs=logprobs.cpu())

    def report(self) -> None:
        figures = []
        for domain in self.domains:
            texts = self.valid_texts[domain].texts
            halves = ((0.0, texts[::2]), (0.8, texts[1::2]))  # as the teacher was asked: every second one greedily
            found = (acceptance(self.network, part, temperature=heat).per_round for heat, part in halves)
            figures.append(domain + " " + "/".join(f"{per_round:.3f}" for per_round in found))
        self.log(f"step {self.step} committed per round at 0/0.8: {', '.join(figures)}")

    def data_state(self) -> dict[str, int]:
        return dict(self.num_given)

    def load_data_state(self, state: dict[str, int]) -> None:
        if set(state) != set(self.num_given):
            raise CheckpointError(
                f"checkpoint distils {sorted(state)}, this run {sorted(self.num_given)}; use another work folder"
            )
        self.num_given = dict(state)


def network_logits(network: Network, tokens: Tensor, documents: Tensor) -> Tensor:  # [rows, length] -> and [vocab]
    return network.logits(tokens, documents)


def join(domains: Sequence[DomainRows], rows: Sequence[int]) -> tuple[PackedRows, PackedTop]:
    pairs = list(zip(domains, rows, strict=True))
    return (
        PackedRows(
            tokens=torch.stack([domain.rows.tokens[row] for domain, row in pairs]),
            documents=torch.stack([domain.rows.documents[row] for domain, row in pairs]),
            answers=torch.stack([domain.rows.answers[row] for domain, row in pairs]),
        ),
        PackedTop(
            tokens=torch.stack([domain.top.tokens[row] for domain, row in pairs]),
            logprobs=torch.stack([domain.top.logprobs[row] for domain, row in pairs]),
        ),
    )


def coprime(count: int, salt: int) -> int:
    """A number prime to `count`, spread over its range by `salt`."""
    candidate = 1 + int(count * (0.381966 + 0.2360679 * salt) % count)
    while math.gcd(candidate, count) != 1:
        candidate += 1
    return candidate
