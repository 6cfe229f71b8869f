"""The packet filter's rules, and what a listing lacks of them."""

from collections.abc import Sequence
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from mosaic_fleet import egress
from mosaic_fleet.errors import RuntimeFailure
from mosaic_fleet.runtimes import packet_filter
from mosaic_fleet.runtimes.packet_filter import PacketFilter, Rules

INSTALL = "0123456789ab"
BRIDGES = "mu01234-"
FORWARD, INPUT = f"MOSAIC-{INSTALL}-FWD", f"MOSAIC-{INSTALL}-IN"
HARMLESS = (
    *("-A INPUT -i mufedcb-+ -j ACCEPT", "-A INPUT -i lo -j ACCEPT", "-A INPUT -p tcp -j f2b-sshd"),
    *("-A FORWARD -i virbr0 -j ACCEPT", "-A FORWARD ! -i mu+ -j ACCEPT", "-A FORWARD -j DOCKER-INGRESS"),
    "-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
)
OLLAMA, OFFICE = "10.1.1.42:11434", "192.168.7.0/24"


def settings(*allowed: str) -> dict[str, Any]:
    """Return the settings of an installation whose egress.allow has these entries."""
    return {"egress.allow": egress.parse(", ".join(allowed)), "gateways.subnet_pool": ip_network("10.213.0.0/16")}


def laid_out(*allowed: str, resolvers: Sequence[str] = (), install: str = INSTALL) -> Rules:
    """Return its rules."""
    return packet_filter.rules(install, settings(*allowed), resolvers)


def listing(rules: Rules) -> str:
    """Return what iptables lists when these rules are in force."""
    head = ["-P INPUT ACCEPT", "-N DOCKER-USER", f"-N {FORWARD}", f"-N {INPUT}"]
    here, docker = f"-A INPUT -i {BRIDGES}+ -j {INPUT}", f"-A DOCKER-USER -i {BRIDGES}+ -j {FORWARD}"
    jumps = [here, "-A FORWARD -j DOCKER-USER", docker]
    rest = ["-A DOCKER-USER -j RETURN", *rules.lines(FORWARD), *rules.lines(INPUT)]
    return "\n".join([*head, *jumps, *rest])


def test_everything_private_is_closed_after_what_is_opened() -> None:
    """Answers pass, resolvers and openings pass, then no private or link-local address, and nothing of the host."""
    rules = laid_out(OLLAMA, OFFICE, resolvers=["10.0.0.2"])
    forward, here = rules.chains[FORWARD], rules.chains[INPUT]
    opened = "-d 10.1.1.42/32 -p tcp -m tcp --dport 11434 -j RETURN"
    assert forward[0] == here[0] == "-m conntrack --ctstate RELATED,ESTABLISHED --ctdir REPLY -j RETURN"
    assert "-d 10.0.0.2/32 -p udp -m udp --dport 53 -j RETURN" in forward
    assert "-d 192.168.7.0/24 -j RETURN" in forward
    assert "-d 192.168.7.0/24 -j RETURN" not in here
    assert opened in here
    assert forward.index(opened) < forward.index("-d 10.0.0.0/8 -j REJECT --reject-with icmp-admin-prohibited")
    closed = [ip_network(rule.split()[1]) for rule in forward if "REJECT" in rule and rule.startswith("-d")]
    for address in ("10.1.1.42", "172.17.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1", "127.0.0.1"):
        assert any(ip_network(address).subnet_of(network) for network in closed), address
    assert here[-1] == "-j REJECT --reject-with icmp-admin-prohibited"


@pytest.mark.parametrize("allowed", ["10.0.0.0/8", "0.0.0.0/0", "0.0.0.0/1, 128.0.0.0/1", "10.213.0.18:18789"])
def test_what_is_never_opened_is_closed_before_what_is(allowed: str) -> None:
    """However wide egress.allow is, other gateways and metadata are refused; a resolver there still answers."""
    forward = list(laid_out(allowed, resolvers=["169.254.169.253"]).chains[FORWARD])
    opened = forward.index(packet_filter._opening(egress.parse(allowed)[0]))
    never = [rule.removesuffix(" -j REJECT --reject-with icmp-admin-prohibited") for rule in forward[:opened]]
    assert {f"-o {BRIDGES}+", "-d 10.213.0.0/16", "-d 169.254.0.0/16", "-d 168.63.129.16/32"} <= set(never)
    assert never.index("-d 169.254.169.253/32 -p udp -m udp --dport 53 -j RETURN") < never.index("-d 169.254.0.0/16")


