"""Whether this Mosaic lives, and whether it can do its work."""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from mosaic_fleet import keyring
from mosaic_fleet.db.database import Database
from mosaic_fleet.errors import ConfigurationError
from mosaic_fleet.web.deps import CurrentSite

alive, ready = APIRouter(), APIRouter()
_HEADERS = {"cache-control": "no-store"}


@alive.get("/healthz")
async def healthz() -> JSONResponse:
    """Say that the process answers; asks nothing of anybody."""
    return JSONResponse({"ok": True}, headers=_HEADERS)


@ready.get("/readyz")
async def readyz(site: CurrentSite) -> JSONResponse:
    """Say whether the database answers and has the right schema; a wrong key and failing duties are told, no more."""
    secret_key = site.mosaic.settings.secret_key
    said = await site.run(site.health_threads, lambda db: condition(db, secret_key))
    said["degraded"] += site.duties.failing
    return JSONResponse(said, headers=_HEADERS)


def condition(db: Database, secret_key: str | None) -> dict[str, Any]:
    """Look at database, schema and key; raises DatabaseFailure for the first two."""
    db.check()
    try:
        keyring.check(db, secret_key)
    except ConfigurationError as error:
        return {"ok": True, "degraded": [error.message]}
    return {"ok": True, "degraded": []}
