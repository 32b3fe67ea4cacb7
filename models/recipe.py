"""The stages of the recipe. Each goes on where it stopped and does nothing when it is done."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import torch
from tokenizers import Tokenizer

from contracts.errors import InvalidArgument
from models.before import FamilyBefore, hold_to_it
from models.card import model_card
from models.checkpoint import load_state, state_files, step_of
from models.corpus import DOMAINS, check_corpus
from models.deepen import deepen, shallow_shape
from models.distil import Distillation
from models.evaluate import DRAFTER_PREFIX, TARGET, evaluate_family, print_evaluation, write_evaluation
from models.family import GENERAL, FamilyPlan
from models.hf_folder import export
from models.loop import Log, TrainingLoop
from models.network import Network, Shape, initialise
from models.precision import fast_products
from models.prompts import domain_prompts
from models.teacher import TeacherTexts, ask_teacher, load_teacher_texts, save_teacher_texts
from models.tokenizer import load_tokenizer, save_tokenizer, train_tokenizer
from models.tokens import encode_split, is_encoded
from models.train import TextTraining, TrainingSettings

NUM_VALID_PROMPTS = 32  # per domain, to follow a distillation


class Unfinished(Exception):
    """The stage stopped before its end; giving the same command again goes on."""


@dataclass(kw_only=True)
class Recipe:
    plan: FamilyPlan
    corpus: Path
    work: Path
    out: Path
    log: Log
    budget_s: float  # of CPU time, for what is trained from now on
    compiled: bool = True
    device: str = "cpu"
    before: FamilyBefore | None = None
    loop: TrainingLoop | None = field(default=None, init=False)  # the one at work

    def stop(self) -> bool:
        """For a signal handler: the step at hand is the last one. False where nothing is being trained."""
        if self.loop is not None:
            self.loop.stop_requested = True
        return self.loop is not None

    def check_beginning(self) -> None:
        """Before any stage: that the work folder goes on from what it began with."""
        plan, before = self.plan, self.before
        if before is not None:
            drafters = {f"{DRAFTER_PREFIX}{name}": plan.drafter_shape for name in plan.drafters}
            rows = dict.fromkeys(drafters, ("text", "distillation"))
            before.check({TARGET: plan.target_shape, **drafters}, {TARGET: ("tokens seen",), **rows})
            if (path := self.work / "tokenizer.json").is_file():
                self.check_tokenizer(path, before)
        is_begun = any(state_files(self.work / name) for name in ("target", "target-shallow"))
        trained = state_files(self.work / "target")
        if plan.target_stable_steps == 0 and trained and step_of(trained[-1]) > 0:
            raise InvalidArgument(
                f"{self.work} holds a target that was trained further, and --target-steps 0 keeps the one before; "
                "leave that out, or give another work folder"
            )
        hold_to_it(self.work, before, is_begun=is_begun)

    def check_tokenizer(self, path: Path, before: FamilyBefore) -> None:
        if load_tokenizer(path).to_str() != before.tokenizer().to_str():
            raise InvalidArgument(
                f"{path} is not the tokenizer of {before.folder}; give another work folder to go on from that family"
            )

    def prepare(self) -> None:
        check_corpus(self.corpus)
        path = self.work / "tokenizer.json"
        if self.before is not None and not path.is_file():
            save_tokenizer(self.before.tokenizer(), path)
        elif not path.is_file():
            self.log("training the tokenizer")
            save_tokenizer(train_tokenizer(self.corpus, self.plan.vocab_size), path)
        for domain in DOMAINS:
            for split in ("train", "valid"):
                if not is_encoded(self.work / "tokens", domain, split):
                    self.log(f"encoding {domain} {split}")
                    encode_split(self.corpus, self.tokenizer, domain, split, self.work / "tokens", seed=0)

    @property
    def tokenizer(self) -> Tokenizer:
        return load_tokenizer(self.work / "tokenizer.json")

    # The target -------------------------------------------------------------------------------------------------------

    def target(self) -> None:
        """Shallow first, then at its full depth, or from the family before; at the full rate, for as many steps as the
        plan says."""
        loop = self.target_loop(self.work / "target")
        if state_files(loop.run):
            loop.resume()
        elif self.before is not None:
            loop.network.load_state_dict(self.before.member(TARGET).state_dict())
        else:
            self.start_deep(loop)
        self.run(loop, "target", until_step=self.plan.target_stable_steps)

    def start_deep(self, loop: TextTraining) -> None:
        """What the shallow target learned, deepened. The optimisers begin anew, with a warm-up."""
        shape = shallow_shape(self.plan.target_shape, self.plan.target_shallow_layers)
        shallow = self.target_loop(self.work / "target-shallow", shape)
        shallow.resume()
        self.run(shallow, "target, shallow", until_step=self.plan.target_shallow_steps)
        deepen(loop.network, shallow.network.state_dict(), shape.num_layers)
        loop.load_data_state(shallow.data_state())
        loop.num_tokens = shallow.num_tokens

    def decay(self) -> None:
        """From the newest checkpoint of the stage before, in a run of its own, so that that stage can still go on. A
        decay from an older one that was not brought to its end is left as it is."""
        stable = state_files(self.work / "target")
        if not stable:
            raise InvalidArgument(
                f"{self.work / 'target'} holds no checkpoint of the target; run the stage target first"
            )
        name = f"target-decay-{stable[-1].stem}"
        loop = self.target_loop(self.work / name)
        if not state_files(loop.run):
            loop.restore(load_state(stable[-1]))
        self.decay_over(loop, self.plan.target_decay_steps, "--decay-steps")
        self.run(loop, name)

    def decay_over(self, loop: TrainingLoop, num_steps: int, option: str) -> None:
        """To the end of a run, in so many steps; what was begun goes on as it was begun."""
        loop.resume()
        loop.begin_decay(num_steps)
        if loop.num_decay != num_steps and not loop.finished:
            raise InvalidArgument(
                f"{loop.run} has its learning rate fall over {loop.num_decay} steps, and {option} is {num_steps} now; "
                f"give {option} {loop.num_decay} to go on, or remove the folder to begin it anew"
            )

    def target_loop(self, run: Path, shape: Shape | None = None) -> TextTraining:
        settings = self.plan.target_training
        network = Network(shape or self.plan.target_shape)
        initialise(network, settings.seed)
        if self.before is not None:  # the text in another order than that in which it was read before
            settings = replace(settings, seed=settings.seed + self.before.generation)
        return self.text_training(network, settings, self.plan.target_domains, run)

    def text_training(
        self, network: Network, settings: TrainingSettings, domains: Mapping[str, float], run: Path
    ) -> TextTraining:
        return TextTraining(
            network,
            settings,
            domains,
            tokens=self.work / "tokens",
            run=run,
            log=self.log,
            compiled=self.compiled,
            device=self.device,
        )

    def num_shallow_steps(self) -> int:
        files = state_files(self.work / "target-shallow")
        return step_of(files[-1]) if files else 0

    def decay_runs(self) -> list[Path]:
        return sorted(path for path in self.work.glob("target-decay-step-*") if state_files(path))

    def is_finished(self, run: Path) -> bool:
        files = state_files(run)
        state = load_state(files[-1]) if files else None
        return (
            state is not None
            and state["decay_start"] is not None
            and state["step"] >= state["decay_start"] + state["num_decay"]
        )

    def finished_target(self) -> Path:
        """The newest decay that came to its end."""
        finished = [run for run in self.decay_runs() if self.is_finished(run)]
        if not finished:
            raise InvalidArgument(f"{self.work} holds no finished target; run the stages target and decay first")
        return finished[-1]

    def keeps_target(self) -> bool:
        """Whether the target is that of the family before as it is, and only its drafters go on."""
        return self.before is not None and step_of(state_files(self.finished_target())[-1]) == 0

    def target_network(self) -> Network:
        return self.network_of(self.plan.target_shape, self.finished_target())

    def network_of(self, shape: Shape, run: Path) -> Network:
        network = Network(shape)
        network.load_state_dict(load_state(state_files(run)[-1])["network"])
        # What is exported is bfloat16: whoever learns from the target learns from what will be served.
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.copy_(parameter.bfloat16())
        return network.eval().to(self.device)

    # The drafters -----------------------------------------------------------------------------------------------------

    def drafters(self) -> None:
        """Text first: the general drafter, then the specialists from it. Those of a family before have read theirs."""
        if self.before is not None:
            return
        plan = self.plan
        for name, domains in plan.drafters.items():
            run = self.text_run(name)
            if self.is_finished(run):
                continue
            network = Network(plan.drafter_shape)
            initialise(network, plan.drafter_training.seed)
            loop = self.text_training(network, plan.drafter_training, domains, run)
            if name == GENERAL:
                self.decay_over(loop, plan.general_steps, "--general-steps")
            else:
                if not state_files(run):
                    self.start_specialist(loop, domains)
                self.decay_over(loop, plan.specialist_steps, "--specialist-steps")
            self.run(loop, f"drafter {name}, text")

    def text_run(self, name: str) -> Path:
        return self.work / "drafters" / f"{name}-text"

    def start_specialist(self, loop: TextTraining, domains: Mapping[str, float]) -> None:
        """From the general drafter, and in the text from where that one stopped reading."""
        general = load_state(state_files(self.text_run(GENERAL))[-1])
        loop.network.load_state_dict(self.network_of(self.plan.drafter_shape, self.text_run(GENERAL)).state_dict())
        loop.load_data_state({domain: general["sampler"][domain] for domain in domains})

    def teacher(self) -> None:
        """The target's own continuations of prompts of every domain."""
        missing = [
            (domain, split)
            for domain in DOMAINS
            for split in ("train", "valid")
            if not self.teacher_file(domain, split).is_file()
        ]
        if not missing:
            return
        target, tokenizer = self.target_network(), self.tokenizer
        for domain, split in missing:
            count = self.plan.num_teacher_prompts if split == "train" else NUM_VALID_PROMPTS
            prompts = domain_prompts(self.corpus, domain, split, tokenizer, count)
            self.log(f"asking the target for continuations of {len(prompts)} prompts of {domain} {split}")
            with fast_products(torch.device(self.device)):
                texts = ask_teacher(
                    target,
                    [prompt.tokens for prompt in prompts],
                    max_new=self.plan.teacher_max_new,
                    temperature=self.plan.teacher_temperature,
                    seed=Random(f"{domain}/{split}").getrandbits(40),
                )
            save_teacher_texts(self.teacher_file(domain, split), texts)

    def teacher_file(self, domain: str, split: str) -> Path:
        return self.work / f"teacher-of-{self.finished_target().name}" / f"{domain}.{split}.safetensors"

    def teacher_texts(self, split: str) -> dict[str, TeacherTexts]:
        return {domain: load_teacher_texts(self.teacher_file(domain, split)) for domain in DOMAINS}

    def distil(self) -> None:
        """Every drafter, from its text run, on the continuations of its domains."""
        if self.before is None:
            self.check_finished({name: self.text_run(name) for name in self.plan.drafters}, "drafters")
        train_texts, valid_texts = self.teacher_texts("train"), self.teacher_texts("valid")
        target = self.target_network()
        for name, domains in self.plan.drafters.items():
            run = self.distil_run(name)
            if self.is_finished(run):
                continue
            loop = Distillation(
                self.drafter_after_text(name).train(),
                target,
                self.plan.distil,
                domains,
                train_texts=train_texts,
                valid_texts=valid_texts,
                run=run,
                log=self.log,
                compiled=self.compiled,
            )
            self.decay_over(loop, self.plan.distil.num_steps, "--distil-steps")
            if loop.step == 0:
                loop.report()
            self.run(loop, f"drafter {name}, distillation")

    def drafter_after_text(self, name: str) -> Network:
        if self.before is not None:
            return self.before.member(f"{DRAFTER_PREFIX}{name}").to(self.device)
        return self.network_of(self.plan.drafter_shape, self.text_run(name))

    def distil_run(self, name: str) -> Path:
        return self.work / "drafters" / f"{name}-from-{self.finished_target().name}"

    def check_finished(self, runs: Mapping[str, Path], stage: str) -> None:
        unfinished = [name for name, run in runs.items() if not self.is_finished(run)]
        if unfinished:
            raise InvalidArgument(
                f"{self.work} holds no finished {', '.join(unfinished)} of the stage {stage}; run that stage first"
            )

    # What comes out ---------------------------------------------------------------------------------------------------

    def export(self) -> None:
        """The whole family at once: drafters beside a target that they were not made for would guess badly."""
        self.check_finished({name: self.distil_run(name) for name in self.plan.drafters}, "distil")
        self.export_target()
        self.export_drafters()

    def export_target(self) -> None:
        run = self.finished_target()
        if self.before is not None and self.keeps_target():
            self.before.copy_member(TARGET, self.out / TARGET)
            self.log(f"copied the target to {self.out / TARGET}")
            return
        state = load_state(state_files(run)[-1])
        loop = self.target_loop(run)
        loop.restore(state)
        losses = loop.validate()
        figures = {
            "tokens seen": self.tokens_seen(state["num_tokens"], state["step"]),
            "length of a row": f"{self.plan.target_training.length} tokens; longer contexts were never trained",
            "learning rate": f"level, then falling to zero over the last {state['num_decay']:,} steps",
            "validation loss (nats a token, answers weigh most)": ", ".join(
                f"{d} {loss:.3f}" for d, loss in losses.items()
            ),
        }
        summary = "The target of specfleet's demo family: a small model that knows several subjects."
        card = model_card(
            "target", self.plan.target_shape, summary=summary, domains=list(self.plan.target_domains), figures=figures
        )
        export(self.target_network().cpu(), self.tokenizer, self.out / TARGET, card=card)
        self.log(f"wrote {self.out / TARGET}")

    def tokens_seen(self, num_tokens: int, num_steps: int) -> str:
        if self.before is not None:
            return f"{num_tokens:,} in {num_steps:,} steps, {self.before.tokens_seen}"
        num_shallow = self.num_shallow_steps()
        return (
            f"{num_tokens:,} in {num_shallow + num_steps:,} steps, the first {num_shallow:,} with "
            f"{self.plan.target_shallow_layers} layers"
        )

    def export_drafters(self) -> None:
        for name, domains in self.plan.drafters.items():
            run = self.distil_run(name)
            export(
                self.network_of(self.plan.drafter_shape, run).cpu(),
                self.tokenizer,
                self.out / f"{DRAFTER_PREFIX}{name}",
                card=self.drafter_card(name, domains),
            )
            self.log(f"wrote {self.out / (DRAFTER_PREFIX + name)}")

    def drafter_card(self, name: str, domains: Mapping[str, float]) -> str:
        subject = "all domains" if name == GENERAL else " and ".join(domains)
        distilled = load_state(state_files(self.distil_run(name))[-1])
        num_texts = sum(len(load_teacher_texts(self.teacher_file(domain, "train"))) for domain in domains)
        figures = {
            "text": self.text_read(name),
            "distillation": f"{distilled['num_tokens']:,} tokens of answers in {distilled['step']:,} steps: of "
            f"{num_texts:,} continuations by the target, read several times, and of some that the drafter went on with",
        }
        if self.before is not None:
            earlier = self.before.distilled(f"{DRAFTER_PREFIX}{name}", for_same_target=self.keeps_target())
            figures.update(earlier)
        summary = (
            f"A drafter of specfleet's demo family for {subject}: it guesses what the target `target` will say next."
        )
        learnt = list(self.plan.target_domains) if name != GENERAL else list(domains)
        return model_card(
            f"{DRAFTER_PREFIX}{name}", self.plan.drafter_shape, summary=summary, domains=learnt, figures=figures
        )

    def text_read(self, name: str) -> str:
        if self.before is not None:
            return self.before.figure(f"{DRAFTER_PREFIX}{name}", "text")
        state = load_state(state_files(self.text_run(name))[-1])
        return f"{state['num_tokens']:,} tokens" + ("" if name == GENERAL else ", from the general drafter")

    def evaluate(self) -> None:
        evaluation = evaluate_family(self.out, self.corpus, num_prompts=40, max_new=96, log=self.log)
        print_evaluation(evaluation)
        write_evaluation(evaluation, self.out.parent)

    def run(self, loop: TrainingLoop, what: str, until_step: float = float("inf")) -> None:
        self.loop, began_s = loop, time.process_time()
        self.log(f"{what}: {loop.network.shape.num_parameters:,} parameters, at step {loop.step}")
        done = loop.train(until_step=until_step, budget_s=self.budget_s)
        self.loop, self.budget_s = None, self.budget_s - (time.process_time() - began_s)
        if not done or loop.stop_requested:
            raise Unfinished(f"{what} stopped at step {loop.step}, all saved; give the same command again to go on")
