"""Who is asking, and what a request works with, as annotated dependencies."""

from typing import Annotated

from fastapi import Depends, Request

from mosaic_fleet.web.site import Site


def _site(request: Request) -> Site:
    site = request.app.state.site
    assert isinstance(site, Site)  # noqa: S101  # the assembly put it there
    return site


def _bearer(request: Request) -> str:
    """Return the token of the Authorization header, an empty one when there is none."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


CurrentSite = Annotated[Site, Depends(_site)]
BearerToken = Annotated[str, Depends(_bearer)]
