"""What runs on the machine that is to be a node: one file of the standard library, sent to its Python on stdin.

Each verb takes and gives plain values, leaves alone what is as it should be, and can be repeated after any crash: a
release counts only once its mark is written, `current` is replaced in one step, and what runs is known by the
deployment in its environment, not by a note about it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

MARK = ".complete"
UNIT = "edgewise-node.service"
STOP_S, START_S, POLL_S = 50.0, 30.0, 0.1
TAIL_LINES = 4
CHUNK_BYTES = 1 << 20
AGAIN = "repair that, then push again"

Params = dict[str, Any]


class Trouble(Exception):
    """What failed, why, and what to do."""


def inspect(p: Params) -> Params:
    """What is there."""
    base = Path(p["base"])
    releases = sorted(mark.parent.name for mark in (base / "releases").glob(f"*/{MARK}"))
    current = base / "current"
    identities = {}
    for about in sorted(Path(p["identities"]).glob("*/node.json")):
        key = about.parent / "node.pem"
        if key.exists():
            age_s = time.time() - key.stat().st_mtime
            identities[about.parent.name] = {"gateway": json.loads(about.read_text())["gateway"], "age_s": age_s}
    return {
        "releases": releases,
        "current": os.readlink(current).rpartition("/")[2] if current.is_symlink() else None,
        "identities": identities,
        "settings": _text(p["settings"]),
        "unit": _text(p["unit"]) if p.get("unit") else None,
        "agent": agent(p),
        "free_bytes": shutil.disk_usage(_existing(base)).free,
    }


def install(p: Params) -> Params:
    """Make a release: a virtual environment with the wheels that were sent, or that the index has."""
    release = Path(p["base"]) / "releases" / p["release"]
    if (release / MARK).exists():
        return {"note": "was there"}
    sent = Path(p["sent"])
    wheels, manifest = _unpack(sent) if p["offline"] else (sent.parent, {})
    python = p["python"]
    shutil.rmtree(release, ignore_errors=True)
    release.parent.mkdir(parents=True, exist_ok=True)
    note = _fits(manifest, python) if manifest else ""
    if p["offline"]:
        _run([python, "-m", "venv", "--without-pip", str(release)], "virtual environment not made")
        installer = [f"{next(wheels.glob('pip-*.whl'))}/pip"]
        source = ["--no-index", "--find-links", str(wheels), f"edgewise[{p['extras']}]=={manifest['version']}"]
    else:
        _run([python, "-m", "venv", str(release)], "virtual environment not made", cure="use a bundle (no ensurepip)")
        installer = ["-m", "pip"]
        source = [f"edgewise[{p['extras']}] @ {sent.as_uri()}"]
    quiet = ["install", "--quiet", "--disable-pip-version-check", "--no-warn-script-location"]
    _run([str(release / "bin/python"), *installer, *quiet, *source], "packages not installed", cure="use a bundle")
    if manifest.get("models"):
        shutil.copytree(wheels.parent / manifest["models"], release / "models")
    _write(release / MARK, json.dumps({"release": p["release"], "python": python}), 0o644)
    shutil.rmtree(sent.parent)
    return {"note": note}


def join(p: Params) -> Params:
    """Become a node of the gateway; the token comes in by the environment and is seen nowhere."""
    command = Path(p["base"]) / "releases" / p["release"] / "bin/edgewise"
    folder = Path(p["identities"]) / p["name"]
    words = [str(command), "node", "join", p["url"], "--name", p["name"], "--identity", str(folder), "--no-run"]
    environment = {"EDGEWISE_NODE_TOKEN": p["token"], "PYTHONDONTWRITEBYTECODE": "1"}
    cure = "see deploy/docs/identity.md; a token is good once, for a quarter of an hour"
    _run(words, "not joined", cure=cure, environment=environment)
    return {"note": str(folder)}


def configure(p: Params) -> Params:
    """Write settings and unit."""
    for name, mode in (("settings", 0o600), ("unit", 0o644)):
        if p.get(name) and _text(p[name]) != p[f"{name}_text"]:
            _write(Path(p[name]), p[f"{name}_text"], mode)
    if p["service"] != "supervisor":
        _run([*_systemctl(p), "daemon-reload"], "systemd did not read its units again")
    return {"note": p["settings"]}


def start(p: Params) -> Params:
    """Point `current` at the release, end what runs (it drains), start it, and wait until its process is there."""
    base = Path(p["base"])
    draft = base / f".current.{os.getpid()}"
    draft.symlink_to(Path("releases") / p["release"])
    draft.replace(base / "current")
    if p["service"] == "supervisor":
        _end_supervisor(p)
        _begin_supervisor(p)
    else:
        _run([*_systemctl(p), "enable", UNIT], "service not enabled")
        _run([*_systemctl(p), "restart", UNIT], "service not started", cure=f"look at journalctl -u {UNIT}")
    until_s = time.monotonic() + START_S
    while time.monotonic() < until_s:
        found = agent(p)
        if found and found["deployment"] == p["deployment"]:
            return {"note": f"pid {found['pid']}", "pid": found["pid"]}
        time.sleep(POLL_S)
    raise Trouble("agent not started", f"no process within {START_S:g} s; {_tail(p)}", AGAIN)


def prune(p: Params) -> Params:
    """Remove releases other than those named, and what was left of transfers."""
    base = Path(p["base"])
    old = [path for path in (base / "releases").iterdir() if path.name not in p["keep"]]
    marks = [base / "releases" / name / MARK for name in p["keep"] if name]
    kept = [json.loads(mark.read_text())["python"] for mark in marks if mark.exists()]
    unused = [path for path in base.glob("python/*") if not any(str(path) in python for python in kept)]
    for path in [*old, *unused, base / "incoming"]:
        shutil.rmtree(path, ignore_errors=True)
    return {"note": f"{len(old)} removed"}


def tree(p: Params) -> Params:
    """SHA-256 over all that a push puts here: names, modes, times of change, contents; not what the agent writes."""
    state = hashlib.sha256()
    base = Path(p["base"])
    roots = [base / name for name in ("current", "releases", "python")]
    roots += [Path(p[name]) for name in ("identities", "settings", "unit") if p.get(name)]
    for path in _walk(roots):
        about = path.lstat()
        content = os.readlink(path) if path.is_symlink() else _digest(path) if path.is_file() else ""
        state.update(f"{path}\0{about.st_mode:o}\0{about.st_mtime_ns}\0{content}\n".encode())
    return {"sha256": state.hexdigest()}


def log(p: Params) -> Params:
    """The last lines that the agent said."""
    return {"tail": _tail(p)}


# ---- what runs


def agent(p: Params) -> Params | None:
    """Pid and deployment of the agent's process; None where none runs."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        pid = _supervised(p)["agent"] if p["service"] == "supervisor" else _main_pid(p)
        pairs = (part.partition(b"=") for part in Path(f"/proc/{int(pid)}/environ").read_bytes().split(b"\0"))
        found = {name: value.decode() for name, _, value in pairs if name == b"EDGEWISE_DEPLOYMENT"}
        return {"pid": int(pid), "deployment": next(iter(found.values()), "")}
    return None


