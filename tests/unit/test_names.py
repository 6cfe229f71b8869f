"""The rules for names, model refs and sizes."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosaic_fleet import names
from mosaic_fleet.errors import Invalid


@pytest.mark.parametrize("name", ["a", "0", "jarvis-main", "a--b", "x" * 24])
def test_a_good_name_is_returned(name: str) -> None:
    """Lower-case letters, digits and inner hyphens make a name."""
    assert names.check_name("agent", name, longest=24) == name


@pytest.mark.parametrize(
    "name", ["", "-a", "a-", "A", "ä", "a b", "a_b", "a.b", "a/b", "../a", "a\n", "a\0", "٣", "$(id)"]
)
def test_a_bad_name_is_refused(name: str) -> None:
    """Whatever Docker, DNS or a shell could read otherwise is refused, naming the thing and the rule."""
    with pytest.raises(Invalid, match=r"^agent name .*: use lower-case letters, digits"):
        names.check_name("agent", name, longest=24)


def test_a_long_name_is_refused_with_its_length() -> None:
    """A name that would not fit into a Docker config's name is refused."""
    with pytest.raises(Invalid, match=r"has 25 characters, at most 24 fit$"):
        names.check_name("agent", "x" * 25, longest=24)


def test_the_longest_names_fit_into_a_docker_config() -> None:
    """`<stack>-<agent>-token-<12 hex>` stays within Docker's 64 characters."""
    assert names.STACK_LENGTH + names.AGENT_LENGTH + len("--token-") + 12 <= 64


@pytest.mark.parametrize("text", ["a\0b", "\ud800", "x" * 11])
def test_text_that_cannot_be_stored_is_refused(text: str) -> None:
    """NUL and lone surrogates, which Postgres refuses, and too long a text are Invalid."""
    with pytest.raises(Invalid, match=r"^role "):
        names.check_text("role", text, longest=10)


def test_other_text_is_returned_as_it_is() -> None:
    """Quotes, newlines and any script are fine."""
    assert names.check_text("role", "a\n\"ü'漢😀", longest=10) == "a\n\"ü'漢😀"


@pytest.mark.parametrize(
    ("ref", "parts"),
    [
        ("zai/glm-5", ("zai", "glm-5")),
        ("router/meta/llama-4:free", ("router", "meta/llama-4:free")),
        ("ollama/qwen3:8b", ("ollama", "qwen3:8b")),
    ],
)
def test_a_model_ref_is_split_at_its_first_slash(ref: str, parts: tuple[str, str]) -> None:
    """The provider stands before the first slash; a model's id may have slashes."""
    assert names.split_ref(ref) == parts


@pytest.mark.parametrize(
    "ref", ["", "glm-5", "/glm-5", "zai/", "Zai/glm-5", "zai/glm 5", "zai/a\nb", "zai/" + "x" * 201]
)
def test_a_bad_model_ref_is_refused(ref: str) -> None:
    """A ref without provider, without model, or with unprintable characters is Invalid."""
    with pytest.raises(Invalid):
        names.split_ref(ref)


@pytest.mark.parametrize("name", ["mosaic-stack_internal", "a-_b", "A1"])
def test_a_network_name_follows_dockers_rule(name: str) -> None:
    """Networks of a Swarm may have capitals and, inside, hyphens and underscores."""
    assert names.check_network(name) == name


