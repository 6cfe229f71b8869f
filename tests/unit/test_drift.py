"""What differs inside a file is named by its keys, and never by a secret."""

from typing import Any

import pytest

from mosaic_fleet.fleet.drift import Difference, changed_keys, changed_secrets, explain


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, ["a.b changed"]),
        ({"a": {}}, {"a": {"b": {"c": 1}}}, ["a.b added"]),
        ({"a": 1, "b": 2}, {"b": 2}, ["a removed"]),
        ({"a": [1]}, {"a": [1, 2]}, ["a changed"]),
        ({"a": {"b": 1}}, {"a": 1}, ["a changed"]),
    ],
)
def test_changed_keys_are_named_by_their_paths(old: Any, new: Any, found: list[str]) -> None:
    """Added, removed or changed; a list is one value."""
    assert changed_keys(old, new) == found


def test_changed_provider_keys_are_marked() -> None:
    """What marks a secret is shown in its place; one that came or went has none on the other side."""
    found = changed_secrets({"zai": "a", "old": "b", "same": "c"}, {"zai": "d", "new": "e", "same": "c"}, str.upper)
    assert found == [
        "models.providers.new.apiKey changed: none → #E",
        "models.providers.old.apiKey changed: #B → none",
        "models.providers.zai.apiKey changed: #A → #D",
    ]


def test_a_file_whose_content_is_unknown_is_not_explained() -> None:
    """Somebody else's config, a token and a personality have nothing inside to name."""
    config, token = Difference("openclaw.json", "a", "b"), Difference("token", "#a", "#b")
    assert explain(config, None, "{}", str) == config
    assert explain(token, "x", "y", str) == token
    assert explain(config, '{"a": 1}', '{"a": 2}', str).details == ("a changed",)
