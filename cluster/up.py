"""`python -m cluster up`: from a YAML file to a running fleet, until it is told to end.

With `--router` it is the workers of a fleet whose router and store are elsewhere; they outlive the command, and its
successor finds them.
"""

from __future__ import annotations

import asyncio
import os
import queue
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from cluster.child import Child
from cluster.control import Command, commands
from cluster.descendants import end_orphans
from cluster.ending import Ending, Stopped
from cluster.figures import RouterFigures
from cluster.home import Home, Record, state_folder
from cluster.plan import VERIFIER, Dial, Placement, drafters_of, misfits, placements, with_models_found
from cluster.ray_session import RaySession
from cluster.ray_settings import report_s
from cluster.router_face import is_up, with_ports
from cluster.store import answers, embedded_store, embedded_url, with_absolute_files
from contracts.clock import Clock, SystemClock
from contracts.config import FleetConfig, SecurityConfig, load_config
from contracts.config.router import host_port
from contracts.config.security import is_loopback
from contracts.errors import ConfigError, InvalidArgument, Unavailable, shown
from contracts.logs import is_json, written
from router.journal.opening import check_store
from specfleet.admin import Admin
from specfleet.errors import InvalidRequest
from specfleet.health import Health

if TYPE_CHECKING:
    from cluster.ray_api import Part
    from cluster.supervisor import Supervisor

__all__ = ["up"]

CHECKOUT = Path(__file__).resolve().parents[1]
_TICK_S = 0.5
_ANSWER_S = 30.0
_STOP_ROUTER_S, _STOP_STORE_S, _ORPHANS_S = 5.0, 10.0, 3.0
_POLL_S = 0.05
_STILL_S = 20.0  # after which it is worth saying what is still missing
_ANY_HOST = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # and what of it this machine reaches
_KEY_VARIABLE = "SPECFLEET_API_KEY"


def up(config_file: Path, *, address: str | None, has_dashboard: bool, router: str | None, health: Health) -> int:
    """Starts the fleet of this file, and keeps it running until told to end; the exit status.

    Everything that can be seen to be wrong is refused before the first process is started.
    """
    if router is not None:
        _check_elsewhere(router, address)
    clock = SystemClock()
    say = _sayer(clock)
    ending = Ending(say)
    ending.listen()
    config = load_config(config_file)
    config = with_models_found(config, is_local=address is None, is_folder=Path.is_dir)
    config = config.model_copy(
        update={"security": _absolute(config.security), "store": with_absolute_files(config.store)}
    )
    api_key = _own_key(config.security) if router is None else None
    placements(config, has_gpus=False, is_local=address is None)  # for what it refuses
    with Home(state_folder()) as home, ExitStack() as stack:
        stack.push(partial(_show_logs, home, say))
        if router is None:
            config = config.model_copy(update={"router": with_ports(config.router)})
        ray = RaySession(
            address,
            folder=home.run / "ray",
            has_dashboard=has_dashboard,
            outlives=router is not None,
            is_insecure=config.security.insecure,
            say=say,
            ending=ending,
            clock=clock,
        )
        fleet = _Fleet(config, home, ray, say, ending, clock, api_key=api_key, elsewhere=router, health=health)
        try:
            fleet.start(stack)
            fleet.run()
        except Stopped:
            say("ended while it was starting")
    say("ended")
    return 0


