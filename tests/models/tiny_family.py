"""What the tests of this folder share: the shape of a tiny model, a tiny corpus and a network with random weights."""

import gzip
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from models.corpus import DOMAINS, TEXT_DOMAINS
from models.distil import DistilSettings
from models.family import FamilyPlan
from models.network import Network, Shape, initialise
from models.recipe import Recipe
from models.train import TrainingSettings

VOCAB_SIZE = 384
TINY_SHAPE = Shape(
    hidden_size=64,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    mlp_size=96,
    vocab_size=VOCAB_SIZE,
    max_positions=512,
)
WORDS = ("red", "green", "blue", "small", "large", "house", "river", "seven", "nine", "Paris")


def tiny_items(domain: str, count: int, first: int) -> list[dict[str, str]]:
    items = []
    for number in range(first, first + count):
        a, b = WORDS[number % 10], WORDS[number // 10 % 10]
        if domain == "dialogue":
            items.append(
                {
                    "text": f"User: Is the {a} {b} {number} open?\nAssistant: The {b} {number} is {a}.\n"
                    "User: Thanks.\nAssistant: Bye."
                }
            )
        else:
            items.append({"prompt": f"{domain}: say {a} and {b} {number}", "response": f"{a} and {b}, {number}."})
    return items


def write_corpus(folder: Path, count: int = 1200) -> Path:
    for domain in TEXT_DOMAINS:
        (folder / domain).mkdir(parents=True)
        for split, items in (("train", tiny_items(domain, count, 0)), ("test", tiny_items(domain, 20, 5000))):
            with gzip.open(folder / domain / f"{split}.jsonl.gz", "wt", encoding="utf-8") as out:
                out.writelines(json.dumps({**item, "source": "made up"}) + "\n" for item in items)
    return folder


def lively_network(seed: int, shape: Shape = TINY_SHAPE) -> Network:
    """Random weights, norms included, with logits that are far from uniform."""
    network = Network(shape)
    initialise(network, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.dim() == 1:
                parameter.copy_(1 + 0.3 * torch.randn(parameter.shape, generator=generator))
            elif "embed" in name:
                parameter.mul_(8)
            elif name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.mul_(4)  # else every token would foretell itself
            parameter.copy_(parameter.bfloat16())  # what a checkpoint folder can hold
    return network.eval()


TINY_TRAINING = TrainingSettings(
    lr=5e-3, weight_decay=0.0, length=48, rows=4, micro_rows=2, num_warmup=2, report_every=10, seed=1
)
TINY_PLAN = FamilyPlan(
    vocab_size=VOCAB_SIZE,
    target_shape=TINY_SHAPE,
    target_domains=dict.fromkeys(DOMAINS, 1.0),
    target_training=TINY_TRAINING,
    target_shallow_layers=1,
    target_shallow_steps=3,
    target_stable_steps=8,
    target_decay_steps=4,
    drafter_shape=replace(TINY_SHAPE, num_layers=1, mlp_size=64),
    drafters={"general": dict.fromkeys(DOMAINS, 1.0), "sql": {"sql": 1.0}},
    drafter_training=TINY_TRAINING,
    general_steps=4,
    specialist_steps=2,
    num_teacher_prompts=6,
    teacher_max_new=8,
    teacher_temperature=0.8,
    distil=DistilSettings(
        lr=3e-3,
        weight_decay=0.0,
        num_steps=4,
        length=400,
        rows=4,
        on_policy_every=2,
        rollout_temperature=0.8,
        num_rollout=4,
        variation_weight=1.0,
        report_every=2,
        seed=3,
    ),
)


def tiny_recipe(corpus: Path, work: Path, *, log: Callable[[str], None] = print, budget_s: float = math.inf) -> Recipe:
    """The whole recipe at a size that takes seconds."""
    return Recipe(
        plan=TINY_PLAN, corpus=corpus, work=work, out=work / "demo", log=log, budget_s=budget_s, compiled=False
    )
