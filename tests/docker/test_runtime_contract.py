"""What every StackRuntime does: the same tests on FakeRuntime and on SwarmRuntime with a real Swarm."""

from pathlib import Path
from typing import Any

import pytest

from mosaic_fleet.errors import Conflict, RuntimeFailure
from mosaic_fleet.runtimes.base import Folder, Kind, LogLine, Streams
from tests.docker.bench import SPEAK_AND_FAIL, Bench
from tests.docker_run import wait_until
from tests.fakes import Failure

KINDS: list[Kind] = ["docker_config", "docker_secret"]


def test_the_engine_is_a_manager_of_its_own_swarm(bench: Bench) -> None:
    """The engine says that its Swarm is active, and its node is ready among the nodes."""
    engine = bench.runtime.engine()
    assert (engine.swarm, engine.is_manager) == ("active", True)
    assert engine.memory_bytes > 1 << 30
    node = next(node for node in bench.runtime.nodes() if node.id == engine.node_id)
    assert (node.state, node.availability) == ("ready", "active")
    assert node.memory_bytes > 1 << 30
    assert 1 <= node.cpus <= 1024


def test_an_image_is_found_by_name_and_by_id(bench: Bench) -> None:
    """An image that is there has an id and a version; one that is not is None."""
    image = bench.runtime.image(bench.image)
    assert image
    assert image.version == "2026.9.6"
    assert bench.runtime.image(image.id) == image
    assert bench.runtime.image("mosaic-no-such-image:1") is None


def test_a_network_is_found_by_its_exact_name(bench: Bench) -> None:
    """A created network is an attachable overlay with its labels, and a part of its name finds nothing."""
    created = bench.runtime.create_network(bench.name("net"), labels=bench.labels)
    assert (created.driver, created.attachable, created.labels) == ("overlay", True, bench.labels)
    assert wait_until(lambda: bench.runtime.network(bench.name("net")) == created)
    assert bench.runtime.network(bench.name("ne")) is None
    assert bench.runtime.network("ridge") is None  # of Docker's own "bridge"


def test_a_second_network_of_a_name_is_a_conflict(bench: Bench) -> None:
    """Creating a network twice raises Conflict."""
    bench.runtime.create_network(bench.name("net"), labels=bench.labels)
    with pytest.raises(Conflict, match="net"):
        bench.runtime.create_network(bench.name("net"), labels=bench.labels)


@pytest.mark.parametrize("kind", KINDS)
def test_a_docker_object_is_found_by_exact_name_and_labels(bench: Bench, kind: Kind) -> None:
    """A Docker config or secret is found by its whole name or by all its labels, and is gone once removed."""
    mine = bench.labels | {"com.mosaic.one": bench.stack}
    item = bench.runtime.create_docker_object(kind, bench.name("object"), b"caf\xc3\xa9\0", labels=mine)
    assert bench.runtime.docker_object(kind, bench.name("object")) == item
    assert bench.runtime.docker_object(kind, bench.name("obj")) is None
    assert bench.runtime.docker_objects(mine) == [item]
    assert bench.runtime.docker_objects(mine | {"com.mosaic.two": "x"}) == []
    assert bench.runtime.remove_docker_object(item) is True
    assert bench.runtime.docker_object(kind, bench.name("object")) is None
    assert bench.runtime.remove_docker_object(item) is True


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_docker_object_of_a_name_is_a_conflict(bench: Bench, kind: Kind) -> None:
    """Creating a Docker config or secret twice raises Conflict and keeps the first."""
    first = bench.runtime.create_docker_object(kind, bench.name("object"), b"one", labels=bench.labels)
    with pytest.raises(Conflict, match="object"):
        bench.runtime.create_docker_object(kind, bench.name("object"), b"two", labels=bench.labels)
    assert bench.runtime.docker_object(kind, bench.name("object")) == first