def _supervised(p: Params) -> Params:
    found = json.loads((_folder(p) / "pids.json").read_text())
    # A note that outlived its writer (a crash of the machine) counts for nothing.
    command = Path(f"/proc/{found['supervisor']}/cmdline").read_bytes()
    if b"deploy.supervisor" not in command:
        raise ValueError(command)
    return dict(found)


def _main_pid(p: Params) -> int:
    done = subprocess.run([*_systemctl(p), "show", "-p", "MainPID", "--value", UNIT], capture_output=True, text=True)
    if (pid := int(done.stdout)) == 0:
        raise ValueError("nothing runs")
    return pid


def _end_supervisor(p: Params) -> None:
    with contextlib.suppress(OSError, ValueError, KeyError):
        pid = int(_supervised(p)["supervisor"])
        os.kill(pid, signal.SIGTERM)
        until_s = time.monotonic() + STOP_S
        while _lives(pid) and time.monotonic() < until_s:
            time.sleep(POLL_S)
        if _lives(pid):
            raise Trouble("agent not stopped", f"process {pid} is still there after {STOP_S:g} s", f"kill {pid}")


def _lives(pid: int) -> bool:
    # One that ended and that nobody has waited for yet has an empty command line.
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


def _begin_supervisor(p: Params) -> None:
    current, folder = Path(p["base"]) / "current" / "bin", _folder(p)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    words = [str(current / "python"), "-m", "deploy.supervisor", "--folder", str(folder)]
    command = ["--environment", p["settings"], "--", str(current / "edgewise"), "node", "run"]
    with (folder / "log").open("ab") as stream:
        subprocess.Popen(
            [*words, *command],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
            cwd="/",
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )


