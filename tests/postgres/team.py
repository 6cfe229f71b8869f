"""A stack that tests change and deploy: rows in the real Postgres, a Swarm in memory, and ways to break both."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any
from uuid import UUID

import psycopg
import yaml
from pydantic import SecretStr
from sqlmodel import Session, col, select

from mosaic_fleet import configuration, keyring
from mosaic_fleet.db.database import Database
from mosaic_fleet.db.reads import SYSTEM_OWNER
from mosaic_fleet.db.tables import Deployment, SystemContainer
from mosaic_fleet.errors import DatabaseFailure
from mosaic_fleet.fleet import agents, deploying, providers, stack
from mosaic_fleet.fleet.deploying import Fleet, Outcome
from mosaic_fleet.fleet.options import Options
from mosaic_fleet.runtimes.base import INSTALL_LABEL, STACK_LABEL, DockerObject, Finished, StackRuntime
from mosaic_fleet.sealing import Box, generate_key
from tests.fakes import FAKE_IMAGE, FakeRuntime

NETWORK = "mosaic-stack_internal"
STACK = "team"


class WatchedRuntime(FakeRuntime):
    """Fails the test when a service would be stopped for a config that its image has not accepted.

    `refused` are texts in a config that OpenClaw does not like.
    """

    def __init__(self) -> None:
        super().__init__()
        self.refused: set[str] = set()
        self.accepted: set[tuple[str, str]] = set()
        self.programs |= {"node": self._validate}

    def run_once(self, image: str, command: Sequence[str], **options: Any) -> Finished:
        """Run a program, and note what the image said to configs."""
        finished = super().run_once(image, command, **options)
        if command[0] == "node" and not finished.exit_code and (found := self.image(image)):
            texts, verdicts = json.loads(options["stdin"]), json.loads(finished.stdout)
            self.accepted |= {(found.id, texts[name]) for name, one in verdicts.items() if one["code"] == 0}
        return finished

    def deploy_stack(self, stack: str, text: str) -> None:
        """Take a stack file whose configs were accepted."""
        for service in yaml.safe_load(text)["services"].values():
            image, config = self.image(service["image"]), self.contents.get(service["configs"][0]["source"], b"")
            assert image is None or (image.id, config.decode()) in self.accepted, "never validated"
        super().deploy_stack(stack, text)

    @property
    def validated(self) -> list[list[str]]:
        """The names of the configs of each validation, in order."""
        return [sorted(json.loads(run["stdin"])) for run in self.runs if run["command"][0] == "node"]

    def _validate(self, _: Sequence[str], stdin: bytes) -> Finished:
        texts = json.loads(stdin)
        verdicts = {
            name: {"code": int(any(word in text for word in self.refused)), "output": "too odd"}
            for name, text in texts.items()
        }
        return Finished(0, json.dumps(verdicts), "")


class Silent:
    """Reports to nobody."""

    def step(self, text: str) -> None:
        """Take a line."""

    def states(self, states: Any) -> None:
        """Take states."""


@dataclass
class Team:
    """The stack `team`, in the roster and on the Swarm."""

    db: Database
    box: Box
    secret_key: str
    runtime: WatchedRuntime = field(default_factory=WatchedRuntime)

    @classmethod
    def at(cls, db: Database) -> "Team":
        """Make one with a provider and without agents; its network is there."""
        key = generate_key()
        team = cls(db, keyring.box(db, key), key)
        with db.transaction(system=True) as session:
            configuration.set(session, "fleet.image", FAKE_IMAGE)
            agents.put_stack(session, STACK, NETWORK)
            models = [{"id": "m1"}, {"id": "m2"}, {"id": "odd"}]
            values = {"type": "zai", "models": models, "api_key": SecretStr("planted-provider-key")}
            providers.add(session, team.box, SYSTEM_OWNER, "zai", values)
        team.runtime.create_network(NETWORK, labels={})
        team.runtime.changes.clear()
        return team

    def add(self, *names: str, **values: Any) -> None:
        """Add agents to the roster."""
        with self.db.transaction(system=True) as session:
            for name in names:
                agents.add(session, self.box, STACK, name, {"primary_model": "zai/m1"} | values)

    def set(self, name: str, **values: Any) -> None:
        """Change an agent of the roster."""
        with self.db.transaction(system=True) as session:
            agents.set(session, name, values)

    def drop(self, name: str) -> None:
        """Take an agent out of the roster."""
        with self.db.transaction(system=True) as session:
            agents.remove(session, name)

    def configure(self, key: str, value: str) -> None:
        """Change a setting."""
        with self.db.transaction(system=True) as session:
            configuration.set(session, key, value)

    def deploy(self, *, db: Database | None = None, runtime: Any = None, **options: Any) -> Outcome:
        """Deploy, on a broken database or runtime if one is given."""
        fleet = Fleet(db or self.db, self.box, runtime or self.runtime, Silent())
        return deploying.deploy(fleet, STACK, Options(**{"timeout": 120, **options}))

    def actions(self, **options: Any) -> dict[str, str]:
        """Deploy; return what was done with each agent."""
        return {change.agent: change.action for change in self.deploy(**options).changes}

    @property
    def plan(self) -> deploying.Plan:
        """What a deploy would do now."""
        fleet = Fleet(self.db, self.box, self.runtime, Silent())
        return deploying.plan(fleet, self.roster, Options())

    @property
    def roster(self) -> stack.Roster:
        """The roster as it is."""
        with self.db.transaction(system=True) as session:
            return stack.load(session, self.box, STACK)

    @property
    def marks(self) -> dict[str, str]:
        """The labels of what this stack made."""
        with self.db.transaction(system=True) as session:
            return {INSTALL_LABEL: configuration.install_id(session), STACK_LABEL: STACK}

    @property
    def nodes(self) -> dict[str, str | None]:
        """The agents of the roster and their nodes."""
        with self.db.transaction(system=True) as session:
            return {row.name: row.node_id for row in session.exec(select(SystemContainer))}

    @property
    def deployments(self) -> list[Deployment]:
        """The deployments, oldest first."""
        with self.db.transaction(system=True) as session:
            return list(session.exec(select(Deployment).order_by(col(Deployment.number))))

    @property
    def record(self) -> list[str]:
        """The deployments' statuses, oldest first."""
        return [row.status for row in self.deployments]

    @property
    def named(self) -> frozenset[str]:
        """The Docker objects of the two newest healthy deployments, by name: those that are to be kept."""
        healthy = [row for row in self.deployments if row.status == "healthy"][-2:]
        return frozenset(name for row in healthy for name in [*row.docker_configs, *row.secret_names])

    @property
    def services(self) -> list[str]:
        """The names of what runs of the stack."""
        return sorted(one.name for one in self.runtime.services(STACK))

    @property
    def objects(self) -> dict[str, DockerObject]:
        """The Docker configs and Docker secrets of the stack by name."""
        return {item.name: item for item in self.runtime.docker_objects(self.marks)}


