"""Golden files: what was reviewed, compared byte by byte."""

import os
from pathlib import Path

GOLDEN = Path(__file__).parent / "unit" / "golden"


def check_golden(case: str, file: str, text: str) -> None:
    """Compare text with `unit/golden/<case>/<file>`; with MOSAIC_WRITE_GOLDEN set, write it there instead."""
    path = GOLDEN / case / file
    if os.environ.get("MOSAIC_WRITE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    assert path.read_bytes() == text.encode()
