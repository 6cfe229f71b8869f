"""A hand-made fleet's compose file: its services, with variables filled in, as far as Mosaic understands them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from mosaic_fleet.fleet import entries
from mosaic_fleet.fleet.entries import Entry
from mosaic_fleet.fleet.handmade import variables
from mosaic_fleet.fleet.handmade.folder import Folder
from mosaic_fleet.fleet.handmade.variables import Variable
from mosaic_fleet.fleet.openclaw import STATE_DIR

_LABELS = ("com.mosaic.agent", "com.mosaic.role")
# What Mosaic sets itself for every agent, or says once for the fleet.
_REPLACED = frozenset(
    {"image", "command", "entrypoint", "healthcheck", "restart", "container_name", "hostname", "user", "init"}
    | {"read_only", "cap_drop", "security_opt", "logging", "stop_grace_period", "stop_signal", "tmpfs", "depends_on"}
    | {"pull_policy", "working_dir", "tty", "stdin_open", "networks"}
)
_READ = frozenset({"env_file", "environment", "labels", "volumes", "configs", "deploy", "scale"})
_SIZES = {"mem_limit": "memory_limit", "mem_reservation": "memory_reservation", "cpus": "cpu_limit"}
_DEPLOY_REPLACED = frozenset({"restart_policy", "update_config", "rollback_config", "endpoint_mode", "mode"})


@dataclass(frozen=True)
class Mount:
    """What a container sees at `target`: a file or folder of the host, or a volume (`name` as Docker calls it)."""

    kind: str
    source: str
    target: str
    place: str


@dataclass
class Service:
    """A service: columns of the roster (`values`), its variables, and what it mounts, by target."""

    name: str
    entry: Entry
    values: dict[str, Any] = field(default_factory=dict)
    variables: dict[str, Variable] = field(default_factory=dict)
    env_files: list[str] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    mounts: dict[str, Mount] = field(default_factory=dict)
    networks: list[str] = field(default_factory=list)
    image: str = ""
    notes: list[str] = field(default_factory=list)

    def note(self, entry: Entry, text: str = "is not taken over") -> None:
        """Remember something that was not understood, by its place and never by its value."""
        self.notes.append(f"{entry.place}: {entry.path}: {text}")

    @property
    def config_path(self) -> str:
        """Where its OpenClaw looks for its config."""
        known = {name: one.value for name, one in self.variables.items()}
        state = known.get("OPENCLAW_STATE_DIR") or STATE_DIR
        return known.get("OPENCLAW_CONFIG_PATH") or f"{state}/openclaw.json"

    @property
    def is_openclaw(self) -> bool:
        """Tell whether it looks like a gateway."""
        return "openclaw" in self.image or "OPENCLAW_GATEWAY_TOKEN" in self.variables or _LABELS[0] in self.labels


class ComposeFile:
    """A compose file and the folder it lies in; `stack` is the name that its volumes and networks begin with."""

    def __init__(self, folder: Folder, name: str, root: Entry, stack: str | None = None) -> None:
        self._folder = folder
        self._top = entries.mapping(root)
        self.file = name
        self._own = self._dot_env()
        self._values = {"PWD": folder.absolute} | {name: one.value for name, one in self._own.items()}
        self._unset: dict[str, Entry] = {}
        self.stack = stack or (self._text(self._top["name"]) if "name" in self._top else folder.name)

    def services(self) -> list[Service]:
        """Read every service."""
        found = entries.mapping(self._top["services"]) if "services" in self._top else {}
        return [self._service(name, entry) for name, entry in found.items()]

    def unset(self) -> list[str]:
        """Name the variables that are set nowhere, once each."""
        return [f"{one.place}: {one.path}: {name} is not set" for name, one in self._unset.items()]

    def host_file(self, mount: Mount) -> str | None:
        """Find the file of the folder that a mount shows, None when a volume or a file elsewhere is behind it."""
        return self._folder.find(mount.source) if mount.kind == "bind" else None

    def _dot_env(self) -> dict[str, Variable]:
        return variables.read(self._folder.read(".env"), ".env", {}) if self._folder.has(".env") else {}

    def _service(self, name: str, entry: Entry) -> Service:
        given = entries.mapping(entry)
        service = Service(name, entry)
        if "image" in given:
            service.image = self._text(given["image"])
        for one in self._env_files(given.get("env_file")):
            self._add_env_file(service, one)
        for key, variable in self._environment(service, given.get("environment")):
            service.variables[key] = variable
        self._add_labels(service, given.get("labels"))
        self._add_deploy(service, given.get("deploy"))
        for key, column in _SIZES.items():
            if key in given:
                service.values.setdefault(column, self._size(given[key], column))
        if "scale" in given:
            service.values.setdefault("replicas", self._whole(given["scale"]))
        self._add_mounts(service, given)
        service.networks = [self._network(one) for one in self._keys(given.get("networks"))]
        for key in given.keys() - _READ - _REPLACED - _SIZES.keys():
            service.note(given[key])
        service.notes.sort()
        return service

    # Variables --------------------------------------------------------------------------------------------------------

    def _env_files(self, entry: Entry | None) -> Iterator[tuple[Entry, bool]]:
        """Yield each env file's entry and whether it must be there."""
        if entry is None:
            return
        for one in entry.value if isinstance(entry.value, list) else [entry]:
            if isinstance(one.value, dict) and "path" in one.value:
                required = one.value.get("required")
                yield one.value["path"], required is None or required.value is not False
            else:
                yield one, True

    def _add_env_file(self, service: Service, given: tuple[Entry, bool]) -> None:
        entry, required = given
        name = self._folder.find(self._text(entry))
        if name is None and required:
            raise entry.fail("this file is not in the folder")
        if name is None:
            service.note(entry, "is not in the folder")
            return
        service.env_files.append(name)
        service.variables |= variables.read(self._folder.read(name), name, self._values)

    def _environment(self, service: Service, entry: Entry | None) -> Iterator[tuple[str, Variable]]:
        """Yield variables of the map or list form; one without a value comes from `.env`."""
        for key, one, text in self._pairs(entry):
            if text is not None:
                yield key, Variable(text, f"{one.place}: environment")
            elif key in self._own:
                yield key, self._own[key]
            else:
                service.note(replace(one, path=f"services.{service.name}.environment.{key}"), "is not set")

    def _pairs(self, entry: Entry | None) -> Iterator[tuple[str, Entry, str | None]]:
        """Yield what stands as a map of keys to values or as a list of `key=value`."""
        if entry is None or entry.value is None:
            return
        if isinstance(entry.value, list):
            for one in entry.value:
                key, equals, text = self._text(one).partition("=")
                yield key, one, text if equals else None
            return
        for key, one in entries.mapping(entry).items():
            yield key, one, None if one.value is None else self._text(one)

    # Sizes, labels ----------------------------------------------------------------------------------------------------

    def _add_deploy(self, service: Service, entry: Entry | None) -> None:
        if entry is None:
            return
        deploy = entries.mapping(entry)
        if "mode" in deploy and self._text(deploy["mode"]) != "replicated":
            raise deploy["mode"].fail("an agent is one gateway: only replicated services can be taken over")
        if "replicas" in deploy:
            service.values["replicas"] = self._whole(deploy["replicas"])
        self._add_labels(service, deploy.get("labels"))
        if "resources" in deploy:
            self._add_resources(service, deploy["resources"])
        for key in deploy.keys() - _DEPLOY_REPLACED - {"replicas", "labels", "resources"}:
            service.note(deploy[key])

    def _add_resources(self, service: Service, entry: Entry) -> None:
        columns = {"limits.memory": "memory_limit", "limits.cpus": "cpu_limit", "reservations.memory": ""}
        columns["reservations.memory"] = "memory_reservation"
        for kind, section in entries.mapping(entry).items():
            for key, one in entries.mapping(section).items():
                column = columns.get(f"{kind}.{key}")
                if column:
                    service.values[column] = self._size(one, column)
                elif (kind, key) != ("limits", "pids"):
                    service.note(one)

    def _add_labels(self, service: Service, entry: Entry | None) -> None:
        for key, one, text in self._pairs(entry):
            service.labels[key] = text or ""
            if key not in _LABELS:
                service.note(replace(one, path=f"{entry.path if entry else ''}.{key}"))
        if "com.mosaic.role" in service.labels:
            service.values["role"] = service.labels["com.mosaic.role"]

    def _size(self, entry: Entry, column: str) -> Any:
        text = self._text(entry)
        if column != "cpu_limit":
            return entries.size(replace(entry, value=text))
        try:
            return float(text) or None
        except ValueError:
            raise entry.fail("must be a number of cores") from None

    def _whole(self, entry: Entry) -> int:
        text = self._text(entry)
        if not text.isdecimal() or len(text) > 9:
            raise entry.fail("must be a whole number")
        return int(text)

    # Mounts, networks -------------------------------------------------------------------------------------------------

    def _add_mounts(self, service: Service, given: Mapping[str, Entry]) -> None:
        for one in entries.items(given["volumes"]) if "volumes" in given else []:
            if mount := self._mount(one):
                service.mounts[mount.target] = mount
        for one in entries.items(given["configs"]) if "configs" in given else []:
            if mount := self._config(one):
                service.mounts[mount.target] = mount

    def _mount(self, entry: Entry) -> Mount | None:
        """Read a mount's long form, or its short one `source:target[:options]`; None for a tmpfs."""
        if isinstance(entry.value, dict):
            told = {key: self._text(entry.value[key]) for key in ("type", "source", "target") if key in entry.value}
            kind, source, target = told.get("type", "volume"), told.get("source", ""), told.get("target", "")
        else:
            source, target, *_ = [*self._text(entry).split(":"), ""]
            source, target = (source, target) if target else ("", source)
            kind = "bind" if source.startswith((".", "/", "~")) else "volume"
        if kind not in ("bind", "volume"):
            return None
        target = str(PurePosixPath(target))
        return self._volume(source, target, entry) if kind == "volume" else Mount(kind, source, target, entry.place)

    def _volume(self, key: str, target: str, entry: Entry) -> Mount:
        """Say what stands behind a named volume: Docker's name for it, or the host's path that it binds."""
        volume = self._declared("volumes", key)
        options = self._declared_in(volume, "driver_opts")
        if "device" in options and "bind" in self._text(options.get("o", entry)):
            return Mount("bind", self._text(options["device"]), target, entry.place)
        return Mount("volume", self._docker_name(volume, key), target, entry.place)

    def _config(self, entry: Entry) -> Mount | None:
        """Read a config of the compose file that shows a file of the folder."""
        used = {"source": entry} if not isinstance(entry.value, dict) else entry.value
        if "source" not in used:
            return None
        key = self._text(used["source"])
        declared = self._declared("configs", key)
        target = self._text(used["target"]) if "target" in used else f"/{key}"
        return Mount("bind", self._text(declared["file"]), target, entry.place) if "file" in declared else None

    def _network(self, key: str) -> str:
        return self._docker_name(self._declared("networks", key), key)

    def _docker_name(self, declared: Mapping[str, Entry], key: str) -> str:
        """Name a volume or network as Docker does: by its own name, or with the stack's before its key."""
        external = declared.get("external")
        if external is not None and isinstance(external.value, dict) and "name" in external.value:
            return self._text(external.value["name"])
        if "name" in declared:
            return self._text(declared["name"])
        return key if external is not None and external.value else f"{self.stack}_{key}"

    def _declared(self, kind: str, key: str) -> Mapping[str, Entry]:
        return self._declared_in(self._declared_in(self._top, kind), key)

    @staticmethod
    def _declared_in(parent: Mapping[str, Entry], key: str) -> Mapping[str, Entry]:
        entry = parent.get(key)
        return {} if entry is None or entry.value is None else entries.mapping(entry)

    def _keys(self, entry: Entry | None) -> list[str]:
        if entry is None or entry.value is None:
            return []
        return [self._text(one) for one in entry.value] if isinstance(entry.value, list) else list(entry.value)

    def _text(self, entry: Entry) -> str:
        """Read a word as it is written, with its variables filled in."""
        if isinstance(entry.value, dict | list):
            raise entry.fail("must be a single value")
        return variables.substitute(entry.raw, self._values, lambda name, must: self._missing(entry, name, must))

    def _missing(self, entry: Entry, name: str, must: bool) -> str:
        if must:
            raise entry.fail(f"{name} must be set, in the file .env of the folder")
        self._unset.setdefault(name, entry)
        return ""
