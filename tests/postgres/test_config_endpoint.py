"""The config endpoint: each token opens its own container's config, as it is now, and everything else is one 401."""

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy import event

from mosaic_fleet.db.database import Database
from mosaic_fleet.db.reads import SYSTEM_OWNER
from mosaic_fleet.db.tables import SystemContainer, now
from mosaic_fleet.fleet import agents, config_tokens, delivery, personal, preferences, providers, stack
from mosaic_fleet.identity import users
from mosaic_fleet.sealing import EnvironmentKey, generate_key
from mosaic_fleet.web import app
from mosaic_fleet.web import site as sites
from mosaic_fleet.web.site import Site
from tests.asgi import ask, asking
from tests.postgres.pullers import KEY, Pullers

PATH = "/api/internal/agent-config"


@pytest.fixture
def pullers(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pullers:
    """Make a user and an agent whose containers pull, from a site that takes the time it needs."""
    monkeypatch.setattr(sites, "_PATIENCE", 120.0)
    return Pullers.at(database, tmp_path)


@pytest.fixture
def site(pullers: Pullers) -> Iterator[Site]:
    """Return what the requests of one server share."""
    with pullers.site() as site:
        yield site


def test_a_user_s_container_pulls_what_it_would_be_pushed(pullers: Pullers, site: Site) -> None:
    """Both ways deliver the output of one function, by the user's id or name."""
    with pullers.db.transaction(owner=pullers.ann) as session:
        pushed = personal.load(session, pullers.box, pullers.ann).package
    for name in (str(pullers.ann), "ann"):
        assert pullers.files(site, f"user/{name}", pullers.tokens["ann"]) == pushed.files
    assert KEY in pushed.files["provider_keys"]


def test_an_agent_s_container_pulls_what_its_service_is_given(pullers: Pullers, site: Site) -> None:
    """An agent's files come by its id or name: its own token, the shared providers' keys and its personality."""
    with pullers.db.transaction(system=True) as session:
        agent = stack.load(session, pullers.box, "team").agents[0]
    expected = delivery.package(agent.gateway, agent.token, agent.personality)
    for name in (str(pullers.far), "far"):
        assert pullers.files(site, f"system/{name}", pullers.tokens["far"]) == expected.files
    assert expected.files["SOUL.md"] == "Be kind."


def test_an_answer_is_kept_by_nobody(pullers: Pullers, site: Site) -> None:
    """No cache on the way stores secrets."""
    answer = pullers.pull(site, "system/far", pullers.tokens["far"])
    assert answer.headers["cache-control"] == "no-store"


def test_every_refusal_is_the_same(pullers: Pullers, site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever is wrong: one status, one body, the same headers, one look into the database; no token in the log."""
    caplog.set_level(logging.DEBUG)
    ann, far = pullers.tokens["ann"], pullers.tokens["far"]
    asked = [
        ("user/ann", None),
        ("user/ann", ""),
        ("user/ann", "planted-wrong"),
        ("user/ann", far),
        ("system/far", ann),
        ("system/ann", ann),
        ("user/far", far),
        (f"user/{pullers.far}", far),
        (f"user/{uuid4()}", ann),
        (f"user/{str(pullers.ann).upper()}", ann),
        (f"user/{pullers.ann.hex}", ann),
        ("user/nobody", ann),
        ("user/", ann),
        ("user/a\x00b", ann),
        ("user/ann/", ann),
        ("user/../ann", ann),
        ("user/" + "a" * 5000, ann),
        ("gateway/ann", ann),
        ("gateway/far", far),
        ("System/far", far),
        ("User/ann", ann),
        ("user/ann", ann + "\xff"),
        ("user/ann", "enc:v1:" + "A" * 5000),
    ]
    pullers.pull(site, "user/ann", ann)
    statements: list[str] = []
    event.listen(site.mosaic.db._engine, "before_cursor_execute", lambda *said: statements.append(said[2]))
    answers, counts = [], set()
    for where, token in asked:
        statements.clear()
        answers.append(pullers.pull(site, where, token))
        counts.add(len(statements))
    assert {(one.status, one.body, tuple(sorted(one.headers.items()))) for one in answers} == {
        (
            401,
            b'{"error":{"code":6,"message":"this token opens no such config","hint":null}}',
            (
                ("cache-control", "no-store"),
                ("content-length", "76"),
                ("content-type", "application/json"),
                ("www-authenticate", "Bearer"),
            ),
        )
    }
    assert len(counts) == 1
    assert not [secret for secret in (ann, far, "planted-wrong") if secret in caplog.text]


def test_a_refusal_always_compares(pullers: Pullers, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token is compared in constant time even where there is nothing to compare it with."""
    compared = []
    real = config_tokens.hmac.compare_digest

    def compare(one: str, other: str) -> bool:
        compared.append(len(other))
        return real(one, other)

    monkeypatch.setattr(config_tokens.hmac, "compare_digest", compare)
    for where in ("user/ann", "user/nobody", "other/ann", "user/"):
        pullers.pull(site, where, "wrong")
    assert compared == [64] * 4


@pytest.mark.parametrize("scheme", ["Basic", "bearertoken", ""])
def test_only_a_bearer_token_counts(pullers: Pullers, site: Site, scheme: str) -> None:
    """The right token under another scheme is none."""
    header = (b"authorization", f"{scheme} {pullers.tokens['far']}".encode())
    answer = ask(app.internal(site), f"{PATH}/system/far", headers=[header])
    assert answer.status == 401


def test_a_replaced_token_opens_nothing(pullers: Pullers, site: Site) -> None:
    """A renewed token counts at once, the one before no more."""
    with pullers.db.transaction(system=True) as session:
        new = config_tokens.issue_system(session, "far", now=now(), renew=True).get_secret_value()
    assert pullers.pull(site, "system/far", pullers.tokens["far"]).status == 401
    assert pullers.pull(site, "system/far", new).status == 200


def test_who_is_switched_off_gets_nothing(pullers: Pullers, site: Site) -> None:
    """A deactivated user's and a disabled agent's tokens are refused, also when they pulled before."""
    for where, who in (("user/ann", "ann"), ("system/far", "far")):
        pullers.files(site, where, pullers.tokens[who])
    with pullers.db.transaction(system=True) as session:
        users.disable(session, "ann", now=now())
        agents.set(session, "far", {"is_active": False})
    assert pullers.pull(site, "user/ann", pullers.tokens["ann"]).status == 401
    assert pullers.pull(site, "system/far", pullers.tokens["far"]).status == 401


def test_tokens_are_hashed_at_rest(pullers: Pullers) -> None:
    """Neither token is anywhere in the database."""
    with psycopg.connect(pullers.db.url) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        text = " ".join(str(connection.execute(f"SELECT * FROM {name}").fetchall()) for (name,) in tables)
    assert str(pullers.far) in text
    assert not [token for token in pullers.tokens.values() if token in text]


def test_a_change_shows_at_the_next_pull(pullers: Pullers, site: Site) -> None:
    """Whatever a config is made from, a change of it is delivered, though the server keeps what it made."""
    far, ann = pullers.tokens["far"], pullers.tokens["ann"]
    before = pullers.files(site, "system/far", far), pullers.files(site, "user/ann", ann)
    assert (pullers.files(site, "system/far", far), pullers.files(site, "user/ann", ann)) == before
    with pullers.db.transaction(system=True) as session:
        agents.set(session, "far", {"personality": "Be brief."})
        preferences.set(session, pullers.ann, {"personality": "Be loud."})
    assert pullers.files(site, "system/far", far)["SOUL.md"] == "Be brief."
    assert pullers.files(site, "user/ann", ann)["SOUL.md"] == "Be loud."
    with pullers.db.transaction(system=True) as session:
        providers.set(session, pullers.box, SYSTEM_OWNER, "llm", {"api_key": SecretStr("another-shared-key")})
    assert "another-shared-key" in pullers.files(site, "system/far", far)["provider_keys"]
    with pullers.db.transaction(system=True) as session:
        providers.set(session, pullers.box, pullers.ann, "llm", {"api_key": SecretStr("another-key-of-ann")})
    assert "another-key-of-ann" in pullers.files(site, "user/ann", ann)["provider_keys"]


def test_a_gateway_that_cannot_run_is_explained(pullers: Pullers, site: Site) -> None:
    """To who shows the right token it is said what is missing; the container tries again."""
    with pullers.db.transaction(system=True) as session:
        providers.set(session, pullers.box, SYSTEM_OWNER, "llm", {"is_active": False})
    answer = pullers.pull(site, "system/far", pullers.tokens["far"])
    assert (answer.status, answer.json["error"]["code"]) == (500, 3)
    assert answer.json["error"]["message"] == 'agent "far" uses provider "llm", which is switched off'


@pytest.mark.parametrize("key", ["", generate_key(), "no key at all"], ids=["none", "another", "no-key"])
def test_under_a_wrong_key_the_needed_one_is_named(pullers: Pullers, key: str) -> None:
    """The right token gets a 503 naming the key, a wrong one still a 401, the probe says it and stays ready (1.5)."""
    kid = EnvironmentKey(pullers.key).kid
    with pullers.site(MOSAIC_SECRET_KEY=key) as site:
        answer = pullers.pull(site, "system/far", pullers.tokens["far"])
        assert (answer.status, answer.json["error"]["code"], answer.headers["retry-after"]) == (503, 3, "2")
        assert kid in answer.json["error"]["message"]
        assert pullers.pull(site, "system/far", "wrong").status == 401
        ready = ask(app.public(site), "/readyz")
        assert (ready.status, ready.json["ok"]) == (200, True)
        assert kid in ready.json["degraded"][0]


def test_sixty_containers_at_once_are_all_served(pullers: Pullers, site: Site) -> None:
    """A host that boots with many containers gets all of their configs, however slowly."""
    application = app.internal(site)

    async def all_at_once() -> list[int]:
        asked = [asking(application, f"{PATH}/system/far", token=pullers.tokens["far"]) for _ in range(60)]
        return [answer.status for answer in await asyncio.gather(*asked)]

    assert asyncio.run(all_at_once()) == [200] * 60


def test_the_server_makes_no_schema(database_url: str, pullers: Pullers) -> None:
    """In an empty database nobody's request makes tables: not ready, 503."""
    with pullers.site(DATABASE_URL=database_url) as site:
        assert ask(app.public(site), "/readyz").status == 503
        assert pullers.pull(site, "user/ann", "t").status == 503
    assert Database(database_url, actor="test").version() is None


def test_a_token_is_replaced_only_on_demand(pullers: Pullers) -> None:
    """A second token without renewal is a conflict, and the first one stays."""
    with pytest.raises(config_tokens.Conflict), pullers.db.transaction(system=True) as session:
        config_tokens.issue_system(session, "far", now=now())
    with pullers.db.transaction(system=True) as session:
        assert config_tokens.holder(session, "system", "far", pullers.tokens["far"]).id == pullers.far
        row = session.get_one(SystemContainer, pullers.far)
        assert row.config_token_at is not None
