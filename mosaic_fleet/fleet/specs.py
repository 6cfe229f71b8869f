"""Says what a service is in plain fields: one that a stack file wants and one that Docker has, so that both compare.

A field is called as in a stack file (`limits.memory`, `env.NODE_OPTIONS`). What Docker has and no stack file of ours
asks for keeps Docker's own name, so nothing that was changed by hand is overlooked. What Docker counts or looks up
for itself (ids, `ForceUpdate`) is no field, and what is empty or zero is the same as absent.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from mosaic_fleet.fleet import openclaw
from mosaic_fleet.fleet.stack import CONFIG_FILE, volume
from mosaic_fleet.names import format_size
from mosaic_fleet.runtimes.base import SPEC_LABEL, STACK_LABEL

Fields = dict[str, Any]
NETWORK = "network"
IMAGE = "image"
TITLES = {
    CONFIG_FILE: "openclaw.json",
    openclaw.SOUL_FILE: "personality",
    openclaw.TOKEN_FILE: "token",
    openclaw.KEYS_FILE: "keys",
}
SECRETS = ("token", "keys")
_SECOND = 10**9
_STACK = "com.docker.stack.namespace"
# Docker's own bookkeeping: the image as the stack file had it, and our digest, which tells nothing by itself.
_NO_LABELS = {"com.docker.stack.image", SPEC_LABEL}
_NO_FIELDS = {"Name", "TaskTemplate.ForceUpdate", "TaskTemplate.Runtime", "TaskTemplate.ContainerSpec.Isolation"}
_NAMES = {
    "TaskTemplate.ContainerSpec.Image": IMAGE,
    "TaskTemplate.ContainerSpec.Args": "command",
    "TaskTemplate.ContainerSpec.Hostname": "hostname",
    "TaskTemplate.ContainerSpec.User": "user",
    "TaskTemplate.ContainerSpec.Init": "init",
    "TaskTemplate.ContainerSpec.ReadOnly": "read_only",
    "TaskTemplate.ContainerSpec.CapabilityDrop": "cap_drop",
    "TaskTemplate.ContainerSpec.CapabilityAdd": "cap_add",
    "TaskTemplate.ContainerSpec.StopGracePeriod": "stop_grace_period",
    "TaskTemplate.Resources.Limits.MemoryBytes": "limits.memory",
    "TaskTemplate.Resources.Limits.NanoCPUs": "limits.cpus",
    "TaskTemplate.Resources.Limits.Pids": "limits.pids",
    "TaskTemplate.Resources.Reservations.MemoryBytes": "reservations.memory",
    "TaskTemplate.Placement.Constraints": "placement.constraints",
    "TaskTemplate.LogDriver.Name": "logging.driver",
    "Mode.Replicated.Replicas": "replicas",
    "EndpointSpec.Mode": "endpoint_mode",
    "EndpointSpec.Ports": "ports",
}
# Docker's path up to here is a section of the stack file; what follows is spelled as there.
_SECTIONS = {
    "TaskTemplate.ContainerSpec.Healthcheck": "healthcheck",
    "TaskTemplate.LogDriver.Options": "logging",
    "TaskTemplate.RestartPolicy": "restart_policy",
    "UpdateConfig": "update_config",
    "RollbackConfig": "rollback_config",
}
_SIZES = {"limits.memory", "reservations.memory"}
_SPANS = {"stop_grace_period"} | {
    f"{section}.{key}"
    for section, keys in {
        "healthcheck": ("interval", "timeout", "start_period"),
        "restart_policy": ("delay", "window"),
        "update_config": ("delay", "monitor"),
        "rollback_config": ("delay", "monitor"),
    }.items()
    for key in keys
}


def wanted(service: Mapping[str, Any]) -> Fields:
    """Return the fields of a service of a stack file; the files it is given come first."""
    deploy, resources = service["deploy"], service["deploy"]["resources"]
    marks = {_STACK: service["labels"][STACK_LABEL]}
    fields: Fields = {TITLES[one["target"]]: one["source"] for one in [*service["configs"], *service["secrets"]]}
    fields |= {IMAGE: service["image"], "replicas": deploy["replicas"]}
    fields |= {
        "limits.memory": int(resources["limits"]["memory"]),
        "limits.cpus": round(float(resources["limits"].get("cpus", 0)) * _SECOND),
        "limits.pids": resources["limits"]["pids"],
        "reservations.memory": int(resources["reservations"]["memory"]),
        "placement.constraints": deploy.get("placement", {}).get("constraints"),
    }
    fields |= {key: service[key] for key in ("command", "hostname", "user", "init", "read_only", "cap_drop")}
    fields |= {f"env.{name}": value for name, value in service["environment"].items()}
    fields |= {f"mounts.{one['target']}": _mount(service, one) for one in service["volumes"]}
    fields |= {f"labels.{key}": value for key, value in (marks | deploy["labels"]).items() if key not in _NO_LABELS}
    fields |= {f"container_labels.{key}": value for key, value in (marks | service["labels"]).items()}
    fields |= {"stop_grace_period": service["stop_grace_period"], "endpoint_mode": deploy["endpoint_mode"]}
    fields |= {"logging.driver": service["logging"]["driver"], "network.aliases": _aliases(service)}
    sections = {"healthcheck": service["healthcheck"], "logging": service["logging"]["options"]}
    sections |= {name: deploy[name] for name in ("restart_policy", "update_config", "rollback_config")}
    fields |= {f"{name}.{key}": value for name, section in sections.items() for key, value in section.items()}
    return _present({key: _nanoseconds(value) if key in _SPANS else value for key, value in fields.items()})


def live(spec: Mapping[str, Any]) -> Fields:
    """Return the fields of a service as Docker has it."""
    task = spec["TaskTemplate"]
    container = task["ContainerSpec"]
    fields: Fields = {}
    for one in [*(container.get("Configs") or []), *(container.get("Secrets") or [])]:
        fields |= _file(one)
    fields |= {f"env.{name}": value for name, _, value in (one.partition("=") for one in container.get("Env") or [])}
    fields |= {f"mounts.{one.get('Target')}": _live_mount(one) for one in container.get("Mounts") or []}
    fields |= {f"labels.{key}": value for key, value in (spec.get("Labels") or {}).items() if key not in _NO_LABELS}
    fields |= {f"container_labels.{key}": value for key, value in (container.get("Labels") or {}).items()}
    networks = task.get("Networks") or []
    fields[NETWORK] = sorted(one["Target"] for one in networks)
    fields["network.aliases"] = sorted({alias for one in networks for alias in one.get("Aliases") or []})
    fields |= {_name(path): value for path, value in _leaves(_rest(spec)) if path not in _NO_FIELDS}
    return _present(fields)


def shown(field: str, value: Any) -> str | None:
    """Write a field's value as a person does; of the name of a file's content only the end of its hash."""
    if value is None:
        return None
    if field in _SIZES:
        return format_size(value)
    if field in _SPANS:
        return f"{value / _SECOND:g}s"
    if field == "limits.cpus":
        return f"{value / _SECOND:g}"
    if field in TITLES.values():
        return f"{'#' if field in SECRETS else ''}{str(value)[-4:]}"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _rest(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what is read otherwise."""
    task = {key: value for key, value in spec["TaskTemplate"].items() if key != "Networks"}
    read = ("Configs", "Secrets", "Env", "Mounts", "Labels")
    task["ContainerSpec"] = {key: value for key, value in task["ContainerSpec"].items() if key not in read}
    return {key: value for key, value in spec.items() if key != "Labels"} | {"TaskTemplate": task}


