"""Config tokens: what a container shows to fetch its own config, and nothing else; hashed at rest.

A container is called by its type and an id: `user` with the user's id or name, `system` with an agent's id or name.
"""

import hmac
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any
from uuid import UUID

from pydantic import SecretStr
from sqlmodel import Session, text

from mosaic_fleet.db.reads import SYSTEM_OWNER
from mosaic_fleet.db.tables import SystemContainer, UserContainer
from mosaic_fleet.errors import Conflict, Denied
from mosaic_fleet.fleet import agents, containers, personal
from mosaic_fleet.identity import audit, users
from mosaic_fleet.sealing import Box, generate_token

USER, SYSTEM = "user", "system"
_LONGEST_ID = 100
# A row's version is its place and the transaction that wrote it: what they are made from has changed when one has.
_USERS = text("""
SELECT u.id, c.config_token_hash, concat_ws(' ', u.ctid, u.xmin, c.ctid, c.xmin, a.ctid, a.xmin,
  (SELECT string_agg(concat(p.ctid, p.xmin), ' ' ORDER BY p.id) FROM llm_provider p WHERE p.user_id = u.id)) AS stamp
FROM mosaic_user u JOIN user_container c ON c.user_id = u.id LEFT JOIN user_agent_config a ON a.user_id = u.id
WHERE u.deactivated_at IS NULL
  AND (u.id = CAST(:number AS uuid) OR CAST(:number AS uuid) IS NULL AND u.name = :name)""")
_SYSTEMS = text("""
SELECT c.id, c.config_token_hash, concat_ws(' ', c.ctid, c.xmin,
  (SELECT string_agg(concat(p.ctid, p.xmin), ' ' ORDER BY p.id) FROM llm_provider p WHERE p.user_id = :shared)) AS stamp
FROM system_container c
WHERE c.is_active AND (c.id = CAST(:number AS uuid) OR CAST(:number AS uuid) IS NULL AND c.name = :name)""")
# What a token is compared with where there is none to compare with.
_NOBODY = sha256(generate_token().encode()).hexdigest()


@dataclass(frozen=True)
class Holder:
    """Whose config a token opens: a user's or an agent's id, and which state of their rows this is."""

    id: UUID
    stamp: str


def issue_user(session: Session, box: Box, name: str, *, now: datetime, renew: bool = False) -> SecretStr:
    """Make the config token of a user's container; with `renew` it replaces the one there is.

    Raises Conflict when there is one, NotFound and Denied as personal.person() does.
    """
    user = personal.person(session, users.get(session, name).id)
    return _issue(session, containers.claim(session, box, user.id), f"gateway {user.name}", renew=renew, now=now)


def issue_system(session: Session, name: str, *, now: datetime, renew: bool = False) -> SecretStr:
    """Make the config token of an agent's container; with `renew` it replaces the one there is.

    Raises Conflict when there is one, and NotFound.
    """
    return _issue(session, agents.get(session, name), f"agent {name}", renew=renew, now=now)


def holder(session: Session, kind: str, name: str, token: str) -> Holder:
    """Return whose config a token opens.

    Raises one and the same Denied for a token that is missing, wrong, another's or replaced, for an id that is
    unknown or none at all, for an unknown type, and for who is switched off; the work done is the same too.
    """
    found = _find(session, kind, name)
    digest = sha256(token.encode(errors="replace")).hexdigest()
    if not hmac.compare_digest(digest, (found and found.config_token_hash) or _NOBODY) or not found:
        raise Denied("this token opens no such config")
    return Holder(found.id, f"{kind}|{found.stamp}")


def _issue(
    session: Session, row: UserContainer | SystemContainer, thing: str, *, now: datetime, renew: bool
) -> SecretStr:
    if row.config_token_hash and not renew:
        raise Conflict(f"{thing} has a config token already", hint="add --renew to replace it, or --if-not-exists")
    verb = "config-token.renew" if row.config_token_hash else "config-token.add"
    token = generate_token()
    row.config_token_hash, row.config_token_at = sha256(token.encode()).hexdigest(), now
    session.flush()
    audit.record(session, verb, thing)
    return SecretStr(token)


def _find(session: Session, kind: str, name: str) -> Any:
    """Look a container up by one query, whatever is asked for."""
    known = kind in (USER, SYSTEM) and len(name) <= _LONGEST_ID and name.isprintable()
    name = name if known else ""
    values = {"number": _uuid(name), "name": name}
    if kind == USER:
        return session.execute(_USERS, values).first()
    return session.execute(_SYSTEMS, values | {"shared": SYSTEM_OWNER}).first()


def _uuid(text: str) -> UUID | None:
    """Read an id as it is written everywhere; other spellings are none."""
    try:
        number = UUID(text)
    except ValueError:
        return None
    return number if str(number) == text else None