def test_a_volume_keeps_what_it_was_made_with(bench: Bench) -> None:
    """Creating a volume again changes nothing; it is found by its labels and gone once removed."""
    name, mine = bench.name("state"), bench.labels | {"com.mosaic.one": bench.stack}
    assert bench.runtime.volume_labels(name) is None
    bench.runtime.create_volume(name, labels=mine)
    bench.runtime.create_volume(name, labels=bench.labels)
    assert bench.runtime.volume_labels(name) == mine
    assert bench.runtime.volumes(mine) == [name]
    assert bench.runtime.remove_volume(name) is True
    assert bench.runtime.volumes(mine) == []
    assert bench.runtime.remove_volume(name) is True


def test_a_service_is_found_by_its_exact_name(bench: Bench) -> None:
    """The whole name finds what the stack's listing has; a part of it and another name find nothing."""
    bench.deploy()
    bench.running_container()
    wait_until(lambda: bench.service().running)
    assert bench.runtime.service(f"{bench.stack}_one") == bench.service()
    assert bench.runtime.service(f"{bench.stack}_on") is None
    assert bench.runtime.service(f"{bench.stack}_one-more") is None


def test_a_deployed_service_has_the_shape_of_docker(bench: Bench) -> None:
    """The spec of a deployed service says image, labels, places of its files, mounts, limits, node and replicas."""
    config = bench.runtime.create_docker_object("docker_config", bench.name("conf"), b"{}", labels=bench.labels)
    secret = bench.runtime.create_docker_object("docker_secret", bench.name("key"), b"k", labels=bench.labels)
    node = bench.runtime.engine().node_id
    place = {"uid": "1000", "gid": "1000", "mode": 0o400}
    bench.deploy(
        environment={"A": "b"},
        configs=[{"source": config.name, "target": "/run/mosaic/openclaw.json", **place}],
        secrets=[{"source": secret.name, "target": "token", **place}],
        volumes=[{"type": "volume", "source": "state", "target": "/home/node/.openclaw"}],
        deploy={
            "resources": {"limits": {"memory": "64M"}},
            "placement": {"constraints": [f"node.id == {node}"]},
            "replicas": 1,
        },
        top={
            "configs": {config.name: {"external": True}},
            "secrets": {secret.name: {"external": True}},
            "volumes": {"state": {"name": bench.name("state"), "labels": bench.labels}},
        },
    )
    service = bench.service()
    container = service.spec["TaskTemplate"]["ContainerSpec"]
    owned = {"UID": "1000", "GID": "1000", "Mode": 0o400}
    assert service.name == f"{bench.stack}_one"
    assert bench.labels.items() <= service.labels.items()
    assert bench.labels.items() <= container["Labels"].items()
    assert service.labels["com.docker.stack.namespace"] == bench.stack
    assert (container["Image"], container["Args"], container["Env"]) == (bench.image, ["sleep", "600"], ["A=b"])
    assert container["Configs"][0]["ConfigName"] == config.name
    assert container["Configs"][0]["File"] == {"Name": "/run/mosaic/openclaw.json", **owned}
    assert container["Secrets"][0]["SecretName"] == secret.name
    assert container["Secrets"][0]["File"] == {"Name": "token", **owned}
    assert container["Mounts"][0]["Source"] == bench.name("state")
    assert service.spec["TaskTemplate"]["Resources"]["Limits"]["MemoryBytes"] == 64 << 20
    assert service.spec["TaskTemplate"]["Placement"]["Constraints"] == [f"node.id == {node}"]
    assert service.spec["Mode"]["Replicated"]["Replicas"] == 1
    assert container["Mounts"][0]["VolumeOptions"]["Labels"].items() >= bench.labels.items()
    bench.running_container()
    assert bench.labels.items() <= (bench.runtime.volume_labels(bench.name("state")) or {}).items()


def test_a_task_runs_the_spec_it_was_made_from(bench: Bench) -> None:
    """A deployed service gets one running task on the node, with a container and no exit code."""
    bench.deploy()
    container = bench.running_container()
    (task,) = bench.runtime.tasks(bench.stack)
    service = wait_until(lambda: next((one for one in bench.runtime.services(bench.stack) if one.running), None))
    assert (service.running, service.desired, service.update_state) == (1, 1, "")
    assert (task.service_id, task.node_id) == (service.id, bench.runtime.engine().node_id)
    assert (task.error, task.exit_code, task.container_id) == ("", None, container)
    assert task.spec["ContainerSpec"] == service.spec["TaskTemplate"]["ContainerSpec"]
    end = bench.runtime.container_end(container)
    assert end
    assert (end.running, end.oom_killed) == (True, False)


