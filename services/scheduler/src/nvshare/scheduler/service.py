"""The scheduler of one node: feeds the arbiters of its GPUs from the bus, the clock and the driver, and carries out
what they command.

Everything runs in one event loop, and an arbiter is called without a pause from the message to its commands, so events
are handled one after the other. Only the driver is asked in another thread, because it may take milliseconds.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from nvshare.bus import subjects
from nvshare.bus.connection import Bus
from nvshare.bus.version import BUILD, PROTOCOL, VERSION
from nvshare.scheduler.arbiter import Arbiter
from nvshare.scheduler.coordination import Coordination
from nvshare.scheduler.device_memory import Driver, DriverError, Gpu
from nvshare.scheduler.ending import finish_hand_overs
from nvshare.scheduler.history import RecordedArbiter
from nvshare.scheduler.model import (
    Answer,
    ClientReported,
    Command,
    Event,
    ModeChanged,
    PublishEvent,
    QuantumChanged,
    SendGrant,
    Ticked,
)
from nvshare.scheduler.modes import Sharing, load_sharing, save_sharing
from nvshare.scheduler.policy import Policy
from nvshare.scheduler.requests import refusal
from nvshare.scheduler.state import ArbiterState
from nvshare.scheduler.status import gpu_status
from nvshare.scheduler.wire import event_to, grant_to, mode_from, relay_state_from, report_from
from nvshare.v1 import client_pb2, control_pb2, node_pb2

HISTORY_FILE = "history.jsonl"
_PLAN_SECONDS = 0.01  # changes of a plan that come together are published together
_RENEW_SECONDS = 2.0
_QUIET_EVENTS = frozenset({"lock-granted", "lock-released"})  # many a second: logged at level debug

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class NodeShare:
    """How this node shares its GPUs."""

    node: str
    folder: Path  # the scheduler's own
    generation: int
    default: Sharing
    logical_capacity_bytes: int
    policy: Policy
    gangs: bool = True


@dataclass(slots=True)
class SharedGpu:
    """One GPU with its arbiter and its timers."""

    gpu: Gpu
    recorded: RecordedArbiter
    sample_now: asyncio.Event = field(default_factory=asyncio.Event)
    tick: asyncio.TimerHandle | None = None
    plan: asyncio.TimerHandle | None = None

    @property
    def state(self) -> ArbiterState:
        return self.recorded.arbiter.state


class Scheduler:
    """All GPUs of one node."""

    def __init__(self, share: NodeShare, driver: Driver, bus: Bus) -> None:
        self._share = share
        self._driver = driver
        self._bus = bus
        self._driver_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="nvml")
        self._tasks: set[asyncio.Task[None]] = set()
        self._relay: node_pb2.RelayState | None = None
        self._relay_heard_ns = 0
        self._refused_messages = 0
        self._ended = False
        self._silent: set[str] = set()  # GPUs (UUIDs) that did not answer when they were asked last
        self._gpus = {gpu.uuid: SharedGpu(gpu, RecordedArbiter(self._new_arbiter(gpu))) for gpu in driver.gpus}
        self._arbiters = {uuid: shared.recorded.arbiter for uuid, shared in self._gpus.items()}
        self._coordination = Coordination(gangs=share.gangs)
        self._coordination_timer: asyncio.TimerHandle | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Serves until `stop` is set, then writes the history down. Raises what ended the watch over a card's memory:
        without it nothing is promised well, and a new life of the scheduler starts from what is true."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, lambda: self._spawn(self._dump_history()))
        watches = [self._spawn(self._watch_memory(shared)) for shared in self._gpus.values()]
        watches.append(self._spawn(self._watch_driver()))
        node = self._share.node
        await self._bus.subscribe(subjects.report_any(), client_pb2.Report, self._on_report)
        await self._bus.subscribe(subjects.relay(node), node_pb2.RelayState, self._on_relay)
        await self._bus.subscribe(subjects.user_any(node, "status"), control_pb2.StatusRequest, self._on_status)
        await self._bus.subscribe(subjects.user_any(node, "mode"), control_pb2.ModeRequest, self._on_mode)
        _log.info("ready", node=node, gpus=len(self._gpus), generation=self._share.generation, build=BUILD)
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait([stopping, *watches], return_when=asyncio.FIRST_COMPLETED)
        await finish_hand_overs(self._arbiters.values())
        self._ended = True  # from now on nothing is decided
        failed = [watch for watch in watches if watch.done()]
        stopping.cancel()
        loop.remove_signal_handler(signal.SIGUSR1)
        timers = [timer for shared in self._gpus.values() for timer in (shared.tick, shared.plan)]
        for timer in (*timers, self._coordination_timer):
            if timer is not None:
                timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._dump_history()
        self._driver_thread.shutdown()
        _log.info("ended")
        for watch in failed:
            watch.result()

    def _new_arbiter(self, gpu: Gpu) -> Arbiter:
        share = self._share
        sharing = load_sharing(share.folder, gpu.uuid, share.default)
        _log.info("shares", gpu=gpu.uuid, name=gpu.name, mode=sharing.mode.name.lower(), memory_bytes=gpu.total_bytes)
        return Arbiter.new(
            gpu.uuid,
            generation=share.generation,
            total_bytes=gpu.total_bytes,
            mode=sharing.mode,
            quantum_ns=sharing.quantum_ns,
            policy=share.policy,
            logical_capacity_bytes=share.logical_capacity_bytes,
            max_wait_ns=sharing.max_wait_ns,
        )

    async def _on_report(self, subject: str, message: client_pb2.Report) -> None:
        address = subjects.parse_report(subject)
        shared = self._gpus.get(address.gpu)
        if shared is None:
            self._refused_messages += 1
            return
        await self._handle(shared, ClientReported(address.allocation, address.client, report_from(message)))

    async def _on_relay(self, subject: str, message: node_pb2.RelayState) -> None:
        self._relay, self._relay_heard_ns = message, time.monotonic_ns()
        for shared in self._gpus.values():
            await self._handle(shared, relay_state_from(message, shared.gpu.uuid))
            if shared.recorded.arbiter.sample_interval_ns(time.monotonic_ns()) < self._share.policy.sample_ns:
                shared.sample_now.set()

    async def _on_status(self, subject: str, request: control_pb2.StatusRequest) -> None:
        if self._may_reply(request.reply_token):
            uid = subjects.parse_user(subject).uid
            await self._bus.publish(subjects.reply(self._share.node, uid, request.reply_token), self._status())

    async def _on_mode(self, subject: str, request: control_pb2.ModeRequest) -> None:
        if not self._may_reply(request.reply_token):
            return
        shared = self._gpus.get(request.gpu)
        mode = mode_from(int(request.mode))
        error = ""
        if shared is None:
            error = f"no GPU {request.gpu[:64]!r} on node {self._share.node}: it has {', '.join(self._gpus)}"
        elif mode is None:
            error = "this scheduler does not know that mode: use auto, serial, concurrent or off"
        else:
            token, max_wait_ns = request.reply_token, request.max_wait_us * 1000
            quantum = QuantumChanged(token, request.quantum_us * 1000, request.quantum_auto, max_wait_ns)
            error = await self._change_sharing(shared, ModeChanged(token, mode), quantum)
        reply = control_pb2.ModeReply(
            error=error,
            gpu=request.gpu,
            mode=client_pb2.Mode.Name(shared.state.mode) if shared else None,
            quantum_us=shared.state.quantum_ns // 1000 if shared else 0,
            quantum_auto=shared is not None and shared.state.fixed_quantum_ns == 0,
            max_wait_us=shared.state.max_wait_ns // 1000 if shared else 0,
            fixed_quantum_us=shared.state.fixed_quantum_ns // 1000 if shared else 0,
        )
        uid = subjects.parse_user(subject).uid
        await self._bus.publish(subjects.reply(self._share.node, uid, request.reply_token), reply)

    async def _change_sharing(self, shared: SharedGpu, mode: ModeChanged, quantum: QuantumChanged) -> str:
        """Sets the mode and the quantum, and keeps both; nothing when either is refused. Gives the refusal."""
        policy = self._share.policy
        fixed_ns, max_wait_ns = quantum.quantum_ns or None, quantum.max_wait_ns
        if error := refusal(shared.state, mode.mode, fixed_ns, max_wait_ns, policy=policy):
            return error
        error = await self._handle(shared, quantum) or await self._handle(shared, mode)
        if error:
            return error
        sharing = Sharing(shared.state.mode, shared.state.fixed_quantum_ns, shared.state.max_wait_ns)
        try:
            save_sharing(self._share.folder, shared.gpu.uuid, sharing, self._share.default)
        except OSError as failure:
            _log.warning("cannot keep the mode over a restart", error=str(failure))
        return ""

    def _may_reply(self, token: str) -> bool:
        if subjects.valid_reply_token(token):
            return True
        self._refused_messages += 1
        return False

    async def _handle(self, shared: SharedGpu, event: Event) -> str:
        """Tells the arbiter, and carries out what it commands. Gives the error of its answer, if there is one."""
        if self._ended:
            return "the scheduler is ending"
        now_ns = time.monotonic_ns()
        commands = [(shared, command) for command in shared.recorded.handle(event, now_ns)]
        self._arm_tick(shared, now_ns)
        commands += self._coordinate(now_ns)
        error = ""
        for about, command in commands:
            if isinstance(command, Answer):
                error = command.error
            else:
                await self._carry_out(about, command)
        return error

    def _coordinate(self, now_ns: int) -> list[tuple[SharedGpu, Command]]:
        """Tells the arbiters what the coordinator of the gangs has to say now. Gives what they command."""
        commands: list[tuple[SharedGpu, Command]] = []
        for uuid, ruled in self._coordination.news(self._arbiters, now_ns):
            shared = self._gpus[uuid]
            commands += [(shared, command) for command in shared.recorded.handle(ruled, now_ns)]
            self._arm_tick(shared, now_ns)
        commands += [(self._gpus[uuid], event) for uuid, event in self._coordination.take_events()]
        if self._coordination_timer is not None:
            self._coordination_timer.cancel()
            self._coordination_timer = None
        if (wake_ns := self._coordination.wake_ns) is not None:
            delay = max(0.0, (wake_ns - now_ns) / 1e9)
            loop = asyncio.get_running_loop()
            self._coordination_timer = loop.call_later(delay, lambda: self._spawn(self._coordinate_again()))
        return commands

    async def _coordinate_again(self) -> None:
        for shared, command in self._coordinate(time.monotonic_ns()):
            await self._carry_out(shared, command)

    async def _carry_out(self, shared: SharedGpu, command: Command) -> None:
        uuid = shared.gpu.uuid
        match command:
            case SendGrant():
                subject = subjects.grant(uuid, command.allocation, command.client)
                await self._bus.publish(subject, grant_to(command.grant, uuid, command.client, BUILD, PROTOCOL))
                if shared.plan is None:
                    loop = asyncio.get_running_loop()
                    shared.plan = loop.call_later(_PLAN_SECONDS, lambda: self._spawn(self._publish_plan(shared)))
            case PublishEvent():
                log = _log.debug if command.kind in _QUIET_EVENTS else _log.info
                log(command.kind, gpu=uuid, allocation=command.allocation, text=command.text)
                await self._bus.publish(subjects.event(uuid, command.kind), event_to(command, uuid, time.time_ns()))

    def _arm_tick(self, shared: SharedGpu, now_ns: int) -> None:
        if shared.tick is not None:
            shared.tick.cancel()
            shared.tick = None
        deadline_ns = shared.recorded.arbiter.next_deadline_ns()
        if deadline_ns is not None:
            delay = max(0.0, (deadline_ns - now_ns) / 1e9)
            loop = asyncio.get_running_loop()
            shared.tick = loop.call_later(delay, lambda: self._spawn(self._tick(shared)))

    async def _tick(self, shared: SharedGpu) -> None:
        await self._handle(shared, Ticked())

    async def _publish_plan(self, shared: SharedGpu) -> None:
        shared.plan = None
        state = shared.state
        granted = [(client, client.granted) for client in state.clients.values()]
        plan = node_pb2.Plan(
            gpu=shared.gpu.uuid,
            generation=state.generation,
            epoch=state.plan_epoch,
            mode=client_pb2.Mode.Name(state.mode),
            grants=[
                grant_to(grant, shared.gpu.uuid, client.client, BUILD, PROTOCOL)
                for client, grant in granted
                if grant is not None
            ],
        )
        await self._bus.publish(subjects.plan(shared.gpu.uuid), plan)

    async def _watch_memory(self, shared: SharedGpu) -> None:
        """Samples the card's memory: once a second, and often while a dead client may hold some."""
        while True:
            interval_ns = shared.recorded.arbiter.sample_interval_ns(time.monotonic_ns())
            try:
                async with asyncio.timeout(interval_ns / 1e9):
                    await shared.sample_now.wait()
            except TimeoutError:
                pass
            shared.sample_now.clear()
            await self._sample(shared)

    async def _watch_driver(self) -> None:
        """While GPUs do not answer, NVML is opened anew again and again. Ends when one answers that was missing at the
        start: whoever starts the scheduler again gets it, and the plans stay in force meanwhile."""
        loop = asyncio.get_running_loop()
        for index in self._driver.missing:
            _log.error("a GPU does not answer: it is not shared", index=index)
        while True:
            await asyncio.sleep(_RENEW_SECONDS)
            if not self._silent and not self._driver.missing:
                continue
            if await loop.run_in_executor(self._driver_thread, self._driver.renew):
                _log.info("a GPU that was missing answers: the scheduler ends, to be started with it")
                return

    async def _sample(self, shared: SharedGpu) -> None:
        loop = asyncio.get_running_loop()
        try:
            clients = frozenset(client.pid for client in shared.state.clients.values())
            sample = await loop.run_in_executor(self._driver_thread, self._driver.sample, shared.gpu.uuid, clients)
        except DriverError as error:
            if shared.gpu.uuid not in self._silent:
                _log.error("no memory sample: the last one counts", error=str(error))
            self._silent.add(shared.gpu.uuid)
            return
        if shared.gpu.uuid in self._silent:
            self._silent.remove(shared.gpu.uuid)
            _log.info("the GPU answers again", gpu=shared.gpu.uuid)
        await self._handle(shared, sample)

    def _status(self) -> control_pb2.StatusReply:
        now_ns = time.monotonic_ns()
        gpus = [gpu_status(shared.gpu, shared.state, now_ns, self._share.policy) for shared in self._gpus.values()]
        reply = control_pb2.StatusReply(
            node=self._share.node,
            version=VERSION,
            build=BUILD,
            protocol=PROTOCOL,
            gpus=gpus,
            unknown_messages=self._bus.unknown_messages,
            malformed_messages=self._bus.malformed_messages + self._refused_messages,
            settling=any(shared.state.settling for shared in self._gpus.values()),
        )
        if self._relay is not None:
            reply.relay_version = self._relay.version
            reply.relay_build = self._relay.build
            reply.relay_age_us = (now_ns - self._relay_heard_ns) // 1000
            reply.allocations.extend(self._relay.allocations)
            reply.arena_bytes = self._relay.arena_bytes
            reply.arena_reserved_bytes = self._relay.arena_reserved_bytes
            reply.arena_made_bytes = self._relay.arena_made_bytes
        return reply

    async def _dump_history(self) -> None:
        """Writes what happened lately to the scheduler's folder, in a thread: turns go on meanwhile."""
        path = self._share.folder / HISTORY_FILE
        histories = [shared.recorded.lines() for shared in self._gpus.values()]

        def write() -> None:
            beside = path.with_suffix(".new")
            with beside.open("w") as stream:
                for lines in histories:
                    stream.writelines(line + "\n" for line in lines)
            beside.replace(path)

        try:
            await asyncio.to_thread(write)
            _log.info("history written", path=str(path))
        except OSError as error:
            _log.warning("cannot write the history", path=str(path), error=str(error))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs `work` in the background, and logs it if it fails."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("background work failed", exc_info=error)
