"""A fleet while it runs: what every process of it does, what is started again and when, and what is said about it.

Ray restarts a process that dies. What the supervisor adds: pauses for a node that fails again and again, an end to it
when a node was refused, because it would be refused again, and commands that add and remove drafters. Where workers
outlive it, its successor takes those that run as they are, replaces those with other settings, and sends the rest away.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from pydantic import ValidationError

from cluster.backoff import Backoff
from cluster.child import Child
from cluster.control import Command
from cluster.plan import VERIFIER, Dial, Placement, drafter_placement, guest_amounts, misfits
from cluster.ray_api import Actor, Cluster, Sighting
from contracts.clock import Clock
from contracts.config import DrafterConfig, EngineConfig, VerifierConfig
from contracts.errors import AlreadyExists, InvalidArgument, NotFound, SpecfleetError, Unavailable, shown

__all__ = ["Supervisor"]

_PLACING_S = 10.0  # after which it is worth saying that something has no place
_LEAVE_S = 5.0

Phase = Literal["placing", "loading", "serving", "joined", "lost", "failed", "refused", "leaving", "making-room"]


@dataclass(slots=True, kw_only=True)
class _Worker:
    """One process of the fleet."""

    placement: Placement
    place: Callable[[], Actor]
    actor: Actor
    since_s: float
    phase: Phase = "placing"
    reason: str = ""
    pid: int = 0
    again_s: float | None = None
    """When it is started again, if that is for the supervisor to do; or removed, if it leaves or makes room."""
    served_s: float | None = None
    """Since when it serves. As it loads it does not live yet: what fails then, however late, fails again."""
    backoff: Backoff = field(default_factory=Backoff)
    answer: Future[str] | None = None
    """To whoever ordered it to come or to go."""


class Supervisor:
    """See the module. `tick` does what is to be done."""

    def __init__(
        self,
        *,
        cluster: Cluster,
        children: Iterable[Child],
        dial: Dial,
        is_local: bool,
        say: Callable[[str], None],
        clock: Clock,
    ) -> None:
        self._cluster, self._children = cluster, list(children)
        self._dial, self._is_local, self._say, self._clock = dial, is_local, say, clock
        self._workers: dict[str, _Worker] = {}
        self._booked: Mapping[str, Mapping[str, float]] = {}
        """For which drafters there is room in the verifier's process, and how much."""

    # The fleet

    def start_verifier(self, placement: Placement, engine: EngineConfig, config: VerifierConfig) -> None:
        """Places the verifier group."""
        self._booked = placement.guests
        self._start(placement, lambda: self._cluster.place_verifier(placement, engine, config, self._dial))

    def start_drafter(self, placement: Placement, config: DrafterConfig, answer: Future[str] | None = None) -> None:
        """Places a drafter."""
        booked = config.as_booked
        if booked is not config and any(node.amounts.get("GPU", 0.0) > 0.0 for node in self._cluster.nodes()):
            self._say(
                f"{placement.name} runs on a CPU: its num_gpus is 0, and device: auto takes no GPU that is not booked"
            )
        self._start(placement, lambda: self._cluster.place_drafter(placement, booked, self._dial), answer)

    def dismiss_others(self) -> None:
        """Sends away whoever runs and is none of those that were started here."""
        for name in self._cluster.names() - self._workers.keys():
            if (actor := self._cluster.find(name)) is not None:
                nowhere = Placement(name=name, amounts={}, labels={})
                self._send_away(self._add_worker(nowhere, partial(_same, actor)), works=True)

    def dismiss_all(self) -> None:
        """Sends everyone away."""
        for worker in list(self._workers.values()):
            if worker.phase != "leaving":
                self._send_away(worker, works=worker.phase in ("serving", "joined"))

    @property
    def is_empty(self) -> bool:
        """Whether nobody is left."""
        return not self._workers

    @property
    def is_ready(self) -> bool:
        """Whether all have joined, but for drafters that were refused: the fleet does without."""
        phases = {name: worker.phase for name, worker in self._workers.items()}
        return phases.get(VERIFIER) == "joined" and set(phases.values()) <= {"joined", "refused"}

    @property
    def refused(self) -> Mapping[str, str]:
        """Who was refused, and why."""
        return {name: worker.reason for name, worker in self._workers.items() if worker.phase == "refused"}

    @property
    def awaited(self) -> list[str]:
        """Who has not joined yet, and what it does."""
        return [
            f"{name} ({worker.phase})"
            for name, worker in self._workers.items()
            if worker.phase not in ("joined", "refused")
        ]

    # What happens

    def tick(self, timeout_s: float) -> None:
        """Waits so long for news at most, and does all that is due."""
        self.watch_children()
        actors = {worker.actor: worker for worker in self._workers.values()}
        for actor in self._cluster.news(list(actors), timeout_s=timeout_s):
            worker = actors[actor]
            if worker is not self._workers.get(worker.placement.name):
                continue  # forgotten by what was seen just now
            if (sighting := actor.read()) is not None:
                self._see(worker, sighting)
        for worker in list(self._workers.values()):
            self._do_what_is_due(worker)

    def move_to(self, cluster: Cluster) -> None:
        """Places all workers on another Ray: the one that they were placed on is gone, with all its processes."""
        self._cluster = cluster
        for worker in list(self._workers.values()):
            if worker.phase == "leaving":
                self._forget(worker)
            else:
                self._turn(worker, "placing")
                worker.again_s = None
                worker.actor = worker.place()

    def carry_out(self, commands: queue.SimpleQueue[Command]) -> bool:
        """Begins what was ordered; whether the order was that the fleet should end."""
        while not commands.empty():
            command = commands.get()
            if command.do == "down":
                command.answer.set_result("the fleet is ending")
                return True
            try:
                self._carry_out(command)
            except SpecfleetError as error:
                command.answer.set_exception(error)
        return False

    def _start(self, placement: Placement, place: Callable[[], Actor], answer: Future[str] | None = None) -> None:
        worker = self._add_worker(placement, place, answer)
        if worker.actor.is_found:
            self._say(f"{placement.name} runs already")

    def _add_worker(
        self, placement: Placement, place: Callable[[], Actor], answer: Future[str] | None = None
    ) -> _Worker:
        worker = self._workers[placement.name] = _Worker(
            placement=placement, place=place, actor=place(), since_s=self._clock.now_s(), answer=answer
        )
        return worker

    def watch_children(self) -> None:
        """Of all that is due, what is possible without Ray: router and store are started again."""
        for child in self._children:
            if said := child.watch():
                self._say(said)

    def _see(self, worker: _Worker, sighting: Sighting) -> None:
        name = worker.placement.name
        if worker.phase in ("leaving", "making-room"):
            if sighting.phase not in ("loading", "serving", "joined", "other"):
                self._see_it_leave(worker)
            return
        match sighting.phase:
            case "loading" | "serving" | "joined":
                worker.pid = sighting.pid
                self._see_it_come(worker, sighting.phase)
            case "other":
                self._say(f"{name} runs with other settings than the file's, and is replaced")
                worker.actor.leave()
                worker.phase, worker.again_s = "making-room", self._clock.now_s() + _LEAVE_S
            case "left":
                self._see_it_leave(worker)
            case "refused":
                self._turn(worker, "refused", sighting.reason)
                self._say(f"{name} is refused, and stays so: {sighting.reason}")
                self._answer(worker, InvalidArgument(sighting.reason))
            case "lost":
                self._say(f"{name} lost its process; Ray starts another")
                self._turn(worker, "lost")
            case _:  # failed in its process, or gone with it for good
                now_s = self._clock.now_s()
                delay_s = worker.backoff.delay_s(0.0 if worker.served_s is None else now_s - worker.served_s)
                self._say(f"{name} failed: {sighting.reason}; starts again in {delay_s:.1f} s")
                self._turn(worker, "failed" if sighting.phase == "failed" else "lost", sighting.reason)
                worker.again_s = now_s + delay_s

    def _see_it_come(self, worker: _Worker, phase: Literal["loading", "serving", "joined"]) -> None:
        if phase == "joined":
            name, waited_s = worker.placement.name, self._clock.now_s() - worker.since_s
            self._say(f"{name} has joined, as process {worker.pid} ({waited_s:.1f} s)")
            self._answer(worker, f"{name} has joined")
        self._turn(worker, phase)

    def _see_it_leave(self, worker: _Worker) -> None:
        name, was_ordered = worker.placement.name, worker.phase == "leaving"
        if worker.phase == "making-room":
            self._place_again(worker)
            return
        self._remove(worker)
        if was_ordered:
            return
        if name == VERIFIER:
            for guest in [each for each in self._workers.values() if each.placement.is_guest]:
                self._forget(guest)
            self._say(f"{name} has left, as it was told to; nothing is generated until the fleet is started again")
        else:
            self._say(f"{name} has left, as it was told to; `python -m cluster add-drafter {name}` brings it back")

    def _do_what_is_due(self, worker: _Worker) -> None:
        now_s, name = self._clock.now_s(), worker.placement.name
        if worker.again_s is not None and now_s >= worker.again_s:
            worker.again_s = None
            if worker.phase == "leaving":
                self._remove(worker)
            elif worker.phase == "failed":
                worker.actor.restart()
            else:
                self._place_again(worker)
        elif worker.placement.is_guest:
            return  # its place is the verifier's, who is seen to by himself
        elif worker.phase == "placing" and worker.again_s is None and now_s >= worker.since_s + _PLACING_S:
            if worker.actor.is_found:  # and does not say what it is made of: it may wait for a place that it never gets
                self._say(f"{name} was found and says nothing; it is placed anew")
                self._place_again(worker)
                return
            worker.since_s = now_s
            free = ", ".join(f"{amount:g} {of}" for of, amount in sorted(self._cluster.free().items())) or "nothing"
            need = ", ".join(f"{amount:g} {of}" for of, amount in worker.placement.amounts.items())
            self._say(f"{name} waits for a place with {need}; all nodes together have {free} free")

    def _place_again(self, worker: _Worker) -> None:
        worker.actor.remove()
        self._turn(worker, "placing")
        worker.since_s, worker.again_s, worker.actor = self._clock.now_s(), None, worker.place()

    # What was ordered

    def _carry_out(self, command: Command) -> None:
        match command.do:
            case "add-drafter":
                self._add(command)
            case "remove-drafter":
                worker = self._workers.get(command.name)
                if worker is None or command.name == VERIFIER:
                    known = ", ".join(name for name in self._workers if name != VERIFIER) or "none"
                    raise NotFound(f"the fleet has no drafter {shown(command.name)}; its drafters are {known}")
                self._answer(worker, Unavailable(f"{command.name} is removed"))
                worker.answer = command.answer
                self._send_away(worker, works=worker.phase in ("serving", "joined"))
            case _:
                raise InvalidArgument(f"the command is {shown(command.do)}; it must be one that this fleet knows")

    def _add(self, command: Command) -> None:
        if command.name in self._workers:
            raise AlreadyExists(f"the fleet has {shown(command.name)} already; remove it first")
        try:
            config = DrafterConfig.model_validate(command.config)
        except ValidationError as error:
            raise InvalidArgument(f"this is no drafter's configuration: {error.errors()[0]['msg']}") from error
        placement = drafter_placement(command.name, config, is_local=self._is_local)
        if placement.is_guest and VERIFIER not in self._workers:
            raise Unavailable(f"{command.name} is with_target, and the verifier has left; start the fleet again")
        if placement.is_guest and self._booked.get(command.name) != guest_amounts(config):
            raise InvalidArgument(
                f"{command.name} is with_target, and the verifier that runs has booked no such place for it; the fleet "
                "must be started with it in its file, or with_target be left out"
            )
        if reasons := misfits([placement], self._cluster.nodes()):
            raise InvalidArgument("; ".join(reasons))
        self.start_drafter(placement, config, command.answer)
        self._say(f"{command.name} is added")

    def _send_away(self, worker: _Worker, *, works: bool) -> None:
        """A node that works may finish its step; one that does not has nothing to finish."""
        worker.phase, worker.again_s = "leaving", self._clock.now_s() + _LEAVE_S
        if works:
            worker.actor.leave()
        else:
            self._remove(worker)

    def _remove(self, worker: _Worker) -> None:
        worker.actor.remove()
        self._forget(worker)

    def _forget(self, worker: _Worker) -> None:
        name = worker.placement.name
        del self._workers[name]
        if worker.phase == "leaving":
            self._say(f"{name} is removed")
        self._answer(worker, f"{name} is removed")

    def _answer(self, worker: _Worker, answer: str | SpecfleetError) -> None:
        if worker.answer is None:
            return
        if isinstance(answer, str):
            worker.answer.set_result(answer)
        else:
            worker.answer.set_exception(answer)
        worker.answer = None

    def _turn(self, worker: _Worker, phase: Phase, reason: str = "") -> None:
        if worker.phase == "joined" or phase in ("joined", "lost", "failed"):
            worker.since_s = self._clock.now_s()
        if phase not in ("serving", "joined"):
            worker.served_s = None
        elif worker.served_s is None:
            worker.served_s = self._clock.now_s()
        worker.phase, worker.reason = phase, reason


def _same(actor: Actor) -> Actor:
    return actor
