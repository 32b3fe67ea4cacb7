"""The service beside its peers on this machine, in one run: `python -m benchmarks.peers --help`.

    python -m benchmarks.peers --corpus DIR --out build/peers

The same checkpoints, prompts as token ids, and threads of the target for all: Hugging Face `generate` plain, with an
assistant, and with prompt lookup; where they are installed, llama.cpp's server, OpenVINO GenAI, vLLM and SGLang, plain
and with a draft model, the last two with prompt lookup too; our modes through the real service. All are warm and take
turns, alternation by alternation. The target is the demo family's, inflated here unless --target names a folder. A mode
may lack parts: `fleet-routing-fusion` is `fleet` with the first drafter only, which is also everyone else's assistant.

Answers of our modes must be the same, and greedy ones in float32 those of Hugging Face; else the share is told.
Each side computes in the type that is its quickest here, unless it is named: see --their-dtype.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks.peers import guard
from benchmarks.peers.figures import compared, rows, same_tokens
from benchmarks.peers.hugging_face import best_dtype
from benchmarks.peers.lineup import DEFAULT, Rig, chosen, lined_up, versions
from benchmarks.peers.measuring import Amounts, Measuring
from benchmarks.peers.pictures import draw
from benchmarks.peers.record import FILE, Record
from benchmarks.peers.report import Report, content, markdown
from benchmarks.peers.turns import Cell, Turn
from benchmarks.peers.workloads import WORKLOADS, Workload, workload
from benchmarks.service_rig import name_of
from benchmarks.timing import describe_machine
from contracts.errors import SpecfleetError
from engine.checkpoint import Checkpoint
from models.inflate import inflate, parse_size
from models.tokenizer import load_tokenizer

__all__ = ["main"]

_DEMO = Path(__file__).parents[2] / "models" / "demo"
_EXPERTS = ("general", "sql", "translation", "dialogue", "data2text", "cli_help")
_DIGITS = 12  # of a digest
_DRAFTERS = [*(str(_DEMO / f"drafter-{name}") for name in _EXPERTS), "prompt_lookup"]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 where tokens differ that must not, or a ratio has dropped; 2 for what can never work."""
    options = _options(arguments)
    try:
        works = _workloads(options)
        rig = _rig(options, works)
        names = chosen(options.only, rig, _say)
        conditions = _conditions(options, works)
        baseline = guard.read_baseline(options.check, conditions) if options.check else None
        machine = ", ".join([describe_machine(), f"transformers {version('transformers')}", *versions(names, rig)])
        record = Record(options.out, _recorded(options, conditions, rig, names, machine), go_on=options.go_on)
        measuring = Measuring(works=works, amounts=_amounts(options), record=record, say=_say)
        if not measuring.is_whole(names):
            with tempfile.TemporaryDirectory() as folder:
                target = options.target or _inflated(options, Path(folder))
                asyncio.run(_measure(measuring, names, target, rig, minutes=options.minutes))
        turns = record.turns
        report = Report(
            machine=machine,
            conditions=conditions,
            turns=turns,
            rows=rows(turns),
            ratios=compared(turns),
            same=same_tokens(turns),
            arrivals=[each for load in record.arrivals.values() for each in load],
            spans=record.spans,
        )
        _tell(report, options.out)
        wrong = [each.told for each in report.same if each.is_wrong({options.dtype, options.their_dtype})]
        if options.save_baseline:
            guard.write_baseline(options.save_baseline, guard.guarded(_guard_turns(turns)), conditions, machine)
        if baseline is not None:
            wrong += guard.dropped(guard.guarded(_guard_turns(turns)), baseline)
    except SpecfleetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for each in wrong:
        print(f"error: {each}", file=sys.stderr)
    return 1 if wrong else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--target", metavar="DIR", help="checkpoint folder; default: the demo target, inflated")
    parser.add_argument("--params", default="300M", metavar="SIZE", help="of the inflated target (default 300M)")
    parser.add_argument(
        "--drafter",
        action="append",
        metavar="KIND_OR_DIR",
        help="can be given several times; the first is everyone else's assistant too; default: the demo family's",
    )
    parser.add_argument("--corpus", type=Path, metavar="DIR", help="folder of the text domains and prompts/")
    parser.add_argument(
        "--workload", action="append", choices=WORKLOADS, help="default: domain, and the others where --corpus is given"
    )
    parser.add_argument("--temperature", type=float, action="append", metavar="T", help="default: 0 and 0.8")
    parser.add_argument("--together", type=_positive, action="append", metavar="N", help="default: 1, 4 and 16")
    parser.add_argument("--only", action="append", metavar="PEER", help=f"default: {', '.join(DEFAULT)}")
    parser.add_argument(
        "--alternations",
        type=_positive,
        metavar="N",
        help=f"turns of each (default 5, and for a baseline {guard.ALTERNATIONS}, which is the least there)",
    )
    parser.add_argument(
        "--num-prompts",
        type=_positive,
        default=14,
        metavar="N",
        help="of a turn (default 14), at least as many as are asked at a time",
    )
    parser.add_argument(
        "--teach",
        type=_natural,
        default=0,
        metavar="N",
        help="prompts of each workload, none of which is timed, that our router learns from first (default 0): in "
        "service it has long learned who is good at what",
    )
    parser.add_argument("--max-tokens", type=_positive, default=64, metavar="N", help="of an answer (default 64)")
    parser.add_argument("--max-draft", type=_positive, default=11, metavar="N", help="draft nodes a round (default 11)")
    parser.add_argument(
        "--arrival-s", type=float, default=60.0, metavar="S", help="of each load that arrives; 0: none (default 60)"
    )
    parser.add_argument("--arrival-alternations", type=_positive, default=2, metavar="N", help="default 2")
    parser.add_argument("--threads", type=_positive, default=os.cpu_count() or 1, metavar="N", help="of the target")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16", help="of our models")
    parser.add_argument(
        "--their-dtype",
        choices=["bfloat16", "float32"],
        help="of Hugging Face's, and without a GPU of vLLM's and SGLang's; default: float32 with --dtype float32, "
        "else what is quicker on this processor",
    )
    parser.add_argument(
        "--llama-server",
        default=shutil.which("llama-server") or "llama-server",
        metavar="FILE",
        help="llama.cpp's server (default: the one on the path)",
    )
    parser.add_argument(
        "--openvino-python",
        default=sys.executable,
        metavar="FILE",
        help="a Python that has OpenVINO GenAI, which needs nothing else of this repository (default: this one)",
    )
    for name, option in (("vLLM", "--vllm-python"), ("SGLang", "--sglang-python")):
        parser.add_argument(
            option, default=sys.executable, metavar="FILE", help=f"a Python that has {name} (default: this one)"
        )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help=f"write peers.json, peers.md and pictures here, and {FILE} while it is measured",
    )
    parser.add_argument(
        "--go-on",
        action="store_true",
        help=f"measure only what {FILE} of a run that was ended has not: same conditions",
    )
    parser.add_argument(
        "--minutes", type=float, default=math.inf, metavar="N", help="measure for so long at most (default: all)"
    )
    parser.add_argument("--check", type=Path, metavar="FILE", help="fail where a ratio is worse than in this baseline")
    parser.add_argument("--save-baseline", type=Path, metavar="FILE", help="write this run's ratios as a baseline")
    options = parser.parse_args(arguments)
    if not options.minutes > 0.0:  # NaN fails this too
        parser.error(f"--minutes is {options.minutes}; it must be greater than 0")
    if options.go_on and options.out is None:
        parser.error(f"--go-on is given without --out, which must be the folder with {FILE}")
    is_guard = options.check or options.save_baseline
    options.alternations = options.alternations or (guard.ALTERNATIONS if is_guard else 5)
    if is_guard and options.alternations < guard.ALTERNATIONS:
        parser.error(f"--alternations is {options.alternations}; a baseline needs {guard.ALTERNATIONS} or more")
    options.drafter = options.drafter or _DRAFTERS
    options.workload = options.workload or (WORKLOADS if options.corpus else WORKLOADS[:1])
    options.temperature = options.temperature or [0.0, 0.8]
    options.together = options.together or [1, 4, 16]
    options.their_dtype = options.their_dtype or (best_dtype() if options.dtype == "bfloat16" else options.dtype)
    return options


