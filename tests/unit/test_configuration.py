"""The registry of the installation's settings: what each takes, and the nearest name."""

from contextlib import suppress
from ipaddress import IPv4Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosaic_fleet import configuration
from mosaic_fleet.configuration import REGISTRY
from mosaic_fleet.errors import Invalid, NotFound

DEFAULTS = {
    "egress.allow": (),
    "fleet.image": "ghcr.io/openclaw/openclaw:2026.9.6",
    "fleet.network": "mosaic-stack_internal",
    "fleet.health.interval": 5,
    "fleet.health.timeout": 10,
    "fleet.health.retries": 6,
    "fleet.health.start_period": 180,
    "fleet.restart.delay": 10,
    "fleet.stop_grace": 330,
    "fleet.update.monitor": 5,
    "gateways.subnet_pool": IPv4Network("10.213.0.0/16"),
    "gateways.memory": 2 << 30,
    "gateways.cpus": 2.0,
    "gateways.start_timeout": 180,
    "gateways.stop_grace": 330,
    "nap.after": 2,
    "gateways.idle_timeout": 30,
    "gateways.minimum_uptime": 300,
    "reap.every": "minute",
}


def test_the_defaults_are_these() -> None:
    """A new installation has exactly these settings with these values."""
    assert {key: setting.parse(setting.default) for key, setting in REGISTRY.items()} == DEFAULTS


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("fleet.stop_grace", "1", 1),
        ("fleet.stop_grace", "330s", 330),
        ("fleet.stop_grace", "86400", 86_400),
        ("fleet.health.retries", "100", 100),
        ("fleet.network", "team_net-1", "team_net-1"),
        ("fleet.image", "openclaw-local:2026.9.6", "openclaw-local:2026.9.6"),
        ("fleet.image", "sha256:" + "a" * 64, "sha256:" + "a" * 64),
        ("fleet.image", "127.0.0.1:1/no-such-image:1", "127.0.0.1:1/no-such-image:1"),
        ("fleet.image", "localhost/a__b/c.d--e:V1_x", "localhost/a__b/c.d--e:V1_x"),
        ("fleet.image", "Registry.Example:5000/a/b", "Registry.Example:5000/a/b"),
        ("fleet.image", "far/away:1@sha256:" + "a" * 64, "far/away:1@sha256:" + "a" * 64),
        ("gateways.memory", "512M", 512 << 20),
        ("nap.after", "0", 0),
        ("nap.after", "2", 2),
        ("nap.after", "1440", 1440),
        ("gateways.cpus", "0.5", 0.5),
        ("gateways.subnet_pool", "172.20.0.0/20", IPv4Network("172.20.0.0/20")),
    ],
)
def test_a_good_value_is_parsed(key: str, text: str, value: Any) -> None:
    """Text becomes the setting's value."""
    assert REGISTRY[key].parse(text) == value


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("gateways.memory", "1M"),
        ("nap.after", "-1"),
        ("nap.after", "1"),
        ("gateways.memory", "much"),
        ("gateways.cpus", "0"),
        ("gateways.cpus", "1e3"),
        ("gateways.subnet_pool", "8.8.0.0/16"),
        ("gateways.subnet_pool", "10.213.0.1/16"),
        ("gateways.subnet_pool", "10.213.0.0/28"),
        ("gateways.subnet_pool", "fd00::/8"),
        ("fleet.stop_grace", ""),
        ("fleet.stop_grace", "0"),
        ("fleet.stop_grace", "-1"),
        ("fleet.stop_grace", "1.5"),
        ("fleet.stop_grace", "5m"),
        ("fleet.stop_grace", "86401"),
        ("fleet.stop_grace", "9" * 5000),
        ("fleet.stop_grace", "²"),
        ("fleet.health.retries", "0"),
        ("fleet.health.retries", "101"),
        ("fleet.health.retries", "9" * 5000),
        ("fleet.health.retries", "6s"),
        ("fleet.network", "a b"),
        ("fleet.network", "-a"),
        ("fleet.image", ""),
        ("fleet.image", "a b"),
        ("fleet.image", "a\nb"),
        ("fleet.image", "x" * 401),
        ("fleet.image", "-rm"),
        ("fleet.image", "https://example.com/a"),
        ("fleet.image", "../a"),
        ("fleet.image", "a/../b"),
        ("fleet.image", "a..b"),
        ("fleet.image", "OpenClaw:1"),
        ("fleet.image", "far/Away:1"),
        ("fleet.image", "a:"),
        ("fleet.image", "a:-1"),
        ("fleet.image", "a@sha256:0"),
        ("fleet.image", "a//b"),
        ("fleet.image", "a/"),
        ("fleet.image", "${HOME}"),
        ("fleet.image", "☃"),
    ],
)
def test_a_bad_value_is_refused(key: str, text: str) -> None:
    """What a stack file could not carry is Invalid before it is stored."""
    with pytest.raises(Invalid):
        REGISTRY[key].parse(text)


@pytest.mark.parametrize("key", REGISTRY)
@given(text=st.text(max_size=20))
def test_any_text_is_taken_or_invalid(key: str, text: str) -> None:
    """No text makes a setting fail with anything but Invalid."""
    with suppress(Invalid):
        REGISTRY[key].parse(text)


def test_a_setting_is_found_by_its_key() -> None:
    """The registry is asked by the whole key."""
    assert configuration.find("fleet.image").kind == "image"


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("fleet.imag", "did you mean fleet.image?"),
        ("fleet.health.intervall", "did you mean fleet.health.interval?"),
        ("colour", "mosaic config list"),
    ],
)
def test_an_unknown_setting_names_the_nearest(key: str, hint: str) -> None:
    """A typo is answered with the setting that was meant, anything else with the command that lists them."""
    with pytest.raises(NotFound) as caught:
        configuration.find(key)
    assert caught.value.message == f'no setting "{key}"'
    assert caught.value.hint == hint