class _Fleet:
    """The phases of one fleet. What each starts is ended by the stack, in the reverse order."""

    def __init__(
        self,
        config: FleetConfig,
        home: Home,
        ray: RaySession,
        say: Callable[[str], None],
        ending: Ending,
        clock: Clock,
        *,
        api_key: str | None,
        elsewhere: str | None,
        health: Health,
    ) -> None:
        self._api_key, self._elsewhere, self._health = api_key, elsewhere, health
        self._config, self._home, self._ray = config, home, ray
        self._say, self._ending, self._clock = say, ending, clock
        self._socket = home.run / "control.sock"
        self._was_told_down = False
        self._supervisor: Supervisor
        self._figures: RouterFigures | None = None
        """Of the router that is started here; one elsewhere has whoever reads it there."""
        self._commands: queue.SimpleQueue[Command]
        self._grpc = elsewhere or host_port(_reached(config.router.host), config.router.grpc_port)
        scheme = "http" if config.security.tls_of("router") is None else "https"
        http = host_port(_reached(config.router.host), config.router.http_port)
        self._http = "" if elsewhere else f"{scheme}://{http}"

    def start(self, stack: ExitStack) -> None:
        """Store, router, Ray, workers; what takes long is under way while the next begins."""
        stack.callback(end_orphans, _ORPHANS_S)
        children = [] if self._elsewhere else [*self._start_store(stack), self._start_router(stack)]
        self._ray.open()
        stack.callback(self._ray.close)
        self._ending.check()
        wanted = placements(self._config, has_gpus=self._has_gpus(), is_local=self._ray.is_local)
        self._check_places(wanted)
        if children:
            admin = stack.enter_context(self._admin())
            self._await_router(children[-1], admin)
            self._figures = RouterFigures(admin, self._clock, every_s=report_s(os.environ) / 2.0)
        from cluster.supervisor import Supervisor  # here, for it loads Ray

        self._supervisor = Supervisor(
            cluster=self._ray.cluster,
            children=children,
            dial=self._dial(),
            is_local=self._ray.is_local,
            say=self._say,
            clock=self._clock,
        )
        self._supervisor.start_verifier(wanted[0], self._config.engine, self._config.verifier)
        entries = drafters_of(self._config)
        for placement in wanted[1:]:
            self._supervisor.start_drafter(placement, self._config.drafters[entries[placement.name]])
        if self._elsewhere:
            self._supervisor.dismiss_others()
        self._commands = stack.enter_context(commands(self._socket))
        self._home.write(self._record())

    def run(self) -> None:
        """Until the fleet is ready, and then until it is told to end."""
        self._await_ready()
        self._print_ready()
        while not self._ending.is_wanted:
            self._tick()
        if self._was_told_down and self._elsewhere:
            self._supervisor.dismiss_all()
            while not self._supervisor.is_empty:
                self._supervisor.tick(_TICK_S)

    # Phases

    def _start_store(self, stack: ExitStack) -> list[Child]:
        url = self._config.store.url
        if url == "memory":
            self._say("store: memory; nothing outlives the router")
            return []
        if url != "embedded":
            asyncio.run(check_store(self._config.store, self._clock))
            self._say("store: the one at store.url answers")
            return []
        log, data = self._home.logs / "store.log", self._home.state / "store"
        is_synced = self._config.store.journal == "fsynced"
        store = embedded_store(self._home.run, data, log=log, clock=self._clock, is_synced=is_synced)
        store.start()
        stack.callback(store.stop, _STOP_STORE_S)
        self._until(store, lambda: answers(embedded_url(self._home.run)))
        self._say(f"store: Valkey, its data in {data}")
        return [store]

    def _start_router(self, stack: ExitStack) -> Child:
        config = self._config
        if config.store.url == "embedded":
            store = config.store.model_copy(update={"url": embedded_url(self._home.run)})
            config = config.model_copy(update={"store": store})
        file = self._home.run / "fleet.yaml"
        file.touch(mode=0o600)  # a store's address may hold a password
        file.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_none=True)))
        command = [sys.executable, "-m", "router", "--config", str(file)]
        router = Child("router", command, folder=CHECKOUT, log=self._home.logs / "router.log", clock=self._clock)
        router.start()
        stack.callback(router.stop, _STOP_ROUTER_S)
        return router

    def _check_places(self, wanted: Sequence[Placement]) -> None:
        """Refuses what no node can have; where nodes come after their supervisor, it says so and waits."""
        if not (reasons := misfits(wanted, self._ray.cluster.nodes())):
            return
        if not self._elsewhere:
            raise Unavailable(f"the fleet cannot be placed: {'; '.join(reasons)}")
        self._say(f"not all can be placed yet: {'; '.join(reasons)}")

    def _await_router(self, router: Child, admin: Admin) -> None:
        self._until(router, lambda: is_up(admin))
        self._say(f"router: gRPC at {self._grpc}, HTTP at {self._http}")

    def _await_ready(self) -> None:
        said_s = self._clock.now_s()
        while not self._supervisor.is_ready:
            self._tick()
            self._ending.check()
            if VERIFIER in self._supervisor.refused:
                raise InvalidArgument(self._supervisor.refused[VERIFIER])
            if self._clock.now_s() > said_s + _STILL_S:
                said_s = self._clock.now_s()
                self._say(f"still waiting for {', '.join(self._supervisor.awaited)}")

    def _print_ready(self) -> None:
        without = "".join(f", without {name}, which was refused" for name in self._supervisor.refused)
        self._say(f"READY{without}")
        where = {name: value for name, value in self._where().items() if value}
        if is_json():
            self._say(", ".join(f"{name}: {value}" for name, value in where.items()))
            return
        for name, value in where.items():
            print(f"  {name:<10} {value}", flush=True)

    def _where(self) -> dict[str, str]:
        """What whoever started it wants to know next; empty is not there."""
        if self._elsewhere:
            return {"router": self._elsewhere, "end": "python -m cluster down, for the workers outlive this command"}
        program = os.path.relpath(Path(sys.prefix) / "bin" / "specfleet")
        try_it = f'{program} generate "SELECT name FROM" --address {self._grpc}'
        if (tls := self._config.security.tls_of("client")) is not None:
            try_it += f" --tls {tls}"
        if self._config.security.keys_file is not None:
            try_it += " --api-key-file FILE"
        lines = {"gRPC": self._grpc, "HTTP": f"{self._http}/v1", "dashboard": self._ray.cluster.dashboard}
        return lines | {"logs": f"{self._home.logs}, {self._ray.cluster.logs}", "try": try_it, "end": "Ctrl-C"}

    # Parts of them

    def _tick(self) -> None:
        if (lost := self._ray.cluster.lost()) is not None:
            self._do_without_ray(lost)
        self._supervisor.tick(_TICK_S)
        self._health.beat()
        self._health.is_ready = self._supervisor.is_ready
        if self._figures is not None:
            self._ray.cluster.publish(self._figures.due())
        if self._supervisor.carry_out(self._commands):
            self._was_told_down = self._ending.is_wanted = True

    def _do_without_ray(self, lost: Part) -> None:
        if not self._ray.is_local:
            self._ray.wait(lost, self._supervisor.watch_children)
            return
        self._ray.replace(lost)
        self._supervisor.move_to(self._ray.cluster)
        self._home.write(self._record())

    def _until(self, child: Child, is_found: Callable[[], bool]) -> None:
        """Waits for what a child should bring about; Unavailable when it ends, or takes too long."""
        deadline_s = self._clock.now_s() + _ANSWER_S
        while not is_found():
            self._ending.check()
            if (status := child.ended()) is not None:
                raise Unavailable(f"{child.name} ended with status {status}: {child.last_words()}")
            if self._clock.now_s() > deadline_s:
                raise Unavailable(f"{child.name} did not answer within {_ANSWER_S:.0f} s: {child.last_words()}")
            time.sleep(_POLL_S)

    def _has_gpus(self) -> bool:
        return any(node.amounts.get("GPU", 0.0) > 0.0 for node in self._ray.cluster.nodes())

    def _admin(self) -> Admin:
        tls = self._config.security.tls_of("admin")
        try:
            return Admin(self._grpc, api_key=self._api_key, tls=tls, timeout_s=1.0)
        except InvalidRequest as error:
            raise ConfigError(f"security.tls: {error.message}") from error

    def _dial(self) -> Dial:
        """How workers find the router, which on a cluster has to be an address that other machines reach."""
        if self._elsewhere:
            return Dial(router=self._elsewhere, security=self._config.security)
        host, others = self._config.router.host, [node.name for node in self._ray.cluster.nodes()]
        here = self._ray.cluster.host
        if is_loopback(host) and any(name != here for name in others):
            raise ConfigError(
                f"router.host is {host!r}, and the cluster has other machines than this one ({', '.join(others)}); it "
                f"must be an address of this machine that they reach, such as {here!r}"
            )
        router = host_port(here if host in _ANY_HOST else host, self._config.router.grpc_port)
        return Dial(router=router, security=self._config.security)

    def _record(self) -> Record:
        return Record(
            pid=os.getpid(),
            control=str(self._socket),
            grpc=self._grpc,
            http=self._http,
            dashboard=self._ray.cluster.dashboard,
            ray=self._ray.cluster.address,
            is_local=self._ray.is_local,
        )


