"""What nobody may read in what agents wrote: the secrets that they have by the roster, and had by the record."""

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING

from mosaic_fleet.db.fleet_reads import AccountRow, MemberRow
from mosaic_fleet.db.reads import Reads
from mosaic_fleet.fleet import vendors
from mosaic_fleet.logs import spellings

if TYPE_CHECKING:
    from mosaic_fleet.sealing import Box

Known = Mapping[str, Collection[str]]
"""What is to be hidden, by the agent that knows it."""
Knowing = Callable[[], Known]
"""Tells what is to be hidden; raises MosaicError when that cannot be read."""


def known(reads: Reads, box: "Box", stacks: Collection[str]) -> Known:
    """Open what the agents of stacks have and, because logs are older than the roster, what deploys gave them before.

    Raises ConfigurationError when a value does not open.
    """
    accounts = {row.name: row for row in reads.accounts() if row.api_key}
    found: dict[str, set[str]] = {}
    for stack in stacks:
        for row in reads.members(stack, switched_off=True):
            found.setdefault(row.name, set()).update(_of_roster(box, row, accounts))
        for record in reads.deployed_secrets(stack):
            contents = json.loads(box.look(record.secrets_place, record.docker_secrets).get_secret_value())
            for agent, secrets in held(stack, contents).items():
                found.setdefault(agent, set()).update(secrets.values())
    return {agent: {spelled for value in values for spelled in spellings(value)} for agent, values in found.items()}


def _of_roster(box: "Box", row: MemberRow, accounts: Mapping[str, AccountRow]) -> Iterator[str]:
    """Open an agent's token and its providers' keys."""
    yield box.look(row.token_place, row.gateway_token).get_secret_value()
    for name in vendors.used(row):
        if account := accounts.get(name):
            yield box.look(account.key_place, str(account.api_key)).get_secret_value()


def held(stack: str, docker_secrets: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Tell what each agent has by the Docker secrets of a deployment, `<stack>-<agent>-<kind>-<hash>` each.

    It is a `token <agent>`, and the keys of its providers under `provider <name>`.
    """
    found: dict[str, dict[str, str]] = {}
    for name, content in docker_secrets.items():
        agent, _, kind = name.removeprefix(f"{stack}-").rpartition("-")[0].rpartition("-")
        secrets = found.setdefault(agent, {})
        if kind == "keys":
            secrets |= {f"provider {provider}": key for provider, key in json.loads(content).items()}
        else:
            secrets[f"{kind} {agent}"] = content
    return found
