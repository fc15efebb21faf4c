"""`edgewise personalize`: a user's own expert on their home node."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from orchestrator.cli.context import Session, gateway_option, output_option

if TYPE_CHECKING:
    from orchestrator.personal.types import PersonalStatus

VERBS = {
    "train": "Train the user's expert on what was corrected, as soon as the node is idle.",
    "status": "Say how the user's expert stands.",
    "rollback": "Go back to the version before; without one, to the global expert alone.",
    "export": "Write the sealed expert to a file on the home node; only the owner's key opens it.",
    "forget": "Destroy the user's key on the home node, and with it inputs, corrections and expert.",
}


@click.group(short_help="A user's own expert: train, status, rollback, export, forget.")
def personalize() -> None:
    """A user's own expert on their home node.

    It learns from `edgewise feedback REQUEST_ID --label LABEL` for requests with --user. Nothing leaves the node.
    """


def _command(verb: str, text: str) -> click.Command:
    @click.command(verb, help=text, short_help=text)
    @gateway_option
    @click.argument("user")
    @click.option("--task", default="digits", show_default=True, help="Which task.")
    @output_option
    @click.pass_obj
    def command(session: Session, user: str, task: str, output: str) -> None:
        from orchestrator.cli.output import print_json

        with session.client() as client:
            status = client.personal(user, verb, task=task)
        if output == "json":
            print_json(asdict(status))
        else:
            click.echo(_text(status))

    return command


for _verb, _help in VERBS.items():
    personalize.add_command(_command(_verb, _help))


def _text(status: PersonalStatus) -> str:
    from orchestrator.cli.output import safe

    lines = [f"home      {status.node}", f"state     {status.state}"]
    if status.expert:
        own = f"{status.tier}, version {status.version}" if status.version else "nothing of the user's own yet"
        lines.append(f"expert    {status.expert}: {own}")
        lines.append(f"learned   corrections: {status.corrections}; training: {status.training_energy_j:.3g} J")
    if status.judged:
        lines.append(
            f"judged    right on {status.local_fraction:.1%} of {status.judged} corrections it had not learned from,"
            f" the global expert on {status.global_fraction:.1%}; generic loss {status.generic_drop_fraction:.2%}"
        )
    if status.file:
        lines.append(f"written   {status.file}")
    return "\n".join(map(safe, lines))