def _check_elsewhere(router: str, address: str | None) -> None:
    host, _, port = router.rpartition(":")
    if not host or not port.isdecimal():
        raise InvalidArgument(f"--router is {shown(router)}; it must be host:port of a router's gRPC")
    if address is None:
        raise InvalidArgument(
            "--router is given without --address; workers that outlive this command need a Ray that does, at host:port"
        )


def _absolute(security: SecurityConfig) -> SecurityConfig:
    """The same with paths that mean the same in every process."""
    files = {"tls": security.tls_of("."), "api_keys": security.keys_file}
    return security.model_copy(update={key: str(file.absolute()) for key, file in files.items() if file is not None})


def _own_key(security: SecurityConfig) -> str | None:
    """The key with which the command itself asks the router how it is. No process that it starts has to know it."""
    key = os.environ.pop(_KEY_VARIABLE, None)
    if key is None and security.keys_file is not None and security.tls_of("admin") is None:
        raise ConfigError(
            f"security.api_keys is {security.api_keys!r} and security.tls is off, so that the router tells the command "
            f"how it is for an admin's key alone; it must be in {_KEY_VARIABLE} (`specfleet keys add FILE NAME --role "
            "admin` makes one)"
        )
    return key


def _show_logs(home: Home, say: Callable[[str], None], kind: type[BaseException] | None, *rest: object) -> None:
    if kind is not None and home.has_logs:
        say(f"logs are in {home.run}")


def _reached(host: str) -> str:
    """An address under which this machine reaches what listens at `host`."""
    return _ANY_HOST.get(host, host)


def _sayer(clock: Clock) -> Callable[[str], None]:
    if is_json():
        return lambda text: print(written("supervisor", "INFO", text), flush=True)
    began_s = clock.now_s()
    return lambda text: print(f"{clock.now_s() - began_s:6.1f} s  {text}", flush=True)
