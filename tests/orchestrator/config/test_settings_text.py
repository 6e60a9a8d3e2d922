"""YAML of sweep files and of `--set`: the core rules of version 1.2, of a bounded size."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.config.settings_text import MOST_BYTES, as_yaml, parse_yaml, read_text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1:30", "1:30"),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("1_000", "1_000"),
        ("+7", 7),
        ("1e-3", 0.001),
        ("1.", 1.0),
        (".5", 0.5),
        ("-.inf", -math.inf),
        ("true", True),
        ("FALSE", False),
        ("yes", "yes"),
        ("No", "No"),
        ("on", "on"),
        ("~", None),
        ("", None),
        ("null", None),
        ("2026-01-01", "2026-01-01"),
        ("'1'", "1"),
        ("=", "="),
        ("{on: 1, y: 2}", {"on": 1, "y": 2}),
        ("a: &x {b: 1}\nc: {<<: *x, d: 2}", {"a": {"b": 1}, "c": {"b": 1, "d": 2}}),
        ("!!str 1", "1"),
    ],
)
def test_plain_scalars_follow_yaml_1_2(text: str, value: Any) -> None:
    found = parse_yaml(text)
    assert (found, type(found)) == (value, type(value))


NINE = "a: &a [x, x, x, x, x, x, x, x, x]\n"
LAUGHS = NINE + "".join(
    f"{c}: &{c} [{', '.join([f'*{p}'] * 9)}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{c}: &{c} {{<<: [{', '.join([f'*{p}'] * 9)}]}}\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("!!int 1:30", "line 1, column 1: '1:30' is no int"),
        ("!!bool maybe", "'maybe' is no bool"),
        ("!!binary aGk=", "could not determine a constructor for the tag"),
        ("!!python/object/apply:os.system [ls]", "could not determine a constructor for the tag"),
        ("!!timestamp x", "could not determine a constructor for the tag"),
        ("{a: 1, a: 2}", "line 1, column 8: 'a' is written twice; keep one"),
        ("? [a]\n: 1", "found unhashable key"),
        ("- a\n\tb: 1", "Indent with spaces, not with tabs"),
        ("a: \0", "control characters are not allowed"),
        ("&a [*a]", "'*a' stands within itself"),
        ("1\n---\n2", "but found another document"),
        ("9" * 5000, "a number of 5,000 digits is too long"),
        ("[" * 100_000, "nested at most 40 deep"),
        ("{a: " * 100_000, "nested at most 40 deep"),
        ("\n".join(f"k{number}: {number}" for number in range(20_000)), "more than 10,000 keys and values"),
        (LAUGHS, "more than 10,000 keys and values"),
        (MERGES, "more than 10,000 keys and values"),
        ("\udcff", "a character that is no text"),
    ],
    ids=range(18),
)
def test_invalid_settings_text_is_a_one_line_error(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse_yaml(text)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "value",
    ["1:30", "yes", "0o14", "1e3", "010", "~", "", "null", "2026-01-01", "a: b", "<<", "1_0", ".inf", "#x", 1e22, 1e-7],
)
def test_written_yaml_is_the_same_in_both_versions(value: Any) -> None:
    text = as_yaml({"a": value, "b": [value]})
    assert parse_yaml(text) == {"a": value, "b": [value]}
    assert yaml.safe_load(text) == {"a": value, "b": [value]}


SOUND = "name: ü\n"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (SOUND.encode(), SOUND),
        (SOUND.encode("utf-8-sig"), SOUND),
        (b"name: t\r\ntrials: 3\r\n", "name: t\r\ntrials: 3\r\n"),
        (SOUND.encode("utf-16"), "is no UTF-8 text (it may be UTF-16). Save it as UTF-8"),
        (SOUND.encode("utf-16-be"), "is no UTF-8 text (it may be UTF-16). Save it as UTF-8"),
        (SOUND.encode("latin-1"), "byte 7 is no UTF-8 text. Save the file as UTF-8"),
        (b" " * (MOST_BYTES + 1), "has 1,048,577 bytes; a sweep file has at most 1,048,576"),
    ],
)
def test_a_file_is_read_as_utf_8_of_a_bounded_size(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_bytes(content)
    try:
        assert read_text(path) == text
    except ValueError as error:
        assert str(error) == text
    assert parse_yaml("a: 1\r\nb: 2\r\n") == {"a": 1, "b": 2}
