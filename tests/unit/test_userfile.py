"""Files of users: every usual encoding and delimiter, and errors that name the line."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosaic_fleet.errors import Invalid
from mosaic_fleet.identity import userfile
from mosaic_fleet.identity.userfile import Entry

CSV = "name,email,display_name\nann,ann@example.com,Ann Öl\n"
ANN = Entry(2, {"name": "ann", "email": "ann@example.com", "display_name": "Ann Öl"})


@pytest.mark.parametrize(
    ("raw", "encoding"),
    [
        (CSV.encode(), None),
        (CSV.encode("utf-8-sig"), None),
        (CSV.encode("utf-16"), None),
        (b"\xfe\xff" + CSV.encode("utf-16-be"), None),
        (CSV.encode("utf-16-le"), "utf-16-le"),
        (CSV.encode("latin-1"), "latin-1"),
        (CSV.replace("\n", "\r\n").encode(), None),
        (CSV.replace("\n", "\r").encode(), None),
        (CSV.replace(",", ";").encode(), None),
        (CSV.replace(",", "\t").encode(), None),
        (
            CSV.replace("name,", "Name , ", 1)
            .replace("email", "E-Mail")
            .replace("display_name", "Display Name")
            .encode(),
            None,
        ),
        (CSV.replace("ann,", '"ann" ,'[:5] + ",", 1).encode(), None),
        (CSV.rstrip("\n").encode(), None),
    ],
)
def test_every_usual_file_reads_alike(tmp_path: Path, raw: bytes, encoding: str | None) -> None:
    """Byte-order marks, UTF-16, named encodings, line ends, delimiters and headings make no difference."""
    path = tmp_path / "people.csv"
    path.write_bytes(raw)
    assert userfile.read(path, encoding) == [ANN]


@pytest.mark.parametrize(
    ("raw", "encoding", "message"),
    [
        (CSV.encode("latin-1"), None, "line 2 is not utf-8"),
        (CSV.encode("utf-16-le"), None, "it looks like UTF-16 without a byte-order mark"),
        (CSV.encode("utf-16-be"), None, "it looks like UTF-16 without a byte-order mark"),
        (CSV.encode("utf-16")[:-1], None, "is not utf-16"),
        (CSV.encode(), "klingon", "no encoding 'klingon'"),
        (CSV.encode(), "base64", "no encoding 'base64'"),
        (CSV.encode(), "idna", ""),
        (b"", None, "it is empty"),
        (b"\n \n", None, "it is empty"),
        (b"\x89PNG\r\n\x1a\n\0\0", None, "line 1 is not utf-8"),
        (b"email\na@b\n", None, "there is no column 'name'"),
        (b"name,salary\nann,1\n", None, "there is no column 'salary'"),
        (b"name,name\nann,ann\n", None, "there are two columns 'name'"),
        (b"[", None, "the list does not end"),
        (b'[{"name": "ann"}', None, "] is missing"),
        (b'[{"name": "ann"} {"name": "bob"}]', None, "line 1: a comma or ] is missing"),
        (b'[\n\n{"name": ann}]', None, "line 3: it is no JSON"),
        (b"[" * 100_000, None, "it is no JSON"),
        (b'{"people": []}', None, "JSON must be a list of users"),
        (b'{"name": "ann"}', None, "JSON must be a list of users"),
        (b'{"us ers": []}', None, "JSON must be a list of users"),
        (b'{"more": 1, "users": []}', None, "JSON must be a list of users"),
        (b'{"users": []', None, "the object does not end: } is missing"),
        (b'[{"name": "ann"}]\n\ntrailing', None, "line 3: behind the list of users stands something else"),
        (b'[{"name": "ann"}] [{"name": "bob"}]', None, "line 1: behind the list of users stands something else"),
        (b"[]}", None, "line 1: behind the list of users stands something else"),
        (b'{"users": [],\n"more": 1}', None, "line 1: behind the list of users stands something else"),
        (b'{"users": []}\n}', None, "line 2: behind the list of users stands something else"),
    ],
)
def test_a_file_that_is_no_list_of_users(tmp_path: Path, raw: bytes, encoding: str | None, message: str) -> None:
    """A file that cannot be read as a whole is Invalid, named with its line where one is to blame."""
    path = tmp_path / "people"
    path.write_bytes(raw)
    with pytest.raises(Invalid) as caught:
        userfile.read(path, encoding)
    assert caught.value.message.startswith(f"{path}: ")
    assert message in caught.value.message
    assert len(caught.value.message) < 500


@pytest.mark.parametrize("place", ["nowhere.csv", "."])
def test_a_file_that_cannot_be_read(tmp_path: Path, place: str) -> None:
    """A missing file and a folder are told."""
    with pytest.raises(Invalid, match="cannot be read"):
        userfile.read(tmp_path / place)


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        ("name\n\n\nann\n", [Entry(4, {"name": "ann"})]),
        (
            'name,email\n"a\nb",x\nbob,y\n',
            [Entry(2, {"name": "a\nb", "email": "x"}), Entry(4, {"name": "bob", "email": "y"})],
        ),
        ("name,email\nann\n", [Entry(2, {"name": "ann"})]),
        ("name,email\nann,\n", [Entry(2, {"name": "ann"})]),
        ("name\nann,x,y\n", [Entry(2, error="it has 3 fields, the header has 1")]),
        ("name,email\n,x\n", [Entry(2, error="it has no name")]),
        (
            "name,local\nann,no\nbob,YES\n",
            [Entry(2, {"name": "ann", "is_local": False}), Entry(3, {"name": "bob", "is_local": True})],
        ),
        ("name,local\nann,maybe\n", [Entry(2, {"name": "ann"}, "local is yes or no, not 'maybe'")]),
        ("[]", []),
        ('{"users": []}', []),
        (
            ' {"users" : [\n{"name": "ann"},\n{"name": "bob", "local": false, "email": null}] }',
            [Entry(2, {"name": "ann"}), Entry(3, {"name": "bob", "is_local": False})],
        ),
        (
            '{\n  "users": [\n    {\n      "name": "ann"\n    }\n  ]\n}\n',
            [Entry(3, {"name": "ann"})],
        ),
        (
            '\r\n{\t"users"\n:\n[\r\n{"name": "ann"}\r\n]\r\n}',
            [Entry(5, {"name": "ann"})],
        ),
        (
            '[\n"ann",\n{"name": 7},\n{},\n{"name": "x", "key": "y"}]',
            [
                Entry(2, error="it is no object"),
                Entry(3, error="'name' must be text"),
                Entry(4, error="it has no name"),
                Entry(5, {"name": "x"}, "there is no column 'key'"),
            ],
        ),
    ],
)
def test_rows_have_the_line_in_which_they_begin(text: str, entries: list[Any]) -> None:
    """Blank lines, line ends inside quotes and objects over lines count; a bad row is told beside the good ones."""
    assert userfile.parse(text) == entries


def test_a_field_that_never_ends_is_one_bad_row() -> None:
    """A quote that nobody closes, or a field of more than 128 kB, is told by its line."""
    assert userfile.parse('name\nann\n"bob\ncyd\n')[1].error == "it is no CSV: unexpected end of data"
    (first, *_) = userfile.parse(f"name\n{'x' * 200_000}\n")
    assert (first.line, first.error) == (2, "it is no CSV: field larger than field limit (131072)")


@given(st.text(max_size=60))
def test_any_text_is_rows_or_invalid(text: str) -> None:
    """No text makes the reader fail with anything but Invalid."""
    for start in ("", "name,email\n", '[{"name": "'):
        try:
            entries = userfile.parse(start + text)
        except Invalid:
            continue
        assert all(entry.error or entry.values for entry in entries)