def _leaves(value: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _leaves(inner, f"{path}{key}.")
        else:
            yield f"{path}{key}", inner


@cache
def _name(path: str) -> str:
    section, _, key = path.rpartition(".")
    if section in _SECTIONS:
        return f"{_SECTIONS[section]}.{_underscored(key)}"
    return _NAMES.get(path, path)


def _underscored(name: str) -> str:
    """Spell Docker's `StartPeriod` as a stack file does, `start_period`; what has no capital stays."""
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")


def _file(one: Mapping[str, Any]) -> Fields:
    """Return a file's content by its name and, where it is not our user's alone, whose it is."""
    name = one.get("ConfigName") or one.get("SecretName") or ""
    file = one.get("File") or {}
    title = TITLES.get(file.get("Name", ""), f"files.{file.get('Name', name)}")
    owner = f"{file.get('UID')}:{file.get('GID')} {file.get('Mode') or 0:o}"
    return {title: name} | ({f"{title}.owner": owner} if owner != "1000:1000 400" else {})


def _mount(service: Mapping[str, Any], one: Mapping[str, Any]) -> str:
    if one["type"] == "volume":
        declared = volume(service)
        labels = declared.get("labels")
        return f"volume {declared['name']}" + (
            f" {_labelled({_STACK: labels[STACK_LABEL]} | labels)}" if labels else ""
        )
    return f"tmpfs {format_size(one['tmpfs']['size'])}"


def _live_mount(one: Mapping[str, Any]) -> str:
    """Write a mount as _mount() does, and whatever else it has behind it."""
    extra = {key: value for key, value in one.items() if key not in ("Type", "Source", "Target") and value}
    words = [str(one.get("Type", "")), str(one.get("Source") or "")]
    if size := (extra.get("TmpfsOptions") or {}).get("SizeBytes"):
        extra["TmpfsOptions"] = {key: value for key, value in extra["TmpfsOptions"].items() if key != "SizeBytes"}
        words.append(format_size(size))
    if labels := (extra.get("VolumeOptions") or {}).get("Labels"):
        extra["VolumeOptions"] = {key: value for key, value in extra["VolumeOptions"].items() if key != "Labels"}
        words.append(_labelled(labels))
    words += [f"{key}={value}" for key, value in _leaves(extra) if value]
    return " ".join(word for word in words if word)


def _labelled(labels: Mapping[str, str]) -> str:
    return f"({', '.join(f'{key}={value}' for key, value in sorted(labels.items()))})"


def _aliases(service: Mapping[str, Any]) -> list[str]:
    return sorted({alias for network in service["networks"].values() for alias in network["aliases"]})


def _nanoseconds(text: str) -> int:
    return int(str(text).removesuffix("s")) * _SECOND


def _present(fields: Fields) -> Fields:
    """Drop what is empty or zero: Docker writes it or leaves it out as it likes. No replicas is a number, though."""
    return {
        key: value for key, value in fields.items() if value not in (None, "", 0, False, [], {}) or key == "replicas"
    }