def _positive(text: str) -> int:
    return _whole(text, least=1)


def _natural(text: str) -> int:
    return _whole(text, least=0)


def _whole(text: str, *, least: int) -> int:
    if not text.isdigit() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least}")
    return int(text)


def _conditions(options: argparse.Namespace, works: Sequence[Workload]) -> dict[str, object]:
    """What a run's ratios depend on besides the machine."""
    models = [options.target or _DEMO / "target", *(drafter for drafter in options.drafter if Path(drafter).is_dir())]
    first = [tuple(work.of_turn(work.warm_up, together=1)) for work in works]  # whatever the alternations
    asked = hashlib.sha256(repr(first).encode())
    return {
        "target": Path(options.target).name if options.target else f"demo target inflated to {options.params}",
        "weights": [Checkpoint.open(model).digest()[:_DIGITS] for model in models],
        "prompts": asked.hexdigest()[:_DIGITS],
        "alternations": options.alternations,
        "drafters": [name_of(drafter) for drafter in options.drafter],
        "num_prompts": options.num_prompts,
        "teach": options.teach,
        "max_tokens": options.max_tokens,
        "max_draft": options.max_draft,
        "threads": options.threads,
        "dtype": options.dtype,
        "their_dtype": options.their_dtype,
        "corpus": "whole" if options.corpus else "committed prompts",
    }


