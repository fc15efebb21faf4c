"""Failures as one line on stderr: what went wrong, why, and what to do; plus the exit code."""

from __future__ import annotations

import math

import click

from optimizer.errors import EvidenceError, NativeMissing
from orchestrator.config_errors import ConfigError
from orchestrator.errors import BudgetInfeasible, EdgewiseError, ExitCode
from orchestrator.placement.errors import PlacementError
from orchestrator.study.errors import StudyError
from orchestrator.units import format_duration_ms, format_energy_j

# What failed, and what the user can do. The why between them is the error's own message.
ADVICE = {
    "UNREACHABLE": ("gateway unreachable", "start one with `edgewise gateway`, or name it with --gateway HOST:PORT"),
    "TLS_FAILED": ("no secure connection", "`edgewise doctor` looks at it again; see deploy/docs/identity.md"),
    "RESTART_NEEDED": ("nothing was changed", "restart the gateway, or take these changes back and reload"),
    "STORE_IN_USE": ("the store is in use", "stop the gateway first; `edgewise store backup` works while it runs"),
    "STORE_NEWER": ("the store is newer", "see deploy/docs/operating.md"),
    "STORE_CORRUPT": ("the store is damaged", "see deploy/docs/operating.md"),
    "TLS_OFF": ("no TLS", "start the gateway with --tls on, or on an address beyond loopback"),
    "TOKEN_NOT_FOUND": ("unknown token", "`edgewise token list` lists the tokens"),
    "NO_NODE": ("no node", "start one with `edgewise node run`; `edgewise status` shows who is there"),
    "EXPERT_LOADING": ("expert is loading", "try again in a moment"),
    "OVERLOADED": ("gateway overloaded", "try again later or with a longer --max-latency"),
    "DRAINING": ("gateway is shutting down", "try again once it is back"),
    "EXPERT_LOST": ("one of several writers was lost", "ask again, or let the others go on"),
    "ATTEMPTS_FAILED": ("every attempt failed", "`edgewise why` tells what each node said"),
    "TASK_NOT_FOUND": ("unknown task", "`edgewise status` lists the tasks"),
    "EXPERT_NOT_FOUND": ("unknown expert", "`edgewise status` lists the experts"),
    "SLEEP_OFF": ("node may not sleep", "start it with `edgewise node run --allow-suspend`"),
    "NODE_NOT_FOUND": ("unknown node", "`edgewise node list` lists the nodes"),
    "MODEL_FIXED": ("always loaded", "start its node with --memory-budget SIZE"),
    "REQUEST_NOT_FOUND": ("unknown request", "only the gateway that answered remembers it, and not for ever"),
    "DEADLINE_EXCEEDED": ("too late", "allow more with --max-latency or --timeout"),
    "UNIMPLEMENTED": ("not supported", "compare versions with `edgewise status` and `edgewise --version`"),
    "INTERNAL": ("internal error", "look for the request id in the gateway's log"),
}
# More than what four digits can round away.
_UP = 1 + 6e-4

DEFAULT_ADVICE = ("request refused", "see `edgewise VERB --help`")


def report(error: BaseException, *, verbose: bool = False) -> int:
    """Print the one line for an error and return the exit code; bugs are raised again under `-v`."""
    match error:
        case KeyboardInterrupt() | click.Abort():
            return _say("interrupted", ExitCode.INTERRUPTED)
        case click.exceptions.Exit():
            return error.exit_code
        case click.ClickException():
            return _say(_usage(error), ExitCode(error.exit_code))
        case ConfigError():
            cure = "repair it, then run `edgewise config validate FILE`"
            return _say(_line("configuration refused", str(error), cure), ExitCode.CONFIG)
        case StudyError() | PlacementError():
            return _say(_line(error.what, error.why, error.cure), error.exit_code)
        case NativeMissing():
            return _say(_line("not built here", str(error), "then try again"), ExitCode.FAILED)
        case EvidenceError():
            return _say(_line("table refused", str(error), "see deploy/docs/gate.md"), ExitCode.USAGE)
        case EdgewiseError():
            return _say(_refused(error, verbose), error.surface.exit_code)
    if verbose:
        raise error
    kind = type(error).__name__
    return _say(_line("internal error", kind, "run again with `edgewise -v` for the details"), ExitCode.FAILED)


def _refused(error: EdgewiseError, verbose: bool) -> str:
    extra = f" [{error.reason} {error.metadata}]" if verbose else ""
    if isinstance(error, BudgetInfeasible):
        return _infeasible(error) + extra
    what, cure = ADVICE.get(error.reason, DEFAULT_ADVICE)
    if error.retry_after_s:
        cure += f" (after {format_duration_ms(error.retry_after_s * 1e3)})"
    return _line(what, error.message, cure) + extra


def _infeasible(error: BudgetInfeasible) -> str:
    if math.isnan(error.min_energy_j) and math.isnan(error.min_latency_ms):
        why = "no expert fits this budget"
    else:
        # Rounded up: what is printed must do when it is typed in again.
        energy = format_energy_j(error.min_energy_j * _UP, 4)
        least = f"{energy} and {format_duration_ms(error.min_latency_ms * _UP, 4)}"
        why = f"no expert fits it; the smallest budget that would do is {least}"
    return _line("budget infeasible", why, "raise --max-energy or --max-latency, or pass --on-infeasible best-effort")


def _usage(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "edgewise"
    return _line("wrong usage", error.format_message(), f"see `{path} --help`")


def _line(what: str, why: str, cure: str) -> str:
    why = " ".join(why.split()).rstrip(".")
    return f"{what}; {why[:1].lower() + why[1:] if why[1:2].islower() else why}; {cure}"


def _say(line: str, code: ExitCode) -> int:
    click.echo(f"error: {line}", err=True)
    return int(code)
