"""`edgewise completion`: scripts that teach a shell our verbs and options."""

from __future__ import annotations

import click

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    \b
      bash:  edgewise completion bash > ~/.local/share/bash-completion/completions/edgewise
      zsh:   edgewise completion zsh > "${fpath[1]}/_edgewise"
      fish:  edgewise completion fish > ~/.config/fish/completions/edgewise.fish
    """
    from click.shell_completion import BashComplete, FishComplete, ZshComplete

    kinds = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}
    root = ctx.find_root().command
    click.echo(kinds[shell](root, {}, "edgewise", "_EDGEWISE_COMPLETE").source())