def test_deploying_the_same_again_touches_no_task(bench: Bench) -> None:
    """The task keeps running when the same stack file is deployed again."""
    bench.deploy()
    bench.running_container()
    before = [task.id for task in bench.runtime.tasks(bench.stack)]
    bench.deploy()
    assert [task.id for task in bench.runtime.tasks(bench.stack)] == before
    assert bench.service().update_state == ""


def test_an_update_replaces_the_task(bench: Bench) -> None:
    """A changed service gets a new task, the old one is shut down, and the update ends as completed."""
    bench.deploy()
    bench.running_container()
    old = bench.runtime.tasks(bench.stack)[0]
    bench.deploy(["sleep", "601"])
    wait_until(lambda: bench.service().update_started)
    new = bench.task_that(lambda task: task.id != old.id and task.state == "running")
    wait_until(lambda: bench.runtime.tasks(bench.stack) and bench.service().update_state == "completed")
    assert new.spec["ContainerSpec"]["Args"] == ["sleep", "601"]
    was = next(task for task in bench.runtime.tasks(bench.stack) if task.id == old.id)
    assert was.desired == "shutdown"
    assert bench.runtime.tasks(bench.stack)[0].id == new.id


def test_a_failed_update_is_taken_back(bench: Bench) -> None:
    """When the new task fails, Swarm goes back to the old spec and says so."""
    bench.deploy()
    bench.running_container()
    if bench.fake:
        bench.fake.failures[f"{bench.stack}_one"] = Failure("failed", "task: non-zero exit (3)", 3)
    # However late Swarm hears of the failure, it must still be watching.
    bench.deploy(["sh", "-c", SPEAK_AND_FAIL], deploy={"update_config": bench.update(monitor="120s")})
    wait_until(lambda: bench.runtime.tasks(bench.stack) and bench.service().update_state == "rollback_completed")
    service = bench.service()
    assert service.spec["TaskTemplate"]["ContainerSpec"]["Args"] == ["sleep", "600"]
    assert service.update_message == "rollback completed"
    bench.running_container()


def test_replicas_stop_and_start_a_service(bench: Bench) -> None:
    """With no replica nothing runs and nothing is wanted; with one it runs again."""
    bench.deploy(deploy={"replicas": 0})
    assert bench.runtime.tasks(bench.stack) == []
    assert (bench.service().running, bench.service().desired) == (0, 0)
    bench.deploy()
    bench.running_container()


def test_a_missing_image_is_rejected_with_the_reason(bench: Bench) -> None:
    """A task whose image is nowhere is rejected, and its error names the image."""
    bench.deploy(image="mosaic-no-such-image:1")
    task = bench.task_that(lambda task: task.state == "rejected")
    assert task.error == "No such image: mosaic-no-such-image:1"
    assert (task.exit_code, task.container_id) == (None, None)


def test_a_failed_task_tells_its_exit_code_and_is_tried_again(bench: Bench) -> None:
    """A command that ends with 78 leaves a failed task that says so, and Swarm makes another one."""
    if bench.fake:
        bench.fake.failures[f"{bench.stack}_one"] = Failure("failed", "task: non-zero exit (78)", 78)
    bench.deploy(["sh", "-c", "exit 78"])
    task = bench.task_that(lambda task: task.state == "failed")
    assert (task.exit_code, task.error) == (78, "task: non-zero exit (78)")
    assert task.container_id
    end = bench.runtime.container_end(task.container_id)
    assert end
    assert (end.running, end.exit_code, end.oom_killed) == (False, 78, False)
    bench.task_that(lambda other: other.id != task.id)


def test_a_container_that_ran_out_of_memory_says_so(bench: Bench) -> None:
    """The end of a container killed for memory is told as that, while the task only says 137."""
    if bench.fake:
        failure = Failure("failed", "task: non-zero exit (137)", 137, oom_killed=True)
        bench.fake.failures[f"{bench.stack}_one"] = failure
    hog = "const held = []; for (;;) held.push(Buffer.alloc(1 << 24, 1))"
    bench.deploy(["node", "-e", hog], deploy={"resources": {"limits": {"memory": "64M"}}})
    task = bench.task_that(lambda task: task.state == "failed")
    assert task.exit_code == 137
    assert wait_until(lambda: (end := bench.runtime.container_end(task.container_id or "")) and end.oom_killed)