@pytest.mark.parametrize("name", ["", "_a", "-a", "a_", "a.b", "a b", "a/b", "a$b", "x" * 101])
def test_a_bad_network_name_is_refused(name: str) -> None:
    """What Docker would refuse is Invalid before it is asked."""
    with pytest.raises(Invalid, match=r"^network name"):
        names.check_network(name)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("512", 512),
        ("1K", 1024),
        ("512M", 536_870_912),
        ("2G", 2_147_483_648),
        ("2g", 2_147_483_648),
        ("2GB", 2_147_483_648),
        ("2GiB", 2_147_483_648),
        ("2 GiB", 2_147_483_648),
        (" 1.5G ", 1_610_612_736),
        ("1T", 1_099_511_627_776),
        ("8388607T", 8_388_607 << 40),
    ],
)
def test_a_size_is_read_in_powers_of_1024(text: str, size: int) -> None:
    """Sizes are read as Docker reads them."""
    assert names.parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "G", "-1G", "1P", "1,5G", "2G2", "two", "1e3", "0x10", "nan", "inf", "9" * 400, "8388608T", "1\u212a"]
)
def test_a_bad_size_is_refused(text: str) -> None:
    """What is no size is Invalid and shows an example."""
    with pytest.raises(Invalid, match=r": write for instance 2G or 512M$"):
        names.parse_size(text)


@pytest.mark.parametrize(("size", "text"), [(2 << 30, "2G"), (512 << 20, "512M"), (1_610_612_736, "1.5G"), (9, "9")])
def test_a_size_is_written_as_people_do(size: int, text: str) -> None:
    """Bytes are shown in the largest unit that fits."""
    assert names.format_size(size) == text


@given(st.integers(1, 1023), st.sampled_from("KMGT"))
def test_a_whole_size_survives_writing_and_reading(number: int, unit: str) -> None:
    """What is written for a whole number of units reads back as the same bytes."""
    size = names.parse_size(f"{number}{unit}")
    assert names.parse_size(names.format_size(size)) == size


@pytest.mark.parametrize(
    "check", [names.parse_size, names.split_ref, names.check_network, names.check_model_id], ids=lambda f: f.__name__
)
@given(text=st.text(max_size=30))
def test_any_text_is_taken_or_invalid(check: Callable[[str], Any], text: str) -> None:
    """No text makes a rule fail with anything but Invalid, in one line."""
    problem = ""
    try:
        check(text)
    except Invalid as error:
        problem = error.message
    assert problem.isprintable()


@pytest.mark.parametrize("name", ["a", "ann.smith", "a_b-c", "0", "x" * 64])
def test_a_good_username_is_returned(name: str) -> None:
    """Lower-case letters, digits and inner dots, hyphens and underscores name a person."""
    assert names.check_username(name) == name


@pytest.mark.parametrize("name", ["", "Ann", "ä", ".a", "a.", "a b", "a@b", "-a", "a\n", "a\0", "x" * 65, "x" * 10_240])
def test_a_bad_username_is_refused_in_few_words(name: str) -> None:
    """Anything else is refused, and a name of ten kilobytes is not repeated."""
    with pytest.raises(Invalid) as caught:
        names.check_username(name)
    assert len(caught.value.message) < 300


@pytest.mark.parametrize(
    ("email", "folded"),
    [("Ann@Example.COM", "ann@example.com"), (" a@b ", "a@b"), ("ünï@dömäin.de", "ünï@dömäin.de"), ("É@x", "é@x")],
)
def test_an_email_is_folded(email: str, folded: str) -> None:
    """Two spellings of an address are one text, composed and in lower case."""
    assert names.check_email(email) == folded
    assert names.check_email(folded) == folded


@pytest.mark.parametrize(
    "email", ["", "a", "@", "a@", "@b", "a@b@c", "a b@c", "a@b\n@c", "a\0@b", "a\u202e@b", "a@" + "b" * 300]
)
def test_a_bad_email_is_refused(email: str) -> None:
    """What has no two halves, or signs that nobody sees, is no address."""
    with pytest.raises(Invalid, match=r"^e-mail "):
        names.check_email(email)


@given(st.text(max_size=30))
def test_a_line_shows_all_it_has(text: str) -> None:
    """Whatever is taken as a line prints as it is, on one line."""
    try:
        line = names.check_line("title", text, longest=20)
    except Invalid:
        return
    assert line.isprintable()
    assert 1 <= len(line) <= 20
    assert names.check_line("title", line, longest=20) == line
