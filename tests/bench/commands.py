"""Commands that only read, against the start of Python."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from tests.bench.measuring import Line, against, interleaved, seconds

ROUNDS = 15
_MOSAIC = str(Path(sys.executable).with_name("mosaic"))
_PYTHON = [sys.executable, "-c", "pass"]


def reading(
    env: Mapping[str, str], words: Sequence[str], options: Sequence[str] = (), *, times: float, of: str = ""
) -> Line:
    """Time a command against `python -c pass`, the quickest run of each: a busy machine only ever adds.

    `of` says how much there is to read.
    """
    run = partial(subprocess.run, env=dict(env), check=True, capture_output=True)
    timers = [partial(seconds, partial(run, command)) for command in (_PYTHON, [_MOSAIC, *words, *options])]
    base, measured = map(min, interleaved(ROUNDS, *timers))
    title = f"mosaic {' '.join(words)}{f' of {of}' if of else ''}"
    return against(title, measured, ("python -c pass", base), times=times)
