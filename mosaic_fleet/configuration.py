"""The settings of the installation: one typed registry, changed values in the database.

The ORM is imported by who reads or writes them: commands that only compare need no more than the registry.
"""

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from mosaic_fleet import egress
from mosaic_fleet.db.reads import SettingRow
from mosaic_fleet.errors import Invalid, NotFound
from mosaic_fleet.logs import redact
from mosaic_fleet.names import check_network, parse_size
from mosaic_fleet.sealing import Box
from mosaic_fleet.settings import Settings

if TYPE_CHECKING:
    from pydantic import SecretStr
    from sqlmodel import Session

    from mosaic_fleet.db.tables import SystemConfig

# Docker's own grammar for `host/path:tag@digest`, or an image's id; a capital makes no host here.
_PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_HOST = r"(?:localhost|[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+|[A-Za-z0-9-]+(?=:))(?::[0-9]+)?"
_REST = r"(?::\w[\w.-]{0,127})?(?:@[a-z0-9]+:[0-9a-f]{32,})?"
# A year: whoever wants longer than that wants never.
MOST_MINUTES = 366 * 24 * 60
# OpenClaw closes an agent's database a minute after its last turn. One that is frozen before that has many timers due
# at once when it goes on; a close that fails then has every later turn refused until it is started anew.
LEAST_NAP_MINUTES = 2
_IMAGE = re.compile(rf"sha256:[0-9a-f]{{64}}|(?!-)(?:{_HOST}/)?{_PART}(?:/{_PART})*{_REST}", re.ASCII)


def _seconds(text: str) -> int:
    return _whole(text.removesuffix("s"), "whole seconds", most=86_400)


def _count(text: str) -> int:
    return _whole(text, "a whole number", most=100)


def _minutes(text: str) -> int:
    return _whole(text.removesuffix("m"), "whole minutes", least=0, most=MOST_MINUTES)


def _nap(text: str) -> int:
    if (minutes := _minutes(text)) in range(1, LEAST_NAP_MINUTES):
        raise Invalid(f"must be 0 or at least {LEAST_NAP_MINUTES} minutes: OpenClaw puts its databases away by then")
    return minutes


def _patience(text: str) -> int:
    return _whole(text.removesuffix("s"), "whole seconds", least=0, most=86_400)


def _rhythm(text: str) -> str:
    if text not in ("minute", "never"):
        raise Invalid("must be minute or never")
    return text


def _whole(text: str, what: str, *, most: int, least: int = 1) -> int:
    # Python refuses to read thousands of digits.
    if not text.isdecimal() or len(text) > 9 or not least <= int(text) <= most:
        raise Invalid(f"must be {what} between {least} and {most}")
    return int(text)


def _image(text: str) -> str:
    if len(text) > 400 or not _IMAGE.fullmatch(text):
        raise Invalid("must be an image reference such as ghcr.io/openclaw/openclaw:2026.9.6")
    return text


def _pool(text: str) -> ipaddress.IPv4Network:
    try:
        pool = ipaddress.IPv4Network(text)
    except ValueError:
        raise Invalid("must be a network such as 10.213.0.0/16") from None
    if not pool.is_private or not 8 <= pool.prefixlen <= 27:
        raise Invalid("must be a private network of two or more /28, such as 10.213.0.0/16")
    return pool


def _memory(text: str) -> int:
    size = parse_size(text)
    if not 64 << 20 <= size <= 1 << 40:
        raise Invalid("must be a size between 64M and 1T")
    return size


def _cores(text: str) -> float:
    if not re.fullmatch(r"\d{1,3}(\.\d{1,2})?", text) or float(text) < 0.1:
        raise Invalid("must be a number of cores from 0.1 on")
    return float(text)


@dataclass(frozen=True)
class Setting:
    """One setting: `parse` turns text into its value and raises Invalid; `default` is text.

    A secret one is sealed, goes in from a file or standard input only, and is never shown. `effect` says when a
    change counts: `at once`, with the `next deploy`, for `new stacks`, or after a `restart` of `mosaic serve`.
    """

    key: str
    kind: str
    default: str
    help: str
    parse: Callable[[str], Any]
    secret: bool = False
    effect: str = "at once"


