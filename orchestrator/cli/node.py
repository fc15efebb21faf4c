"""`edgewise node`: verbs of node machines go to `python -m nodes`, verbs about the fleet to the gateway."""

from __future__ import annotations

import os
import sys
import time

import click

from orchestrator.cli.context import Session, gateway_option, output_option

PASS_THROUGH = {"ignore_unknown_options": True, "allow_interspersed_args": False, "help_option_names": []}


@click.group(short_help="Run a node here; list and drain nodes.")
def node() -> None:
    """Run a node on this machine, or look after the nodes of a gateway."""


def _hand_over(session: Session, verb: str, arguments: tuple[str, ...]) -> None:
    """Become the node's own command: arguments, exit code and signals are its business."""
    if session.gateway_given:
        os.environ.setdefault("EDGEWISE_NODE_GATEWAY", session.gateway)
    os.environ["EDGEWISE_CALLED_AS"] = click.get_current_context().command_path.rpartition(" ")[0]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", "nodes", verb, *arguments])  # noqa: S606 (no shell wanted)


@node.command(context_settings=PASS_THROUGH, short_help="Run a node agent on this machine.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def run(session: Session, arguments: tuple[str, ...]) -> None:
    """Run a node agent; all arguments go to `python -m nodes run`, also --help."""
    _hand_over(session, "run", arguments)


@node.command(context_settings=PASS_THROUGH, short_help="Join a gateway with TLS by a token, then run.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def join(session: Session, arguments: tuple[str, ...]) -> None:
    """Join a gateway; all arguments go to `python -m nodes join`, also --help."""
    _hand_over(session, "join", arguments)


@node.command(context_settings=PASS_THROUGH, short_help="List the experts that a node here can run.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def experts(session: Session, arguments: tuple[str, ...]) -> None:
    """List experts; all arguments go to `python -m nodes experts`, also --help."""
    _hand_over(session, "experts", arguments)


@node.command(context_settings=PASS_THROUGH, short_help="Verify compiled forms on this machine.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def verify(session: Session, arguments: tuple[str, ...]) -> None:
    """Compare a compiled form with ONNX Runtime; all arguments go to `python -m nodes verify`, also --help."""
    _hand_over(session, "verify", arguments)


@node.command("install-service", context_settings=PASS_THROUGH, short_help="Write a unit of systemd for a node here.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def install_service(arguments: tuple[str, ...]) -> None:
    """Write a unit of systemd; the same as `edgewise deploy service node`, also --help."""
    from orchestrator.cli.deploy import hand_over

    hand_over("service", "node", *arguments)


@click.command(context_settings=PASS_THROUGH, short_help="Measure the experts of a node on this machine.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def profile(session: Session, arguments: tuple[str, ...]) -> None:
    """Measure milliseconds and joules on purpose; all arguments go to `python -m nodes profile`, also --help."""
    _hand_over(session, "profile", arguments)


@click.command(context_settings=PASS_THROUGH, short_help="Prune an expert: train, profile, export.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def prune(session: Session, arguments: tuple[str, ...]) -> None:
    """Prune an expert dynamically; all arguments go to `python -m nodes prune`, also --help."""
    _hand_over(session, "prune", arguments)


@click.command(name="compile", context_settings=PASS_THROUGH, short_help="Compile experts and check the results.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def compile_forms(session: Session, arguments: tuple[str, ...]) -> None:
    """Compile experts for this machine; all arguments go to `python -m nodes compile`, also --help."""
    _hand_over(session, "compile", arguments)


@click.command(context_settings=PASS_THROUGH, short_help="List, verify and prune compiled files.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def cache(session: Session, arguments: tuple[str, ...]) -> None:
    """Look after the compiled files of this machine; all arguments go to `python -m nodes cache`, also --help."""
    _hand_over(session, "cache", arguments)


@node.command("list")
@gateway_option
@output_option
@click.pass_obj
def list_nodes(session: Session, output: str) -> None:
    """List the nodes of the gateway, their devices and their state."""
    from orchestrator.cli.output import console, print_json
    from orchestrator.cli.status import nodes_table

    with session.client() as client:
        nodes = client.status().nodes
    if output == "json":
        print_json([*nodes])
    elif nodes:
        console(color=session.color).print(nodes_table(nodes))
    else:
        session.note("no node has connected yet; start one with `edgewise node run`")


@node.command()
@gateway_option
@click.argument("name")
@output_option
@click.pass_obj
def drain(session: Session, name: str, output: str) -> None:
    """Give the node NAME no new work; what runs is finished."""
    with session.client() as client:
        _show_state(name, client.drain_node(name), output)


@node.command()
@gateway_option
@click.argument("name")
@output_option
@click.pass_obj
def sleep(session: Session, name: str, output: str) -> None:
    """Have the node NAME finish what runs and sleep; it must run with --allow-suspend."""
    with session.client() as client:
        _show_state(name, client.sleep_node(name), output)


@node.command()
@gateway_option
@click.argument("name")
@output_option
@click.pass_obj
def wake(session: Session, name: str, output: str) -> None:
    """Wake the node NAME, which sleeps."""
    with session.client() as client:
        _show_state(name, client.wake_node(name), output)


def _show_state(name: str, state: str, output: str) -> None:
    from orchestrator.cli.output import print_json

    if output == "json":
        print_json({"node": name, "state": state})
    else:
        click.echo(f"{name}: {state}")


@node.command()
@gateway_option
@output_option
@click.pass_obj
def identities(session: Session, output: str) -> None:
    """List the nodes that joined a gateway with TLS, or wait for approval, and their certificates."""
    from orchestrator.cli.output import console, print_json, safe, table

    with session.client() as client:
        found = client.identities()
    if output == "json":
        print_json([*found])
        return
    rows = table(None, ("node", "state", "certificate until", "key"))
    for entry in found:
        until = entry.expires_unix_s
        shown = "" if until is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(until))
        rows.add_row(safe(entry.node), safe(entry.state), shown, safe(entry.key_fingerprint))
    console(color=session.color).print(rows)


@node.command()
@gateway_option
@click.argument("name")
@click.pass_obj
def approve(session: Session, name: str) -> None:
    """Let the node NAME, which waits, have its certificate; compare the keys that both sides show first."""
    with session.client() as client:
        approved = client.approve_node(name)
    session.note(f"{name} is approved; its key is {approved.key_fingerprint}")


@node.command()
@gateway_option
@click.argument("name")
@click.pass_obj
def revoke(session: Session, name: str) -> None:
    """Put the node NAME out at once; it comes back only with a token made for its name."""
    with session.client() as client:
        client.revoke_node(name)
    session.note(f"{name} is revoked")
