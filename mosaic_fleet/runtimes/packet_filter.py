"""The walls between users' gateways and all that is not theirs: iptables rules for an installation's user bridges."""

import re
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from mosaic_fleet import egress
from mosaic_fleet.errors import RuntimeFailure
from mosaic_fleet.names import bridge_prefix
from mosaic_fleet.settings import without_secrets

_REJECT = "-j REJECT --reject-with icmp-admin-prohibited"
# Answers alone: what a gateway began is judged packet by packet, so nothing lives on that slipped through once, such as
# in the moment in which Docker's jump is out, or that egress.allow does not open any more.
_ANSWERS = "-m conntrack --ctstate RELATED,ESTABLISHED --ctdir REPLY -j RETURN"
_FOR_ANSWERS = re.compile(r"(?<!! )--(ct)?state (RELATED,)?ESTABLISHED ")
# Opened to nobody, whatever is allowed: link-local, metadata, this network, multicast, reserved.
NEVER = tuple(str(network) for network in egress.NEVER if network.version == 4)
# The rest of what is not the internet: private, shared, loopback, protocol assignments, benchmarks (RFC 6890).
CLOSED = (
    *("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12"),
    *("192.0.0.0/24", "192.168.0.0/16", "198.18.0.0/15"),
)
_RESOLV = Path("/etc/resolv.conf")
_SECONDS = 30.0
# For every network that Docker makes it takes its own jump out of FORWARD and puts it in again, in two steps.
_DOCKERS_JUMP = "FORWARD does not lead to DOCKER-USER"
_DOCKERS_SECONDS = 2.0
_HINT = "mosaic init   (as root, on the Docker host)"


@dataclass(frozen=True)
class Rules:
    """The rules of an installation's two chains, in order and in iptables' own spelling.

    `jumps` maps a chain to the one that it leads to; into ours goes what comes from `bridges` (a beginning of names).
    Docker makes DOCKER-USER and leaves it to others. Another installation's chains and bridges have other names.
    """

    bridges: str
    jumps: Mapping[str, str]
    chains: Mapping[str, Sequence[str]]

    @classmethod
    def of(cls, install: str, forward: Sequence[str], here: Sequence[str]) -> "Rules":
        """Name the chains of an installation: for what it forwards, and for what comes to the host."""
        through, to_host = f"MOSAIC-{install}-FWD", f"MOSAIC-{install}-IN"
        jumps = {"FORWARD": "DOCKER-USER", "DOCKER-USER": through, "INPUT": to_host}
        return cls(bridge_prefix(install), jumps, {through: forward, to_host: here})

    def jump(self, chain: str) -> str:
        """Spell the rule by which a chain leads on."""
        target = self.jumps[chain]
        return f"-i {self.bridges}+ -j {target}" if target in self.chains else f"-j {target}"

    def lines(self, chain: str) -> list[str]:
        """Spell the rules of a chain as `iptables -S` does."""
        return [f"-A {chain} {rule}" for rule in self.chains[chain]]


def rules(install: str, settings: Mapping[str, Any], resolvers: Sequence[str]) -> Rules:
    """Lay the rules out: answers, the resolvers, what is never opened, what is, and then what is not the internet.

    Never opened are other gateways (this installation's bridges, and the pool, which another one may share) and NEVER.
    An opening of a single address may be the host's own, so it is opened there too. Pure.
    """
    asking = [rule for resolver in resolvers for rule in _resolver(resolver)]
    neighbours = (f"-o {bridge_prefix(install)}+", f"-d {settings['gateways.subnet_pool']}")
    never = [f"{where} {_REJECT}" for where in (*neighbours, *(f"-d {network}" for network in NEVER))]
    openings = [one for one in settings["egress.allow"] if one.network.version == 4]
    opened = [_opening(one) for one in openings]
    here = [_opening(one) for one in openings if one.network.num_addresses == 1]
    closed = [f"-d {network} {_REJECT}" for network in CLOSED]
    forward = [_ANSWERS, *asking, *never, *opened, *closed]
    return Rules.of(install, forward, [_ANSWERS, *asking, *here, _REJECT])


def missing(wanted: Rules, listing: str) -> list[str]:
    """Name what a listing of `iptables -S` lacks; nothing when every wall stands. Pure."""
    lines = listing.splitlines()
    found = []
    for chain in wanted.chains:
        if [line for line in lines if line.startswith(f"-A {chain} ")] != wanted.lines(chain):
            found.append(f"chain {chain} is not as it should be")
    for chain in wanted.jumps:
        found += _astray(wanted, chain, lines)
    return found