def test_what_is_in_use_stays(bench: Bench) -> None:
    """A Docker config that a service names and a volume that its task mounts cannot be removed until it is gone."""
    config = bench.runtime.create_docker_object("docker_config", bench.name("conf"), b"{}", labels=bench.labels)
    volume = bench.name("state")
    bench.runtime.create_volume(volume, labels=bench.labels)
    bench.deploy(
        configs=[{"source": config.name, "target": "/run/c"}],
        volumes=[{"type": "volume", "source": "state", "target": "/state"}],
        top={"configs": {config.name: {"external": True}}, "volumes": {"state": {"name": volume}}},
    )
    bench.running_container()
    assert bench.runtime.remove_docker_object(config) is False
    assert bench.runtime.remove_volume(volume) is False
    bench.runtime.remove_service(bench.service().id)
    assert wait_until(lambda: bench.runtime.remove_docker_object(config))
    assert wait_until(lambda: bench.runtime.remove_volume(volume))
    assert bench.runtime.services(bench.stack) == []


def test_labels_are_added_without_touching_a_task(bench: Bench) -> None:
    """The service has its old labels and the new ones; its task is the same, and a later deploy still finds it."""
    bench.deploy()
    bench.running_container()
    task = bench.runtime.tasks(bench.stack)[0].id
    before = bench.service()
    bench.runtime.update_service(before.id, labels={"com.mosaic.one": "x"})
    after = bench.service()
    assert after.labels == {**before.labels, "com.mosaic.one": "x"}
    assert after.spec["TaskTemplate"] == before.spec["TaskTemplate"]
    assert (after.id, after.desired, bench.runtime.tasks(bench.stack)[0].id) == (before.id, 1, task)


def test_a_service_is_halted(bench: Bench) -> None:
    """Its task ends, its container stays to be read, and no other starts until it is deployed again."""
    bench.deploy()
    container = bench.running_container()
    before = bench.service()
    bench.runtime.halt_service(before.id)
    bench.task_that(lambda task: task.state == "pending" and task.container_id is None)
    ended = bench.task_that(lambda task: task.container_id == container and task.desired == "shutdown")
    assert wait_until(lambda: (end := bench.runtime.container_end(container)) and not end.running)
    assert (bench.service().id, bench.service().labels, ended.service_id) == (before.id, before.labels, before.id)
    bench.deploy()
    assert bench.running_container() != container


def test_folders_are_copied_out_of_containers_and_between_volumes(bench: Bench) -> None:
    """A running container's folder arrives in a volume with all below, and from there in another one."""
    old, new, place = bench.name("old"), bench.name("new"), "/home/node/work"
    for volume in (old, new):
        bench.runtime.create_volume(volume, labels=bench.labels)
    assert bench.runtime.has_folder(Folder("", volume=old), image=bench.image) is True
    assert bench.runtime.has_folder(Folder("kept", volume=old), image=bench.image) is False
    bench.runtime.make_folder(old, "kept", image=bench.image, at="/state")
    assert bench.runtime.has_folder(Folder("kept", volume=old), image=bench.image) is True
    bench.deploy(
        ["sh", "-c", f"mkdir -p {place}.new/deep; echo one > {place}.new/deep/file; mv {place}.new {place}; sleep 600"],
        volumes=[{"type": "volume", "source": "new", "target": "/new"}],
        top={"volumes": {"new": {"name": new}}},
    )
    container = bench.running_container()
    if bench.fake:
        bench.fake.files[f"{bench.stack}_one"] = {"/home/node/work/deep/file": b"one\n"}
    work, kept = Folder(place, container=container), Folder("kept", volume=old)
    assert wait_until(
        lambda: bench.runtime.has_folder(Folder(f"{work.path}/deep", container=container), image=bench.image)
    )
    assert bench.runtime.copy_folder(work, kept, image=bench.image) is True
    assert bench.runtime.copy_folder(Folder("/no/such", container=container), kept, image=bench.image) is False
    assert bench.runtime.copy_folder(Folder("/home", container="no-such"), kept, image=bench.image) is False
    assert bench.runtime.copy_folder(kept, Folder("", volume=new), image=bench.image) is True
    assert bench.read_volume(new, "/new/deep/file") == "one\n"


