"""The stages of the recipe. Each goes on where it stopped and does nothing when it is done."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import torch
from tokenizers import Tokenizer

from contracts.errors import InvalidArgument
from models.card import model_card
from models.checkpoint import load_state, state_files
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
    budget_s: float
    compiled: bool = True
    device: str = "cpu"
    loop: TrainingLoop | None = field(default=None, init=False)  # the one at work, for a signal handler

    def prepare(self) -> None:
        check_corpus(self.corpus)
        path = self.work / "tokenizer.json"
        if not path.is_file():
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
        """Shallow first, then at its full depth; at the full learning rate, for as many steps as the plan says."""
        loop = self.target_loop(self.work / "target")
        if state_files(loop.run):
            loop.resume()
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
        """From the newest checkpoint of the stage before, in a run of its own, so that that stage can still go on."""
        stable = state_files(self.work / "target")
        if not stable:
            raise InvalidArgument(
                f"{self.work / 'target'} holds no checkpoint of the target; run the stage target first"
            )
        runs = self.decay_runs()
        name = runs[-1].name if runs and not self.is_finished(runs[-1]) else f"target-decay-{stable[-1].stem}"
        loop = self.target_loop(self.work / name)
        if state_files(loop.run):
            loop.resume()
        else:
            loop.restore(load_state(stable[-1]))
            loop.begin_decay(self.plan.target_decay_steps)
        self.run(loop, name)
        self.export_target()

    def target_loop(self, run: Path, shape: Shape | None = None) -> TextTraining:
        network = Network(shape or self.plan.target_shape)
        initialise(network, self.plan.target_training.seed)
        return self.text_training(network, self.plan.target_training, self.plan.target_domains, run)

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
        """Text first: the general drafter, then the specialists from it."""
        plan = self.plan
        for name, domains in plan.drafters.items():
            run = self.work / "drafters" / f"{name}-text"
            if self.is_finished(run):
                continue
            network = Network(plan.drafter_shape)
            initialise(network, plan.drafter_training.seed)
            loop = self.text_training(network, plan.drafter_training, domains, run)
            if state_files(run):
                loop.resume()
            else:
                if name != GENERAL:
                    start = self.network_of(plan.drafter_shape, self.work / "drafters" / f"{GENERAL}-text")
                    network.load_state_dict(start.state_dict())
                loop.begin_decay(plan.general_steps if name == GENERAL else plan.specialist_steps)
            self.run(loop, f"drafter {name}, text")

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
        train_texts, valid_texts = self.teacher_texts("train"), self.teacher_texts("valid")
        target = self.target_network()
        for name, domains in self.plan.drafters.items():
            run = self.distil_run(name)
            if self.is_finished(run):
                continue
            drafter = self.network_of(self.plan.drafter_shape, self.work / "drafters" / f"{name}-text").train()
            loop = Distillation(
                drafter,
                target,
                self.plan.distil,
                domains,
                train_texts=train_texts,
                valid_texts=valid_texts,
                run=run,
                log=self.log,
                compiled=self.compiled,
            )
            loop.resume()
            if loop.step == 0:
                loop.report()
                loop.begin_decay(self.plan.distil.num_steps)
            self.run(loop, f"drafter {name}, distillation")

    def distil_run(self, name: str) -> Path:
        return self.work / "drafters" / f"{name}-from-{self.finished_target().name}"

    # What comes out ---------------------------------------------------------------------------------------------------

    def export_target(self) -> None:
        run = self.finished_target()
        state = load_state(state_files(run)[-1])
        loop = self.target_loop(run)
        loop.restore(state)
        losses = loop.validate()
        figures = {
            "tokens seen": f"{state['num_tokens']:,} in {state['step']:,} steps",
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

    def export_drafters(self) -> None:
        for name, domains in self.plan.drafters.items():
            run = self.distil_run(name)
            if not self.is_finished(run):
                raise InvalidArgument(f"{run} holds no finished drafter; run the stage distil first")
            state = load_state(state_files(run)[-1])
            export(
                self.network_of(self.plan.drafter_shape, run).cpu(),
                self.tokenizer,
                self.out / f"{DRAFTER_PREFIX}{name}",
                card=self.drafter_card(name, domains, state["step"], state["num_tokens"]),
            )
            self.log(f"wrote {self.out / (DRAFTER_PREFIX + name)}")

    def drafter_card(self, name: str, domains: Mapping[str, float], num_steps: int, num_tokens: int) -> str:
        subject = "all domains" if name == GENERAL else " and ".join(domains)
        text = load_state(state_files(self.work / "drafters" / f"{name}-text")[-1])
        figures = {
            "text": f"{text['num_tokens']:,} tokens" + ("" if name == GENERAL else ", from the general drafter"),
            "distillation": f"{num_tokens:,} tokens of the target's and its own continuations, {num_steps:,} steps",
        }
        summary = (
            f"A drafter of specfleet's demo family for {subject}: it guesses what the target `target` will say next."
        )
        learnt = list(self.plan.target_domains) if name != GENERAL else list(domains)
        return model_card(
            f"{DRAFTER_PREFIX}{name}", self.plan.drafter_shape, summary=summary, domains=learnt, figures=figures
        )

    def evaluate(self) -> None:
        evaluation = evaluate_family(self.out, self.corpus, num_prompts=40, max_new=96, log=self.log)
        print_evaluation(evaluation)
        write_evaluation(evaluation, self.out.parent)

    def run(self, loop: TrainingLoop, what: str, until_step: float = float("inf")) -> None:
        self.loop = loop
        self.log(f"{what}: {loop.network.shape.num_parameters:,} parameters, at step {loop.step}")
        done = loop.train(until_step=until_step, budget_s=self.budget_s)
        self.loop = None
        if not done:
            raise Unfinished(f"{what} stopped at step {loop.step}, all saved; give the same command again to go on")
