"""`edgewise feedback`: how good an answer was, or what it should have been."""

from __future__ import annotations

import click

from orchestrator.cli.context import Session, gateway_option


@click.command(short_help="Say how good an answer was, or what was right.")
@gateway_option
@click.argument("request_id")
@click.argument("score", type=click.FloatRange(0.0, 1.0), required=False)
@click.option("--label", help="The right label, for the expert of the user whom the request carried.")
@click.pass_obj
def feedback(session: Session, request_id: str, score: float | None, label: str | None) -> None:
    """Say how good the answer to REQUEST_ID was: SCORE is 1 for a right one, 0 for a wrong one.

    The guard of the gate learns from it (settings guard.*): a gate that is not worth its joules is set aside. It is
    also kept for `edgewise gate train --feedback` (settings feedback.*).

    With --label instead of SCORE it is a correction: the home node of the request's user learns from it.
    """
    if (score is None) == (label is None):
        raise click.UsageError("give either SCORE or --label")
    with session.client() as client:
        if label is not None:
            status = client.correct(request_id, label)
            own = f"{status.tier} expert, version {status.version}" if status.version else "no expert of their own yet"
            session.note(f"corrections so far: {status.corrections}; {own}")
            return
        counted = client.feedback(request_id, score or 0.0)
    if not counted:
        session.note("noted; it was not part of a comparison, or was told before")
