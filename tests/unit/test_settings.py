"""What the environment decides, and in which order."""

from pathlib import Path

import pytest

from mosaic_fleet.errors import ConfigurationError
from mosaic_fleet.settings import Settings


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """Return an environment whose directories are the test's own."""
    return {"XDG_CONFIG_HOME": str(tmp_path / "config"), "XDG_DATA_HOME": str(tmp_path / "data")}


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    """Return the path of the env file, its folder made."""
    (tmp_path / "config/mosaic").mkdir(parents=True)
    return tmp_path / "config/mosaic/env"


def test_nothing_needs_to_be_set(env: dict[str, str], tmp_path: Path) -> None:
    """Without variables and env file the embedded Postgres is used, and there is no key."""
    settings = Settings.from_env(env)
    assert settings.env_file == tmp_path / "config/mosaic/env"
    assert settings.data_dir == tmp_path / "data/mosaic"
    assert (settings.database_url, settings.secret_key) == (None, None)
    assert (settings.docker_host, settings.docker_context) == (None, None)
    assert (settings.no_input, settings.dumb_terminal) == (False, False)


@pytest.mark.parametrize(
    ("variable", "attribute"), [("DATABASE_URL", "database_url"), ("MOSAIC_SECRET_KEY", "secret_key")]
)
def test_a_variable_beats_its_file_beats_the_env_file(
    variable: str, attribute: str, env: dict[str, str], env_file: Path, tmp_path: Path
) -> None:
    """The variable itself, then `…_FILE`, then the env file's variable, then its `…_FILE`."""
    (tmp_path / "secret").write_text(" from a file\n")
    (tmp_path / "named").write_text("from the env file's file")
    env_file.write_text(f"{variable}_FILE={tmp_path / 'named'}\n")
    assert getattr(Settings.from_env(env), attribute) == "from the env file's file"
    env_file.write_text(f"{variable}=from the env file\n{variable}_FILE={tmp_path / 'named'}\n")
    assert getattr(Settings.from_env(env), attribute) == "from the env file"
    env[f"{variable}_FILE"] = str(tmp_path / "secret")
    assert getattr(Settings.from_env(env), attribute) == "from a file"
    env[variable] = "from the variable"
    assert getattr(Settings.from_env(env), attribute) == "from the variable"


def test_an_empty_variable_counts_as_not_set(env: dict[str, str], env_file: Path) -> None:
    """`DATABASE_URL=` in the environment does not hide the env file's."""
    env_file.write_text("DATABASE_URL=postgresql://x\n")
    assert Settings.from_env(env | {"DATABASE_URL": ""}).database_url == "postgresql://x"


@pytest.mark.parametrize("content", [None, b"\xff\xfe"], ids=["missing", "no text"])
def test_a_named_file_that_cannot_be_read_is_an_error(
    content: bytes | None, env: dict[str, str], tmp_path: Path
) -> None:
    """A `…_FILE` that is missing or no text is named with its variable, not skipped."""
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=f"^MOSAIC_SECRET_KEY_FILE names {path}, which cannot be read: "):
        _ = Settings.from_env(env | {"MOSAIC_SECRET_KEY_FILE": str(path)}).secret_key


@pytest.mark.parametrize("variable", ["DATABASE_URL", "MOSAIC_SECRET_KEY"])
@pytest.mark.parametrize("content", ["", " \n\n"], ids=["empty", "blank"])
def test_a_named_file_with_nothing_in_it_is_an_error(
    variable: str, content: str, env: dict[str, str], env_file: Path, tmp_path: Path
) -> None:
    """An empty `…_FILE` is not the same as none: another database or a second key would be taken."""
    path = tmp_path / "secret"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match=f"^{variable}_FILE names {path}, which is empty$"):
        _ = Settings.from_env(env | {f"{variable}_FILE": str(path)}).secret_key
    env_file.write_text(f"{variable}_FILE={path}\n")
    with pytest.raises(ConfigurationError, match=f"^{variable}_FILE names {path}, which is empty$"):
        _ = Settings.from_env(env).secret_key


def test_the_env_file_has_comments_spaces_and_equals_signs(env: dict[str, str], env_file: Path) -> None:
    """Blank lines and comments are skipped; a value keeps its own equals signs and hashes."""
    env_file.write_text("# ours\n\n  # indented\n DATABASE_URL = postgresql://u:p@h/db?a=b#c \n")
    assert Settings.from_env(env).database_url == "postgresql://u:p@h/db?a=b#c"


def test_a_bad_line_of_the_env_file_is_named_without_its_text(env: dict[str, str], env_file: Path) -> None:
    """The file and the line number say where; the line itself may be a secret."""
    env_file.write_text("# ours\nDATABASE_URL=x\nMOSAIC_SECRET_KEY s3cret\n")
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_env(env)
    assert caught.value.message == f"{env_file}, line 3: expected NAME=value"


@pytest.mark.parametrize(
    "line", ["export DATABASE_URL=x", "DATABASE_URI=x", "mosaic_secret_key=x", "OTHER=1", "=x", "s3cret-with-padding="]
)
def test_a_name_that_means_nothing_is_refused(line: str, env: dict[str, str], env_file: Path) -> None:
    """A mistyped name or a line for a shell is told with its place, instead of being passed over."""
    env_file.write_text(f"# ours\n{line}\n")
    with pytest.raises(ConfigurationError, match=f"^{env_file}, line 2: ") as caught:
        Settings.from_env(env)
    assert "DATABASE_URL" in str(caught.value.hint)
    assert line not in caught.value.message
    assert "s3cret" not in caught.value.message


