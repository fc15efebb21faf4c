"""`compile`: make compiled forms now; `cache`: see, check and clear what is kept."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nodes.errors import ConfigError, ExitCode

if TYPE_CHECKING:
    from nodes.compile.cache import Entry
    from nodes.compile.pipeline import Compiled

FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)
MIB = 1024 * 1024
CACHE = click.option("--cache", "folder", type=FOLDER, metavar="DIR", help="Folder of compiled files.")
OUTPUT = click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)


@click.command(name="compile", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("forms", nargs=-1, metavar="FORMS…")
@click.option("--experts", metavar="A,B,…", help="Experts to compile.  [default: all in the catalogue]")
@click.option("--models", type=FOLDER, metavar="DIR", help="Folder of experts.  [default: those that ship]")
@click.option("--onnx", type=FILE, metavar="FILE", help="Compile this model instead of experts.")
@click.option("--from-torch", metavar="MODULE:FACTORY", help="Export this PyTorch model to --onnx first.")
@click.option("--weights", type=FILE, metavar="FILE", help="Its weights (.safetensors).")
@click.option("--inputs", type=FILE, metavar="FILE", help="Arrays (.npz) by input name, and labels, of --onnx.")
@click.option("--loss-points", type=click.FloatRange(0, 100), default=0.5, show_default=True, help="Allowed loss.")
@click.option("--target", default="", metavar="X.Y", help="Compute capability to build rtx forms for, without a GPU.")
@click.option("--worker-python", type=FILE, metavar="PATH", help="Interpreter that runs the models.  [default: this]")
@click.option("--gpu-python", type=FILE, metavar="PATH", help="Interpreter for forms on a GPU, such as JetPack's own.")
@click.option("--cache-mib", type=click.IntRange(1), default=2048, show_default=True, help="What files may take.")
@CACHE
@OUTPUT
def compile_forms(forms: tuple[str, ...], output: str, **given: Any) -> None:
    """Make compiled forms and check them against the float model; a node's --compile finds them kept.

    FORMS are auto, or RUNTIME[-PRECISION][@BATCHES], such as ort, int8, rtx-fp16@1-16. The first half of --inputs
    calibrates, the rest checks. Without FORMS, --from-torch only exports.
    """
    from nodes.compile.jobs import compiled_files, exported
    from nodes.log import set_up_log

    set_up_log("console")
    if given["from_torch"] is not None:
        click.echo(exported(given), err=True)
        if not forms:
            return
    if not forms:
        raise ConfigError("compile: name at least one form, such as int8 or auto")
    rows = [_row(name, compiled) for name, compiled in compiled_files(forms, given, progress=_tell)]
    _print(output, ("arm", "loss_points", "changed", "bytes", "seconds", "made", "file"), rows)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cache() -> None:
    """Compiled files of this node: see them, check their seals, delete them."""


@cache.command(name="list")
@CACHE
@OUTPUT
def list_entries(folder: Path | None, output: str) -> None:
    """List what is kept, the longest unused first."""
    from nodes.compile.cache import Entry

    rows = [_kept(name, found) for name, found in _verified(folder) if isinstance(found, Entry)]
    _print(output, ("name", "arm", "runtime", "version", "device", "bytes", "used"), rows)


@cache.command()
@CACHE
@OUTPUT
def verify(folder: Path | None, output: str) -> None:
    """Check every seal; the exit code is not 0 where one does not hold."""
    from nodes.compile.cache import Entry

    found = list(_verified(folder))
    rows = [{"name": name, "ok": isinstance(one, Entry), "detail": _detail(one)} for name, one in found]
    _print(output, ("name", "ok", "detail"), rows)
    if not all(row["ok"] for row in rows):
        sys.exit(ExitCode.ENGINE_FAILED)


@cache.command()
@CACHE
@click.option("--to-mib", type=click.IntRange(0), default=0, show_default=True, help="Keep the last used up to this.")
@click.option("--bad", is_flag=True, help="Delete only what does not verify.")
def prune(folder: Path | None, to_mib: int, bad: bool) -> None:
    """Delete compiled files; what is needed again is made again."""
    from nodes.compile.cache import Entry
    from nodes.compile.room import open_cache
    from nodes.log import set_up_log

    set_up_log("console")
    opened = open_cache(folder, 1)
    gone = [name for name, found in opened.verify() if not isinstance(found, Entry)]
    for name in gone:
        opened.delete(name)
    if not bad:
        gone += opened.shrink(to_mib * MIB)
    click.echo(f"{len(gone)} deleted")


def _verified(folder: Path | None) -> Any:
    from nodes.compile.room import open_cache

    return open_cache(folder, 1).verify()


def _detail(found: Any) -> str:
    return str(getattr(found, "message", "seal holds"))


def _kept(name: str, entry: Entry) -> dict[str, Any]:
    about, facts = entry.purpose, entry.facts
    used_unix_s = (entry.folder / "seal.json").stat().st_mtime
    return {
        "name": name[:12],
        "arm": f"{facts['name']}:{facts['variant']}",
        "runtime": about["runtime"],
        "version": about["version"],
        "device": about["device"][:24],
        "bytes": entry.size_bytes,
        "used": time.strftime("%Y-%m-%d %H:%M", time.localtime(used_unix_s)),
    }


def _row(name: str, compiled: Compiled) -> dict[str, Any]:
    comparison = compiled.comparison
    return {
        "arm": f"{name}:{compiled.form.variant}",
        "loss_points": "not run" if comparison is None else round(comparison.loss_points, 3),
        "changed": "not run" if comparison is None else f"{comparison.changed_fraction:.2%}",
        "bytes": compiled.entry.size_bytes,
        "seconds": round(compiled.seconds, 2),
        "made": "now" if compiled.entry.made else "kept",
        "file": str(compiled.entry.file),
    }


def _tell(step: str) -> None:
    click.echo(step, err=True)


def _print(output: str, keys: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    if output == "json":
        click.echo(json.dumps(rows, indent=2))
        return
    lines = [list(keys), *([str(row[key]) for key in keys] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(keys))]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
