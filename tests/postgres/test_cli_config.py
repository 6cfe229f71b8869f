"""`mosaic config`: settings with their origin, changed only to what their rule allows."""

import getpass
from pathlib import Path

import pytest
from sqlmodel import select

from mosaic_fleet import configuration, keyring
from mosaic_fleet.configuration import REGISTRY, VARIABLES, Setting
from mosaic_fleet.db.database import Database
from mosaic_fleet.db.reads import read
from mosaic_fleet.db.tables import SystemConfig
from mosaic_fleet.errors import Invalid
from mosaic_fleet.sealing import Box
from tests.postgres.machine import Machine

ME = f"cli:{getpass.getuser()}"
SECRET = "sentinel-of-the-northern-sea"


@pytest.fixture
def secret_setting(monkeypatch: pytest.MonkeyPatch) -> str:
    """Register a secret setting for the time of a test."""
    key = "test.secret"
    monkeypatch.setitem(REGISTRY, key, Setting(key, "text", "", "A secret.", _not_empty, secret=True, effect="restart"))
    return key


def _not_empty(text: str) -> str:
    if not text:
        raise Invalid("must not be empty")
    return text


def test_get_set_unset(mosaic: Machine) -> None:
    """A setting has its default, then the value that was set, then its default again."""
    default = REGISTRY["fleet.stop_grace"].default
    assert mosaic("config", "get", "fleet.stop_grace").stdout == f"{default}\n"
    assert mosaic("config", "set", "fleet.stop_grace", "60s").stdout == "changed fleet.stop_grace\n"
    assert mosaic("config", "set", "fleet.stop_grace", "60s").stdout == "unchanged fleet.stop_grace\n"
    got = mosaic("config", "get", "fleet.stop_grace", "--json").document
    assert got.pop("at").startswith("20")
    assert got == {"key": "fleet.stop_grace", "value": "60s", "origin": "database", "by": ME}
    assert mosaic("config", "unset", "fleet.stop_grace").stdout == "changed fleet.stop_grace\n"
    assert mosaic("config", "unset", "fleet.stop_grace").stdout == "unchanged fleet.stop_grace\n"
    assert mosaic("config", "get", "fleet.stop_grace", "--json").document["origin"] == "default"


def test_another_network_is_for_new_stacks(mosaic: Machine) -> None:
    """A stack keeps the network that it was made with: the note does not promise that a deploy changes that."""
    mosaic("agent", "add", "one", "--stack", "old")
    told = mosaic("config", "set", "fleet.network", "other").stderr
    assert told == (
        "it counts for stacks made from now on; one that is there: network: in its roster file, then import it\n"
    )
    mosaic("agent", "add", "two", "--stack", "new")
    said = mosaic("config", "set", "fleet.stop_grace", "60").stderr
    assert said == "it takes effect with: mosaic fleet deploy\n"
    with read(mosaic.environ["DATABASE_URL"]) as reads:
        assert {stack.name: stack.network for stack in reads.stacks()} == {
            "new": "other",
            "old": REGISTRY["fleet.network"].default,
        }


def test_list_tells_each_origin(mosaic: Machine) -> None:
    """Every setting is listed, with where its value comes from and what it means."""
    mosaic("config", "set", "fleet.network", "other")
    rows = {row["key"]: row for row in mosaic("config", "list", "--json").document["settings"]}
    assert list(rows) == [*VARIABLES, *REGISTRY]
    assert (rows["fleet.network"]["value"], rows["fleet.network"]["origin"]) == ("other", "database")
    assert (rows["fleet.image"]["value"], rows["fleet.image"]["origin"]) == (REGISTRY["fleet.image"].default, "default")
    assert (rows["fleet.network"]["by"], rows["fleet.image"]["by"]) == (ME, None)
    assert f"fleet.network\tother\tdatabase\t{ME}\t" in mosaic("config", "list").stdout
    assert mosaic("config", "list", "-q").stdout.split() == [*VARIABLES, *REGISTRY]


