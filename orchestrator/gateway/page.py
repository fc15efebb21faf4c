"""The page of the fleet at `/`: nodes, plans, arms and budgets, to look at and nothing else.

One document without scripts and without anything from elsewhere; its policy (`HEADERS`) allows its one style sheet by
digest and nothing more, so that even markup that got past the escaping could do nothing.
"""

from __future__ import annotations

import base64
import hashlib
import math
import time
from collections.abc import Iterator
from pathlib import Path
from string import Template

from orchestrator import __version__
from orchestrator.fleet.arms import ArmState
from orchestrator.fleet.fleet import NodeState
from orchestrator.gateway.markup import Cell, Column, safe, table, tiles
from orchestrator.gateway.service import Service
from orchestrator.store.records import DAY_J, DAY_TOKENS, Balance
from orchestrator.types import Provenance
from orchestrator.units import format_duration_ms, format_energy_j

_STYLE = Path(__file__).with_name("page.css").read_text()
_PAGE = Template(Path(__file__).with_name("page.html").read_text())
_DIGEST = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

HEADERS = {
    "content-security-policy": f"default-src 'none'; style-src 'sha256-{_DIGEST}'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}

MOODS = {NodeState.HEALTHY: "good", NodeState.SUSPECT: "warn", NodeState.DRAINING: "warn", NodeState.OFFLINE: "bad"}
NOTHING = "–"
MS, S = 1.0, 1e3

NODES = (
    Column("node"),
    Column("state"),
    Column("device"),
    Column("joules come from"),
    Column("busy", number=True),
    Column("waiting", number=True),
    Column("heard", number=True),
)
ARMS = (
    Column("arm"),
    Column("task"),
    Column("active"),
    Column("quality", number=True),
    Column("time", number=True),
    Column("joules", number=True),
    Column("answered", number=True),
    Column("failed", number=True),
)
PLANS = (
    Column("task"),
    Column("plan"),
    Column("certificate"),
    Column("active arms", number=True),
    Column("prices: what one joule must buy"),
)
BUDGETS = (
    Column("scope"),
    Column("limit"),
    Column("allowed", number=True),
    Column("spent", number=True),
    Column("held", number=True),
    Column("left", number=True),
    Column("new in", number=True),
)


async def fleet_page(service: Service) -> str:
    """The whole page, as things stand."""
    service.publish()
    fleet, balances = service.fleet, await service.till.ledger.balances()
    up_s = time.monotonic() - service.started_s
    headline = f"version {__version__}, up {format_duration_ms(up_s * S)}"
    return _PAGE.substitute(
        style=_STYLE,
        nodes_up=str(len(fleet.sessions)),
        nodes_known=str(len(fleet.known)),
        headline=safe(headline),
        tiles=tiles(_totals(service)),
        nodes=table(NODES, list(_nodes(service)), none="No node has connected yet."),
        plans=table(PLANS, list(_plans(service)), none="No task is served yet."),
        arms=table(ARMS, list(_arms(service)), none="No node has an expert."),
        budgets=table(BUDGETS, [_budget(balance) for balance in balances], none="No limits over time are set."),
        now=safe(time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())),
    )


def _totals(service: Service) -> list[tuple[str, str]]:
    outcomes, energy_j = service.metrics.totals()
    counts = dict(outcomes)
    answered = counts.pop("answered", 0)
    return [
        ("nodes connected", f"{len(service.fleet.sessions)} of {len(service.fleet.known)}"),
        ("requests answered", f"{answered:,}"),
        ("ended otherwise", f"{sum(counts.values()):,}"),
        ("joules of all answers", format_energy_j(energy_j)),
        ("running, waiting", f"{service.admission.running}, {service.admission.queued}"),
    ]


