"""The commands of an operator's year, each checked by its exit code and its key line."""

import json

from tests.docker.installation import Fleet


class Year:
    """A fleet, and an operator who types: `one` is the agent that the year is about."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.one, self.two = fleet.agent("one"), fleet.agent("two")
        self.image = fleet.installation.mosaic("config", "get", "fleet.image").strip()

    def says(self, code: int, line: str, *words: str) -> str:
        """Run `mosaic WORDS` on the stack; it ends with this code and says this on either stream."""
        done = self.fleet.installation.run(*words)
        said = done.stdout + done.stderr
        assert (done.returncode, line in said) == (code, True), f"{words}: {done.returncode}\n{said}"
        return done.stdout

    def fleet_says(self, code: int, line: str, verb: str, *words: str) -> str:
        """Run `mosaic fleet VERB` on the stack."""
        return self.says(code, line, "fleet", verb, "--stack", self.fleet.stack, *words)

    def running_image(self) -> str:
        """Return the image that agent one runs."""
        container = self.fleet.installation.docker("inspect", self.fleet.container("one"))
        return str(json.loads(container)[0]["Config"]["Image"])

    def unchanged(self) -> None:
        """See that nothing differs."""
        self.fleet_says(0, "0 to change, 0 to add, 0 to remove", "diff", "--exit-code")

    def by_hand(self, *options: str) -> None:
        """Change agent one's service with the docker command."""
        service = f"{self.fleet.stack}_{self.one}"
        self.fleet.installation.docker("service", "update", "--detach", "--no-resolve-image", *options, service)
