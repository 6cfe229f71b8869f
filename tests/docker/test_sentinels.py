"""No secret is where it does not belong (guarantee 2.1): planted ones are looked for everywhere, in every spelling."""

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import psycopg
import pytest
from pydantic import SecretStr

from mosaic_fleet import cli
from mosaic_fleet.bootstrap import Mosaic
from mosaic_fleet.db.tables import place
from mosaic_fleet.fleet import agents, containers, providers
from mosaic_fleet.identity import users
from mosaic_fleet.sealing import generate_key
from mosaic_fleet.settings import Settings
from tests.docker.installation import Fleet, Installation
from tests.docker_run import DockerRun, wait_until

REFUSING = """FROM {base}
USER root
RUN printf '#!/bin/sh\\nenv; cat "$OPENCLAW_CONFIG_PATH"; exit 1\\n' > /usr/local/sbin/openclaw
"""


def spellings(secret: bytes) -> set[bytes]:
    """Spell a secret as it is, in hex, quoted for an address, and in base64 at each place among other bytes."""
    found = {secret, secret.hex().encode(), quote(secret).encode(), json.dumps(secret.decode("latin-1"))[1:-1].encode()}
    for before in range(3):
        first, last = -(-before * 8 // 6), (before + len(secret)) * 8 // 6
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            found.add(encode(b"\0" * before + secret)[first:last])
    return found


@dataclass(frozen=True)
class Sentinels:
    """Planted secrets by what they are."""

    values: Mapping[str, bytes] = field(repr=False)

    def __post_init__(self) -> None:
        spelled = {one: name for name, value in self.values.items() for one in spellings(value)}
        pattern = re.compile(b"|".join(map(re.escape, spelled)))
        object.__setattr__(self, "_look", lambda text: {spelled[one] for one in pattern.findall(text)})

    def within(self, text: str | bytes) -> set[str]:
        """Name the sentinels in a text."""
        look: Any = self._look
        return set(look(text.encode() if isinstance(text, str) else text))

    def leaks(self, places: Mapping[str, str | bytes]) -> dict[str, set[str]]:
        """Name the places with a sentinel in them, and which."""
        return {where: found for where, text in places.items() if (found := self.within(text))}


class Watch:
    """Reads command line and environment of every process again and again until it is left."""

    def __init__(self, sentinels: Sentinels) -> None:
        self.leaks: dict[str, set[str]] = {}
        self.commands: set[bytes] = set()
        self._sentinels = sentinels
        self._over = Event()
        self._thread = Thread(target=self._watch)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def saw(self, *words: str) -> bool:
        """Tell whether a process with these words was there."""
        return any(all(word.encode() in command for word in words) for command in self.commands.copy())

    def _watch(self) -> None:
        while not self._over.wait(0.03):
            for process in Path("/proc").glob("[0-9]*"):
                for what in ("cmdline", "environ"):
                    self._read(process / what)

    def _read(self, path: Path) -> None:
        try:
            text = path.read_bytes()
        except OSError:  # it has ended, or is somebody else's
            return
        if path.name == "cmdline":
            self.commands.add(text)
        if found := self._sentinels.within(text):
            self.leaks[f"{path.name}: {text[:60]!r}"] = found


@dataclass
class Scene:
    """A Mosaic with planted secrets, its fleet, and what its commands have printed."""

    mosaic: Installation
    fleet: Fleet
    provider: str
    secrets: dict[str, str] = field(repr=False)
    printed: dict[str, bytes] = field(default_factory=dict, repr=False)

    def run(self, *words: str, stdin: str = "", code: int = 0, **env: str) -> None:
        """Run a command with -v that ends with an exit code, and keep what it prints."""
        mosaic = replace(self.mosaic, env={**self.mosaic.env, **env})
        done = mosaic.run("-v", *words, stdin=stdin)
        title = f"{len(self.printed)}: {' '.join(words)}"
        assert done.returncode == code, f"{title}: {done.returncode} {done.stdout}{done.stderr}"
        self.printed[title] = (done.stdout + done.stderr).encode()

    @property
    def agent(self) -> str:
        """The agent's name."""
        return self.fleet.agent("one")

    @property
    def options(self) -> tuple[str, ...]:
        """What commands of the fleet need to be told."""
        return ("--stack", self.fleet.stack)


@pytest.fixture
def scene(installation: Installation, fleet: Fleet, tmp_path: Path) -> Scene:
    """Plant secrets: those of the environment stand in an env file of its own, the others are typed in by commands."""
    mark = uuid4().hex
    planted = Settings.from_env(installation.env)
    embedded = Mosaic(planted).embedded
    assert embedded
    assert planted.secret_key
    secrets = {
        "provider key": f"Planted-provider-key-{mark}",
        "breakglass password": f"Planted breakglass {mark}",
        "database password": f"Planted-database-{mark}",
        "secret key": planted.secret_key,
    }
    address = embedded.url().replace("mosaic@", f"mosaic:{secrets['database password']}@")
    write_env_file(tmp_path / "config", MOSAIC_SECRET_KEY=planted.secret_key, DATABASE_URL=address)
    nowhere = re.sub(r"@/.*", "@127.0.0.1:1/mosaic", address)
    write_env_file(tmp_path / "away", MOSAIC_SECRET_KEY=planted.secret_key, DATABASE_URL=nowhere)
    write_env_file(tmp_path / "other", MOSAIC_SECRET_KEY=generate_key(), DATABASE_URL=address)
    env = {**installation.env, "XDG_CONFIG_HOME": str(tmp_path / "config")}
    return Scene(replace(installation, env=env), fleet, f"p{fleet.stack}", secrets)


def write_env_file(home: Path, **variables: str) -> None:
    """Write an env file below a configuration folder."""
    (home / "mosaic").mkdir(parents=True)
    (home / "mosaic" / "env").write_text("".join(f"{name}={value}\n" for name, value in variables.items()))


def found_fleet(scene: Scene) -> None:
    """Run the commands up to a deployed fleet."""
    words = ("--type", "custom", "--base-url", "http://llm:1/v1", "--no-test", "--model", "m1", "--model", "crash")
    scene.run("provider", "add", scene.provider, *words, "--api-key-stdin", stdin=scene.secrets["provider key"])
    scene.run(
        "admin", "create-breakglass", scene.provider, "--password-stdin", stdin=scene.secrets["breakglass password"]
    )
    scene.run("init")
    file = scene.mosaic.folder / f"{scene.fleet.stack}-planted.yml"
    values = {"model": f"{scene.provider}/m1", "memory": {"limit": "256M", "reservation": "16M"}}
    file.write_text(json.dumps({"stack": scene.fleet.stack, "agents": {scene.agent: values}}))
    scene.run("agent", "import", str(file))
    scene.run("fleet", "render", *scene.options, "--out", str(scene.mosaic.folder / "rendered"))
    scene.run("fleet", "deploy", *scene.options)
    scene.run("fleet", "ask", scene.agent, "who is there?")
    scene.run("fleet", "logs", *scene.options)
    scene.run("fleet", "logs", scene.agent, "--with-replies", "--json")
    scene.run("fleet", "exec", scene.agent, "--", "openclaw", "models", "auth", "list", "--json")
    scene.run("fleet", "login", scene.agent, code=2)


def look_around(scene: Scene) -> None:
    """Run the commands that only look, as text and as JSON, and those that change what agents do not run on."""
    looking = [
        "status",
        "doctor",
        "version",
        "admin list",
        "provider list",
        "config list",
        "secrets status",
        "db check",
    ]
    looking += [f"provider show {scene.provider}", "agent list", f"agent show {scene.agent}", "config get fleet.image"]
    looking += [
        f"fleet {verb} {' '.join(scene.options)}" for verb in ("render", "status", "diff", "push", "rollback --to 1")
    ]
    for words in looking:
        scene.run(*words.split(), "--json")
    for words in ("provider list", f"provider show {scene.provider}", "secrets status", "doctor"):
        scene.run(*words.split())
    image = scene.mosaic.mosaic("config", "get", "fleet.image").strip()
    scene.run("fleet", "upgrade", scene.agent, "--image", image)
    scene.run("fleet", "restart", scene.agent)
    scene.run("fleet", "scale", f"{scene.agent}=1")
    scene.run("config", "set", "fleet.health.start_period", "170")
    scene.run("fleet", "diff", *scene.options)
    scene.run("config", "unset", "fleet.health.start_period")
    scene.run("agent", "add", scene.fleet.agent("two"), *scene.options)
    scene.run("agent", "remove", scene.fleet.agent("two"), "--yes")
    scene.run("agent", "config-token", scene.agent)
    scene.run("serve", "--host", "no such host", code=2)  # one that serves: tests/postgres/test_serve.py
    scene.run("secrets", "generate-key")
    scene.run("secrets", "rotate")
    scene.run("secrets", "verify", "--json")
    scene.run("secrets", "rekey", "--new-key-file", str(scene.mosaic.folder / "nowhere"), code=2)
    scene.run("secrets", "rotate-tokens", "--agent", scene.agent, "--dry-run")
    scene.run("db", "upgrade")


def meet_faults(scene: Scene, folder: Path, refusing: str) -> None:
    """Run commands where something is wrong: Docker, key, database, config, gateway, or what was typed."""
    stack, key = scene.options, scene.secrets["provider key"]
    for words in (("deploy",), ("status",), ("diff",), ("restart", "--all"), ("rm", "--yes")):
        scene.run("fleet", *words, *stack, code=7, DOCKER_HOST="unix:///nowhere.sock")
    other, away = {"XDG_CONFIG_HOME": str(folder / "other")}, {"XDG_CONFIG_HOME": str(folder / "away")}
    for words in (("secrets", "status"), ("fleet", "deploy", *stack), ("fleet", "render", *stack, "--json")):
        scene.run(*words, code=3, **other)
    scene.run("provider", "set", scene.provider, "--api-key-stdin", "--no-test", stdin=f"{key}x", code=3, **other)
    for words in (("db", "check"), ("status", "--json"), ("fleet", "deploy", *stack)):
        scene.run(*words, code=8, **away)
    scene.run("provider", "test", scene.provider, "--deep", "--timeout", "5s", code=7)
    scene.run("db", "stop", code=3)
    scene.run("provider", "set", scene.provider, "--api-key-stdin", "--no-test", stdin=f"{key}\n{key}", code=2)
    password = scene.secrets["breakglass password"]
    scene.run("admin", "create-breakglass", scene.provider, "--password-stdin", stdin=password, code=5)
    image = scene.mosaic.mosaic("config", "get", "fleet.image").strip()
    scene.mosaic.mosaic("config", "set", "fleet.image", refusing)
    try:
        scene.run("fleet", "deploy", *stack, code=3)
    finally:
        scene.mosaic.mosaic("config", "set", "fleet.image", image)
    scene.run("agent", "set", scene.agent, "--model", f"{scene.provider}/crash")
    scene.run("fleet", "deploy", *stack, "--json", code=7)


def leave(scene: Scene, installation: Installation) -> None:
    """Run the commands that take things away."""
    scene.run("fleet", "rm", *scene.options, "--dry-run")
    scene.run("fleet", "rm", *scene.options, "--volumes", "--confirm", scene.fleet.stack)
    scene.run("agent", "remove", scene.agent, "--yes")
    scene.run("provider", "set", scene.provider, "--remove-key")
    scene.run("provider", "remove", scene.provider, "--yes")
    look_at_people(scene)
    look_at_gateways(scene)
    embedded = replace(scene, mosaic=installation)
    embedded.run("db", "stop")
    embedded.run("db", "start")


def look_at_people(scene: Scene) -> None:
    """Run the commands about people, the audit and the history of settings."""
    scene.run("user", "add", "ann", "--email", "ann@example.com")
    scene.run("user", "import", "-", stdin="name,email\nbob,bob@example.com\n")
    scene.run("user", "set", "ann", "--display-name", "Ann")
    scene.run("admin", "create-breakglass", "second", "--generate")
    scene.run("admin", "create-breakglass", "third", "--generate")
    scene.run("admin", "set-password", "second", "--generate")
    for verb in ("disable", "enable"):
        scene.run("user", verb, "ann")
        scene.run("admin", verb, "second")
    for words in (
        "user list",
        "user show ann",
        "audit list",
        "audit verify",
        "config history fleet.health.start_period",
    ):
        scene.run(*words.split())
        scene.run(*words.split(), "--json")


def look_at_gateways(scene: Scene) -> None:
    """Run the commands about users' gateways, and keep what Docker shows of one that has the planted key."""
    mosaic = Mosaic(Settings.from_env(scene.mosaic.env))
    with mosaic.db.transaction(system=True) as session:
        owner = users.get(session, "ann").id
        key = SecretStr(scene.secrets["provider key"])
        values = {"type": "custom", "base_url": "http://llm:1/v1", "models": [{"id": "m1"}], "api_key": key}
        providers.add(session, mosaic.box, owner, "llm", values)
    scene.run("config", "set", "gateways.memory", "256M")
    scene.run("gateway", "start", "ann")
    for shown in ("inspect", "logs", "top"):
        command = ("docker", "--host", scene.mosaic.docker.host, shown, containers.name(owner))
        scene.printed[f"{shown} of a gateway"] = output(*command)
    for words in ("gateway list", "gateway show ann", "gateway health", "gateway restart ann", "gateway stop ann"):
        scene.run(*words.split())
        scene.run(*words.split(), "--json")
    scene.run("gateway", "config-token", "ann", "--json")
    scene.run("gateway", "start", "ann")
    scene.run("reap", "--explain")
    scene.run("user", "set", "ann", "--schedules")
    scene.run("user", "set", "ann", "--no-schedules", "--json")
    scene.run("secrets", "rotate-tokens", "--user", "ann", "--dry-run")
    scene.run("secrets", "rotate-tokens", "--user", "ann")
    scene.run("secrets", "rotate-tokens", "--user", "ann", "--drain", "--json")
    scene.run("secrets", "status")
    scene.run("gateway", "stop", "ann")
    scene.run("gateway", "start", "nobody", code=4)
    scene.run("config", "unset", "gateways.memory")


def commands() -> set[str]:
    """Name every command of the command line."""
    found = set()
    for name in cli.COMMANDS:
        verbs = getattr(cli.load(name), "commands", {})
        found |= {f"{name} {verb}" for verb in verbs} or {name}
    return found


def in_docker(docker: DockerRun, install: str) -> Iterator[tuple[str, str | bytes]]:
    """Return what Docker shows of everything an installation made."""
    marked = ("--filter", f"label=com.mosaic.install={install}")
    kinds = {"service": "-q", "config": "-q", "secret": "-q", "volume": "-q", "network": "-q", "container": "-aq"}
    found = {kind: docker(kind, "ls", option, *marked).split() for kind, option in kinds.items()}
    found["task"] = [one for service in found["service"] for one in docker("service", "ps", "-q", service).split()]
    for kind, ids in found.items():
        assert ids, f"there is no {kind} to look into"
        shown = docker("inspect", "--type", kind, *ids, check=False)  # Swarm may have taken an old task away meanwhile
        assert json.loads(shown), f"no {kind} is left to look into"
        yield f"inspect {kind}", shown
    for one in json.loads(docker("config", "inspect", *found["config"])):
        yield f"content of {one['Spec']['Name']}", base64.b64decode(one["Spec"]["Data"])
    for container in found["container"]:
        yield f"logs of {container}", output("docker", "--host", docker.host, "logs", container)
    for service in found["service"]:
        yield f"logs of {service}", output("docker", "--host", docker.host, "service", "logs", service)


def output(*command: str) -> bytes:
    done = subprocess.run(command, capture_output=True, timeout=120, check=False)
    return done.stdout + done.stderr


def in_postgres(installation: Installation) -> Iterator[tuple[str, bytes]]:
    """Return every table, what is under way, and every file of the installation but its env file."""
    embedded = Mosaic(Settings.from_env(installation.env)).embedded
    assert embedded
    with psycopg.connect(embedded.url("mosaic_super"), autocommit=True) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        for (table,) in [*tables, ("pg_stat_activity",), ("pg_settings",)]:
            with connection.cursor().copy(f"COPY (SELECT * FROM {table}) TO STDOUT") as rows:
                yield f"table {table}", b"".join(bytes(row) for row in rows)
        connection.execute("CHECKPOINT")
    for path in installation.folder.rglob("*"):
        if path.is_file() and path.name != "env" and not any(part.startswith("postgres-") for part in path.parts):
            with suppress(FileNotFoundError):  # Postgres works on
                yield f"file {path.relative_to(installation.folder)}", path.read_bytes()


def gateway_token(installation: Installation, agent: str) -> str:
    """Open an agent's gateway token."""
    mosaic = Mosaic(Settings.from_env(installation.env))
    with mosaic.db.transaction(system=True) as session:
        row = agents.get(session, agent)
        return mosaic.box.open(place(row, "gateway_token"), row.gateway_token).get_secret_value()


@pytest.fixture
def refusing_image(docker: DockerRun, stand_in_image: str) -> str:
    """Build an OpenClaw that refuses every config, and prints it with its whole environment."""
    tag = f"{stand_in_image}-refusing"
    build = ("build", "-q", "--network", "none", "--pull=false", "--label", docker.label, "-t", tag, "-")
    docker(*build, stdin=REFUSING.format(base=stand_in_image))
    return tag


@pytest.mark.timeout(1800)
def test_no_secret_is_anywhere_it_does_not_belong(
    scene: Scene, installation: Installation, tmp_path: Path, refusing_image: str
) -> None:
    """Every command runs, with -v, many with --json or a fault; secrets are in the container's secret files only."""
    raw = base64.urlsafe_b64decode(scene.secrets["secret key"] + "==")
    values = {name: value.encode() for name, value in scene.secrets.items()} | {"raw secret key": raw}
    with Watch(Sentinels(values)) as watch:
        found_fleet(scene)
        token = gateway_token(installation, scene.agent)
        sentinels = Sentinels({**values, "gateway token": token.encode()})
        inside = scene.fleet.exec("one", "sh", "-c", "cat /run/secrets/*")
        assert sentinels.within(inside) == {"provider key", "gateway token"}
        with Watch(sentinels) as second:
            look_around(scene)
            meet_faults(scene, tmp_path, refusing_image)
            install = str(scene.mosaic.document("status")["install"])
            places: dict[str, str | bytes] = dict(in_docker(installation.docker, install))
            leave(scene, installation)
    assert watch.saw("mosaic_fleet", "deploy")
    assert watch.saw("docker", "run", "mosaic-once")
    assert watch.saw("docker", "stack", "deploy")
    places |= scene.printed | dict(in_postgres(installation))
    assert watch.leaks | second.leaks | sentinels.leaks(places) == {}
    ran = {title.partition(": ")[2] for title in scene.printed}
    assert {one for one in commands() if not any(f"{words} ".startswith(f"{one} ") for words in ran)} == set()


def test_a_leak_is_found() -> None:
    """A secret on a command line, in an environment or inside base64 is seen by what the other test looks with."""
    secret = f"leaked-{uuid4().hex}"
    sentinels = Sentinels({"secret": secret.encode()})
    hidden = base64.b64encode(f'{{"zai": "{secret}"}}'.encode()).decode()
    places = {"a": f"...{hidden}...", "b": "nothing", "c": quote(secret)}
    assert sentinels.leaks(places) == {"a": {"secret"}, "c": {"secret"}}
    with Watch(sentinels) as watch:
        for words, env in ([["-", hidden], {}], [["-"], {"TOKEN": secret}]):
            watch.leaks.clear()
            with waiting(words, env):
                wait_until(lambda: watch.leaks)


@contextmanager
def waiting(words: list[str], env: dict[str, str]) -> Iterator[None]:
    """Have a process wait with these words and variables."""
    command = [sys.executable, "-c", "input()", *words]
    with subprocess.Popen(command, env={**os.environ, **env}, stdin=subprocess.PIPE) as process:
        yield
        process.communicate(b"\n")