@dataclass(frozen=True)
class PacketFilter:
    """This machine's iptables; implements Walls."""

    command: str = "iptables"
    resolv: Path = field(default=_RESOLV)

    def check(self, install: str, settings: Mapping[str, Any]) -> None:
        """Raise RuntimeFailure unless every rule that an installation's settings ask for is in force."""
        wanted = self._wanted(install, settings)
        if found := missing(wanted, self._look(wanted)):
            raise RuntimeFailure(f"the packet filter lets users' gateways through: {found[0]}", hint=_HINT)

    def apply(self, install: str, settings: Mapping[str, Any]) -> bool:
        """Put an installation's rules into force in one transaction; return False when they were already."""
        wanted = self._wanted(install, settings)
        listing = self._look(wanted)
        if not missing(wanted, listing):
            return False
        try:
            self._run("--noflush", program=f"{self.command}-restore", stdin=_transaction(wanted, listing))
        except RuntimeFailure:
            if missing(wanted, self._run("-S")):
                raise
        self.check(install, settings)
        return True

    def _look(self, wanted: Rules) -> str:
        """List the rules, again for two seconds while Docker's own jump is all that they lack."""
        end = time.monotonic() + _DOCKERS_SECONDS
        while missing(wanted, listing := self._run("-S")) == [_DOCKERS_JUMP] and time.monotonic() < end:
            time.sleep(0.02)
        return listing

    def _wanted(self, install: str, settings: Mapping[str, Any]) -> Rules:
        return rules(install, settings, list(_resolvers(self.resolv)))

    def _run(self, *words: str, program: str | None = None, stdin: str = "") -> str:
        command = [program or self.command, "-w", "5", *words]
        try:
            done = subprocess.run(
                command,
                input=stdin,
                capture_output=True,
                text=True,
                env=without_secrets(),
                timeout=_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RuntimeFailure(f"{command[0]} cannot be run: {error}", hint="apt install iptables") from error
        if done.returncode:
            raise RuntimeFailure(f"{command[0]} refused: {_reason(done.stderr)}", hint=_HINT)
        return done.stdout


def _astray(wanted: Rules, chain: str, lines: Sequence[str]) -> Iterator[str]:
    """Say why what comes from the bridges does not get to where a chain leads, if it does not."""
    target, jump = wanted.jumps[chain], f"-A {chain} {wanted.jump(chain)}"
    own = [line for line in lines if line.startswith(f"-A {chain} ")]
    if jump not in own:
        yield f"{chain} does not lead to {target}"
    elif before := [line for line in own[: own.index(jump)] if _lets_through(line, wanted.bridges)]:
        yield f"{before[0]!r} comes before {target}"


def _transaction(wanted: Rules, listing: str) -> str:
    """Write what iptables-restore does as a whole or not at all: at no moment is there a wall less than before.

    A jump that does not hold is put first in its chain, FORWARD's too: Docker itself puts it there.
    """
    lines, listed = [f":{chain} - [0:0]" for chain in wanted.chains], listing.splitlines()
    lines += [line for chain in wanted.chains for line in wanted.lines(chain)]
    for chain in wanted.jumps:
        if any(_astray(wanted, chain, listed)):
            jump = f"{chain} {wanted.jump(chain)}"
            lines += [f"-D {jump}"] * listed.count(f"-A {jump}")
            lines.append(f"-I {jump}")
    return "\n".join(["*filter", *lines, "COMMIT", ""])


def _opening(opening: egress.Opening) -> str:
    where = f"-d {opening.network} " if opening.network.prefixlen else ""  # iptables does not spell 0.0.0.0/0
    protocol = f"-p tcp -m tcp --dport {opening.port} " if opening.port else ""
    return f"{where}{protocol}-j RETURN"


def _resolver(address: str) -> Iterator[str]:
    for protocol in ("udp", "tcp"):
        yield f"-d {address}/32 -p {protocol} -m {protocol} --dport 53 -j RETURN"


def _lets_through(rule: str, bridges: str) -> bool:
    """Tell whether a rule before ours may accept what comes from one of these bridges."""
    words = rule.split()
    at = words.index("-i") if "-i" in words else 0
    interface = words[at + 1] if at else "+"
    covers_all = interface.endswith("+") and bridges.startswith(interface[:-1])
    matches = not covers_all if words[at - 1] == "!" else covers_all or interface.startswith(bridges)
    return words[-1] in ("ACCEPT", "RETURN") and matches and not _FOR_ANSWERS.search(rule)


def _resolvers(path: Path) -> Iterator[str]:
    """Yield the resolvers that Docker has containers ask; one on loopback it asks itself."""
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return
    for line in lines:
        words = line.split()
        if words[:1] == ["nameserver"] and len(words) > 1:
            try:
                address = ip_address(words[1])
            except ValueError:
                continue
            if address.version == 4 and not address.is_loopback:
                yield str(address)


def _reason(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return lines[0][:300] if lines else "it did not say why"
