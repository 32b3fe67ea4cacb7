"""The recipe of the demo family, from text to checkpoint folders: `python -m models.build --corpus DIR --out
models/demo`.

Every stage skips what is already done, so the command can be stopped at any moment and given again."""

import argparse
import fcntl
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType

import torch

from contracts.errors import AlreadyExists, InvalidArgument, SpecfleetError
from models.before import FamilyBefore
from models.family import DEMO, FamilyPlan
from models.recipe import Recipe, Unfinished

STAGES = ("prepare", "target", "decay", "drafters", "teacher", "distil", "export", "evaluate")

_AMOUNTS: Mapping[str, tuple[int, str]] = {
    "--shallow-steps": (DEMO.target_shallow_steps, "steps of the target while it has few layers"),
    "--target-steps": (
        DEMO.target_stable_steps,
        "steps of it at the full learning rate; a later run may raise it; 0 keeps that of --go-on-from",
    ),
    "--decay-steps": (DEMO.target_decay_steps, "steps over which its learning rate then falls to zero"),
    "--general-steps": (DEMO.general_steps, "steps of the general drafter on text"),
    "--specialist-steps": (DEMO.specialist_steps, "steps of each specialist on its text, from the general one"),
    "--teacher-prompts": (DEMO.num_teacher_prompts, "prompts of each domain that the target continues"),
    "--distil-steps": (DEMO.distil.num_steps, "steps of each drafter on what the target said"),
}
"""How much of everything: a plan of many hours can be cut to fewer."""


def log(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def run_stage(recipe: Recipe, stage: str) -> None:
    recipe.check_beginning()
    match stage:
        case "prepare":
            recipe.prepare()
        case "target":
            recipe.target()
        case "decay":
            recipe.decay()
        case "drafters":
            recipe.drafters()
        case "teacher":
            recipe.teacher()
        case "distil":
            recipe.distil()
        case "export":
            recipe.export()
        case "evaluate":
            recipe.evaluate()
        case _:
            raise InvalidArgument(f"stage is {stage!r}; the stages are {', '.join(STAGES)}")


@contextmanager
def sole_user(work: Path, stage: str) -> Iterator[None]:
    """Holds `<stage>.pid` in the work folder: two processes in one stage would undo each other's checkpoints."""
    work.mkdir(parents=True, exist_ok=True)
    path = work / f"{stage}.pid"
    with path.open("a+", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            handle.seek(0)
            raise AlreadyExists(
                f"process {handle.read().strip()} is at stage {stage} in {work}; wait for it or stop it"
            ) from error
        handle.truncate(0)
        handle.write(f"{os.getpid()}\n")
        handle.flush()
        yield


def stop_at_signals(recipe: Recipe) -> None:
    """The first SIGINT or SIGTERM lets the step at hand finish and saves; a second one ends the process at once."""

    def handle(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        if recipe.stop():
            log(f"stopping after this step ({signal.Signals(number).name})")
        else:
            signal.raise_signal(number)

    signal.signal(signal.SIGINT, handle)
    signal.signal(signal.SIGTERM, handle)


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m models.build", description="Train the demo family; resumes by itself."
    )
    parser.add_argument("--corpus", type=Path, required=True, help="folder of the text domains")
    parser.add_argument("--out", type=Path, required=True, help="where the checkpoint folders go")
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("build/family"),
        help="folder for tokens and training state (default: build/family)",
    )
    parser.add_argument(
        "--go-on-from",
        type=Path,
        metavar="FAMILY",
        help="an exported family whose target is trained further and whose drafters are distilled for it, where the "
        "state of its training is not at hand; with --target-steps 0 the target stays as it is",
    )
    parser.add_argument("--stage", choices=STAGES, action="append", help="only this stage; can be given several times")
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="stop after so many minutes of CPU time in training"
    )
    for option, (amount, what) in _AMOUNTS.items():
        parser.add_argument(option, type=int, default=amount, metavar="N", help=f"{what} (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="CPU threads (default: all)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    parser.add_argument(
        "--eager", action="store_true", help="do not compile the training step (no C++ compiler needed; slower)"
    )
    return parser.parse_args(arguments)


def check_arguments(given: argparse.Namespace) -> None:
    for option in ("--threads", *_AMOUNTS):
        least = 0 if option == "--target-steps" and given.go_on_from is not None else 1
        if (value := getattr(given, option[2:].replace("-", "_"))) < least:
            raise InvalidArgument(f"{option} is {value}; it must be {least} or more")
    if not given.minutes > 0:  # NaN fails this too
        raise InvalidArgument(f"--minutes is {given.minutes}; it must be greater than 0")
    if given.go_on_from is not None and given.go_on_from.resolve() == given.out.resolve():
        raise InvalidArgument(
            f"--out is {given.out}, the family to go on from; export beside it, for its cards are read until the end"
        )
    if given.device not in ("cpu", "cuda"):
        raise InvalidArgument(f"--device is {given.device!r}; it must be cpu or cuda")
    if given.device == "cuda" and not torch.cuda.is_available():
        raise InvalidArgument("--device is 'cuda', but this machine has no CUDA device; use --device cpu")


def plan_of(given: argparse.Namespace) -> FamilyPlan:
    """The demo family's, with as much of everything as was asked for."""
    return replace(
        DEMO,
        target_shallow_steps=given.shallow_steps,
        target_stable_steps=given.target_steps,
        target_decay_steps=given.decay_steps if given.target_steps else 0,  # nothing was learned that it could settle
        general_steps=given.general_steps,
        specialist_steps=given.specialist_steps,
        num_teacher_prompts=given.teacher_prompts,
        distil=replace(DEMO.distil, num_steps=given.distil_steps),
    )


def main(arguments: list[str] | None = None) -> None:
    given = parse_arguments(arguments)
    try:
        check_arguments(given)
        build(given)
    except Unfinished as unfinished:
        sys.exit(str(unfinished))
    except SpecfleetError as error:
        sys.exit(f"error: {error}")


def build(given: argparse.Namespace) -> None:
    torch.set_num_threads(given.threads)
    recipe = Recipe(
        plan=plan_of(given),
        corpus=given.corpus,
        work=given.work,
        out=given.out,
        log=log,
        budget_s=60 * given.minutes,
        compiled=not given.eager,
        device=given.device,
        before=FamilyBefore(given.go_on_from) if given.go_on_from is not None else None,
    )
    stop_at_signals(recipe)
    for stage in STAGES:
        if given.stage is None or stage in given.stage:
            with sole_user(given.work, stage):
                run_stage(recipe, stage)


if __name__ == "__main__":
    main()
