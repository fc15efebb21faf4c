"""What a push does on a machine, step by step, and what it leaves alone; the machine is a fake."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deploy.errors import DeployError
from deploy.push.carry_out import Done, Orders, Push
from deploy.push.facts import Service
from deploy.push.plan import Source, Wish
from orchestrator.errors import ExitCode
from tests.fakes.host import PROBED, FakeGateway, FakeHost

EVERY = ("send", "install", "join", "configure", "start", "prune")


@pytest.fixture
def orders(tmp_path: Path) -> Orders:
    file = tmp_path / "first.tar"
    file.write_bytes(b"wheels")
    source = Source(file, "0.1.0-aaa", "0.1.0", True, "3.11", "x86_64")
    return Orders(source, Wish("kitchen", "https://gw:8420", {"EDGEWISE_NODE_PROFILE": "laptop-cpu"}))


def push(host: FakeHost, orders: Orders, gateway: FakeGateway | None = None) -> Done:
    return Push(host, gateway or FakeGateway(), orders, lambda _: None).run()


def later(orders: Orders, version: str = "0.2.0") -> Orders:
    return replace(orders, source=replace(orders.source, release=f"{version}-bbb", version=version))


def said(host: FakeHost, orders: Orders) -> str:
    lines: list[str] = []
    Push(host, FakeGateway(), orders, lines.append).run()
    return "\n".join(lines)


def test_a_fresh_machine_gets_everything(orders: Orders) -> None:
    host, gateway = FakeHost(), FakeGateway()
    done = push(host, orders, gateway)
    assert done.done == EVERY
    assert (done.name, done.release, done.service, done.agent_pid) == ("kitchen", "0.1.0-aaa", "supervisor", 101)
    assert host.sent == ["/home/ada/.local/share/edgewise/incoming/0.1.0-aaa/first.tar"]
    assert gateway.tokens == ["kitchen"]
    assert host.settings is not None
    assert "EDGEWISE_NODE_PROFILE=laptop-cpu\n" in host.settings
    assert "EDGEWISE_NODE_IDENTITY=/home/ada/.local/share/edgewise/node/kitchen\n" in host.settings
    assert done.verified is not None
    assert done.verified.arm.endswith("@kitchen")


def test_extras_reach_the_machine(orders: Orders) -> None:
    host = FakeHost()
    push(host, replace(orders, source=replace(orders.source, extras=("compile", "node"))))
    assert {shown["extras"] for shown in host.shown if "extras" in shown} == {"compile,node"}


def test_a_second_push_does_nothing(orders: Orders) -> None:
    host, gateway = FakeHost(), FakeGateway()
    first = push(host, orders, gateway)
    host.verbs.clear()
    again = push(host, orders, gateway)
    assert again.done == ()
    assert (again.agent_pid, again.tree_sha256) == (first.agent_pid, first.tree_sha256)
    assert set(host.verbs) <= {"inspect", "tree"}
    assert len(gateway.tokens) == 1


@pytest.mark.parametrize(
    ("broken", "done"),
    [
        ({"agent": None}, ("start",)),
        ({"agent": {"pid": 7, "deployment": "of yesterday"}}, ("start",)),
        ({"settings": "EDGEWISE_NODE_PROFILE=other\n"}, ("configure",)),
        ({"current": "0.0.9-zzz"}, ("start", "prune")),
        ({"identities": {"kitchen": {"gateway": "elsewhere:8422", "age_s": 1.0}}}, ("join",)),
        # A certificate is good for a day; who was away for longer joins again.
        ({"identities": {"kitchen": {"gateway": "gw:8422", "age_s": 90_000.0}}}, ("join",)),
        ({"releases": set[str]()}, ("send", "install")),
    ],
)
def test_only_what_is_not_as_it_should_be_is_repaired(
    orders: Orders, broken: dict[str, object], done: tuple[str, ...]
) -> None:
    host = FakeHost()
    push(host, orders)
    for name, value in broken.items():
        setattr(host, name, value)
    assert push(host, orders).done == done


def test_a_changed_wish_starts_the_agent_anew(orders: Orders) -> None:
    host = FakeHost()
    push(host, orders)
    changed = replace(orders, wish=Wish("kitchen", "https://gw:8420", {"EDGEWISE_NODE_PROFILE": "rtx-4090"}))
    assert push(host, changed).done == ("configure", "start")


def test_a_dry_run_says_every_step_and_changes_nothing(orders: Orders) -> None:
    host = FakeHost()
    text = said(host, replace(orders, dry=True))
    assert text.count("would ") == 7
    assert host.verbs == ["inspect"]
    push(host, orders)
    assert said(host, replace(orders, dry=True)).count("already: ") == 6


def test_an_upgrade_keeps_the_release_before(orders: Orders) -> None:
    host = FakeHost(releases={"0.0.8-old"})
    push(host, orders)
    done = push(host, later(orders))
    assert done.done == ("send", "install", "configure", "start", "prune")
    assert host.releases == {"0.1.0-aaa", "0.2.0-bbb"}
    # Pushed again, the one before stays.
    assert push(host, later(orders)).done == ()
    assert host.releases == {"0.1.0-aaa", "0.2.0-bbb"}


def test_what_does_not_verify_is_rolled_back(orders: Orders) -> None:
    host, gateway = FakeHost(), FakeGateway(well=lambda version: version == "0.1.0")
    push(host, orders, gateway)
    settings, deployment = host.settings, (host.agent or {})["deployment"]
    with pytest.raises(DeployError, match=r"rolled back; .*0\.1\.0-aaa runs again"):
        push(host, later(orders), gateway)
    assert (host.current, host.settings) == ("0.1.0-aaa", settings)
    assert (host.agent or {})["deployment"] == deployment


def test_one_that_does_not_start_is_rolled_back_too(orders: Orders) -> None:
    class Stubborn(FakeHost):
        def _start(self, p: dict[str, Any]) -> dict[str, Any]:
            if p["release"].startswith("0.2.0"):
                return {"trouble": ["agent not started", "its log ends: no such option", "repair that"]}
            return super()._start(p)

    host = Stubborn()
    push(host, orders)
    with pytest.raises(DeployError, match=r"agent not started, rolled back; .*no such option; 0\.1\.0-aaa runs again"):
        push(host, later(orders))
    assert host.current == "0.1.0-aaa"
    # A step before it leaves what runs alone.
    host.trouble["install"] = ("packages not installed", "no space left", "make room")
    host.verbs.clear()
    with pytest.raises(DeployError, match=r"^packages not installed"):
        push(host, later(orders, "0.3.0"))
    assert "start" not in host.verbs


def test_a_first_push_that_does_not_verify_has_nothing_to_go_back_to(orders: Orders) -> None:
    host = FakeHost()
    with pytest.raises(DeployError, match=r"^not verified; .*its log ends: goodbye"):
        push(host, orders, FakeGateway(well=lambda _: False))
    assert host.verbs[-2:] == ["start", "log"]


def test_an_agent_that_fell_meanwhile_is_noticed(orders: Orders) -> None:
    class Falling(FakeGateway):
        def verify(self, name: str, version: str):  # type: ignore[no-untyped-def]
            host.agent = None
            return super().verify(name, version)

    host = FakeHost()
    with pytest.raises(DeployError, match="agent gone"):
        push(host, orders, Falling())


def test_a_step_that_fails_says_what_why_and_what_to_do_and_where(orders: Orders) -> None:
    host = FakeHost(trouble={"install": ("packages not installed", "no space left", "use a bundle")})
    with pytest.raises(DeployError, match=r"^packages not installed; ada@kitchen: no space left; use a bundle$"):
        push(host, orders)
    host.trouble.clear()
    assert push(host, orders).done == EVERY


def test_a_node_without_a_name_takes_its_hosts(orders: Orders) -> None:
    nameless = replace(orders, wish=replace(orders.wish, name=""))
    assert push(FakeHost(), nameless).name == "kitchen.local"


def test_experts_in_the_bundle_are_the_ones_it_offers(orders: Orders) -> None:
    host = FakeHost()
    push(host, replace(orders, source=replace(orders.source, models=True)))
    line = "EDGEWISE_NODE_MODELS=/home/ada/.local/share/edgewise/releases/0.1.0-aaa/models\n"
    assert line in (host.settings or "")
    push(host, orders)
    assert "MODELS" not in (host.settings or "")


def test_a_token_of_the_user_is_used_and_stays_out_of_the_command_lines(orders: Orders) -> None:
    host, gateway = FakeHost(), FakeGateway()
    push(host, replace(orders, token="K10secret"), gateway)
    assert gateway.tokens == []
    assert [params["token"] for params in host.shown if "token" in params] == ["K10secret"]


def test_unverified_when_asked(orders: Orders) -> None:
    done = push(FakeHost(), replace(orders, verify=False), FakeGateway(well=lambda _: False))
    assert done.verified is None


# ---- machines that differ


def test_a_python_that_comes_along_is_unpacked_before_anything_runs_on_it(orders: Orders) -> None:
    probed = PROBED.replace("python=3.11.4 /usr/bin/python3\n", "")
    host = FakeHost(probed=probed)
    path = ("python/cpython.tar.gz", "ab" * 32)
    push(host, replace(orders, source=replace(orders.source, python=path)))
    assert host.verbs[:3] == ["send", "shell", "install"]
    assert host.shown[0]["python"] == f"/home/ada/.local/share/edgewise/python/{'ab' * 6}/python/bin/python3"


def test_a_node_that_gets_a_python_of_its_own_stays_joined(orders: Orders) -> None:
    host = FakeHost()
    push(host, orders)
    path = ("python/cpython.tar.gz", "ab" * 32)
    brought = later(replace(orders, source=replace(orders.source, python=path)))
    assert push(host, brought).done == ("send", "unpack", "install", "configure", "start", "prune")
    # The next release finds it there.
    host.probed += f"python=3.11.9 /home/ada/.local/share/edgewise/python/{'ab' * 6}/python/bin/python3\n"
    assert push(host, later(brought, "0.3.0")).done == ("send", "install", "configure", "start", "prune")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (("python=3.11.4 /usr/bin/python3\n", ""), "looked for Python 3.11 .*found: 3.9.2 at /usr/bin/python3.9"),
        (("3.11.4", "3.12.1"), r"looked for Python 3\.11 .*found: 3.12.1 at /usr/bin/python3; 3.9.2"),
        (("machine=x86_64", "machine=aarch64"), "is for x86_64, and Kitchen.local is aarch64"),
        (("machine=x86_64", "machine=riscv64"), "is Linux on riscv64"),
        (("system=Linux", "system=Darwin"), "is Darwin"),
        (("uid=1000\n", ""), "has no POSIX shell"),
    ],
)
def test_a_machine_that_does_not_fit_is_refused_before_anything_is_sent(
    orders: Orders, change: tuple[str, str], why: str
) -> None:
    host = FakeHost(probed=PROBED.replace(*change))
    with pytest.raises(DeployError, match=why):
        push(host, orders)
    assert host.verbs == []


def test_a_full_disk_is_refused_with_figures(orders: Orders) -> None:
    with pytest.raises(DeployError, match=r"0\.5 GB free, and this takes up to 1\.1 GB"):
        push(FakeHost(free_bytes=500_000_000), orders)


@pytest.mark.parametrize(
    ("lines", "wish", "service"),
    [
        ("", None, "supervisor"),
        ("systemd=user\n", None, "user"),
        ("systemd=system\nsystemd=user\n", None, "user"),
        ("systemd=system\n", None, "supervisor"),
        ("systemd=user\n", Service.SUPERVISOR, "supervisor"),
    ],
)
def test_who_keeps_it_running(orders: Orders, lines: str, wish: Service | None, service: str) -> None:
    host = FakeHost(probed=PROBED + lines)
    assert push(host, replace(orders, service=wish)).service == service
    assert (host.unit is not None) == (service == "user")


def test_root_gets_a_system_unit_and_folders_of_the_system(orders: Orders) -> None:
    host = FakeHost(probed=PROBED.replace("uid=1000", "uid=0") + "systemd=system\ngroup=video\n")
    assert push(host, orders).service == "system"
    assert host.unit is not None
    assert "ExecStart=/opt/edgewise/current/bin/edgewise node run\n" in host.unit
    assert "SupplementaryGroups=video\n" in host.unit
    assert "EDGEWISE_NODE_IDENTITY=/var/lib/edgewise-node/edgewise/node/kitchen\n" in (host.settings or "")


def test_a_service_manager_that_is_not_there_is_said(orders: Orders) -> None:
    with pytest.raises(DeployError, match="no service manager of this kind"):
        push(FakeHost(), replace(orders, service=Service.USER))


def test_lingering_is_hinted_at_only_where_it_is_off(orders: Orders) -> None:
    user = PROBED + "systemd=user\n"
    assert "enable-linger ada" in said(FakeHost(probed=user), orders)
    assert "enable-linger" not in said(FakeHost(probed=user.replace("linger=no", "linger=yes")), orders)


def test_a_failure_keeps_its_exit_code(orders: Orders) -> None:
    class Closed(FakeGateway):
        def token(self, name: str) -> str:
            raise DeployError("no token", "keys are required", "set one", exit_code=ExitCode.AUTH)

    with pytest.raises(DeployError) as caught:
        push(FakeHost(), orders, Closed())
    assert caught.value.exit_code is ExitCode.AUTH