def _nodes(service: Service) -> Iterator[list[Cell]]:
    fleet = service.fleet
    for name in sorted(fleet.known):
        hello, session, state = fleet.known[name], fleet.sessions.get(name), fleet.state(name)
        heat = "" if session is None or session.temperature_c is None else f"{session.temperature_c:.0f} °C"
        slow = ", ".join(session.throttles) if session else ""
        source = hello.energy_source
        yield [
            Cell(name, hello.software_version),
            Cell(state.value, " ".join(part for part in (heat, slow) if part), "warn" if slow else MOODS[state]),
            Cell(hello.device, "simulated" if hello.simulated else ""),
            Cell(hello.energy_provenance.value, f"{hello.energy_method} {source.problem}".strip()),
            Cell(f"{session.running if session else 0}/{hello.concurrency}"),
            Cell(str(session.queued if session else 0)),
            Cell(f"{_ms((time.monotonic() - session.seen_s) * S)} ago" if session else NOTHING),
        ]


def _arms(service: Service) -> Iterator[list[Cell]]:
    board = service.fleet.board
    states = (board.states[n] for name in sorted(service.fleet.known) for n in board.nodes[name].arms)
    for state in sorted(states, key=lambda state: (state.arm.task, state.arm.expert, state.arm.name)):
        yield _arm(service, state)


def _arm(service: Service, state: ArmState) -> list[Cell]:
    board, n, arm = service.fleet.board, state.index, state.arm
    standing = service.planner.standing(arm.task)
    chosen = standing is not None and (standing.plan.active is None or arm.name in standing.plan.active)
    active = bool(board.available_n[n]) and chosen
    known = arm.energy.provenance is not Provenance.UNMEASURED
    took_ms, bound_ms = (column[n] + board.wait_ms_n[n] for column in (board.service_ms_n, board.service_bound_ms_n))
    return [
        Cell(arm.name),
        Cell(arm.task),
        Cell("yes", mood="good") if active else Cell("no"),
        Cell(f"{arm.quality_fraction * 100:.1f} %", f"of {arm.quality_samples}" if arm.quality_samples else ""),
        Cell(_ms(took_ms), f"promised ≤ {_ms(bound_ms)}"),
        Cell(
            _joules(board.energy_j_n[n]) if known else NOTHING,
            f"{arm.energy.provenance.value}, promised ≤ {_joules(board.energy_bound_j_n[n])}"
            if known
            else "unmeasured",
        ),
        Cell(f"{state.answered:,}"),
        Cell(f"{state.failed:,}", mood="warn" if state.failed else ""),
    ]


def _plans(service: Service) -> Iterator[list[Cell]]:
    for name in sorted(service.fleet.tasks):
        standing = service.planner.standing(name)
        if standing is None:
            yield [Cell(name), Cell(NOTHING), Cell("no arm is routable", mood="bad"), Cell("0"), Cell(NOTHING)]
            continue
        plan, certificate = standing.plan, standing.plan.certificate
        pace = service.pacing.record(name)
        prices = [f"{profile} {price.price_per_j:.3g}" for profile, price in plan.model.prices.items()]
        paced = f"long-run budget {pace.price_per_j:.3g} ({pace.status})" if pace else ""
        yield [
            Cell(name, "text" if service.fleet.tasks[name].text else ""),
            Cell(plan.plan_id),
            Cell(certificate.status, f"gap {certificate.gap:.3g}", "good" if certificate.status == "optimal" else ""),
            Cell(NOTHING if plan.active is None else str(len(plan.active))),
            Cell("; ".join(prices) or NOTHING, paced),
        ]


def _budget(balance: Balance) -> list[Cell]:
    meter, left = balance.meter, balance.limit - balance.spent - balance.held
    amounts = [_amount(meter.unit, value) for value in (balance.limit, balance.spent, balance.held, max(0.0, left))]
    words = {DAY_J: "joules a day", DAY_TOKENS: "tokens a day"}
    return [
        Cell(meter.scope),
        Cell(words.get(meter.unit, "joules a minute")),
        *(Cell(amount) for amount in amounts[:3]),
        Cell(amounts[3], mood="bad" if left <= 0.0 else ""),
        Cell(_ms(max(0.0, meter.resets_unix_s - time.time()) * S)),
    ]


def _amount(unit: str, value: float) -> str:
    return f"{value:,.0f}" if unit == DAY_TOKENS else _joules(value)


def _joules(value: float) -> str:
    return format_energy_j(float(value)) if math.isfinite(value) else NOTHING


def _ms(value: float) -> str:
    return format_duration_ms(float(value)) if math.isfinite(value) else NOTHING
