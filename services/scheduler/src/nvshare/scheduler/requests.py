"""What users may change while everything runs: the mode of a GPU and its quantum."""

from __future__ import annotations

from nvshare.bus.quantities import format_bytes
from nvshare.scheduler.model import Answer, Mode, ModeChanged, PublishEvent, QuantumChanged
from nvshare.scheduler.policy import SECOND_NS, Policy
from nvshare.scheduler.state import ArbiterState


def refusal(
    state: ArbiterState,
    mode: Mode = Mode.UNSPECIFIED,
    quantum_ns: int | None = None,
    max_wait_ns: int = 0,
    *,
    policy: Policy,
) -> str:
    """Why this mode, this quantum or this longest wait cannot be set now, in one sentence; else empty."""
    shortest, longest = policy.shortest_quantum_ns, policy.longest_quantum_ns
    if quantum_ns is not None and not shortest <= quantum_ns <= longest:
        bounds = f"{shortest / SECOND_NS:g} and {longest / SECOND_NS:g} seconds"
        return f"the quantum must be between {bounds}, not {quantum_ns / SECOND_NS:g}"
    if max_wait_ns > policy.longest_max_wait_ns:
        return f"the longest wait must be at most {policy.longest_max_wait_ns / SECOND_NS:g} seconds"
    if mode == Mode.OFF and state.mode != Mode.OFF:
        return _too_much_for_off(state, policy)
    return ""


def change_mode(state: ArbiterState, event: ModeChanged, policy: Policy) -> list[Answer | PublishEvent]:
    """Changes the mode, unless more than fits would lose its protection."""
    if event.mode in (Mode.UNSPECIFIED, state.mode):
        return [Answer(event.request, "")]
    if error := refusal(state, event.mode, policy=policy):
        return [Answer(event.request, error)]
    if state.mode == Mode.OFF:
        # Everybody could have the whole card: what is not used is taken back.
        for client in state.clients.values():
            client.set_ceiling(client.resident_bytes)
    text = f"mode of {state.gpu} changed from {state.mode.name.lower()} to {event.mode.name.lower()}"
    state.mode = event.mode
    return [Answer(event.request, ""), PublishEvent("mode-changed", text)]


def change_quantum(state: ArbiterState, event: QuantumChanged, policy: Policy) -> list[Answer | PublishEvent]:
    """Changes the quantum, within bounds. The new one counts for the turn that runs, too."""
    if error := refusal(state, quantum_ns=event.quantum_ns or None, max_wait_ns=event.max_wait_ns, policy=policy):
        return [Answer(event.request, error)]
    fixed_ns = 0 if event.automatic else event.quantum_ns or state.fixed_quantum_ns
    max_wait_ns = event.max_wait_ns or state.max_wait_ns
    if (fixed_ns, max_wait_ns) == (state.fixed_quantum_ns, state.max_wait_ns):
        return [Answer(event.request, "")]
    state.fixed_quantum_ns, state.max_wait_ns = fixed_ns, max_wait_ns
    state.quantum_ns = fixed_ns or state.quantum_ns
    words = f"{fixed_ns / SECOND_NS:g} s" if fixed_ns else f"auto, for waits up to {max_wait_ns / SECOND_NS:g} s"
    text = f"quantum of {state.gpu} changed to {words}"
    return [Answer(event.request, ""), PublishEvent("quantum-changed", text, duration_ns=fixed_ns)]


def _too_much_for_off(state: ArbiterState, policy: Policy) -> str:
    """One sentence with the sums when the clients have and want more than fits; else empty."""
    used = sum(client.needed_bytes for client in state.clients.values())
    wished = sum(client.wish_bytes for client in state.clients.values()) - used
    ghosts = state.card.ghost_bytes
    capacity = state.capacity_bytes(policy)
    if used + wished + ghosts <= capacity:
        return ""
    return (
        f"cannot switch sharing off on {state.gpu}: its clients have {format_bytes(used)} and want "
        f"{format_bytes(wished)} more, ended ones still hold {format_bytes(ghosts)}, in all "
        f"{format_bytes(used + wished + ghosts)}, and {format_bytes(capacity)} fit: end a program first"
    )
