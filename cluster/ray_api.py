"""Everything that is said to Ray. The only file that imports it.

Ray places processes, restarts them, and says when they die. A node never sees Ray: it is hosted by an actor, in the
actor's own process, and talks to the router alone.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ray
from ray.exceptions import ActorAlreadyExistsError, ActorDiedError, RayActorError, RayError
from ray.util.metrics import Gauge
from ray.util.placement_group import PlacementGroup, get_placement_group, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.figures import Figure, worker_figures
from cluster.lodging import ABSENT, ENDED, DrafterHost, Host, TargetHost, digest_of
from cluster.plan import VERIFIER, Dial, Node, Placement
from cluster.ray_settings import check_asks_for_token, report_s
from contracts.config import DrafterConfig, EngineConfig, VerifierConfig
from contracts.errors import AlreadyExists, InvalidArgument, Unavailable, shown

__all__ = ["Actor", "Cluster", "Guest", "Part", "Sighting"]

Part = Literal["head", "raylet"]
"""What of Ray a fleet's command cannot do without: the cluster's head, and the raylet of its own machine."""

_NAMESPACE = "specfleet"
_CONNECT_S = 5.0
_PROBE_S = 1.0
_OBJECT_STORE_BYTES = 80 * 2**20  # no object of ours is ever in it; this is the least that Ray takes
# Logical CPUs keep processes from crowding one of several machines. On the only one there is they would merely forbid
# what the operating system does well, so there are as many as anyone may ask for.
_LOCAL_CPUS = 100_000
_HELD_BY_GROUP = re.compile(r"_group_([0-9]+_)?[0-9a-f]{36}$")
_NUM_CALLS = 4  # one waits for changes, the others are answered meanwhile
_NUM_CALLS_A_GUEST = 2


class _Gauges:
    """Figures of this process in Ray's metrics."""

    def __init__(self) -> None:
        self._made: dict[str, Gauge] = {}

    def set(self, figures: Iterable[Figure]) -> None:
        for figure in figures:
            if (gauge := self._made.get(figure.name)) is None:
                gauge = self._made[figure.name] = Gauge(figure.name, figure.about, tuple(figure.labels))
            gauge.set(figure.value, dict(figure.labels))


class Verifier(TargetHost):
    """Its name is what Ray's dashboard shows."""

    def __init__(self, dial: Dial, engine: str, config: str, booked: str) -> None:
        super().__init__(dial, engine, config, booked)
        _publish(self)


class Drafter(DrafterHost):
    """Likewise."""

    def __init__(self, dial: Dial, name: str, config: str) -> None:
        super().__init__(dial, name, config)
        _publish(self)


def _publish(host: Host) -> None:
    """Tells Ray's metrics how all that lives in this process is, for ever."""

    def publish() -> None:
        gauges, every_s = _Gauges(), report_s(os.environ) / 2.0
        while True:
            for name, hosted in host.told_of().items():
                gauges.set(worker_figures(name, hosted, is_guest=name != host.name))
            time.sleep(every_s)

    threading.Thread(target=publish, daemon=True, name="metrics").start()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """News of an actor: what its node turned to, or "lost" with its process, or "gone" for good; or that it is "other"
    than what is wanted: one that was found, and made of something else.
    """

    phase: str
    reason: str = ""
    pid: int = 0


class Actor:
    """One placed worker and the news of it. `made_of` is what it should be made of, where that is to be seen."""

    def __init__(
        self, name: str, handle: Any, group: PlacementGroup | None = None, *, is_found: bool = False, made_of: str = ""
    ) -> None:
        self.name, self.is_found = name, is_found
        self.handle, self._group, self._made_of = handle, group, made_of
        self._pid, self._version, self._phase = 0, -1, ""
        self.news: Any = self._first_news()

    def read(self) -> Sighting | None:
        """What the news is, once it has come; asks for the next. Nothing when nothing has changed."""
        try:
            state = ray.get(self.news, timeout=0)
        except RayActorError as error:
            self._pid = 0
            if isinstance(error, ActorDiedError):
                self.news = None
                return Sighting(phase="gone", reason=_one_line(error))
            self.news = self._first_news()
            return Sighting(phase="lost")
        if state["phase"] == ABSENT:
            self.news = self._first_news()
            return Sighting(phase="lost")
        is_new = state["pid"] != self._pid or state["version"] != self._version
        self._pid, self._version, self._phase = state["pid"], state["version"], state["phase"]
        self.news = self._next_news()
        made_of, self._made_of = self._made_of, ""
        if made_of not in ("", state["made_of"]):
            return Sighting(phase="other", pid=state["pid"])
        return Sighting(phase=state["phase"], reason=state["reason"], pid=state["pid"]) if is_new else None

    def leave(self) -> None:
        """Tells its node to go; that it has gone will be news."""
        self.handle.leave.remote()

    def restart(self) -> None:
        """Ends its process, so that Ray starts another."""
        self.handle.end.remote()

    def remove(self) -> None:
        """Ends it for good and gives up its place."""
        ray.kill(self.handle, no_restart=True)
        if self._group is not None:
            remove_placement_group(self._group)

    def _first_news(self) -> Any:
        """Of a process that nothing is known of."""
        return self.handle.state.remote(self.name, -1)

    def _next_news(self) -> Any:
        """As soon as it is not what it was."""
        return self.handle.state.remote(self.name, self._version)


