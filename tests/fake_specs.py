"""Says in Docker's words what a service of a stack file says: for FakeRuntime, as engine 20.10 answered."""

from collections.abc import Mapping
from typing import Any

_SECOND = 10**9

_STACK = "com.docker.stack.namespace"


def names(spec: Mapping[str, Any]) -> set[str]:
    """Return the names of the Docker configs and Docker secrets that a spec uses."""
    container = spec["TaskTemplate"]["ContainerSpec"]
    return {item.get("ConfigName") or item.get("SecretName") for item in [*container["Configs"], *container["Secrets"]]}


def mounted(template: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Map the volumes that a task mounts to the labels they are made with."""
    mounts = [mount for mount in template["ContainerSpec"]["Mounts"] if mount["Type"] == "volume"]
    return {mount["Source"]: mount["VolumeOptions"].get("Labels", {}) for mount in mounts}


def spec(stack: str, name: str, service: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Say in Docker's words what a service of a stack file says."""
    deploy = service.get("deploy") or {}
    mark = {_STACK: stack}
    found = {
        "Name": f"{stack}_{name}",
        "Labels": {**mark, "com.docker.stack.image": service["image"], **(deploy.get("labels") or {})},
        "TaskTemplate": {
            "ContainerSpec": _container(stack, service, wanted) | {"Labels": {**mark, **(service.get("labels") or {})}},
            "Resources": _resources(deploy.get("resources") or {}),
            "RestartPolicy": _section(deploy.get("restart_policy"), {"MaxAttempts": 0}),
            "Placement": {"Constraints": (deploy.get("placement") or {}).get("constraints") or []},
            "Networks": _networks(service, wanted, name),
            "ForceUpdate": 0,
            "Runtime": "container",
        },
        "Mode": {"Replicated": {"Replicas": deploy.get("replicas", 1)}},
        "UpdateConfig": _section(deploy.get("update_config"), {"MaxFailureRatio": 0}),
        "RollbackConfig": _section(deploy.get("rollback_config"), {"MaxFailureRatio": 0}),
        "EndpointSpec": {"Mode": deploy.get("endpoint_mode", "vip")},
    }
    if logging := service.get("logging"):
        found["TaskTemplate"]["LogDriver"] = {"Name": logging["driver"], "Options": logging.get("options") or {}}
    return found


def _container(stack: str, service: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    volumes = wanted.get("volumes") or {}
    environment = service.get("environment") or {}
    said = {
        "Hostname": service.get("hostname"),
        "User": service.get("user"),
        "Init": service.get("init"),
        "ReadOnly": service.get("read_only"),
        "StopGracePeriod": _span(service["stop_grace_period"]) if "stop_grace_period" in service else None,
        "CapabilityDrop": service.get("cap_drop"),
    }
    return {key: value for key, value in said.items() if value is not None} | {
        "Image": service["image"],
        "Args": service.get("command") or [],
        "Env": sorted(f"{key}={value}" for key, value in environment.items()),
        "Privileges": {"CredentialSpec": None, "SELinuxContext": None, "NoNewPrivileges": False},
        "Mounts": [_mount(stack, one, volumes) for one in service.get("volumes") or []],
        "Configs": [_file(one, wanted.get("configs"), "Config") for one in service.get("configs") or []],
        "Secrets": [_file(one, wanted.get("secrets"), "Secret") for one in service.get("secrets") or []],
        "Healthcheck": _section(service.get("healthcheck"), {}),
        "DNSConfig": {},
        "Isolation": "default",
    }


def _section(section: Mapping[str, Any] | None, more: Mapping[str, Any]) -> dict[str, Any]:
    """Spell a section's keys as Docker does, and its times in nanoseconds."""
    times = ("interval", "timeout", "start_period", "delay", "monitor", "window")
    said = {
        key.title().replace("_", ""): _span(value) if key in times else value for key, value in (section or {}).items()
    }
    return {**more, **said}


def _span(text: str) -> int:
    return int(text.removesuffix("s")) * _SECOND


def _networks(service: Mapping[str, Any], wanted: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """Name each network by its file's name; FakeRuntime puts the id there."""
    joined = service.get("networks") or {}
    joined = joined if isinstance(joined, dict) else dict.fromkeys(joined)
    known = wanted.get("networks") or {}
    return [
        {"Target": (known.get(key) or {}).get("name", key), "Aliases": [*((value or {}).get("aliases") or []), name]}
        for key, value in joined.items()
    ]


def _resources(resources: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    titles = {"limits": "Limits", "reservations": "Reservations"}
    return {titles[key]: _amounts(value) for key, value in resources.items()}


def _amounts(value: Mapping[str, Any]) -> dict[str, int]:
    amounts = {"MemoryBytes": _bytes(value["memory"])} if "memory" in value else {}
    amounts |= {"NanoCPUs": round(float(value["cpus"]) * _SECOND)} if "cpus" in value else {}
    return amounts | ({"Pids": value["pids"]} if "pids" in value else {})


def _bytes(text: str) -> int:
    digits, unit = text.rstrip("KMG"), text.lstrip("0123456789")
    return int(digits) << {"": 0, "K": 10, "M": 20, "G": 30}[unit]


def _mount(stack: str, one: Mapping[str, Any], volumes: Mapping[str, Any]) -> dict[str, Any]:
    if one["type"] == "bind":
        return {"Type": "bind", "Source": one["source"], "Target": one["target"]}
    if one["type"] != "volume":
        return {"Type": one["type"], "Target": one["target"], "TmpfsOptions": {"SizeBytes": one["tmpfs"]["size"]}}
    volume = volumes[one["source"]] or {}
    return {
        "Type": "volume",
        "Source": volume.get("name", f"{stack}_{one['source']}"),
        "Target": one["target"],
        "VolumeOptions": {} if volume.get("external") else {"Labels": {_STACK: stack, **(volume.get("labels") or {})}},
    }


def _file(one: Mapping[str, Any], known: Mapping[str, Any] | None, kind: str) -> dict[str, Any]:
    name = ((known or {}).get(one["source"]) or {}).get("name", one["source"])
    file = {"Name": one.get("target", one["source"]), "UID": one.get("uid", "0"), "GID": one.get("gid", "0")}
    return {"File": file | {"Mode": one.get("mode", 0o444)}, f"{kind}ID": f"id-of-{name}", f"{kind}Name": name}
