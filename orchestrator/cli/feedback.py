"""`edgewise feedback`: how good an answer was."""

from __future__ import annotations

import click

from orchestrator.cli.context import Session, gateway_option


@click.command(short_help="Say how good an answer was.")
@gateway_option
@click.argument("request_id")
@click.argument("score", type=click.FloatRange(0.0, 1.0))
@click.pass_obj
def feedback(session: Session, request_id: str, score: float) -> None:
    """Say how good the answer to REQUEST_ID was: SCORE is 1 for a right one, 0 for a wrong one.

    The guard of the gate learns from it (settings guard.*): a gate that is not worth its joules is set aside.
    """
    with session.client() as client:
        counted = client.feedback(request_id, score)
    if not counted:
        session.note("noted; it was not part of a comparison, or was told before")