def _folder(p: Params) -> Path:
    return Path(p["base"]) / "run" / "node"


def _systemctl(p: Params) -> list[str]:
    return ["systemctl", "--user"] if p["service"] == "user" else ["systemctl"]


def _tail(p: Params) -> str:
    if p["service"] == "supervisor":
        lines = (_text(str(_folder(p) / "log")) or "").splitlines()
    else:
        words = ["journalctl", *(["--user"] if p["service"] == "user" else []), "-u", UNIT, "-n", str(TAIL_LINES)]
        lines = subprocess.run(words, capture_output=True, text=True).stdout.splitlines()
    return "its log ends: " + " | ".join(line.strip() for line in lines[-TAIL_LINES:] if line.strip())


# ---- what is unpacked


def _unpack(sent: Path) -> tuple[Path, Params]:
    """Unpack a bundle beside itself, each file checked against the manifest before anything of it is used."""
    folder = sent.with_suffix("")
    shutil.rmtree(folder, ignore_errors=True)
    with tarfile.open(sent, "r:") as archive:
        first = archive.extractfile("manifest.json")
        manifest = json.loads(first.read()) if first else {}
        for entry in manifest["files"]:
            path, stream = entry["path"], archive.extractfile(entry["path"])
            inside = path.split("/")[0] in ("wheels", "models", "python") and ".." not in path.split("/")
            if stream is None or not inside or _copy(stream, folder / path) != entry["sha256"]:
                cure = "push again; if it happens again, make the bundle anew"
                raise Trouble("bundle refused", f"{path} is not what its manifest says", cure)
    return folder / "wheels", manifest


def _fits(manifest: Params, python: str) -> str:
    """Refuses a bundle for other machines; says where compiled parts will not load."""
    version = _run([python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], "Python does not run").strip()
    for what, here in (("machine", os.uname().machine), ("python", version)):
        if manifest[what] != here:
            cure = f"make another: edgewise deploy bundle --platform {os.uname().machine} --python {version}"
            raise Trouble("bundle refused", f"it is for {what} {manifest[what]}, and this is {here}", cure)
    glibc = (os.confstr("CS_GNU_LIBC_VERSION") or "glibc 0").split()[-1]
    if _number(manifest["glibc"]) > _number(glibc):
        raise Trouble(
            "bundle refused", f"its wheels need glibc {manifest['glibc']}, here is {glibc}", "use a newer system"
        )
    if not manifest["native"]:
        return "without compiled parts: slower samplers, no kernels"
    late = _number(manifest["native_glibc"]) > _number(glibc)
    return f"compiled parts need glibc {manifest['native_glibc']}, here is {glibc}: they stay unused" if late else ""


# ---- small change


def _run(words: list[str], what: str, *, cure: str = AGAIN, environment: Params | None = None) -> str:
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, **(environment or {})})
    if done.returncode:
        said = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise Trouble(what, said[-1] if said else f"{words[0]} ended with code {done.returncode}", cure)
    return done.stdout


def _walk(roots: list[Path]) -> Iterator[Path]:
    for root in sorted(roots):
        if root.is_symlink() or root.is_file():
            yield root
        elif root.is_dir():
            yield root
            yield from _walk(list(root.iterdir()))


def _copy(stream: Any, target: Path) -> str:
    state = hashlib.sha256()
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as out:
        while chunk := stream.read(CHUNK_BYTES):
            state.update(chunk)
            out.write(chunk)
    return state.hexdigest()


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _text(file: str) -> str | None:
    try:
        return Path(file).read_text()
    except OSError:
        return None


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)


def _write(file: Path, text: str, mode: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.tmp")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as stream:
        stream.write(text)
    draft.replace(file)


VERBS: dict[str, Callable[[Params], Params]] = {
    verb.__name__: verb for verb in (inspect, install, join, configure, start, prune, tree, log)
}


def main(verb: str, params: str) -> None:
    """Carry out one verb; one line of JSON says what came of it."""
    try:
        answer = VERBS[verb](json.loads(params))
    except Trouble as trouble:
        answer = {"trouble": list(trouble.args)}
    except OSError as error:
        why = f"{error.filename or verb}: {(error.strerror or 'unknown cause').lower()}"
        answer = {"trouble": [f"{verb} failed", why, AGAIN]}
    sys.stdout.write(json.dumps(answer) + "\n")
