"""Figures of the family on test prompts: `python -m models.evaluate --corpus DIR` prints perplexity and the acceptance
matrix.

It writes the same as `evaluation.json` and one heat map picture per temperature."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from contracts.errors import InvalidArgument, SpecfleetError
from models.acceptance import CHAIN, Text, acceptance, answer_loss
from models.chat import END_ID
from models.corpus import DOMAINS, check_corpus
from models.files import atomic_write
from models.generate import continue_prompts, noisy
from models.heatmap import heat_map
from models.hf_folder import load_network
from models.network import Network
from models.prompts import Prompt, domain_prompts
from models.tokenizer import load_tokenizer

TEMPERATURES = (0.0, 0.8)
TARGET = "target"
DRAFTER_PREFIX = "drafter-"
Table = dict[str, dict[str, float]]  # row name, column name


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    num_prompts: int
    max_new: int
    perplexity: Table  # model, domain
    accepted: dict[str, Table]  # temperature; drafter, domain: tokens committed per round

    def as_json(self) -> str:
        fields = {
            "num_prompts": self.num_prompts,
            "max_new": self.max_new,
            "chain": CHAIN,
            "perplexity": self.perplexity,
            "committed_per_round": self.accepted,
        }
        return json.dumps(fields, indent=2) + "\n"


def drafter_folders(family: Path) -> dict[str, Path]:
    """Name to folder, the general drafter first."""
    found = {
        path.name.removeprefix(DRAFTER_PREFIX): path
        for path in sorted(family.glob(f"{DRAFTER_PREFIX}*"))
        if path.is_dir()
    }
    return dict(sorted(found.items(), key=lambda item: item[0] != "general"))


def evaluate(
    target: Network,
    drafters: Mapping[str, Network],
    prompts: Mapping[str, Sequence[Prompt]],  # by domain
    *,
    max_new: int,
    log: Callable[[str], None],
) -> Evaluation:
    perplexity: Table = {name: {} for name in (TARGET, *drafters)}
    accepted: dict[str, Table] = {f"{temperature:g}": {name: {} for name in drafters} for temperature in TEMPERATURES}
    for domain, asked in prompts.items():
        log(f"{domain}: {len(asked)} prompts")
        references = [Text(prompt=prompt.tokens, answer=prompt.reference, seed=0) for prompt in asked]
        for name, network in ((TARGET, target), *drafters.items()):
            loss, count = answer_loss(network, references)
            perplexity[name][domain] = float(torch.tensor(loss / count).exp())
        for temperature in TEMPERATURES:
            texts = target_texts(target, asked, max_new=max_new, temperature=temperature)
            for name, network in drafters.items():
                accepted[f"{temperature:g}"][name][domain] = acceptance(
                    network, texts, temperature=temperature
                ).per_round
    num_prompts = max(len(asked) for asked in prompts.values())
    return Evaluation(num_prompts=num_prompts, max_new=max_new, perplexity=perplexity, accepted=accepted)


def target_texts(target: Network, prompts: Sequence[Prompt], *, max_new: int, temperature: float) -> list[Text]:
    seeds = [1000 + index for index in range(len(prompts))]
    answers = continue_prompts(
        target, [prompt.tokens for prompt in prompts], max_new=max_new, end_id=END_ID, choose=noisy(temperature, seeds)
    )
    return [Text(prompt=p.tokens, answer=a, seed=s) for p, a, s in zip(prompts, answers, seeds, strict=True)]


def evaluate_family(
    family: Path, corpus: Path, *, num_prompts: int, max_new: int, log: Callable[[str], None]
) -> Evaluation:
    check_corpus(corpus)
    if num_prompts < 1 or max_new < 1:
        raise InvalidArgument(f"{num_prompts} prompts of {max_new} new tokens give no figures; both must be 1 or more")
    target = load_network(family / TARGET)
    drafters = {name: load_network(folder) for name, folder in drafter_folders(family).items()}
    tokenizer = load_tokenizer(family / TARGET / "tokenizer.json")
    prompts = {domain: domain_prompts(corpus, domain, "test", tokenizer, num_prompts) for domain in DOMAINS}
    return evaluate(target, drafters, prompts, max_new=max_new, log=log)


def format_table(title: str, table: Table) -> str:
    """Markdown, so that what is printed can stand in a README."""
    columns = list(next(iter(table.values())))
    lines = [f"| {title} | {' | '.join(columns)} |", f"|---{'|---:' * len(columns)}|"]
    lines += [f"| {name} | {' | '.join(f'{row[column]:.2f}' for column in columns)} |" for name, row in table.items()]
    return "\n".join(lines)


def write_evaluation(evaluation: Evaluation, out: Path) -> None:
    atomic_write(out / "evaluation.json", evaluation.as_json().encode())
    for temperature, table in evaluation.accepted.items():
        if table:
            columns = list(next(iter(table.values())))
            title = f"Tokens committed per round, chain of {CHAIN}, temperature {temperature}"
            picture = heat_map(title, list(table), columns, [list(row.values()) for row in table.values()])
            atomic_write(out / f"acceptance-{temperature}.svg", picture.encode())


def print_evaluation(evaluation: Evaluation) -> None:
    print(f"\nPerplexity of the corpus's own answers to {evaluation.num_prompts} test prompts a domain\n")
    print(format_table("model", evaluation.perplexity))
    for temperature, table in evaluation.accepted.items():
        if table:
            print(
                f"\nTokens committed per round at temperature {temperature}, chain of {CHAIN}, "
                f"at most {evaluation.max_new} new tokens\n"
            )
            print(format_table("drafter", table))


def main(arguments: list[str] | None = None) -> None:
    home = Path(__file__).parent
    parser = argparse.ArgumentParser(
        prog="python -m models.evaluate", description="Perplexity and acceptance matrix of the demo family."
    )
    parser.add_argument("--corpus", type=Path, required=True, help="folder of the text domains")
    parser.add_argument("--family", type=Path, default=home / "demo", help="folder with target/ and drafter-*/")
    parser.add_argument("--out", type=Path, default=home, help="where evaluation.json and the pictures go")
    parser.add_argument("--prompts", type=int, default=40, help="test prompts per domain")
    parser.add_argument("--max-new", type=int, default=96, help="new tokens per prompt")
    given = parser.parse_args(arguments)
    try:
        evaluation = evaluate_family(
            given.family,
            given.corpus,
            num_prompts=given.prompts,
            max_new=given.max_new,
            log=lambda line: print(line, file=sys.stderr),
        )
        print_evaluation(evaluation)
        write_evaluation(evaluation, given.out)
    except SpecfleetError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
