"""Assembly: which routes stand on which listener."""

from fastapi import APIRouter, FastAPI

from mosaic_fleet.web import failures
from mosaic_fleet.web.access_log import AccessLog
from mosaic_fleet.web.api import agent_config, health
from mosaic_fleet.web.site import Site

BODY_BYTES = 1_000_000


def public(site: Site) -> FastAPI:
    """Assemble what people and their tools see."""
    return _assembled(site, health.alive, health.ready)


def internal(site: Site) -> FastAPI:
    """Assemble what containers see: the config routes, and whether anybody is there."""
    return _assembled(site, health.alive, agent_config.router)


def _assembled(site: Site, *routers: APIRouter) -> FastAPI:
    """Make an application with these routes and no pages about itself."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False, max_body_size=BODY_BYTES)
    app.state.site = site
    failures.install(app)
    app.add_middleware(AccessLog)
    for router in routers:
        app.include_router(router)
    return app
