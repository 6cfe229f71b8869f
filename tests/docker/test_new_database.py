"""Key and database are lost for good: a new Mosaic takes the volumes of the former one over, on a real Swarm."""

from tests.docker.installation import QUICK, Fleet, fresh_stack, installed
from tests.docker_run import DockerRun

NOTE = "/home/node/.openclaw/workspace/note"


def test_a_new_database_finds_the_memory_of_the_former_one(docker: DockerRun, stand_in_image: str) -> None:
    """The stack is taken off the Swarm; with the former id the new one deploys on the same volume."""
    stack = fresh_stack()
    with installed(docker, stand_in_image, **QUICK) as former:
        fleet = Fleet(former, stack)
        fleet.load(one={})
        fleet.deploy()
        fleet.exec("one", "sh", "-c", f"echo kept > {NOTE}")
        install = former.document("status")["install"]
        former.mosaic("fleet", "rm", "--stack", stack, "--yes")
    with installed(docker, stand_in_image, **QUICK) as mosaic:
        fleet = Fleet(mosaic, stack)
        fleet.load(one={})
        assert f"mosaic init --install {install}" in fleet.refused(5)
        mosaic.mosaic("init", "--install", install)
        fleet.deploy()
        assert fleet.exec("one", "cat", NOTE) == "kept\n"
        mosaic.refused(5, "init", "--install", "0123456789ab")
        fleet.remove()
