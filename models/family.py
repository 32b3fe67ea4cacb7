"""The plan of the demo family: shapes, domain weights and training settings of every member."""

from collections.abc import Mapping
from dataclasses import dataclass

from models.distil import DistilSettings
from models.network import Shape
from models.tokenizer import VOCAB_SIZE
from models.train import TrainingSettings

GENERAL = "general"


@dataclass(frozen=True, kw_only=True)
class FamilyPlan:
    vocab_size: int
    target_shape: Shape
    target_domains: Mapping[str, float]
    target_training: TrainingSettings
    target_shallow_layers: int  # the target begins with so many layers
    target_shallow_steps: int
    target_stable_steps: int  # at the full learning rate; can be raised later, and the decay run again from there
    target_decay_steps: int
    drafter_shape: Shape
    drafters: Mapping[str, Mapping[str, float]]  # name: domain weights; the general one first, the others start from it
    drafter_training: TrainingSettings
    general_steps: int
    specialist_steps: int
    num_teacher_prompts: int  # per domain
    teacher_max_new: int
    teacher_temperature: float
    distil: DistilSettings


# Long or varied answers get more of the target's time than their share of the text; sql and data2text flatten early.
TARGET_DOMAINS = {
    "sql": 0.10,
    "translation": 0.36,
    "dialogue": 0.12,
    "data2text": 0.08,
    "cli_help": 0.14,
    "math": 0.10,
    "python": 0.10,
}

DEMO = FamilyPlan(
    vocab_size=VOCAB_SIZE,
    target_shape=Shape(
        hidden_size=512, num_layers=5, num_heads=8, num_kv_heads=4, head_dim=64, mlp_size=1024, vocab_size=VOCAB_SIZE
    ),
    target_domains=TARGET_DOMAINS,
    target_training=TrainingSettings(
        lr=4e-3, weight_decay=0.05, length=512, rows=16, micro_rows=2, num_warmup=60, report_every=100, seed=1
    ),
    target_shallow_layers=2,
    target_shallow_steps=900,
    target_stable_steps=6000,
    target_decay_steps=1200,
    drafter_shape=Shape(
        hidden_size=128, num_layers=3, num_heads=2, num_kv_heads=2, head_dim=64, mlp_size=320, vocab_size=VOCAB_SIZE
    ),
    drafters={
        GENERAL: dict.fromkeys(TARGET_DOMAINS, 1.0),
        "sql": {"sql": 1.0},
        "dialogue": {"dialogue": 1.0},
        "translation": {"translation": 1.0},
        "data2text": {"data2text": 1.0},
        "cli_help": {"cli_help": 1.0},
    },
    drafter_training=TrainingSettings(
        lr=6e-3, weight_decay=0.02, length=512, rows=16, micro_rows=8, num_warmup=20, report_every=200, seed=2
    ),
    general_steps=2000,
    specialist_steps=400,
    num_teacher_prompts=2500,
    teacher_max_new=128,
    teacher_temperature=0.8,
    distil=DistilSettings(
        lr=3e-3,
        weight_decay=0.0,
        num_steps=1200,
        length=512,
        rows=8,
        on_policy_every=12,
        num_rollout=12,
        rollout_temperature=0.8,
        variation_weight=1.0,
        report_every=250,
        seed=3,
    ),
)