def test_changes_have_json_and_quiet(mosaic: Machine) -> None:
    """With --json a change prints one document, with -q nothing."""
    said = mosaic("config", "set", "fleet.network", "other", "--json").document
    assert said == {"key": "fleet.network", "value": "other", "changed": True}
    assert mosaic("config", "unset", "fleet.network", "--json").document == {"key": "fleet.network", "changed": True}
    for words in (["set", "fleet.network", "third", "-q"], ["unset", "fleet.network", "-q"]):
        said = mosaic("config", *words)
        assert (said.exit_code, said.stdout, said.stderr) == (0, "", "")


@pytest.mark.parametrize("words", [["get"], ["set", "--"], ["unset"]])
@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("fleet.imag", "did you mean fleet.image?"),
        ("fleet.stopgrace", "did you mean fleet.stop_grace?"),
        ("quite.else", "mosaic config list"),
        ("install.id", "mosaic config list"),
        ("\x1b[31m", "mosaic config list"),
        ("a\udcffb", "mosaic config list"),
        ("x" * 5000, "mosaic config list"),
    ],
)
def test_an_unknown_setting_is_told_with_the_nearest(mosaic: Machine, words: list[str], key: str, hint: str) -> None:
    """A mistyped setting exits with 4 and the nearest one as a hint; the installation's id is none."""
    code, message, said = mosaic("config", *words, key, *(["1"] if "set" in words else [])).error
    assert (code, said) == (4, hint)
    assert message.startswith('no setting "')


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("fleet.stop_grace", "0"),
        ("fleet.stop_grace", "-1"),
        ("fleet.stop_grace", "1.5"),
        ("fleet.stop_grace", "soon"),
        ("fleet.stop_grace", ""),
        ("fleet.stop_grace", "86401"),
        ("fleet.stop_grace", "9" * 5000),
        ("fleet.health.retries", "101"),
        ("fleet.health.retries", "9" * 5000),
        ("fleet.image", ""),
        ("fleet.image", "two words"),
        ("fleet.image", "line\nbreak"),
        ("fleet.image", "x" * 401),
        ("fleet.image", "-rm"),
        ("fleet.image", "https://example.com/a"),
        ("fleet.image", "$x"),
        ("fleet.image", "{{x}}"),
        ("fleet.image", "a\udcffb"),
        ("fleet.network", ""),
        ("fleet.network", "-a"),
        ("fleet.network", "a b"),
        ("fleet.network", "$x"),
        ("fleet.network", "{{x}}"),
    ],
)
def test_a_bad_value_is_refused(mosaic: Machine, key: str, value: str) -> None:
    """A value that breaks its rule exits with 2, names the setting and changes nothing."""
    code, message, _ = mosaic("config", "set", "--", key, value).error
    assert code == 2
    assert message.startswith(f'setting "{key}" ')
    assert mosaic("config", "get", key, "--json").document["origin"] == "default"


@pytest.mark.parametrize("image", ["yes", "none", "null", "0", "1e3", "r:5000/a/b:_s"])
def test_odd_values_are_kept_as_they_are(mosaic: Machine, image: str) -> None:
    """An image's name comes back equal to the byte, whatever YAML would make of it."""
    assert mosaic("config", "set", "fleet.image", "--", image).exit_code == 0
    assert mosaic("config", "get", "fleet.image").stdout == f"{image}\n"


