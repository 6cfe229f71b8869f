"""`mosaic fleet logs -f`, which is to hold no more however much is written."""

import subprocess
from pathlib import Path
from threading import Timer

from tests.bench.measuring import Line, flat
from tests.docker.installation import Fleet

# Megabytes. A chunk is less than Docker keeps of a log, so that its reader is never outrun.
_CHUNK, _FEW, _MANY = 2, 10, 100
_SECONDS = 600
_LINE = 1000


def following(fleet: Fleet) -> Line:
    """Follow a gateway that writes a hundred megabytes; compare the peak memory with that after a tenth of them."""
    with fleet.installation.start("fleet", "logs", fleet.agent("one"), "-f", "--tail", "1") as process:
        timer = Timer(_SECONDS, process.kill)
        timer.start()
        try:
            _until(process, "")
            few = _peak_after(fleet, process, range(0, _FEW, _CHUNK))
            many = _peak_after(fleet, process, range(_FEW, _MANY, _CHUNK))
        finally:
            timer.cancel()
            process.kill()
    return flat(f"fleet logs -f: peak memory after {_MANY} MB", many, (f"after {_FEW} MB", few), times=1.1)


def _peak_after(fleet: Fleet, process: "subprocess.Popen[str]", written: range) -> int:
    """Write chunk after chunk, each when the one before was read; return the peak memory so far, in bytes."""
    for start in written:
        end = f"written: {start + _CHUNK} MB"
        lines = f"yes {'x' * (_LINE - 1)} | head -n {_CHUNK * 10**6 // _LINE}; echo {end}"
        fleet.exec("one", "sh", "-c", f"{{ {lines}; }} > /proc/1/fd/2")
        _until(process, end)
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def _until(process: "subprocess.Popen[str]", end: str) -> None:
    """Read to a line that ends like this."""
    assert process.stdout
    if not any(line.rstrip().endswith(end) for line in process.stdout):
        raise RuntimeError(f"fleet logs -f ended before it had read all, or did not within {_SECONDS} s")
