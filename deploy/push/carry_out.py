"""Carries a plan out on a machine, step by step; what cannot be verified is rolled back."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from deploy.errors import DeployError
from deploy.push import facts
from deploy.push.facts import Machine, Python, Service, Standing
from deploy.push.plan import Layout, Plan, Source, Step, Wish, layout_of, make_plan, node_name
from deploy.push.ssh import Transport

HAND = (Path(__file__).parent / "host.py").read_text()
# A session of ssh may lack what systemctl needs to find the user's manager.
RUNTIME_DIR = "XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-/run/user/$(id -u)}"
VERB_S = 900.0


@dataclass(frozen=True)
class Verified:
    """What the gateway says of a node."""

    node: str
    state: str
    version: str
    arm: str
    request_id: str


class Gateway(Protocol):
    """The gateway that nodes are to join, as its operator sees it. Blocks."""

    def token(self, name: str) -> str:
        """A token good for this name, once."""

    def verify(self, name: str, version: str) -> Verified:
        """See the node healthy with this version and have it answer one query.

        Raises:
            DeployError: It does not come, or does not answer.
        """


@dataclass(frozen=True)
class Done:
    """How a machine stands after a push.

    Attributes:
        done: Verbs of the steps that changed something.
        notes: What steps had to say.
        verified: None where nobody was asked.
    """

    host: str
    name: str
    release: str
    service: str
    done: tuple[str, ...]
    notes: tuple[str, ...]
    agent_pid: int | None
    tree_sha256: str
    verified: Verified | None


@dataclass(frozen=True)
class Orders:
    """What the user wants of every machine.

    Attributes:
        python: Interpreter on the machine, by path.
        service: Who is to keep the agent running; None for the best that is there.
        token: A token that the user made; None makes one where it is needed.
        verify: Whether the gateway is asked in the end.
        dry: Only say what would be done.
    """

    source: Source
    wish: Wish
    python: str | None = None
    service: Service | None = None
    token: str | None = None
    verify: bool = True
    dry: bool = False


@dataclass
class Push:
    """One machine on its way to being a node."""

    transport: Transport
    gateway: Gateway
    orders: Orders
    say: Callable[[str], None]
    _python: str = ""
    _params: dict[str, Any] = field(default_factory=dict)

    def run(self) -> Done:
        """Probe, plan, and do what is due.

        Raises:
            DeployError: A step failed; everything before it stays, and the next push goes on from there.
        """
        machine = facts.look(self.transport, self.orders.python)
        self._check_machine(machine)
        wish = self.orders.wish
        self.orders = replace(self.orders, wish=wish if wish.name else replace(wish, name=node_name(machine.host)))
        layout = layout_of(machine, machine.service(self.orders.service))
        plan, found = self._plan(machine, layout)
        if layout.service is Service.USER and not machine.linger:
            user = machine.user
            self.say(f"  hint: sudo loginctl enable-linger {user}, or the agent ends when {user} logs out")
        done, notes, verified = self._carry_out(plan, found)
        stands = Done(
            host=self.transport.target,
            name=self.orders.wish.name,
            release=self.orders.source.release,
            service=layout.service.value,
            done=done,
            notes=notes,
            agent_pid=None,
            tree_sha256="",
            verified=verified,
        )
        if self.orders.dry:
            return stands
        return replace(stands, agent_pid=self._still_there(plan), tree_sha256=str(self._call("tree")["sha256"]))

    def _check_machine(self, machine: Machine) -> None:
        wanted = self.orders.source.machine
        if machine.machine != wanted:
            why = f"what is to be installed is for {wanted}, and {machine.host} is {machine.machine}"
            cure = f"edgewise deploy bundle --platform {machine.machine}, then push it with --bundle"
            raise DeployError("wrong processor", why, cure)

    def _plan(self, machine: Machine, layout: Layout) -> tuple[Plan, Standing]:
        self._params = layout.params()
        python, found = self._inspect(machine, layout)
        source, wish = self.orders.source, self.orders.wish
        plan = make_plan(source=source, wish=wish, layout=layout, machine=machine, python=python, found=found)
        self._params = self._all_params(plan, layout, python=python)
        return plan, found

    def _inspect(self, machine: Machine, layout: Layout) -> tuple[Python, Standing]:
        """The Python that the agent is to run on, and how far the machine is, as another one sees it if need be."""
        source, named, brought = self.orders.source, self.orders.python, self._brought(layout)
        if brought is None or named is not None:
            python = facts.choose_python(machine, minor=source.minor, named=named)
            self._python = python.path
        else:
            python = Python(tuple(int(part) for part in (source.minor or "3").split(".")), brought)
            hands = [there.path for there in machine.pythons if there.version >= facts.OLDEST_PYTHON]
            if not hands:
                return python, facts.NOTHING
            self._python = brought if brought in hands else hands[0]
        return python, facts.standing(self._call("inspect"))

    def _brought(self, layout: Layout) -> str | None:
        if self.orders.source.python is None:
            return None
        return f"{layout.base}/python/{self.orders.source.python[1][:12]}/python/bin/python3"

    def _all_params(self, plan: Plan, layout: Layout, *, python: Python) -> dict[str, Any]:
        source, wish = self.orders.source, self.orders.wish
        return {
            **layout.params(),
            "release": source.release,
            "sent": f"{layout.base}/incoming/{source.release}/{source.file.name}",
            "offline": source.offline,
            "extras": ",".join(source.extras),
            "python": python.path,
            "name": wish.name,
            "url": wish.gateway,
            "settings_text": plan.settings_text,
            "unit_text": plan.unit_text,
            "deployment": plan.deployment,
        }

    def _carry_out(self, plan: Plan, found: Standing) -> tuple[tuple[str, ...], tuple[str, ...], Verified | None]:
        done: list[str] = []
        notes: list[str] = []
        verified = None
        for number, step in enumerate(plan.steps, 1):
            if step.verb == "verify" and not self.orders.verify:
                step = replace(step, text="not verified, as asked", due=False)
            mark = ("would " if self.orders.dry else "") if step.due else "already: "
            self.say(f"  {number}. {mark}{step.text}")
            if self.orders.dry or not step.due:
                continue
            try:
                if step.verb == "verify":
                    verified = self.gateway.verify(self.orders.wish.name, self.orders.source.version)
                    self.say(f"     {verified.arm} answered {verified.request_id}")
                    continue
                note = self._do(step, found)
            except DeployError as error:
                # From here on the machine is not as it was.
                raise self._undone(error, found, changed="start" in (step.verb, *done)) from error
            if note:
                notes.append(note)
                self.say(f"     {note}")
            done.append(step.verb)
        return tuple(done), tuple(notes), verified

    def _do(self, step: Step, found: Standing) -> str:
        params: dict[str, Any] = {}
        match step.verb:
            case "send":
                self.transport.send(self.orders.source.file, self._params["sent"])
                return ""
            case "unpack":
                self._unpack_python()
                return ""
            case "join":
                params["token"] = self.orders.token or self.gateway.token(self.orders.wish.name)
            case "prune":
                params["keep"] = [self._params["release"], found.current or ""]
        self._python = self._python or self._params["python"]
        return str(self._call(step.verb, **params)["note"])

    def _unpack_python(self) -> None:
        path, digest = self.orders.source.python or ("", "")
        sent, name = shlex.quote(self._params["sent"]), shlex.quote(path)
        base = shlex.quote(f"{self._params['base']}/python/{digest[:12]}")
        part, packed = f"{base}.part", f"{base}.packed"
        command = (
            f"rm -rf {part} && mkdir -p {part} && tar -xOf {sent} {name} > {packed}"
            f" && echo {digest}'  '{packed} | sha256sum -c --quiet && tar -xzf {packed} -C {part}"
            f" && rm -rf {packed} {base} && mv {part} {base}"
        )
        reply = self.transport.run(command)
        if reply.code:
            why = " ".join(reply.stderr.split()) or f"code {reply.code}"
            raise DeployError("Python not unpacked", why, "make the bundle anew with another --standalone-python")

    def _undone(self, error: DeployError, found: Standing, *, changed: bool) -> DeployError:
        """The error of a step; where another release ran before, that one is put back first."""
        before = found.current
        if not changed:
            return error
        # A start that failed has said what the log says.
        said = error.why if "its log ends" in error.why else f"{error.why}; {self._call('log')['tail']}"
        if before is None or before == self._params["release"]:
            return DeployError(error.what, said, error.cure, exit_code=error.exit_code)
        self._roll_back(found, before)
        why = f"{said}; {before} runs again"
        return DeployError(f"{error.what}, rolled back", why, error.cure, exit_code=error.exit_code)

    def _roll_back(self, found: Standing, before: str) -> None:
        self.say(f"     not verified: back to {before}")
        self._call("configure", settings_text=found.settings or "", unit_text=found.unit)
        former = dict(line.partition("=")[::2] for line in (found.settings or "").splitlines())
        self._call("start", release=before, deployment=former.get("EDGEWISE_DEPLOYMENT", ""))

    def _still_there(self, plan: Plan) -> int:
        """The agent's pid; that it lives in the end, too, says that it does not fall over and over."""
        agent = self._call("inspect")["agent"]
        if agent is None or agent["deployment"] != plan.deployment:
            raise DeployError("agent gone", str(self._call("log")["tail"]), "repair that, then push again")
        return int(agent["pid"])

    def _call(self, verb: str, **params: Any) -> dict[str, Any]:
        script = f"{HAND}\nmain({verb!r}, {json.dumps({**self._params, **params})!r})\n"
        command = f"{RUNTIME_DIR} PYTHONDONTWRITEBYTECODE=1 {shlex.quote(self._python)} -"
        reply = self.transport.run(command, stdin=script.encode(), timeout_s=VERB_S)
        try:
            answer = json.loads(reply.stdout.splitlines()[-1])
        except (IndexError, ValueError) as error:
            last = next((line for line in reversed(reply.stderr.splitlines()) if line.strip()), f"code {reply.code}")
            why = f"{self._python} on {self.transport.target}: {last.strip()}"
            raise DeployError(f"{verb} failed", why, "name another interpreter with --python") from error
        if "trouble" in answer:
            what, why, cure = answer["trouble"]
            raise DeployError(what, f"{self.transport.target}: {why}", cure)
        return dict(answer)
