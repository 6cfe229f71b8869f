"""The quick reads about people."""

from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from mosaic_fleet.db.rows import Rows, one


@dataclass(frozen=True)
class UserRow:
    """A person as administrators see them."""

    id: UUID
    name: str
    display_name: str
    email: str | None
    role: str
    is_local: bool
    deactivated_at: datetime | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True)
class UserPage:
    """A page of people; `page` is the one that was read, `total` counts the people of all pages."""

    users: list[UserRow]
    page: int
    pages: int
    total: int


@dataclass(frozen=True)
class PreferencesRow:
    """What a user prefers; of the personality only how many characters it has."""

    primary_model: str | None = None
    fallback_models: list[str] = field(default_factory=list)
    provider: str | None = None
    personality_length: int = 0
    schedules: bool = False


class PeopleReads(Rows):
    """Reads about users."""

    def users(self, *, page: int = 1, per_page: int = 50, search: str = "") -> UserPage:
        """List users by name, one page of them; behind the last page the last one is read.

        `search` is a part of the name, the display name or the e-mail, in any case.
        """
        found = [search.strip().lower()] * 4
        (count,) = self._all(_Count, f"SELECT count(*) AS total {_PEOPLE} {_SEARCH}", *found)
        pages = max(1, -(-count.total // per_page))
        page = max(1, min(page, pages))
        query = f"{_USERS} {_SEARCH} ORDER BY name LIMIT %s OFFSET %s"
        return UserPage(self._all(UserRow, query, *found, per_page, (page - 1) * per_page), page, pages, count.total)

    def user(self, name: str) -> UserRow:
        """Show one user by name or e-mail; raises NotFound."""
        column = "email" if "@" in name else "name"
        rows = self._all(UserRow, f"{_USERS} AND {column} = %s", name.strip().lower())
        return one(rows, f'no user "{name}"', "mosaic user list")

    def preferences(self, user: UUID) -> PreferencesRow:
        """Show what a user prefers, the defaults where nothing was said."""
        rows = self._all(PreferencesRow, _PREFERENCES, user)
        return rows[0] if rows else PreferencesRow()


@dataclass(frozen=True)
class _Count:
    total: int


_PEOPLE = "FROM mosaic_user WHERE role <> 'system'"
_USERS = f"""
SELECT id, name, display_name, email, role, is_local, deactivated_at, created_at, updated_at
{_PEOPLE}"""
_SEARCH = "AND (%s::text = '' OR strpos(name, %s) > 0 OR strpos(lower(display_name), %s) > 0 OR strpos(email, %s) > 0)"
_PREFERENCES = """
SELECT primary_model, fallback_models, p.name AS provider, coalesce(length(personality), 0) AS personality_length,
       schedules
FROM user_agent_config c LEFT JOIN llm_provider p ON p.id = c.provider_id WHERE c.user_id = %s"""
