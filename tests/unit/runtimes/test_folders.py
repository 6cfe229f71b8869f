"""What is fetched of a volume whose files are somebody else's, from an engine on a Unix socket."""

import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mosaic_fleet.runtimes.endpoint import Endpoint
from mosaic_fleet.runtimes.swarm import SwarmRuntime
from tests.sockets import Answering, serving

BLOCK = bytes(65_536)
BLOCKS = 1024


class _Docker(Answering):
    """Has one file, of which it sends as much as is taken; `packed` is what was brought."""

    entry: tarfile.TarInfo | None
    sent: list[int]
    packed: list[bytes]

    def do_GET(self) -> None:
        if not self.path.partition("?")[0].endswith("/archive"):
            self.answer(200, {})
        elif self.entry is None:
            self.answer(404, {"message": "no such file"})
        else:
            self._send(self.entry)

    def do_POST(self) -> None:
        self.body()
        self.answer(201, {"Id": "1"})

    def do_PUT(self) -> None:
        self.packed.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.answer(200, {})

    def do_DELETE(self) -> None:
        self.answer(200, {})

    def _send(self, entry: tarfile.TarInfo) -> None:
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        try:
            self.wfile.write(entry.tobuf(tarfile.PAX_FORMAT))
            for _ in range(BLOCKS if entry.size else 1):
                self.wfile.write(BLOCK)
                self.sent.append(len(BLOCK))
        except OSError:
            return  # the client hung up, as it should


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SwarmRuntime]:
    """Return a runtime of that engine."""
    for name in ("sent", "packed"):
        monkeypatch.setattr(_Docker, name, [], raising=False)
    with serving(tmp_path / "d.sock", _Docker):
        endpoint = Endpoint(f"unix://{tmp_path}/d.sock", ("docker",))
        yield SwarmRuntime(endpoint)
        endpoint.close()


def entry(size: int, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    """Return a file as Docker packs it."""
    info = tarfile.TarInfo("SOUL.md")
    info.size, info.type = size, kind
    return info


@pytest.mark.parametrize(
    ("there", "is_made"),
    [
        (None, True),
        (entry(0), True),
        (entry(5), False),
        (entry(100 << 30), False),
        (entry(0, tarfile.DIRTYPE), False),
        (entry(0, tarfile.FIFOTYPE), False),
    ],
    ids=["none", "empty", "content", "larger than any memory", "folder", "pipe"],
)
def test_a_file_is_looked_at_and_not_fetched(
    runtime: SwarmRuntime, monkeypatch: pytest.MonkeyPatch, there: tarfile.TarInfo | None, is_made: bool
) -> None:
    """It is made where there is none or an empty one; of any other its first bytes tell enough."""
    monkeypatch.setattr(_Docker, "entry", there, raising=False)
    runtime.make_folder("state", "workspace", image="one", at="/state", file="SOUL.md")
    [packed] = _Docker.packed
    assert (b"workspace/SOUL.md" in packed) is is_made
    assert len(_Docker.sent) < BLOCKS
