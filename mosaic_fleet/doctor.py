"""Looks at everything Mosaic stands on and says what is wrong, each finding with the command that mends it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from shlex import quote
from typing import TYPE_CHECKING, Any, Literal

from mosaic_fleet.bootstrap import Mosaic
from mosaic_fleet.errors import MosaicError, RuntimeFailure
from mosaic_fleet.runtimes.base import INSTALL_LABEL

if TYPE_CHECKING:
    from mosaic_fleet.db.reads import ProviderRow

_AUDIT_ROWS = 10_000
# Of what a gateway holds, what it holds asleep: 29 MB of 845 stay; zram (lzo-rle) holds the rest in 312 MB.
_KEPT, _KEPT_PACKED = 0.04, 0.41
_APART, _FAR_APART = 2, 60  # seconds: logins and leases are counted in minutes
Mark = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """What a check found; `fix` is a command, or None."""

    mark: Mark
    check: str
    text: str
    fix: str | None = None


def examine(mosaic: Mosaic) -> list[Finding]:
    """Run every check; one that cannot be done because Docker or the database is away fails by itself."""
    checks: dict[str, Callable[[Mosaic], list[Finding]]] = {
        "db": _db,
        "schema": _schema,
        "key": _key,
        "providers": _providers,
        "admins": _admins,
        "audit": _audit,
        "clock": _clock,
        "docker": _docker,
        "swarm": _swarm,
        "network": _network,
        "image": _image,
        "memory": _memory,
        "naps": _naps,
    }
    return [finding for name, check in checks.items() for finding in _examined(name, check, mosaic)]


def worst(findings: Sequence[Finding]) -> Mark:
    """Return the gravest mark among findings."""
    marks = {finding.mark for finding in findings}
    return "fail" if "fail" in marks else "warn" if "warn" in marks else "ok"


def _examined(name: str, check: Callable[[Mosaic], list[Finding]], mosaic: Mosaic) -> list[Finding]:
    try:
        return check(mosaic)
    except MosaicError as error:
        return [Finding("fail", name, error.message, error.hint)]


def _db(mosaic: Mosaic) -> list[Finding]:
    from mosaic_fleet.db.reads import check_encoding

    with mosaic.reads() as reads:
        version, privileged = reads.server_version(), reads.privileged()
        check_encoding(reads.encoding())
    where = "embedded Postgres" if mosaic.embedded else "Postgres of DATABASE_URL"
    if privileged:
        return [Finding("fail", "db", f"{where}: its role is above row-level security", "use a role without SUPERUSER")]
    if int(version.partition(".")[0]) < 15:
        return [Finding("fail", "db", f"{where} is {version}, Mosaic needs 15 or later", "upgrade Postgres")]
    return [Finding("ok", "db", f"{where} {version}")]


def _schema(mosaic: Mosaic) -> list[Finding]:
    with mosaic.reads() as reads:
        return [Finding("ok", "schema", f"at {reads.schema}")]


def _key(mosaic: Mosaic) -> list[Finding]:
    from mosaic_fleet import keyring
    from mosaic_fleet.sealing import EnvironmentKey

    with mosaic.reads():  # a look makes neither a database nor a keyring
        kids = keyring.environment_kids(mosaic.db)
    if not kids:
        if mosaic.settings.secret_key:
            EnvironmentKey(mosaic.settings.secret_key)  # raises when it could seal nothing
        return [Finding("warn", "key", "there is no keyring yet", "mosaic init")]
    ring = mosaic.box.ring
    env_file = mosaic.settings.env_file
    if env_file.exists() and env_file.stat().st_mode & 0o077:
        return [Finding("warn", "key", f"{env_file} can be read by others", f"chmod 600 {quote(str(env_file))}")]
    return [
        Finding(
            "ok",
            "key",
            f"opens {len(ring.keys)} data key{'s' if len(ring.keys) > 1 else ''}, sealing with {ring.current}",
        )
    ]


def _providers(mosaic: Mosaic) -> list[Finding]:
    """Look at what is known of the shared providers, without calling them."""
    from mosaic_fleet.db.reads import SYSTEM_OWNER

    with mosaic.reads() as reads:
        rows = [row for row in reads.providers(SYSTEM_OWNER) if row.is_active]
    doubts = [_doubt(row) for row in rows]
    fine = Finding("ok", "providers", f"{len(rows)} active, each tested or logged in by its gateways")
    return [doubt for doubt in doubts if doubt] or ([fine] if rows else [])


def _doubt(row: "ProviderRow") -> Finding | None:
    from mosaic_fleet.fleet import vendors

    if row.auth == "login":
        return None
    if not row.has_key and vendors.needs_key(row.type, row.auth):
        return Finding("warn", "providers", f"{row.name} has no key", f"mosaic provider set {row.name} --api-key-stdin")
    if row.tested_at is None:
        return Finding("warn", "providers", f"{row.name} was never tested", f"mosaic provider test {row.name}")
    if not row.tested_ok:
        text = f"{row.name}: at its last test {row.tested_reason}"
        return Finding("fail", "providers", text, f"mosaic provider test {row.name}")
    return None


def _admins(mosaic: Mosaic) -> list[Finding]:
    with mosaic.reads() as reads:
        active = [admin.username for admin in reads.admins() if admin.is_active]
    if not active:
        text = "there is no active breakglass administrator"
        return [Finding("warn", "admins", text, "mosaic admin create-breakglass NAME")]
    return [Finding("ok", "admins", f"{len(active)} active: {', '.join(active)}")]


def _audit(mosaic: Mosaic) -> list[Finding]:
    """Walk along the newest part of the chain; the whole of it is for `audit verify`."""
    from mosaic_fleet.identity import audit

    with mosaic.reads() as reads:
        verdict = audit.verify(reads, last=_AUDIT_ROWS)
    if verdict.faults:
        first = verdict.faults[0]
        return [Finding("fail", "audit", f"row {first.row} {first.what}", "mosaic audit verify")]
    return [Finding("ok", "audit", f"the last {verdict.rows} rows are as they were written")]


def _clock(mosaic: Mosaic) -> list[Finding]:
    with mosaic.reads() as reads:
        before, there, after = datetime.now(UTC), reads.clock(), datetime.now(UTC)
    apart = max((before - there).total_seconds(), (there - after).total_seconds(), 0.0)
    text = f"the database's clock is {apart:.1f} s from this machine's"
    mark: Mark = "fail" if apart >= _FAR_APART else "warn" if apart >= _APART else "ok"
    return [Finding(mark, "clock", text, None if mark == "ok" else "set both clocks, for instance by NTP")]


def _docker(mosaic: Mosaic) -> list[Finding]:
    engine = mosaic.runtime.engine()
    held = engine.no_new_privileges or _held_in_an_agent(mosaic)
    if held is False:
        text = f"{engine.version}, started without --no-new-privileges, which a stack file cannot ask for"
        return [Finding("warn", "docker", text, 'set "no-new-privileges": true in daemon.json')]
    return [Finding("ok", "docker", f"{engine.version}{', no new privileges' if held else ''}")]


def _held_in_an_agent(mosaic: Mosaic) -> bool | None:
    """Look into a running agent of ours, because older engines do not say; None when none runs here."""
    with mosaic.reads() as reads:
        install, stacks = reads.install_id(), [stack.name for stack in reads.stacks()]
    services = [service for stack in stacks for service in mosaic.runtime.services(stack)]
    ours = {service.id for service in services if service.labels.get(INSTALL_LABEL) == install}
    running = [task for stack in stacks for task in mosaic.runtime.tasks(stack) if task.state == "running"]
    for task in running:
        if task.service_id in ours and task.container_id and mosaic.runtime.container_end(task.container_id):
            status = b"".join(mosaic.runtime.exec(task.container_id, ["cat", "/proc/1/status"], stdin=b""))
            return b"NoNewPrivs:\t1" in status
    return None


def _swarm(mosaic: Mosaic) -> list[Finding]:
    from mosaic_fleet.fleet import preflight

    preflight.swarm(mosaic.runtime)
    away = [node for node in mosaic.runtime.nodes() if node.state != "ready" or node.availability != "active"]
    names = ", ".join(f"{node.hostname} is {node.state}, {node.availability}" for node in away)
    return [Finding("warn", "swarm", names, "docker node ls") if away else Finding("ok", "swarm", "active")]


def _network(mosaic: Mosaic) -> list[Finding]:
    from mosaic_fleet.fleet import preflight

    findings = []
    for name in networks(mosaic):
        if mosaic.runtime.network(name) is None:
            findings.append(
                Finding("fail", "network", f'network "{name}" is not there', "mosaic init --create-network")
            )
            continue
        preflight.network(mosaic.runtime, name, "", create=False)
        findings.append(Finding("ok", "network", name))
    return findings


def _image(mosaic: Mosaic) -> list[Finding]:
    ref = setting(mosaic, "fleet.image")
    image = mosaic.runtime.image(ref)
    if image is None:
        return [Finding("warn", "image", f"{ref} is not here; the first deploy pulls it", f"docker pull {ref}")]
    return [Finding("ok", "image", f"{ref}, OpenClaw {image.version or 'of unknown version'}")]


def _memory(mosaic: Mosaic) -> list[Finding]:
    from mosaic_fleet.names import format_size

    with mosaic.reads() as reads:
        limits = sum(agent.memory_limit for agent in reads.agents() if agent.is_active and agent.replicas)
    here = sum(node.memory_bytes for node in mosaic.runtime.nodes())
    text = f"agents may use {format_size(limits)} of {format_size(here)}{_swapped(mosaic) if limits else ''}"
    return [
        Finding(
            "warn" if limits > here else "ok",
            "memory",
            text,
            "mosaic agent set NAME --memory …" if limits > here else None,
        )
    ]


def _swapped(mosaic: Mosaic) -> str:
    """Say what a stack file cannot forbid: Docker lets a container swap out as much again as its memory limit."""
    from mosaic_fleet.names import format_size

    runtime = mosaic.hosting.runtime
    try:
        swap = runtime.swap().total if runtime.is_local else 0
    except RuntimeFailure:  # Docker Desktop's machine is another one than this
        return ""
    return f", and each as much again of this machine's {format_size(swap)} of swap" if swap else ""


def _naps(mosaic: Mosaic) -> list[Finding]:
    """Tell what naps give back, once there are users' gateways that run."""
    from mosaic_fleet.names import format_size

    with mosaic.reads() as reads:
        alive = [row.container_name for row in reads.gateways() if row.has_started]
    if not alive:
        return []
    if not setting(mosaic, "nap.after"):
        return [Finding("ok", "naps", "switched off: nap.after is 0")]
    runtime = mosaic.hosting.runtime
    room, found = runtime.swap(), [one for name in alive if (one := runtime.container(name))]
    awake = [one.id for one in found if one.state == "running"]
    held = sum(runtime.memory(awake).values())
    counted = f"{len(found) - len(awake)} of {len(found)} gateways nap"
    if room.obstacle:
        text = f"{counted} and keep their memory: {room.obstacle}"
        return [Finding("warn", "naps", text, "docs/how-to/naps.md says how to give it some")]
    kept = int(held * (_KEPT_PACKED if room.is_compressed else _KEPT))
    text = f"{counted}; asleep the others would hold {format_size(kept)} instead of {format_size(held)}"
    if room.free < held:
        text += f", but the swap has room for {format_size(room.free)}"
        return [Finding("warn", "naps", text, "docs/how-to/naps.md says how to give it more")]
    return [Finding("ok", "naps", text)]


def networks(mosaic: Mosaic) -> list[str]:
    """Name the networks of the stacks, or the one that a first stack would join."""
    with mosaic.reads() as reads:
        names = sorted({stack.network for stack in reads.stacks()})
    return names or [setting(mosaic, "fleet.network")]


def setting(mosaic: Mosaic, key: str) -> Any:
    """Return a setting's value: the database's, else the default."""
    from mosaic_fleet import configuration

    with mosaic.reads() as reads:
        return configuration.parsed(reads.changed_settings())[key]
