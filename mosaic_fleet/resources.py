"""Finds `templates/` and `stacks/`, installed or in a checkout."""

from pathlib import Path

from mosaic_fleet.errors import ConfigurationError

_PACKAGE = Path(__file__).parent


def directory(name: str) -> Path:
    """Return the packaged folder `name` if it exists, else the checkout's.

    Raises ConfigurationError when neither is there: the installation is broken.
    """
    for parent in (_PACKAGE, _PACKAGE.parent):
        if (parent / name).is_dir():
            return parent / name
    raise ConfigurationError(f"the folder {name!r} is missing from this installation", hint="reinstall mosaic-fleet")