def test_an_editors_mark_at_the_start_is_no_part_of_a_name(env: dict[str, str], env_file: Path) -> None:
    """The mark that some editors write first is skipped."""
    env_file.write_bytes(b"\xef\xbb\xbfDATABASE_URL=postgresql://x\n")
    assert Settings.from_env(env).database_url == "postgresql://x"


@pytest.mark.parametrize(
    ("written", "value"),
    [('"a b"', "a b"), ("'a'", "a"), ("\"a'", "\"a'"), ('"', '"'), ("\"'a'\"", "'a'"), ('a"b"', 'a"b"')],
)
def test_one_pair_of_quotes_is_no_part_of_a_value(
    written: str, value: str, env: dict[str, str], env_file: Path
) -> None:
    """Quotes around a value are the file's, once; any other quote is the value's."""
    env_file.write_text(f"MOSAIC_SECRET_KEY={written}\n")
    assert Settings.from_env(env).secret_key == value


def test_a_user_without_a_home_is_told_to_set_it(env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where neither HOME nor the system knows a home it says which variable to set."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("os.getuid", lambda: 4_000_000_000)
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_env(env)
    assert (caught.value.message, caught.value.hint) == ("this user has no home directory", "export HOME=…")


@pytest.mark.parametrize("kind", ["folder", "no text"])
def test_an_env_file_that_cannot_be_read_is_named(kind: str, env: dict[str, str], env_file: Path) -> None:
    """An env file that is there and cannot be read is an error, not an empty one."""
    if kind == "folder":
        env_file.mkdir()
    else:
        env_file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match=f"^the env file {env_file} cannot be read: "):
        Settings.from_env(env)


def test_root_keeps_its_files_in_etc_and_var(monkeypatch: pytest.MonkeyPatch) -> None:
    """As root the defaults are a system service's."""
    monkeypatch.setattr("os.geteuid", lambda: 0)
    settings = Settings.from_env({})
    assert settings.env_file == Path("/etc/mosaic/env")
    assert settings.data_dir == Path("/var/lib/mosaic")
    assert settings.socket_dir.parent == Path("/run/mosaic")


def test_others_keep_their_files_at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without root the defaults are those of the XDG specification."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = Settings.from_env({})
    assert settings.env_file == tmp_path / ".config/mosaic/env"
    assert settings.data_dir == tmp_path / ".local/share/mosaic"
    assert settings.socket_dir == tmp_path / ".local/share/mosaic/run"


def test_the_xdg_runtime_directory_holds_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is a runtime directory, sockets go there."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    settings = Settings.from_env({"XDG_RUNTIME_DIR": "/run/user/1000"})
    assert settings.socket_dir.parent == Path("/run/user/1000/mosaic")


@pytest.mark.parametrize("given", ["", "relative", "./here", "~/there"])
def test_a_directory_that_is_not_absolute_is_ignored(
    given: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The XDG specification says so: files never land beside the current directory."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", str(tmp_path))
    names = ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR")
    assert Settings.from_env(dict.fromkeys(names, given)) == Settings.from_env({})


def test_two_data_directories_have_two_socket_directories(env: dict[str, str], tmp_path: Path) -> None:
    """Two installations on a machine never meet at one socket."""
    other = env | {"XDG_DATA_HOME": str(tmp_path / "other")}
    assert Settings.from_env(env).socket_dir != Settings.from_env(other).socket_dir


def test_a_long_data_directory_has_a_short_socket_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket's path ends at 107 bytes, however deep the data lies."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    settings = Settings.from_env({"XDG_DATA_HOME": "/" + "deep/" * 60, "XDG_RUNTIME_DIR": "/run/user/1000"})
    assert len(str(settings.socket_dir / ".s.PGSQL.5432.lock")) <= 107


def test_a_secret_is_not_in_the_repr(env: dict[str, str]) -> None:
    """Settings may be logged: the key is not in their text."""
    assert "s3cret" not in repr(Settings.from_env(env | {"MOSAIC_SECRET_KEY": "s3cret"}))


@pytest.mark.parametrize(
    ("variables", "attribute", "value"),
    [
        ({"DOCKER_HOST": "unix:///x.sock"}, "docker_host", "unix:///x.sock"),
        ({"DOCKER_HOST": ""}, "docker_host", None),
        ({"DOCKER_CONTEXT": "far"}, "docker_context", "far"),
        ({"DOCKER_CONFIG": "/etc/docker-cli"}, "docker_config_dir", Path("/etc/docker-cli")),
        ({"MOSAIC_NO_INPUT": "1"}, "no_input", True),
        ({"TERM": "dumb"}, "dumb_terminal", True),
        ({"TERM": "xterm"}, "dumb_terminal", False),
    ],
)
def test_other_variables_mean_what_they_mean_elsewhere(
    variables: dict[str, str], attribute: str, value: object, env: dict[str, str]
) -> None:
    """Docker's own variables and TERM are honoured; an empty one counts as not set."""
    assert getattr(Settings.from_env(env | variables), attribute) == value


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an argument the process's own variables are read."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://here")
    assert Settings.from_env().database_url == "postgresql://here"
