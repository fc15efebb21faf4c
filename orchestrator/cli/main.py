"""Entry point of `edgewise`: global options, the list of verbs, and the rim where every failure becomes one line."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

import click

from orchestrator.cli.context import Session, gateway_option

VERBS = {
    "gateway": "orchestrator.cli.gateway:gateway",
    "node": "orchestrator.cli.node:node",
    "profile": "orchestrator.cli.node:profile",
    "ray": "orchestrator.cli.ray:ray",
    "prune": "orchestrator.cli.node:prune",
    "compile": "orchestrator.cli.node:compile_forms",
    "cache": "orchestrator.cli.node:cache",
    "infer": "orchestrator.cli.infer:infer",
    "ask": "orchestrator.cli.ask:ask",
    "chat": "orchestrator.cli.ask:chat",
    "models": "orchestrator.cli.models:models",
    "why": "orchestrator.cli.why:why",
    "feedback": "orchestrator.cli.feedback:feedback",
    "personalize": "orchestrator.cli.personalize:personalize",
    "status": "orchestrator.cli.status:status",
    "budget": "orchestrator.cli.budget:budget",
    "energy": "orchestrator.cli.energy:energy",
    "key": "orchestrator.cli.key:key",
    "token": "orchestrator.cli.token:token",
    "eval": "orchestrator.cli.evaluate:evaluate",
    "plan": "orchestrator.cli.plan:plan",
    "simulate": "orchestrator.cli.simulate:simulate",
    "gate": "orchestrator.cli.gate:gate",
    "deploy": "orchestrator.cli.deploy:deploy",
    "config": "orchestrator.cli.config:config",
    "store": "orchestrator.cli.store:store",
    "doctor": "orchestrator.cli.doctor:doctor",
    "completion": "orchestrator.cli.completion:completion",
}
ALIASES = {"serve": "gateway"}


class Verbs(click.Group):
    """Finds a verb's module when the verb is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        """Verbs in the order in which a newcomer meets them."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The command of a verb or of an alias, None if there is none."""
        place = VERBS.get(ALIASES.get(cmd_name, cmd_name))
        if place is None:
            return None
        module, _, name = place.partition(":")
        command = getattr(importlib.import_module(module), name)
        return command if isinstance(command, click.Command) else None


def _show_version(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        click.echo(f"edgewise {version('edgewise')}")
        ctx.exit()


@click.command(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@gateway_option
@click.option("-v", "--verbose", is_flag=True, help="Say more, on stderr.")
@click.option("--quiet", is_flag=True, help="Only the result, no notes.")
@click.option("--no-color", is_flag=True, help="Plain text; the variable NO_COLOR does the same.")
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Print the version and exit.",
)
@click.pass_context
def cli(ctx: click.Context, verbose: bool, quiet: bool, no_color: bool) -> None:
    """One inference service out of the machines you own, within the joules and milliseconds you allow.

    \b
    A first answer, in three terminals:
      edgewise gateway
      edgewise node run --gateway 127.0.0.1:8421 --profile laptop-cpu
      edgewise infer digit.png --max-energy 5mJ --max-latency 200ms

    `edgewise why REQUEST_ID` tells why a request was answered as it was; `edgewise doctor` what is wrong here.
    """
    session = ctx.ensure_object(Session)
    session.verbose, session.quiet = verbose, quiet
    session.color = not (no_color or os.environ.get("NO_COLOR"))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; nothing but the exit code leaves by exception."""
    session = Session()
    try:
        code = cli.main(args=arguments, prog_name="edgewise", standalone_mode=False, obj=session)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except BrokenPipeError:
        # The reader (head, less) has seen enough; stdout must not complain again when it is closed at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Exception, KeyboardInterrupt) as error:
        from orchestrator.cli.failure import report

        return report(error, verbose=session.verbose)


def main() -> None:
    """Console script."""
    sys.exit(run())
