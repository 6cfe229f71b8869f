"""`mosaic fleet deploy` on a real Swarm, with the stand-in for OpenClaw."""

import json
from pathlib import Path

from tests.docker.installation import Fleet, Installation, fresh_stack
from tests.docker_run import wait_until

SOUL = "/home/node/.openclaw/workspace/SOUL.md"
HOSTILE = "quo\"te 's $HOME ${HOME} $$ {{ x }} {% y %} # no: comment\n\ttab — ünïcode \U0001f980 \\ end"


def test_a_second_deploy_changes_and_restarts_nothing(fleet: Fleet) -> None:
    """The first deploy creates, the second says unchanged and leaves the container running."""
    fleet.load(one={"personality": "You are one."})
    first = fleet.deploy()
    container = fleet.container("one")
    second = fleet.deploy()
    agent = {"agent": fleet.agent("one"), "parts": [], "state": "healthy"}
    assert first == {
        "schema": 1,
        "stack": fleet.stack,
        "number": 1,
        "changed": True,
        "agents": [agent | {"action": "create"}],
    }
    assert second == first | {"number": None, "changed": False, "agents": [agent | {"action": "unchanged"}]}
    assert fleet.container("one") == container
    assert fleet.deployments() == [(1, "healthy")]
    assert fleet.status("one")["config"] == "current"


def test_json_says_everything_on_standard_output(fleet: Fleet) -> None:
    """With --json neither a deploy nor a removal writes a line about what it does beside its document."""
    fleet.load(one={})
    deploy = fleet.installation.run("fleet", "deploy", "--stack", fleet.stack, "--json")
    assert (deploy.returncode, deploy.stderr, json.loads(deploy.stdout)["changed"]) == (0, "", True)
    removed = fleet.installation.run("fleet", "rm", "--stack", fleet.stack, "--yes", "--json")
    assert (removed.returncode, removed.stderr, json.loads(removed.stdout)["changed"]) == (0, "", True)


def test_hostile_strings_arrive_as_they_were_written(fleet: Fleet) -> None:
    """Quotes, newlines, dollars and braces of a role, a personality and a model's name are read back equal."""
    fleet.load(one={"role": HOSTILE[:199], "personality": HOSTILE})
    fleet.deploy()
    assert fleet.exec("one", "cat", "/home/node/.openclaw/workspace/SOUL.md") == HOSTILE
    labels = fleet.service("one")["Spec"]["Labels"]
    assert labels["com.mosaic.role"] == HOSTILE[:199]
    assert fleet.service("one")["Spec"]["TaskTemplate"]["ContainerSpec"]["Labels"]["com.mosaic.role"] == HOSTILE[:199]


def test_a_personality_that_goes_leaves_the_file_to_the_agent(fleet: Fleet) -> None:
    """Once a personality is taken away the agent can write its own SOUL.md, and the next one's deploy keeps that."""
    fleet.load(one={})
    fleet.deploy()
    path = fleet.installation.folder / "personality"
    path.write_text("You are one.")
    for source, expected in ((path, "You are one."), (Path("/dev/null"), ""), (path, "You are one.")):
        fleet.change("one", "--personality-file", str(source))
        fleet.deploy()
        assert fleet.exec("one", "cat", SOUL) == expected
        if not expected:
            assert fleet.exec("one", "stat", "-c", "%u %a", SOUL) == "1000 600\n"
            fleet.exec("one", "sh", "-c", f"echo mine > {SOUL}")
    fleet.change("one", "--personality-file", "/dev/null")
    fleet.deploy()
    assert fleet.exec("one", "cat", SOUL) == "mine\n"


def test_the_container_is_hardened(fleet: Fleet) -> None:
    """What the stack file asks for is what the container has."""
    fleet.load(one={"personality": "x"})
    fleet.deploy()
    inspected = json.loads(fleet.installation.docker("inspect", fleet.container("one")))[0]
    host, config = inspected["HostConfig"], inspected["Config"]
    assert (host["ReadonlyRootfs"], host["CapDrop"], host["Init"], host["Privileged"]) == (True, ["ALL"], True, False)
    assert (host["Memory"], host["PidsLimit"], host["PortBindings"]) == (256 << 20, 512, {})
    assert config["User"] == "1000:1000"
    assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-file": "3", "max-size": "10m"}}
    files = fleet.exec("one", "stat", "-c", "%u %a", "/run/secrets/gateway_token", "/run/mosaic/openclaw.json")
    assert files == "1000 400\n1000 400\n"
    assert fleet.exec("one", "stat", "-c", "%u %a", "/home/node/.openclaw/workspace") == "1000 700\n"
    service = fleet.service("one")["Spec"]
    assert service["EndpointSpec"] == {"Mode": "dnsrr"}
    assert service["UpdateConfig"]["Order"] == "stop-first"
    assert service["UpdateConfig"]["FailureAction"] == "rollback"
    node = fleet.installation.docker("node", "inspect", "self", "--format", "{{.ID}}")
    assert service["TaskTemplate"]["Placement"]["Constraints"] == [f"node.id == {node}"]


