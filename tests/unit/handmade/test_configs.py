"""OpenClaw's config in JSON5: where a key comes from, and what is said of the rest."""

import pytest
from pydantic import SecretStr

from mosaic_fleet.fleet.handmade.configs import Config, read
from mosaic_fleet.fleet.handmade.variables import Variable

VARIABLES = {"KEY": Variable("key-0123456789abcdef", "x.env:1"), "HOST": Variable("llm.example", "x.env:2")}


def config(text: str) -> Config:
    return read(text, "x.json", VARIABLES)


def keyed(value: str) -> Config:
    return config(f"{{models: {{providers: {{house: {{baseUrl: 'http://${{HOST}}/v1', apiKey: {value}}}}}}}}}")


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ("'plain-key'", "plain-key"),
        ("'${KEY}'", "key-0123456789abcdef"),
        ("'$KEY'", "key-0123456789abcdef"),
        ("'sk-${KEY}'", "sk-key-0123456789abcdef"),
        ("{source: 'env', provider: 'default', id: 'KEY'}", "key-0123456789abcdef"),
        ("'$${KEY}'", "${KEY}"),
        ("''", None),
        ("null", None),
    ],
)
def test_a_key_comes_from_where_it_says(value: str, key: str | None) -> None:
    """Plain, by `${NAME}`, by `$NAME` and by reference; addresses may name variables too."""
    block = keyed(value).blocks["house"]
    assert block.key == (SecretStr(key) if key else None)
    assert block.base_url == "http://llm.example/v1"


@pytest.mark.parametrize(
    ("value", "note"),
    [
        ("'${OTHER}'", "OTHER is not set"),
        ("'$OTHER'", "OTHER is not set"),
        ("{source: 'file', id: '/x'}", "comes from a file or a program, which was not read"),
    ],
)
def test_a_key_that_cannot_be_had_is_named(value: str, note: str) -> None:
    """The provider is read without it."""
    found = keyed(value)
    assert found.blocks["house"].key is None
    assert found.notes == [f"x.json: models.providers.house.apiKey: {note}"]


def test_the_shortest_unknown_path_is_named() -> None:
    """What Mosaic sets itself is silent; beside it each thing is named once, with its path."""
    found = config(
        "{gateway: {port: 1, http: {endpoints: {chatCompletions: {enabled: true}, responses: {enabled: true}}}},"
        "agents: {defaults: {sandbox: {mode: 'all'}}}, hooks: {a: {b: 1}}}"
    )
    assert found.notes == [
        "x.json: gateway.http.endpoints.responses: is not taken over",
        "x.json: agents.defaults.sandbox: is not taken over",
        "x.json: hooks: is not taken over",
    ]


def test_a_config_may_say_nothing() -> None:
    """An empty object is a gateway without model, accounts and token."""
    found = config("{}")
    assert (found.primary, found.fallbacks, found.blocks, found.token, found.schedules) == (None, [], {}, None, None)
