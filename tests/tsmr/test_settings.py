"""A file of choices is read as YAML 1.2 or JSON has it, runs nothing, and takes one line where it is damaged."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as tried
from hypothesis import strategies as st

from recipes.tsmr.settings import as_yaml, read_settings, write_settings, yaml_value
from reparam_kit import InputError


def settings(tmp_path: Path, text: str, name: str = "run.yaml") -> Any:
    (tmp_path / name).write_bytes(text.encode("utf-8", "surrogatepass"))
    return read_settings(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4), ("1e-05", 1e-5), (".5", 0.5), ("5", 5), ("0.5", 0.5), ("-1", -1), ("1_000", 1000),
        ("true", True), ("False", False), ("off", "off"), ("yes", "yes"), ("null", None), ("~", None), ("", None),
        ("'1e-4'", "1e-4"), ("plain", "plain"), ("1:30", "1:30"), ("2026-01-01", "2026-01-01"), ("<<", "<<"),
        ("conv(k) + 2 * conv(1) >> avg(k)", "conv(k) + 2 * conv(1) >> avg(k)"), ("[1, a]", [1, "a"]),
        ("{a: 1}", {"a": 1}),
    ],
)  # fmt: skip
def test_a_value_is_what_yaml_1_2_has(tmp_path: Path, text: str, value: Any) -> None:
    read = settings(tmp_path, f"x: {text}").values["x"]
    assert read == value
    assert type(read) is type(value)


LAUGHS = "a0: &a0 [1, 1]\n" + "".join(f"a{i}: &a{i} [{f'*a{i - 1}, ' * 10}]\n" for i in range(1, 30))


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("a: 1\n\tb: 1", 2, "a tab, where YAML takes spaces alone"),
        ("a:\n\tb: 1", 2, "a tab"),
        ("a: 1\nb: 2\na: 3", 3, "'a' stands there twice, first in line 1"),
        ("a: {x: 1,\n  x: 1}", 2, "'x' stands there twice"),
        ("b: 1\na: [1, 2", 2, "no YAML that can be read"),
        ("a: b: c", 1, "no YAML"),
        ("a: 'x", 1, "no YAML"),
        ("a: *b", 1, "undefined alias 'b'"),
        ("a: 1\n---\nb: 2", 2, "another document"),
        ("a: !!python/object/apply:os.system [ls]", 1, "a value of the kind !!python/object/apply:os.system"),
        ("!!python/object/new:os.system [ls]", 1, "which is not read"),
        ("a: !mine x", 1, "a value of the kind !mine"),
        ("a: !!binary aGk=", 1, "!!binary"),
        ("a: !!int abc", 1, "'abc' is no int"),
        ("a: !!bool maybe", 1, "'maybe' is no bool"),
        ("a: " + "9" * 10**4, 1, "is no int"),
        ("? [a]\n: 1", 1, "a name that is no text"),
        (LAUGHS, None, "more than 10,000 values, aliases"),
        ("a: &a [*a]", None, "nested too deeply"),
        ("a: " + "[" * 500, None, "nested too deeply"),
        ("a: \0", None, "special characters are not allowed"),
        ("", None, "holds no choices"),
        ("# nothing", None, "holds no choices"),
        ("- a: 1", None, "holds no choices"),
        ("x: " + "y" * 300_000, None, "is no file of choices; name a smaller one"),
        ("\ud800", None, "no YAML that can be read"),
    ],
)
def test_damage_is_one_line_with_its_place(tmp_path: Path, text: str, line: int | None, says: str) -> None:
    with pytest.raises(InputError) as caught:
        settings(tmp_path, text)
    message = str(caught.value)
    assert message.startswith(
        f"{tmp_path / 'run.yaml'}, line {line}: " if line else str(tmp_path / "run.yaml")
    )
    assert says in message
    assert "\n" not in message
    assert len(message) < 300


@pytest.mark.parametrize(
    "text",
    ["", " ", "[]", "3", "null", '"x"', "{", '{"lr": 1,}', '{"lr": NaN}', '{"lr": -Infinity}', "[" * 10**5,
     '{"a":' * 10**5, '{"lr": 1, "lr": 2}', '{"stages": [{"epochs": 1, "epochs": 1}]}', "// a comment\n{}",
     '{"seed": ' + "9" * 10**4 + "}", "\ud800", "{} {}", "lr: 1"],
)  # fmt: skip
def test_a_file_that_is_no_object_of_json_takes_one_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError) as caught:
        settings(tmp_path, text, "choices.json")
    assert str(caught.value).startswith(str(tmp_path / "choices.json"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["run.yaml", "run.json"])
def test_a_mark_of_the_byte_order_is_no_fault(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('{"lr": 1}', encoding="utf-8-sig")
    assert read_settings(tmp_path / name).values == {"lr": 1}


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "run.yaml")
    with pytest.raises(InputError, match="a pipe"):
        read_settings(tmp_path / "run.yaml")


def test_it_knows_the_line_of_each_value(tmp_path: Path) -> None:
    read = settings(tmp_path, "lr: 1\nstages:\n- epochs: 1\n  losses:\n    mse: 1\nmargin: {\n  size: 3}\n")
    places = {("lr",): 1, ("stages", "0", "losses", "mse"): 5, ("margin", "size"): 7, ("margin", "scale"): 6}
    for place, line in places.items():
        assert read.where(place) == f"{tmp_path / 'run.yaml'}, line {line}"
    assert read.where(("absent",)) == str(tmp_path / "run.yaml")


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=20)
leaves = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | texts
values = st.dictionaries(
    texts, st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=6)
)


@tried(max_examples=25)
@given(values)
def test_plain_values_come_back_from_yaml(written: dict[str, Any]) -> None:
    assert yaml_value(as_yaml(written)) == written


@pytest.mark.parametrize("name", ["run.yaml", "run.yml", "run.json", "run"])
def test_either_form_of_a_file_comes_back(tmp_path: Path, name: str) -> None:
    written = {"lr": 1e-5, "seed": 2**63 - 1, "off": "off", "text": "1e-4", "grün": ["ß", {}], "on": True}
    write_settings(tmp_path / name, written, "a head")
    assert read_settings(tmp_path / name).values == written
    assert (json.loads((tmp_path / name).read_text()) == written) if name == "run.json" else True


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("*.weight", "*.weight"),
        ("%x", "%x"),
        ("a: b: c", "a: b: c"),
        ("[", "["),
        ("[a, b]", ["a", "b"]),
        ("1e-3", 1e-3),
    ],
)
def test_a_text_that_is_no_yaml_is_itself(text: str, value: Any) -> None:
    assert yaml_value(text) == value
