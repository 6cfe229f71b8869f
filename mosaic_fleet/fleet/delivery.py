"""What a gateway is given at its start, pushed or pulled: its files, by name, as one function builds them."""

import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from io import BytesIO

from mosaic_fleet.fleet import openclaw
from mosaic_fleet.resources import directory
from mosaic_fleet.sealing import Secret

# The entrypoint's place on its tmpfs, see templates/agent/entrypoint.sh.
RUN_DIR = "/run/mosaic"
PLACE = f"{RUN_DIR}/gateway"
_TOKEN, _KEYS = "gateway_token", "provider_keys"
_GATEWAY = ("openclaw", "gateway", "run", "--bind", "lan", "--port", str(openclaw.PORT), "--auth", "token")


@dataclass(frozen=True)
class Package:
    """A gateway's files by name: `openclaw.json`, `gateway_token`, `provider_keys`, `SOUL.md`; most are secret."""

    files: Mapping[str, str] = field(repr=False)

    @property
    def text(self) -> str:
        """Write all of it as one text, to be hashed."""
        return json.dumps(dict(self.files), sort_keys=True)

    @property
    def config(self) -> str:
        """Return openclaw.json, which holds no secret."""
        return self.files["openclaw.json"]

    def tar(self) -> bytes:
        """Pack the files for standard input, of user 1000 and readable by nobody else."""
        packed = BytesIO()
        with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
            for name, text in self.files.items():
                content = text.encode()
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode, entry.uid, entry.gid = len(content), 0o400, 1000, 1000
                archive.addfile(entry, BytesIO(content))
        return packed.getvalue()


def package(gateway: openclaw.Gateway, token: Secret, personality: str | None) -> Package:
    """Build what a container with Mosaic's entrypoint is given."""
    placed = replace(gateway, token_file=f"{PLACE}/{_TOKEN}", keys_file=f"{PLACE}/{_KEYS}")
    files = {"openclaw.json": openclaw.render(placed), _TOKEN: token.get_secret_value()}
    if keys := {one.name: one.key.get_secret_value() for one in gateway.providers if one.key}:
        files[_KEYS] = json.dumps(keys, sort_keys=True)
    if personality:
        files["SOUL.md"] = personality
    return Package(files)


def command() -> tuple[str, ...]:
    """Return a container's command: the entrypoint as text, then the gateway."""
    script = (directory("templates") / "agent" / "entrypoint.sh").read_text("utf-8")
    return ("/bin/sh", "-c", script, "mosaic", *_GATEWAY)


def environment(memory: int) -> dict[str, str]:
    """Return a container's environment, which holds no secret; `memory` is its limit in bytes."""
    return {
        "MOSAIC_RUN_DIR": RUN_DIR,
        "OPENCLAW_CONFIG_PATH": f"{PLACE}/openclaw.json",
        "OPENCLAW_CONFIG_READONLY": "1",
        "OPENCLAW_STATE_DIR": openclaw.STATE_DIR,
        "OPENCLAW_DISABLE_BONJOUR": "1",
        "OPENCLAW_NO_AUTO_UPDATE": "1",
        "XDG_CACHE_HOME": f"{openclaw.STATE_DIR}/cache",
        "NODE_OPTIONS": f"--max-old-space-size={memory * 3 // 4 >> 20}",
    }
