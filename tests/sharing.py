"""Which worker runs which tests, where several run them at once."""

from xdist.scheduler import LoadFileScheduling

_REAL_GATEWAYS = "tests/openclaw/"


class Sharing(LoadFileScheduling):
    """Gives a worker one file at a time, and all files with real gateways to the first.

    There is no room for two of these at once: a gateway takes a core for 20 s to start, and more than a gigabyte.
    """

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return _REAL_GATEWAYS if file.startswith(_REAL_GATEWAYS) else file
