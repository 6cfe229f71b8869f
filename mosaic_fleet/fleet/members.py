"""The agents of a stack from rows: from the ORM's, or from the quick reads of the command line, which import no ORM."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from mosaic_fleet import configuration
from mosaic_fleet.db.fleet_reads import AccountRow, MemberRow
from mosaic_fleet.db.reads import Reads
from mosaic_fleet.errors import ConfigurationError, Invalid, NotFound
from mosaic_fleet.fleet import openclaw, vendors
from mosaic_fleet.fleet.stack import Agent, Roster
from mosaic_fleet.sealing import Box, Secret

if TYPE_CHECKING:
    from mosaic_fleet.db.tables import LlmProvider, SystemContainer

    Member: TypeAlias = MemberRow | SystemContainer
    Account: TypeAlias = AccountRow | LlmProvider

Named = TypeVar("Named")
Opener = Callable[[Any], Secret]
"""Opens the sealed value of a row: an agent's token, a provider's key."""


def agent(row: "Member", accounts: "Mapping[str, Account]", image: str, opened: Opener) -> Agent:
    """Make an agent of its row; `image` is what runs where it has none of its own.

    Raises ConfigurationError when it cannot run as it is.
    """
    if row.primary_model is None:
        raise ConfigurationError(
            f'agent "{row.name}" has no model', hint=f"mosaic agent set {row.name} --model zai/glm-5"
        )
    used = [_provider(accounts[name], row.name, opened) for name in vendors.used(row)]
    return Agent(
        name=row.name,
        image=row.image or image,
        role=row.role,
        gateway=openclaw.Gateway(row.primary_model, tuple(row.fallback_models), row.schedules, tuple(used)),
        token=opened(row),
        personality=row.personality,
        memory_limit=row.memory_limit,
        memory_reservation=row.memory_reservation,
        cpu_limit=row.cpu_limit,
        replicas=row.replicas,
        node_id=row.node_id,
        volume=row.volume,
    )


def read(reads: Reads, box: Box, stack: str | None) -> Roster:
    """Read a stack's roster quickly; it says what the one says that was read by the ORM.

    Raises NotFound when there is no such stack or no agent, Invalid when a name is needed, ConfigurationError when an
    agent cannot run as it is.
    """
    found = chosen({row.name: row for row in reads.stacks()}, stack)
    rows, accounts = reads.members(found.name), {row.name: row for row in reads.accounts()}
    check_any(found.name, rows)
    settings = configuration.parsed(reads.changed_settings())
    opened = _opener(box)
    return Roster(
        stack=found.name,
        network=found.network,
        install=reads.install_id(),
        settings=settings,
        agents=tuple(agent(row, accounts, str(settings["fleet.image"]), opened) for row in rows),
    )


def chosen(stacks: Mapping[str, Named], name: str | None) -> Named:
    """Choose a stack by name, or the only one; raises NotFound, or Invalid when a name is needed."""
    named = [stack for stack in stacks if name in (None, stack)]
    if len(named) == 1:
        return stacks[named[0]]
    if named:
        raise Invalid(f"there are several stacks: {', '.join(named)}", hint="--stack NAME")
    if name:
        raise NotFound(f'no stack "{name}"', hint="mosaic status")
    raise NotFound("there are no agents yet", hint="mosaic agent import FILE")


def check_any(stack: str, rows: Sequence[object]) -> None:
    """Raise NotFound for a stack without agents."""
    if not rows:
        raise NotFound(f'stack "{stack}" has no agents', hint=f"mosaic fleet rm --stack {stack}")


def _provider(row: "Account", agent: str, opened: Opener) -> openclaw.Provider:
    if not row.is_active:
        raise ConfigurationError(f'agent "{agent}" uses provider "{row.name}", which is switched off')
    key = opened(row) if row.api_key and row.auth == "key" else None
    if key is None and vendors.needs_key(row.type, row.auth):
        raise ConfigurationError(
            f'agent "{agent}" uses provider "{row.name}", which has no key',
            hint=f"mosaic provider set {row.name} --api-key-stdin",
        )
    address = row.base_url or vendors.TYPES[row.type].base_url or ""
    return openclaw.Provider(row.name, row.type, row.api_type, address, row.models, key, row.auth == "login")


def _opener(box: Box) -> Opener:
    """Open what the quick reads found."""

    def opened(row: MemberRow | AccountRow) -> Secret:
        if isinstance(row, MemberRow):
            return box.look(row.token_place, row.gateway_token)
        return box.look(row.key_place, str(row.api_key))

    return opened
