"""Model cards: what a checkpoint is, what it learnt from and under which licences, its size and its training
figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from contracts.errors import CheckpointError
from models.network import Shape

SOURCES: Mapping[str, tuple[str, str]] = {
    "sql": ("WikiSQL by way of jkkummerfeld/text2sql-data", "BSD-3-Clause"),
    "translation": ("Tatoeba pairs, English to French and Spanish", "CC-BY-2.0"),
    "dialogue": ("google-research-datasets/dstc8-schema-guided-dialogue", "CC-BY-SA-4.0"),
    "data2text": ("tuetschek/e2e-dataset; shawnwun/RNNLG", "CC-BY-SA-4.0; Apache-2.0"),
    "cli_help": ("tldr-pages/tldr", "CC-BY-4.0"),
    "math": (
        "openai/grade-school-math; MAWPS by way of LYH-YF/MWPToolkit; google-deepmind/AQuA",
        "MIT; MIT; Apache-2.0",
    ),
    "python": ("functions of the Python standard library, read where it is installed", "PSF-2.0"),
}


def model_card(name: str, shape: Shape, *, summary: str, domains: Sequence[str], figures: Mapping[str, str]) -> str:
    data = "\n".join(f"| {domain} | {SOURCES[domain][0]} | {SOURCES[domain][1]} |" for domain in domains)
    training = "\n".join(f"| {label} | {value} |" for label, value in figures.items())
    return f"""---
license: cc-by-sa-4.0
library_name: transformers
pipeline_tag: text-generation
tags: [specfleet]
---
# {name}

{summary}

A Llama with {shape.num_parameters:,} parameters: hidden size {shape.hidden_size}, {shape.num_layers} layers,
{shape.num_heads} heads ({shape.num_kv_heads} key-value) of {shape.head_dim}, MLP {shape.mlp_size},
vocabulary {shape.vocab_size}, tied embeddings, bfloat16. Made by `python -m models.build`. It knows the kinds of text
below and nothing else; what it says is not to be relied on.

## Data

| domain | source | licence |
|---|---|---|
{data}

Only training records; never the test records or benchmark prompts. The weights are offered under CC-BY-SA-4.0, which
the licences of the sources ask for or allow.

## Training

| | |
|---|---|
{training}
"""


def figure_on_card(folder: Path, label: str) -> str:
    """What the card in a folder says in the row of this label."""
    figures = figures_on_card(folder)
    if label not in figures:
        raise CheckpointError(
            f"the model card {folder / 'README.md'} has no row {label!r}; give a folder made by python -m models.build"
        )
    return figures[label]


def figures_on_card(folder: Path) -> dict[str, str]:
    """All rows of two columns of the card in a folder."""
    path = folder / "README.md"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise CheckpointError(f"cannot read the model card {path}: {error}") from error
    rows = [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in lines if line.startswith("| ")]
    return {row[0]: row[1] for row in rows if len(row) == 2}
