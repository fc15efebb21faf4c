"""A stand-in for the module `ray`: named actors in this process, and tasks that may lose their workers.

What the real one does that matters here: names are taken once per namespace, actors are called through `remote`,
answers come by reference, a killed actor is gone with its name, a task's exception comes wrapped, and one whose worker
dies is tried again `max_retries` times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any


class RayError(Exception):
    """Root of Ray's errors."""


class RayTaskError(RayError):
    """What a task raised, in `cause`."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(str(cause))
        self.cause = cause


class GetTimeoutError(RayError):
    """Nothing came in time."""


class WorkerCrashedError(RayError):
    """The worker died, and died again."""


class ActorDiedError(RayError):
    """The actor is gone."""


@dataclass(eq=False)
class Reference:
    """An answer that may be there."""

    value: Any = None
    error: RayError | None = None
    ready: bool = True


@dataclass(eq=False)
class Actor:
    """A handle."""

    instance: Any
    name: str
    namespace: str
    options: dict[str, Any]
    alive: bool = True
    silent: bool = False

    @property
    def _actor_id(self) -> Any:
        return SimpleNamespace(hex=lambda: self.name)

    def __getattr__(self, method: str) -> Any:
        return SimpleNamespace(remote=lambda *arguments: self._call(method, arguments))

    def _call(self, method: str, arguments: tuple[Any, ...]) -> Reference:
        if self.silent:
            return Reference(ready=False)
        if not self.alive:
            return Reference(error=ActorDiedError(self.name))
        return Reference(getattr(self.instance, method)(*arguments))


@dataclass
class FakeRay:
    """See the module.

    Args:
        deaths: How many workers die over each of the next tasks, by number of the task.
        stand_in: The class of actors, in the place of the one that is asked for.
    """

    deaths: dict[int, int] = field(default_factory=dict)
    actors: list[Actor] = field(default_factory=list)
    tasks: int = 0
    stand_in: type | None = None

    @property
    def exceptions(self) -> Any:
        """`ray.exceptions`."""
        return SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError, GetTimeoutError=GetTimeoutError)

    @property
    def util(self) -> Any:
        """`ray.util`."""
        alive = [{"name": actor.name, "namespace": actor.namespace} for actor in self.actors if actor.alive]
        return SimpleNamespace(list_named_actors=lambda all_namespaces: alive)

    @property
    def _private(self) -> Any:
        return SimpleNamespace(state=SimpleNamespace(actors=self._state))

    def _state(self, name: str) -> dict[str, Any]:
        (actor,) = (actor for actor in self.actors if actor.name == name and actor.alive)
        state = "RESTARTING" if actor.silent else "ALIVE"
        return {"State": state, "NumRestarts": 1 if actor.silent else 0, "Address": {"NodeID": "n0"}}

    def remote(self, target: Any) -> Any:
        """`ray.remote` of a class or a function."""
        make = self._actor if isinstance(target, type) else self._task
        return SimpleNamespace(
            options=lambda **options: SimpleNamespace(remote=lambda *arguments: make(target, options, arguments))
        )

    def _actor(self, cls: type, options: dict[str, Any], arguments: tuple[Any, ...]) -> Actor:
        name, namespace = options["name"], options["namespace"]
        if any(actor.alive and (actor.name, actor.namespace) == (name, namespace) for actor in self.actors):
            raise ValueError(f"The name {name} (namespace={namespace}) is already taken.")
        self.actors.append(Actor((self.stand_in or cls)(*arguments), name, namespace, options))
        return self.actors[-1]

    def _task(self, function: Callable[..., Any], options: dict[str, Any], arguments: tuple[Any, ...]) -> Reference:
        number, self.tasks = self.tasks, self.tasks + 1
        if self.deaths.get(number, 0) > options["max_retries"]:
            return Reference(error=WorkerCrashedError("the worker died"))
        resolved = [one.value if isinstance(one, Reference) else one for one in arguments]
        try:
            return Reference(function(*resolved))
        except Exception as error:  # the rim of a worker
            return Reference(error=RayTaskError(error))

    def put(self, value: Any) -> Reference:
        """`ray.put`."""
        return Reference(value)

    def wait(self, references: Sequence[Reference], *, timeout: float, num_returns: int = 1) -> Any:
        """`ray.wait`, which never waits here."""
        ready = [one for one in references if one.ready][: max(num_returns, 1)]
        return ready, [one for one in references if one not in ready]

    def get(self, reference: Reference, *, timeout: float | None = None) -> Any:
        """`ray.get`."""
        if not reference.ready:
            raise GetTimeoutError
        if reference.error is not None:
            raise reference.error
        return reference.value

    def get_actor(self, name: str, namespace: str) -> Actor:
        """`ray.get_actor`."""
        for actor in self.actors:
            if actor.alive and (actor.name, actor.namespace) == (name, namespace):
                return actor
        raise ValueError(f"Failed to look up actor {name}")

    def kill(self, actor: Actor, *, no_restart: bool) -> None:
        """`ray.kill`; without a restart the name is free again."""
        assert no_restart
        actor.alive = False
