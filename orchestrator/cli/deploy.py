"""`edgewise deploy`: hands over to `python -m deploy`, as nothing here imports that folder."""

from __future__ import annotations

import os
import sys

import click

from orchestrator.cli.node import PASS_THROUGH

VERBS = {
    "push": "Make machines nodes of a gateway, over ssh.",
    "bundle": "Write one file for machines without the internet.",
    "inspect": "Check a bundle and print its manifest.",
    "service": "Write a hardened unit of systemd for a node or a gateway here.",
    "files": "Say where units, container files, manifests and examples lie.",
}


@click.group(short_help="Put agents and gateways on real machines.")
def deploy() -> None:
    """Put agents and gateways on real machines: over ssh, under systemd, in containers."""


def hand_over(*arguments: str) -> None:
    """Become the command of the folder `deploy`: arguments, exit code and signals are its business."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", "deploy", *arguments])  # noqa: S606 (no shell wanted)


def _verb(name: str, text: str) -> click.Command:
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def run(arguments: tuple[str, ...]) -> None:
        hand_over(name, *arguments)

    return click.command(name, context_settings=PASS_THROUGH, short_help=text, help=text)(run)


for _name, _text in VERBS.items():
    deploy.add_command(_verb(_name, _text))