def test_the_variables_have_an_origin_too(mosaic: Machine, tmp_path: Path) -> None:
    """The two variables are listed with their origin; neither password nor key is shown, and none is set here."""
    env_file = Path(mosaic.environ["XDG_CONFIG_HOME"]) / "mosaic" / "env"
    env_file.parent.mkdir(parents=True)
    env_file.write_text(f"MOSAIC_SECRET_KEY={mosaic.environ['MOSAIC_SECRET_KEY']}\n")
    with_password = mosaic.environ["DATABASE_URL"].replace("mosaic@", f"mosaic:{SECRET}@")
    machine = mosaic.but(MOSAIC_SECRET_KEY=None, DATABASE_URL=with_password)
    said = machine("config", "list", "--json")
    rows = {row["key"]: row for row in said.document["settings"]}
    assert (rows["DATABASE_URL"]["origin"], rows["MOSAIC_SECRET_KEY"]["origin"]) == ("environment", "env file")
    assert rows["DATABASE_URL"]["value"].startswith("postgresql://mosaic:***@")
    assert rows["MOSAIC_SECRET_KEY"]["value"] is None
    assert SECRET not in said.stdout
    assert mosaic.environ["MOSAIC_SECRET_KEY"] not in said.stdout
    assert machine("config", "get", "MOSAIC_SECRET_KEY").stdout == "set\n"
    for words in (["set", "DATABASE_URL", "x"], ["unset", "DATABASE_URL"], ["history", "DATABASE_URL"]):
        code, message, hint = machine("config", *words).error
        assert (code, message) == (2, "DATABASE_URL is a variable of the environment")
        assert hint == "export DATABASE_URL=…, or the env file's line"


def test_history_tells_who_changed_what(mosaic: Machine) -> None:
    """Every change of a setting is a row with who, when and the value, the newest first; another's are not."""
    for words in (["set", "fleet.network", "one"], ["set", "fleet.network", "two"], ["unset", "fleet.network"]):
        mosaic("config", *words)
    mosaic("config", "set", "fleet.stop_grace", "60")
    rows = mosaic("config", "history", "fleet.network", "--json").document["changes"]
    assert [(row["verb"], row["details"], row["actor"]) for row in rows] == [
        ("config.unset", {}, ME),
        ("config.set", {"value": "two"}, ME),
        ("config.set", {"value": "one"}, ME),
    ]
    assert [line.split("\t")[2:] for line in mosaic("config", "history", "fleet.network").stdout.splitlines()] == [
        ["unset", ""],
        ["set", "two"],
        ["set", "one"],
    ]


def test_a_secret_setting_is_sealed_and_never_comes_back(
    mosaic: Machine, database: Database, secret_setting: str
) -> None:
    """It goes in by standard input, lies sealed, is opened for Mosaic itself, and no command or audit row shows it."""
    words = ("config", "set", secret_setting, "--value-stdin")
    said = mosaic(*words, input=SECRET)
    assert (said.stdout, said.stderr) == (
        "changed test.secret\n",
        "it takes effect when mosaic serve is started again\n",
    )
    assert mosaic(*words, input=SECRET).stdout == "unchanged test.secret\n"
    box = Box(lambda: keyring.load(database, mosaic.environ["MOSAIC_SECRET_KEY"]))
    with database.transaction(system=True) as session:
        row = session.exec(select(SystemConfig).where(SystemConfig.key == secret_setting)).one()
        assert (row.encrypted, row.value[:7]) == (True, "enc:v1:")
        opened = configuration.secret(session, box, secret_setting)
        assert opened is not None
        assert opened.get_secret_value() == SECRET
        assert secret_setting not in configuration.values(session)
    assert mosaic("config", "get", secret_setting).stdout == "set\n"
    for shown in (["get", secret_setting], ["list"], ["history", secret_setting]):
        for option in ([], ["--json"]):
            assert SECRET not in mosaic("config", *shown, *option).stdout
    assert SECRET not in mosaic("audit", "list").stdout
    assert mosaic("config", "unset", secret_setting).stdout == "changed test.secret\n"
    assert mosaic("config", "get", secret_setting).stdout == "not set\n"
    assert mosaic(*words, "--json", input=SECRET).document == {"key": secret_setting, "value": None, "changed": True}


def test_a_secret_setting_is_no_argument(mosaic: Machine, secret_setting: str) -> None:
    """On the command line, where others can read it, a secret is refused and not repeated."""
    code, message, hint = mosaic("config", "set", secret_setting, SECRET).error
    assert (code, hint) == (2, "mosaic config set test.secret --value-stdin")
    assert SECRET not in message
    assert mosaic("config", "set", secret_setting).error[0] == 2
    assert mosaic("config", "set", "fleet.network", "x", "--value-stdin").error[0] == 2