def test_a_removed_service_can_be_removed_again(bench: Bench) -> None:
    """Removing a service that is gone is no error."""
    bench.deploy(deploy={"replicas": 0})
    service = bench.service()
    bench.runtime.remove_service(service.id)
    bench.runtime.remove_service(service.id)


@pytest.mark.parametrize("section", ["configs", "secrets", "networks"])
def test_a_stack_that_names_what_is_not_there_is_refused(bench: Bench, section: str) -> None:
    """A stack file with an unknown external object is a RuntimeFailure that names it, and makes no service."""
    unknown = bench.name("unknown")
    used: list[Any] = [unknown] if section == "networks" else [{"source": unknown, "target": "/run/x"}]
    with pytest.raises(RuntimeFailure, match=unknown):
        bench.deploy(top={section: {unknown: {"external": True}}}, **{section: used})
    assert bench.runtime.services(bench.stack) == []


def test_run_once_hands_over_what_the_command_gets_and_gives(bench: Bench) -> None:
    """A command run once reads its input and gives back its output, its errors and its exit code."""
    text = "caf\u00e9\n" * 50_000
    echoed = bench.runtime.run_once(bench.image, ["cat"], labels=bench.labels, stdin=text.encode())
    assert (echoed.exit_code, echoed.stdout, echoed.stderr) == (0, text, "")
    failed = bench.runtime.run_once(bench.image, ["sh", "-c", SPEAK_AND_FAIL], labels=bench.labels)
    assert (failed.exit_code, failed.stdout, failed.stderr) == (3, "said\n", "wrong\n")


def test_run_once_without_its_image_is_a_failure(bench: Bench) -> None:
    """An image that is not on the engine is a RuntimeFailure, and nothing is pulled."""
    with pytest.raises(RuntimeFailure, match=r"[Nn]o such image"):
        bench.runtime.run_once("mosaic-no-such-image:1", ["cat"], labels=bench.labels)


def test_exec_hands_over_what_the_command_gets_and_gives(bench: Bench) -> None:
    """A command in a running container reads its input and yields its output."""
    bench.deploy()
    text = "caf\u00e9\n" * 50_000
    blocks = bench.runtime.exec(bench.running_container(), ["cat"], stdin=text.encode())
    assert b"".join(blocks).decode() == text


def test_exec_that_fails_yields_first_and_then_tells(bench: Bench) -> None:
    """A command that ends with another code than 0 has its output yielded, then raises with its standard error."""
    bench.deploy()
    blocks = bench.runtime.exec(bench.running_container(), ["sh", "-c", SPEAK_AND_FAIL], stdin=b"")
    assert next(blocks) == b"said\n"
    with pytest.raises(RuntimeFailure, match="wrong"):
        next(blocks)


def test_exec_in_a_container_that_is_not_there_is_a_failure(bench: Bench) -> None:
    """A container unknown to the engine is a RuntimeFailure."""
    with pytest.raises(RuntimeFailure, match="No such container"):
        list(bench.runtime.exec("mosaic-no-such-container", ["cat"], stdin=b""))
    assert bench.runtime.container_end("mosaic-no-such-container") is None


def test_logs_are_the_last_lines_of_standard_error_only(bench: Bench) -> None:
    """Standard output, where OpenClaw prints replies, is not in the logs."""
    if bench.fake:
        bench.fake.stderr[f"{bench.stack}_one"] = "one\ntwo\nthree\n"
    bench.deploy(["sh", "-c", "echo reply; for i in one two three; do echo $$i >&2; done; exec sleep 600"])
    container = bench.running_container()
    assert wait_until(lambda: "three" in bench.runtime.logs(container, tail=9))
    assert bench.runtime.logs(container, tail=9) == "one\ntwo\nthree\n"
    assert bench.runtime.logs(container, tail=2) == "two\nthree\n"