@dataclass(frozen=True)
class Value:
    """A setting's value and its origin: `default`, `database`, `environment` or `env file`.

    `by` and `at` tell who set it in the database, and when; a secret's value is None.
    """

    key: str
    value: str | None
    origin: str
    by: str | None
    at: datetime | None
    secret: bool
    effect: str
    help: str


VARIABLES = {
    "DATABASE_URL": "The Postgres to use; by default the embedded one.",
    "MOSAIC_SECRET_KEY": "The key that protects all sealed values.",
}
_DEPLOY = "next deploy"
_NEW = "new stacks"
_START = "next start of a gateway"
_IDLE = "when a gateway is idle"
REGISTRY: dict[str, Setting] = {
    setting.key: setting
    for setting in (
        Setting(
            "egress.allow",
            "addresses",
            "",
            "Private addresses that Mosaic and every user's gateway may call: addresses or networks between commas, "
            "each with an optional `:port`, IPv6 in brackets.",
            egress.parse,
        ),
        Setting(
            "fleet.image",
            "image",
            "ghcr.io/openclaw/openclaw:2026.9.6",
            "The OpenClaw image of agents (next deploy) and of users' gateways (when idle), from release 2026.8.2 on.",
            _image,
            effect=_DEPLOY,
        ),
        Setting(
            "fleet.network",
            "network",
            "mosaic-stack_internal",
            "The overlay network of stacks made from now on that name none: the core stack's, where Mosaic reaches "
            "the agents. A stack that is there gets another one by `network:` in its roster file.",
            check_network,
            effect=_NEW,
        ),
        Setting(
            "fleet.health.interval",
            "seconds",
            "5",
            "Time between two health probes of an agent.",
            _seconds,
            effect=_DEPLOY,
        ),
        Setting(
            "fleet.health.timeout",
            "seconds",
            "10",
            "Time after which a health probe has failed.",
            _seconds,
            effect=_DEPLOY,
        ),
        Setting(
            "fleet.health.retries",
            "count",
            "6",
            "Failed probes in a row that make an agent unhealthy.",
            _count,
            effect=_DEPLOY,
        ),
        Setting(
            "fleet.health.start_period",
            "seconds",
            "180",
            "Time in which a starting agent may fail.",
            _seconds,
            effect=_DEPLOY,
        ),
        Setting(
            "fleet.restart.delay",
            "seconds",
            "10",
            "Time before a stopped agent is started again.",
            _seconds,
            effect=_DEPLOY,
        ),
        Setting(
            "fleet.stop_grace",
            "seconds",
            "330",
            "Time an agent has to finish its turns when stopped.",
            _seconds,
            effect=_DEPLOY,
        ),
        Setting(
            "fleet.update.monitor",
            "seconds",
            "5",
            "Time an updated agent is watched before it counts.",
            _seconds,
            effect=_DEPLOY,
        ),
        Setting(
            "gateways.subnet_pool",
            "network",
            "10.213.0.0/16",
            "Where users' gateways get their networks from, a /28 each while it runs; nothing else may use it.",
            _pool,
            effect=_START,
        ),
        Setting("gateways.memory", "size", "2G", "The memory that a user's gateway may use.", _memory, effect=_IDLE),
        Setting("gateways.cpus", "cores", "2", "The cores that a user's gateway may use.", _cores, effect=_IDLE),
        Setting("gateways.start_timeout", "seconds", "180", "Time a user's gateway has to start.", _seconds),
        Setting("gateways.stop_grace", "seconds", "330", "Time it has to finish its turns when stopped.", _seconds),
        Setting(
            "gateways.idle_timeout",
            "minutes",
            "30",
            "Time after which an idle gateway is put to sleep, for users who have none of their own; 0 is never.",
            _minutes,
        ),
        Setting(
            "gateways.minimum_uptime",
            "seconds",
            "300",
            "Time a started gateway runs at least before it is put to sleep.",
            _patience,
        ),
        Setting(
            "reap.every",
            "rhythm",
            "minute",
            "How often `mosaic serve` puts idle gateways to sleep by itself: minute or never.",
            _rhythm,
        ),
        Setting(
            "nap.after",
            "minutes",
            "2",
            "Idle time after which a user's gateway is paused and its memory given back; 0 switches naps off.",
            _nap,
        ),
    )
}


def values(session: "Session") -> dict[str, Any]:
    """Return every setting's value but the secret ones': the database's, else the default."""
    return parsed({row.key: row.value for row in _rows(session) if not row.encrypted})