@dataclass(frozen=True)
class Fault:
    """What goes wrong; when `late`, what was asked for has been done and only the answer is lost."""

    error: Callable[[], BaseException]
    late: bool = False


class FaultyRuntime:
    """Passes every call on to a runtime, but the so manieth has a fault; `calls` counts them."""

    def __init__(self, runtime: StackRuntime, at: int, fault: Fault) -> None:
        self._runtime, self._at, self._fault = runtime, at, fault
        self._numbers = count(1)

    def __getattr__(self, name: str) -> Any:
        return partial(self._call, getattr(self._runtime, name))

    def _call(self, method: Callable[..., Any], *values: Any, **named: Any) -> Any:
        if next(self._numbers) != self._at:
            return method(*values, **named)
        if self._fault.late:
            method(*values, **named)
        raise self._fault.error()


class FaultyDatabase(Database):
    """A Postgres that fails in the so manieth transaction or lock: as it begins, at its commit, or after it.

    `down`: from its beginning on for good, and with it goes the connection that holds a lock.
    """

    def __init__(self, url: str, at: int, when: str) -> None:
        super().__init__(url, actor="test")
        self._at, self._when = at, when
        self._numbers = count(1)

    @contextmanager
    def transaction(self, *, owner: UUID | None = None, system: bool = False) -> Iterator[Session]:
        """Open a session, or fail."""
        due = self._due()
        with super().transaction(owner=owner, system=system) as session:
            yield session
            self._fail_if(due and self._when == "commit")
        self._fail_if(due and self._when == "answer")

    @contextmanager
    def lock(self, verb: str, thing: str, *, wait: float = 1) -> Iterator[Any]:
        """Hold a lock, or fail."""
        self._fail_if(self._due())
        with super().lock(verb, thing, wait=wait) as lock:
            yield lock

    def _due(self) -> bool:
        number = next(self._numbers)
        down = self._when == "down" and number >= self._at
        if down:
            end_locks(self.url)
        self._fail_if(down or (self._when == "begin" and number == self._at))
        return number == self._at

    @staticmethod
    def _fail_if(due: bool) -> None:
        if due:
            raise DatabaseFailure("postgres at the local socket: broken on purpose")


def halved(text: str, services: int) -> str:
    """Cut a stack file off after so many services."""
    parsed: Mapping[str, Any] = yaml.safe_load(text)
    return yaml.safe_dump({**parsed, "services": dict([*parsed["services"].items()][:services])})


def end_locks(url: str) -> None:
    """End the connections that hold locks, as a restarted Postgres does."""
    with psycopg.connect(url) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 120000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name LIKE 'mosaic %'"
        )