def test_only_the_changed_agent_restarts(fleet: Fleet) -> None:
    """A changed model gives one agent a new config and a new container; its neighbour's stays."""
    fleet.load(one={}, two={})
    fleet.deploy()
    before = {name: fleet.container(name) for name in ("one", "two")}
    fleet.change("one", "--model", "echo/m2")
    assert fleet.status("one")["config"] == "stale"
    assert fleet.status("two")["config"] == "current"
    changed = {row["agent"]: (row["action"], row["parts"]) for row in fleet.deploy()["agents"]}
    assert changed == {fleet.agent("one"): ("update", ["openclaw.json"]), fleet.agent("two"): ("unchanged", [])}
    assert fleet.container("one") != before["one"]
    assert fleet.container("two") == before["two"]


def test_old_docker_configs_go_after_the_deploy_that_follows(fleet: Fleet) -> None:
    """The current and the last healthy deploy keep theirs; older ones are removed."""
    fleet.load(one={})
    fleet.deploy()
    (first,) = fleet.objects("config")
    fleet.change("one", "--model", "echo/m2")
    fleet.deploy()
    assert len(fleet.objects("config")) == 2
    fleet.change("one", "--fallback", "echo/m1")
    fleet.deploy()
    assert len(fleet.objects("config")) == 2
    assert first not in fleet.objects("config")
    assert len(fleet.objects("secret")) == 1


def test_a_provider_key_reaches_the_file_and_nothing_else(fleet: Fleet) -> None:
    """A key goes from standard input to a file of the gateway's user; no object of Docker shows it."""
    key = "sentinel-key-0123456789abcdef"
    name = f"p{fleet.stack}"
    fleet.installation.mosaic(
        *("provider", "add", name, "--type", "custom", "--base-url", "http://llm:1/v1", "--no-test"),
        *("--model", "m1", "--api-key-stdin", "--no-test"),
        stdin=key,
    )
    fleet.load(one={"model": f"{name}/m1"})
    fleet.deploy()
    assert json.loads(fleet.exec("one", "cat", "/run/secrets/provider_keys")) == {name: key}
    docker = fleet.installation.docker
    shown = [docker("inspect", fleet.container("one")), json.dumps(fleet.service("one"))]
    shown += [docker("secret", "inspect", one) for one in fleet.objects("secret")]
    shown += [docker("config", "inspect", one) for one in fleet.objects("config")]
    assert key not in "".join(shown)
    fleet.installation.mosaic("provider", "set", name, "--api-key-stdin", "--no-test", stdin=f"{key}-new")
    assert fleet.deploy()["agents"][0]["parts"] == ["keys"]
    assert json.loads(fleet.exec("one", "cat", "/run/secrets/provider_keys")) == {name: f"{key}-new"}


def test_dry_run_says_what_would_be_done_and_does_nothing(fleet: Fleet) -> None:
    """A dry run names the action for each agent; no service, config or record is made."""
    fleet.load(one={})
    planned = fleet.deploy("--dry-run")
    assert planned["agents"] == [{"agent": fleet.agent("one"), "action": "create", "parts": [], "state": None}]
    assert fleet.installation.docker("stack", "ps", fleet.stack, check=False) == ""
    assert fleet.objects("config") == set()
    assert fleet.deployments() == []


def test_a_detached_deploy_is_closed_by_the_next(fleet: Fleet) -> None:
    """It ends before the agent is healthy; the next deploy waits for that and changes nothing."""
    fleet.load(one={})
    detached = fleet.deploy("--detach")
    assert [(one["action"], one["state"]) for one in detached["agents"]] == [("create", None)]
    assert fleet.deployments() == [(1, "started")]
    assert [(one["action"], one["state"]) for one in fleet.deploy()["agents"]] == [("unchanged", "healthy")]
    assert fleet.deployments() == [(1, "healthy")]