def parsed(changed: Mapping[str, str]) -> dict[str, Any]:
    """Return every setting's value but the secret ones', given the texts of those that were changed."""
    return {key: one.parse(changed.get(key) or one.default) for key, one in REGISTRY.items() if not one.secret}


def secret(session: "Session", box: Box, key: str) -> "SecretStr | None":
    """Open a secret setting; None when it was never set."""
    from mosaic_fleet.db.tables import place

    row = _row(session, key)
    return box.open(place(row, "value"), row.value) if row and row.value else None


def origins(settings: Settings, rows: Iterable[SettingRow]) -> list[Value]:
    """Tell each variable's and setting's value and where it comes from; `rows` are those of the database."""
    told = [
        Value("DATABASE_URL", redact(settings.database_url or "embedded"), "", None, None, False, "restart", ""),
        Value("MOSAIC_SECRET_KEY", None, "", None, None, True, "restart", ""),
    ]
    told = [replace(one, origin=settings.origins[one.key], help=VARIABLES[one.key]) for one in told]
    changed = {row.key: row for row in rows}
    for key, one in REGISTRY.items():
        row = changed.get(key)
        value = row.value if row else None if one.secret else one.default
        by, at = (row.updated_by, row.updated_at) if row else (None, None)
        origin = "database" if row else "default"
        told.append(Value(key, value, origin, by, at, one.secret, one.effect, one.help))
    return told


def install_id(session: "Session") -> str:
    """Return this installation's id: 12 hex digits, made with the database."""
    return next(row.value for row in _rows(session) if row.key == "install.id")


def set(session: "Session", key: str, value: str, *, box: Box | None = None) -> bool:
    """Change a setting; return False when it has that value already. A secret one needs the box.

    Raises NotFound for an unknown setting, naming the nearest, and Invalid for a bad value.
    """
    setting = find(key)
    try:
        setting.parse(value)
    except Invalid as error:
        raise Invalid(f'setting "{key}" {error.message}') from None
    if setting.secret and box is not None:
        return _seal(session, box, key, value)
    if setting.secret:
        raise Invalid(f'setting "{key}" is secret', hint=f"mosaic config set {key} --value-stdin")
    row = _row(session, key)
    if ((row and row.value) or setting.default) == value:
        return False
    row = row or _fresh(key)
    row.value = value
    _write(session, row, "config.set", value=value)
    return True


def _seal(session: "Session", box: Box, key: str, value: str) -> bool:
    from mosaic_fleet.db.tables import place

    row = _row(session, key) or _fresh(key, encrypted=True)
    if row.value and box.open(place(row, "value"), row.value).get_secret_value() == value:
        return False
    row.value = box.seal(place(row, "value"), value)
    _write(session, row, "config.set")
    return True


def unset(session: "Session", key: str) -> bool:
    """Return a setting to its default; return False when it is there already.

    The row stays, emptied: its time tells that agents deployed before have another value.
    """
    find(key)
    row = _row(session, key)
    if row is None or not row.value:
        return False
    row.value = ""
    _write(session, row, "config.unset")
    return True


def find(key: str) -> Setting:
    """Return a setting by its key; raises NotFound naming the nearest one, and Invalid for a variable."""
    if key in VARIABLES:
        raise Invalid(f"{key} is a variable of the environment", hint=f"export {key}=…, or the env file's line")
    if key in REGISTRY:
        return REGISTRY[key]
    near = get_close_matches(key, REGISTRY, n=1)
    raise NotFound(f'no setting "{key}"', hint=f"did you mean {near[0]}?" if near else "mosaic config list")


def _row(session: "Session", key: str) -> "SystemConfig | None":
    return next((row for row in _rows(session) if row.key == key), None)


def _rows(session: "Session") -> "Sequence[SystemConfig]":
    from sqlmodel import select

    from mosaic_fleet.db.tables import SystemConfig

    return session.exec(select(SystemConfig)).all()


def _fresh(key: str, *, encrypted: bool = False) -> "SystemConfig":
    from mosaic_fleet.db.tables import SystemConfig

    return SystemConfig(key=key, value="", encrypted=encrypted)


def _write(session: "Session", row: "SystemConfig", verb: str, **details: str) -> None:
    from mosaic_fleet.identity import audit

    session.add(row)
    audit.record(session, verb, row.key, **details)