def test_memory_is_told_of_what_runs_here(bench: Bench) -> None:
    """A running container uses some memory, less than the machine has; one that is not there is left out."""
    bench.deploy()
    container = bench.running_container()
    used = bench.runtime.memory([container, "mosaic-no-such-container"])
    assert used.keys() == {container}
    assert 0 < used[container] < bench.runtime.engine().memory_bytes
    assert bench.runtime.memory([]) == {}


def test_log_lines_are_told_with_stream_and_time(bench: Bench) -> None:
    """Both streams come in order, each line with its time; after a known line only newer ones come."""
    wanted = [("stdout", "one"), ("stderr", "two"), ("stdout", "caf\u00e9")]
    if bench.fake:
        times = [f"2026-11-24T12:00:0{number}.000000000Z" for number in range(3)]
        lines = [LogLine(at, stream, text) for at, (stream, text) in zip(times, wanted, strict=True)]
        bench.fake.written[f"{bench.stack}_one"] = lines
    script = "echo one; until [ -e /tmp/1 ]; do sleep 0.1; done; echo two >&2; "
    script += "until [ -e /tmp/2 ]; do sleep 0.1; done; echo caf\u00e9; exec sleep 600"
    bench.deploy(["sh", "-c", script])
    container = bench.running_container()
    for number in (1, 2):  # Docker reads the two streams apart: each line is awaited before the next is written
        wait_until(lambda number=number: len([*bench.runtime.log_lines(container)]) >= number)
        bench.touch(f"/tmp/{number}")
    seen = wait_until(lambda: [*bench.runtime.log_lines(container)][2:] and [*bench.runtime.log_lines(container)])
    assert [(line.stream, line.text) for line in seen] == wanted
    assert [line.at for line in seen] == sorted({line.at for line in seen})
    assert [line.text for line in bench.runtime.log_lines(container, after=seen[1].at)] == ["caf\u00e9"]
    assert list(bench.runtime.log_lines(container, after=seen[2].at)) == []


def test_log_lines_of_a_container_that_is_not_there(bench: Bench) -> None:
    """A container unknown to the engine is a RuntimeFailure."""
    with pytest.raises(RuntimeFailure, match="No such container"):
        list(bench.runtime.log_lines("mosaic-no-such-container"))


def test_attach_hands_over_streams_and_the_exit_code(bench: Bench, tmp_path: Path) -> None:
    """A command on given streams reads one, writes the two others, and its exit code is returned."""
    bench.deploy()
    container = bench.running_container()
    paths = [tmp_path / name for name in ("in", "out", "err")]
    paths[0].write_text("hello\n")
    with paths[0].open() as given, paths[1].open("w") as out, paths[2].open("w") as err:
        streams = Streams(given.fileno(), out.fileno(), err.fileno())
        assert bench.runtime.attach(container, ["cat"], streams, terminal=False) == 0
        assert bench.runtime.attach(container, ["sh", "-c", SPEAK_AND_FAIL], streams, terminal=False) == 3
    assert [path.read_text() for path in paths[1:]] == ["hello\nsaid\n", "wrong\n"]


def test_a_restarted_service_gets_another_task_of_the_same_spec(bench: Bench) -> None:
    """Swarm replaces the task, calls it an update, and keeps what the service is; the same deploy changes nothing."""
    bench.deploy()
    bench.running_container()
    old, before = bench.runtime.tasks(bench.stack)[0], bench.service()
    bench.runtime.restart_service(before.id)
    new = bench.task_that(lambda task: task.id != old.id and task.state == "running")
    assert new.spec["ContainerSpec"] == old.spec["ContainerSpec"]
    assert new.spec["ForceUpdate"] == bench.service().spec["TaskTemplate"]["ForceUpdate"] == 1
    wait_until(lambda: bench.runtime.tasks(bench.stack) and bench.service().update_state == "completed")
    bench.deploy()
    assert bench.runtime.tasks(bench.stack)[0].id == new.id


def test_a_service_that_is_gone_cannot_be_restarted(bench: Bench) -> None:
    """An unknown service is a RuntimeFailure."""
    with pytest.raises(RuntimeFailure, match="not found"):
        bench.runtime.restart_service("nosuchservice")
