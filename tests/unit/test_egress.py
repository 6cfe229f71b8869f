"""Which addresses may be called: every form of a forbidden one is known, and `egress.allow` opens only what it says."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosaic_fleet.egress import judge, parse
from mosaic_fleet.errors import Invalid

EVERYTHING = parse("0.0.0.0/0, [::/0]")


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "169.254.0.1",
        "::ffff:169.254.169.254",
        "::ffff:a9fe:a9fe",
        "::169.254.169.254",
        "::ffff:0:169.254.169.254",
        "64:ff9b::169.254.169.254",
        "64:ff9b::10.0.0.1",
        "64:ff9b::127.0.0.1",
        "64:ff9b:1::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
        "2002:7f00:1::",
        "2002:a00:1::",
        "2001:0:1:2:3:4:5601:5601",
        "2001:4860::5efe:169.254.169.254",
        "2001:4860::200:5efe:a9fe:a9fe",
        "fe80::1",
        "fe80::1%lo",
        "fe80::a9fe:a9fe",
        "2606:4700::1111%eth0",
        "fd00:ec2::254",
        "fd20:ce::254",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "0.0.0.0",
        "0.1.2.3",
        "::",
        "224.0.0.1",
        "ff02::1",
        "255.255.255.255",
        "240.0.0.1",
        "::8.8.8.8",
        "",
        "localhost",
        "10.0.0",
        "0x7f.1",
    ],
)
def test_some_addresses_are_never_called(address: str) -> None:
    """Link-local, metadata and hidden addresses stay closed even where everything is allowed."""
    assert judge(address, 80, EVERYTHING) == "never"


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1", "10.1.1.42", "::ffff:10.1.1.42", "172.16.0.1"),
        *("192.168.1.1", "100.64.0.1", "192.0.0.8", "198.18.0.1", "192.0.2.1", "203.0.113.1", "fd00::1", "fc00::1"),
        *("fec0::1", "2001:db8::1", "3fff::1", "5f00::1"),
    ],
)
def test_private_addresses_need_the_allow_list(address: str) -> None:
    """What is not public is closed, and opened by the setting."""
    assert judge(address, 80, ()) == "private"
    assert judge(address, 80, EVERYTHING) == "open"


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "172.32.0.1", "::ffff:8.8.8.8", "2606:4700::1111", "64:ff9b::8.8.8.8", "2002:808:808::1", "1.1.1.1"],
)
def test_public_addresses_are_open(address: str) -> None:
    """The world needs no entry, not even through a translator."""
    assert judge(address, 443, ()) == "open"


@pytest.mark.parametrize(
    ("allowed", "address", "port", "verdict"),
    [
        ("10.1.1.42", "10.1.1.42", 1, "open"),
        ("10.1.1.42", "10.1.1.43", 1, "private"),
        ("10.1.1.42:11434", "10.1.1.42", 11434, "open"),
        ("10.1.1.42:11434", "10.1.1.42", 22, "private"),
        ("10.1.1.42:11434", "::ffff:10.1.1.42", 11434, "open"),
        ("10.1.0.0/16:80", "10.1.255.1", 80, "open"),
        ("10.1.0.0/16:80", "10.2.0.1", 80, "private"),
        (" 10.0.0.1 ,[fd00::5]:443 ", "fd00::5", 443, "open"),
        ("[fd00::5]:443", "fd00::5", 80, "private"),
        ("[fd00::/8]", "fdff::1", 80, "open"),
        ("[FD00::A]", "fd00::a", 80, "open"),
        ("[::1]", "127.0.0.1", 80, "private"),
        ("127.0.0.1", "::1", 80, "private"),
    ],
)
def test_an_entry_opens_what_it_says(allowed: str, address: str, port: int, verdict: str) -> None:
    """An entry is an address or a network, on all ports or on one."""
    assert judge(address, port, parse(allowed)) == verdict


@pytest.mark.parametrize("text", ["", " ", "\t\n"])
def test_nothing_allows_nothing(text: str) -> None:
    """An empty setting is an empty list."""
    assert parse(text) == ()


@pytest.mark.parametrize(
    "text",
    [
        *(",", "10.0.0.1,", "10.0.0.1;10.0.0.2", "10.0.0.1 10.0.0.2", "localhost", "ollama.lan:11434", "*", "all"),
        *("10.0.0.1:", "10.0.0.1:0", "10.0.0.1:65536", "10.0.0.1:-1", "10.0.0.1:80:80", "10.0.0.1:http"),
        *("10.1.1.42/16", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/255.0.0.0", "10.0.0.0/", "10.1", "3232235777"),
        *("0xa000001", "010.0.0.1", "10.0.0.256", "１０.0.0.1", "10.0.0.1\0", "10.0.0.1\n10.0.0.2", "٣.0.0.1"),
        *("fd00::5", "fd00::5:443", "[fd00::5", "fd00::5]", "[fd00::5]443", "[fd00::5%eth0]", "[10.0.0.1]", "[]"),
        *(
            "[fd00::]/8",
            "[fd00::1/8]",
            "[::ffff:10.0.0.1]",
            "169.254.169.254",
            "169.254.0.0/16",
            "[fe80::1]",
            "0.0.0.0",
        ),
        *(
            "[fd00:ec2::254]",
            "224.0.0.1",
            "http://10.0.0.1",
            "10.0.0.1/",
            "[x:y]",
            "'; DROP TABLE audit; --",
            "\x1b[31m",
        ),
        "10.0.0.1," * 300 + "10.0.0.1",
        "1" * 20_000,
        "10.0.0.1:" + "9" * 5_000,
    ],
)
def test_what_is_no_entry_is_refused(text: str) -> None:
    """Names, odd spellings of numbers, half an entry and what is never called: told, not guessed."""
    with pytest.raises(Invalid):
        parse(text)


@given(st.text(alphabet="0123456789abcdef.:[]/,x% \u0661\uff11", max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    """No text breaks the parser, and none of what it reads opens the metadata address."""
    with suppress(Invalid):
        assert judge("169.254.169.254", 80, parse(text)) == "never"


@given(st.ip_addresses())
def test_any_address_has_a_verdict(address: object) -> None:
    """Without an entry nothing private is open: an IPv6 address is as closed as the IPv4 address in it."""
    assert judge(str(address), 80, ()) in ("open", "private", "never")