class Guest(Actor):
    """A drafter in the target's process, which it shares from its start to its end."""

    def __init__(self, name: str, handle: Any, arguments: Sequence[Any]) -> None:
        self._arguments, self._stay = arguments, uuid.uuid4().hex
        super().__init__(name, handle, made_of=digest_of(*arguments))

    def leave(self) -> None:
        """Tells its node to go; that it has gone will be news."""
        self.handle.dismiss.remote(self._stay, self.name)

    def restart(self) -> None:
        """Starts its node again; the process and the target stay."""
        self._pid, self.news = 0, self._first_news()

    def remove(self) -> None:
        """Lets it go, if it has not gone; the process and the target stay."""
        self.leave()

    def _first_news(self) -> Any:
        return self.handle.lodge.remote(self._stay, *self._arguments)

    def _next_news(self) -> Any:
        """None when it has ended: what it does next it does because it is told to."""
        return None if self._phase in ENDED else super()._next_news()


class Cluster:
    """A Ray: one of our own on this machine, or one that is there already. With `outlives` what is placed on it goes on
    when this process has ended, and is found by the next.
    """

    def __init__(self, context: Any, *, outlives: bool = False) -> None:
        self._outlives = outlives
        info: Mapping[str, Any] = context.address_info
        self.address = str(info["address"])
        self.dashboard = f"http://{info['webui_url']}" if info.get("webui_url") else ""
        self.logs = str(info.get("session_dir", "")) and f"{info['session_dir']}/logs"
        self.host = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        """This machine's address in the cluster."""
        self._target: Any = None
        """The verifier group's actor, once it is placed."""
        self._gauges = _Gauges()
        self._parts: Mapping[Part, str] = {"head": self.address, "raylet": _own_raylet()}

    @classmethod
    def local(cls, *, folder: Path, has_dashboard: bool) -> Cluster:
        """Starts one whose every port is on the loopback, and which ends with this process, however that ends."""
        try:
            context = ray.init(
                address="local",
                namespace=_NAMESPACE,
                num_cpus=_LOCAL_CPUS,
                include_dashboard=has_dashboard,
                dashboard_host="127.0.0.1",
                object_store_memory=_OBJECT_STORE_BYTES,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=str(folder),
            )
        except Exception as error:  # what Ray raises when its processes do not start is of no closer kind
            raise Unavailable(f"no Ray could be started here: {_one_line(error)}") from error
        return cls(context)

    @classmethod
    def existing(cls, address: str, *, needs_token: bool, outlives: bool = False) -> Cluster:
        """Joins the one at this address. Ray itself would look for it for minutes."""
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal():
            raise InvalidArgument(f"--address is {shown(address)}; it must be host:port of a Ray cluster's head")
        try:
            socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
            if needs_token:
                check_asks_for_token(address)
            context = ray.init(address=address, namespace=_NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
        except (RayError, OSError, OverflowError, ValueError, RuntimeError) as error:
            raise Unavailable(
                f"no Ray cluster answers at {shown(address)}: {_one_line(error)}; it must be host:port of one that "
                "runs, or be left out to start one here"
            ) from error
        return cls(context, outlives=outlives)

    def lost(self) -> Part | None:
        """Which part of Ray answers no more. Asked of their ports, for what Ray itself is asked then is not answered
        for a minute, and afterwards Ray ends this process.
        """
        return next((part for part, address in self._parts.items() if not _answers(address)), None)

    def publish(self, figures: Iterable[Figure]) -> None:
        """Tells Ray's metrics what is to be known of the fleet as a whole."""
        self._gauges.set(figures)

    def nodes(self) -> list[Node]:
        """The machines that are up, and all that they have, in use or not."""
        return [
            Node(
                name=node["NodeManagerAddress"],
                amounts={name: of for name, of in node["Resources"].items() if _is_for_placing(name)},
                labels={name: of for name, of in node.get("Labels", {}).items() if name != "ray.io/node-id"},
            )
            for node in ray.nodes()  # type: ignore[no-untyped-call]
            if node["Alive"]
        ]

    def free(self) -> Mapping[str, float]:
        """What all machines together have free."""
        free: Mapping[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
        return {name: amount for name, amount in free.items() if _is_for_placing(name)}

    def place_verifier(self, placement: Placement, engine: EngineConfig, config: VerifierConfig, dial: Dial) -> Actor:
        """The verifier group. Its place stays its own while Ray restarts it."""
        booked = json.dumps([placement.guests, placement.amounts], sort_keys=True)
        arguments = (dial, engine.model_dump_json(), config.model_dump_json(), booked)
        if (found := self.find(VERIFIER, digest_of(*arguments))) is not None:
            self._target = found.handle
            return found
        group = self._group(placement)
        strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0)
        placed = self._placed(Verifier, placement, arguments, group, scheduling_strategy=strategy)
        self._target = placed.handle
        return placed

    def place_drafter(self, placement: Placement, config: DrafterConfig, dial: Dial) -> Actor:
        """A drafter, wherever there is room for it, or in the target's process."""
        arguments = (dial, placement.name, config.model_dump_json())
        if placement.is_guest:
            if (apart := self.find(placement.name)) is not None:  # one that had a process of its own goes first
                apart.remove()
            return Guest(placement.name, self._target, arguments)
        if (found := self.find(placement.name, digest_of(*arguments))) is not None:
            return found
        return self._placed(Drafter, placement, arguments, None, label_selector=dict(placement.labels))

    def find(self, name: str, made_of: str = "") -> Actor | None:
        """One that outlived whoever placed it, if there can be any."""
        if not self._outlives:
            return None
        try:
            handle = ray.get_actor(name, namespace=_NAMESPACE)
        except ValueError:  # what Ray says of a name that nobody has
            return None
        return Actor(name, handle, _group_of(name), is_found=True, made_of=made_of)

    def names(self) -> set[str]:
        """Of all that run here."""
        named = ray.util.list_named_actors(all_namespaces=True)
        return {each["name"] for each in named if each["namespace"] == _NAMESPACE}

    def _group(self, placement: Placement) -> PlacementGroup:
        if self._outlives and (left := _group_of(VERIFIER)) is not None:  # by one who ended between group and actor
            remove_placement_group(left)
        try:
            group: PlacementGroup = placement_group(
                [dict(placement.amounts)],
                strategy="STRICT_PACK",
                name=VERIFIER,
                lifetime="detached" if self._outlives else None,
                bundle_label_selector=[dict(placement.labels)],
            )
        except RayError as error:  # its name is taken
            raise _another_fleet(VERIFIER) from error
        return group

    def news(self, actors: Sequence[Actor], *, timeout_s: float) -> list[Actor]:
        """Those with news, as soon as there are any, or none when the time is up."""
        awaited = {actor.news: actor for actor in actors if actor.news is not None}
        if not awaited:
            time.sleep(timeout_s)
            return []
        ready, _ = ray.wait(list(awaited), num_returns=1, timeout=timeout_s)
        if ready:  # and now all of them
            ready, _ = ray.wait(list(awaited), num_returns=len(awaited), timeout=0)
        return [awaited[news] for news in ready]

    def shut_down(self) -> None:
        """Ends what this process placed, and the Ray itself if it is our own."""
        ray.shutdown()

    def _placed(
        self,
        kind: type[Host],
        placement: Placement,
        arguments: Sequence[Any],
        group: PlacementGroup | None,
        **more: Any,
    ) -> Actor:
        """A new actor, in this place."""
        others = {name: amount for name, amount in placement.amounts.items() if name not in ("CPU", "GPU")}
        try:
            made = ray.remote(kind).options(
                name=placement.name,
                num_cpus=placement.amounts.get("CPU", 0.0),
                num_gpus=placement.amounts.get("GPU", 0.0),
                resources=others,
                max_restarts=-1,
                max_concurrency=_NUM_CALLS + _NUM_CALLS_A_GUEST * len(placement.guests),
                lifetime="detached" if self._outlives else None,
                **more,
            )
            return Actor(placement.name, made.remote(*arguments), group)
        except ValueError as error:
            if group is not None:
                remove_placement_group(group)
            if isinstance(error, ActorAlreadyExistsError):
                raise _another_fleet(placement.name) from error
            raise InvalidArgument(f"Ray refuses the place of {placement.name}: {_one_line(error)}") from error


def _another_fleet(name: str) -> AlreadyExists:
    return AlreadyExists(f"the cluster has an actor {name} in namespace {_NAMESPACE} already: another fleet runs on it")


def _group_of(name: str) -> PlacementGroup | None:
    try:
        group: PlacementGroup = get_placement_group(name)
    except ValueError:  # what Ray says of a name that no group has
        return None
    return group


def _own_raylet() -> str:
    """Address of the raylet that this process is connected to."""
    own = ray.get_runtime_context().get_node_id()
    (node,) = [node for node in ray.nodes() if node["NodeID"] == own]  # type: ignore[no-untyped-call]
    return f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}"


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_PROBE_S).close()
    except OSError:
        return False
    return True


def _is_for_placing(name: str) -> bool:
    """Not Ray's own: a node's name as a resource, what placement groups hold, and memory, of which we claim none."""
    is_held = _HELD_BY_GROUP.search(name) is not None
    return not is_held and not name.startswith("node:") and name not in ("memory", "object_store_memory")


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
