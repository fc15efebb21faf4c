"""A throw-away PostgreSQL server for development: ``python -m deploy.postgres`` runs one until Ctrl-C.

Made from the system's packages (`initdb`, `pg_ctl`), in a temporary folder, on a Unix socket only: nothing listens on
the network and nothing is left behind. The server refuses to run as root, so root starts it as the user `postgres`.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

USER = "postgres"
START_S = 60


def programs() -> Path | None:
    """The folder that holds `initdb` and `pg_ctl`, newest version first; None where PostgreSQL is not installed."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: -float(path.parent.name))
    on_path = shutil.which("initdb")
    candidates = [*folders, *([Path(on_path).parent] if on_path else [])]
    return next((path for path in candidates if (path / "initdb").exists() and (path / "pg_ctl").exists()), None)


def _owner() -> str | None:
    """The user that the server runs as; None for the present one."""
    return USER if os.geteuid() == 0 else None


def available() -> str:
    """Why no server can be started; "" where one can."""
    if programs() is None:
        return "PostgreSQL is not installed (Debian: apt install postgresql)"
    if os.geteuid() == 0:
        try:
            pwd.getpwnam(USER)
        except KeyError:
            return f"root cannot run PostgreSQL, and there is no user {USER}"
    return ""


@contextlib.contextmanager
def server() -> Iterator[str]:
    """A running server; yields how to reach it, as libpq writes it.

    Raises:
        RuntimeError: None can be started; says why.
    """
    found, why = programs(), available()
    if found is None or why:
        raise RuntimeError(why)
    with tempfile.TemporaryDirectory(prefix="edgewise-pg-") as folder:
        if (owner := _owner()) is not None:
            shutil.chown(folder, owner)
        data = Path(folder) / "data"
        _run(
            found / "initdb",
            "-D",
            data,
            "-U",
            "edgewise",
            "--auth=trust",
            "-E",
            "UTF8",
            "--no-instructions",
            cwd=folder,
        )
        options = f"-c listen_addresses= -c unix_socket_directories={folder}"
        log = Path(folder) / "log"
        _run(found / "pg_ctl", "-D", data, "-o", options, "-l", log, "-w", "-t", START_S, "start", cwd=folder)
        try:
            yield f"host={folder} user=edgewise dbname=postgres"
        finally:
            _run(found / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop", cwd=folder)


def _run(*command: object, cwd: str) -> None:
    owner = _owner()
    # Not `user=`: for that Python forks, and gRPC's threads of this process may end what is forked before it begins.
    become = () if owner is None else ("setpriv", "--reuid", owner, "--regid", owner, "--clear-groups")
    done = subprocess.run(
        [*become, *(str(part) for part in command)],
        cwd=cwd,
        env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=2 * START_S,
        start_new_session=True,
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]}: {done.stdout.strip()[-500:]}")


def main() -> None:
    """Run one until a signal comes."""
    with server() as conninfo:
        print(f"PostgreSQL runs; give it to the gateway as\n  EDGEWISE_LEDGER__POSTGRES='{conninfo}'\nCtrl-C ends it.")
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    main()