def _recorded(
    options: argparse.Namespace, conditions: Mapping[str, object], rig: Rig, names: Sequence[str], machine: str
) -> dict[str, object]:
    """What must be the same for a run to go on; how much of it is measured need not."""
    same = {name: value for name, value in conditions.items() if name != "alternations"}
    same |= {"arrival_s": options.arrival_s, "arrival_alternations": options.arrival_alternations}
    # Some peers are loaded with room for so much.
    same |= {"together": rig.together, "context": rig.context}
    return {**same, "peers": list(names), "machine": machine}


def _workloads(options: argparse.Namespace) -> list[Workload]:
    tokenizer = load_tokenizer(Path(options.target or _DEMO / "target") / "tokenizer.json")
    works = [
        workload(
            name,
            tokenizer,
            corpus=options.corpus,
            count=options.num_prompts,
            most_together=max(options.together),
            num_alternations=options.alternations,
            num_lessons=options.teach,
        )
        for name in options.workload
    ]
    for work in works:
        if (num := len(set(work.questions))) < len(work.questions):
            _say(f"{work.name} has {num} prompts, and {len(work.questions)} are asked: some alternations' come again")
    return works


def _rig(options: argparse.Namespace, works: Sequence[Workload]) -> Rig:
    asked = [question for work in works for question in (*work.questions, *work.lessons)]
    return Rig(
        drafters=options.drafter,
        max_draft=options.max_draft,
        threads=options.threads,
        dtype=options.dtype,
        their_dtype=options.their_dtype,
        llama_server=options.llama_server,
        openvino_python=options.openvino_python,
        vllm_python=options.vllm_python,
        sglang_python=options.sglang_python,
        device="cuda" if torch.cuda.is_available() else "cpu",
        together=max(options.together),
        context=max(len(question.tokens) for question in asked) + options.max_tokens,
    )


def _inflated(options: argparse.Namespace, folder: Path) -> str:
    inflate(_DEMO / "target", folder, num_parameters=parse_size(options.params))
    return str(folder)


def _amounts(options: argparse.Namespace) -> Amounts:
    return Amounts(
        temperatures=options.temperature,
        together=options.together,
        alternations=options.alternations,
        max_tokens=options.max_tokens,
        arrival_s=options.arrival_s,
        arrival_alternations=options.arrival_alternations,
    )


async def _measure(measuring: Measuring, names: Sequence[str], target: str, rig: Rig, *, minutes: float) -> None:
    async with lined_up(names, target, rig) as peers:
        await measuring.go_on(peers, seconds=60.0 * minutes)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _tell(report: Report, out: Path | None) -> None:
    print(markdown(report))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "peers.md").write_text(markdown(report), encoding="utf-8")
        (out / "peers.json").write_text(json.dumps(content(report), indent=1) + "\n", encoding="utf-8")
        draw(report, out)


def _guard_turns(turns: Sequence[Turn]) -> list[Turn]:
    """Of one greedy request at a time on the domains' prompts."""
    return [turn for turn in turns if turn.cell == Cell(workload="domain", temperature=0.0, together=1)]


if __name__ == "__main__":
    sys.exit(main())