def test_standing_walls_lack_nothing() -> None:
    """The listing of the rules themselves is complete, also with harmless rules of others before."""
    rules = laid_out(OLLAMA)
    assert packet_filter.missing(rules, listing(rules)) == []
    other = laid_out(install="fedcba987654")
    others = "\n".join(f"-A {chain} {other.jump(chain)}" for chain in other.jumps)
    assert packet_filter.missing(rules, "\n".join([others, *HARMLESS, listing(rules)])) == []


@pytest.mark.parametrize("number", range(40))
def test_any_line_less_is_noticed(number: int) -> None:
    """Whichever rule or jump is taken away, something is missing."""
    rules = laid_out(OLLAMA, resolvers=["10.0.0.2"])
    lines = listing(rules).splitlines()
    rulish = [n for n, line in enumerate(lines) if line.startswith("-A") and line != "-A DOCKER-USER -j RETURN"]
    if number < len(rulish):
        del lines[rulish[number]]
        assert packet_filter.missing(rules, "\n".join(lines))


@pytest.mark.parametrize(
    "hole",
    [
        "-A INPUT -j ACCEPT",
        "-A INPUT -i mu01234-3 -j ACCEPT",
        "-A INPUT -i mu+ -j ACCEPT",
        "-A INPUT ! -i eth0 -j ACCEPT",
        "-A INPUT -m conntrack --ctstate NEW,RELATED,ESTABLISHED -j ACCEPT",
        "-A DOCKER-USER -d 10.0.0.0/8 -j ACCEPT",
        "-A FORWARD -j ACCEPT",
        "-A FORWARD -o virbr0 -j ACCEPT",
        "-A FORWARD ! -i eth+ -j RETURN",
    ],
)
def test_a_rule_that_lets_through_before_ours_is_noticed(hole: str) -> None:
    """An ACCEPT in front of the walls, or of Docker's way to them, is named."""
    rules = laid_out()
    target = rules.jumps[hole.split()[1]]
    assert packet_filter.missing(rules, f"{hole}\n{listing(rules)}") == [f"{hole!r} comes before {target}"]


def test_a_way_for_some_interfaces_alone_is_none() -> None:
    """DOCKER-USER must be reached from FORWARD by whatever comes from a user's bridge."""
    rules = laid_out()
    some = listing(rules).replace("-A FORWARD -j", "-A FORWARD -i eth0 -j")
    assert packet_filter.missing(rules, some) == ["FORWARD does not lead to DOCKER-USER"]


def test_another_order_or_an_older_opening_is_noticed() -> None:
    """Rules that are there in another order, or that nobody asks for any more, are not as they should be."""
    rules, before = laid_out(), laid_out(OLLAMA)
    assert packet_filter.missing(rules, listing(before))
    swapped = Rules.of(INSTALL, list(reversed(rules.chains[FORWARD])), rules.chains[INPUT])
    assert packet_filter.missing(rules, listing(swapped))


def test_without_iptables_there_are_no_walls(tmp_path: Path) -> None:
    """A machine without the command is told what to install."""
    with pytest.raises(RuntimeFailure, match="cannot be run") as raised:
        PacketFilter(str(tmp_path / "iptables")).check(INSTALL, settings())
    assert raised.value.hint == "apt install iptables"


def test_resolvers_on_loopback_and_of_ipv6_need_no_rule(tmp_path: Path) -> None:
    """Docker asks a loopback resolver itself; nonsense is passed by."""
    file = tmp_path / "resolv.conf"
    file.write_text("# x\nnameserver 127.0.0.53\nnameserver 10.0.0.2\nnameserver fd00::1\nnameserver x\nsearch a\n")
    assert list(packet_filter._resolvers(file)) == ["10.0.0.2"]
    assert list(packet_filter._resolvers(tmp_path / "nothing")) == []
