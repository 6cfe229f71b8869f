"""The config endpoint: a container's own files, to who shows its config token."""

import json
import logging

from fastapi import APIRouter
from fastapi.responses import Response

from mosaic_fleet.db.database import Database
from mosaic_fleet.errors import Denied, NotFound
from mosaic_fleet.fleet import pulling
from mosaic_fleet.web import failures
from mosaic_fleet.web.deps import BearerToken, CurrentSite

router = APIRouter(prefix="/api/internal")
_log = logging.getLogger(__name__)


@router.get("/agent-config/{container_type}/{container_id:path}")
async def agent_config(container_type: str, container_id: str, site: CurrentSite, token: BearerToken) -> Response:
    """Return `{"files": {name: text}}`, what the entrypoint puts into its tmpfs; all refusals are one 401."""

    def work(db: Database) -> str:
        asked = (container_type, container_id)
        package = pulling.pull(db, site.mosaic.box, site.packages, asked, token)
        return json.dumps({"files": dict(package.files)})

    try:
        text = await site.run(site.config_threads, work)
    except (Denied, NotFound):
        _log.warning("refused to give a config away: no container has this type, id and token")
        refusal = failures.answer(401, Denied.exit_code, "this token opens no such config")
        refusal.headers["www-authenticate"] = "Bearer"
        return refusal
    return Response(text, media_type="application/json", headers={"cache-control": "no-store"})