def test_an_agent_that_left_the_roster_is_kept_until_pruned(fleet: Fleet) -> None:
    """It is named and left running; --prune removes its service and keeps its volume."""
    fleet.load(one={}, two={})
    fleet.deploy()
    fleet.installation.mosaic("agent", "remove", fleet.agent("two"), "--yes")
    assert fleet.deploy()["agents"][1]["action"] == "keep"
    assert fleet.container("two")
    assert fleet.status("two")["config"] == "not in the roster"
    assert fleet.deploy("--prune")["agents"][1]["action"] == "remove"
    wait_until(lambda: not fleet.container("two"))
    assert fleet.installation.docker("volume", "ls", "-q", "--filter", f"name={fleet.stack}_{fleet.agent('two')}-state")


def test_rm_keeps_the_memory_unless_it_is_named(fleet: Fleet) -> None:
    """`rm` removes services, configs and secrets and keeps volumes; --volumes needs the stack's name."""
    fleet.load(one={})
    fleet.deploy()
    fleet.exec("one", "sh", "-c", "echo kept > /home/node/.openclaw/workspace/note")
    fleet.installation.mosaic("fleet", "rm", "--stack", fleet.stack, "--yes")
    assert fleet.objects("config") | fleet.objects("secret") == set()
    fleet.deploy()
    assert fleet.exec("one", "cat", "/home/node/.openclaw/workspace/note") == "kept\n"
    words = ("fleet", "rm", "--stack", fleet.stack, "--volumes")
    assert "--confirm" in fleet.installation.refused(2, *words)
    assert "nothing was done" in fleet.installation.refused(2, *words, "--confirm", "other")
    fleet.installation.mosaic(*words, "--confirm", fleet.stack)
    assert "unchanged" in fleet.installation.mosaic(*words, "--confirm", fleet.stack)
    assert fleet.installation.docker("volume", "ls", "-q", "--filter", f"name={fleet.stack}_") == ""


def test_status_names_the_stack_where_there_are_several(fleet: Fleet, installation: Installation) -> None:
    """Each line ends with its agent's stack; of one stack alone it is not repeated."""
    other = Fleet(installation, fresh_stack())
    fleet.load(one={})
    other.load(one={})
    lines = [line.split("\t") for line in installation.mosaic("fleet", "status").splitlines()]
    stacks = {line[0]: line[-1] for line in lines}
    assert (stacks[fleet.agent("one")], stacks[other.agent("one")]) == (fleet.stack, other.stack)
    (alone,) = installation.mosaic("fleet", "status", "--stack", fleet.stack).splitlines()
    assert fleet.stack not in alone.split("\t")


def test_ask_streams_the_answer(fleet: Fleet) -> None:
    """The answer is on standard output, from an argument or from standard input."""
    fleet.load(one={"model": "echo/slow-start"})
    fleet.deploy()
    ask = ("fleet", "ask", fleet.agent("one"))
    assert fleet.installation.mosaic(*ask, "hello $HOME 'x'") == "you said: hello $HOME 'x'\n"
    assert fleet.installation.mosaic(*ask, "-", stdin="from a pipe") == "you said: from a pipe\n"
    assert fleet.installation.document(*ask, "x")["answer"] == "you said: x"
    assert "empty" in fleet.installation.refused(2, *ask, " ")


def test_ask_of_an_agent_that_does_not_run(fleet: Fleet) -> None:
    """An unknown agent and one that was never deployed are not found."""
    fleet.load(one={})
    assert 'no agent "nobody"' in fleet.installation.refused(4, "fleet", "ask", "nobody", "x")
    assert "does not run" in fleet.installation.refused(4, "fleet", "ask", fleet.agent("one"), "x")


def test_render_writes_what_deploy_takes(fleet: Fleet, installation: Installation) -> None:
    """The rendered stack is the same bytes twice and is what runs: a deploy by hand changes nothing."""
    fleet.load(one={"personality": "x"})
    fleet.deploy()
    out = installation.folder / f"{fleet.stack}-rendered"
    installation.mosaic("fleet", "render", "--stack", fleet.stack, "--out", str(out))
    text = (out / "stack.yml").read_text()
    assert installation.mosaic("fleet", "render", "--stack", fleet.stack) == text
    container = fleet.container("one")
    installation.docker("stack", "deploy", "--resolve-image", "never", "-c", str(out / "stack.yml"), fleet.stack)
    assert fleet.deploy()["changed"] is False
    assert fleet.container("one") == container
    config = (out / fleet.agent("one") / "openclaw.json").read_text()
    assert fleet.exec("one", "cat", "/run/mosaic/openclaw.json") == config
