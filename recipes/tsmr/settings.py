"""Files of choices, in YAML 1.2 or JSON: read as plain values, of which each knows its line, and written.

Nothing that such a file holds is run: a tag such as ``!!python/object`` is a value of a kind that is not read.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import reparam_kit as rk

if TYPE_CHECKING:
    from ruamel.yaml import YAML

_WANTED = "a file of choices (.yaml or .json)"
_LARGEST = 256 * 1024  # bytes; every choice there is takes a few thousand
_MOST = 10_000  # values, each alias written out
_TAG = "tag:yaml.org,2002:"

Place = tuple[str, ...]


@dataclass(frozen=True)
class Settings:
    """What a file says.

    Attributes:
        path: the file.
        values: plain ones, by name.
        lines: in which each value stands, by its place: ``("stages", "0", "rate")``. Of JSON they are not known.
    """

    path: Path
    values: dict[str, Any]
    lines: dict[Place, int] = field(default_factory=dict)

    def where(self, place: Place) -> str:
        """Return the file and, where it is known, the line of what stands at ``place``, or of what holds it."""
        for end in range(len(place), 0, -1):
            if place[:end] in self.lines:
                return f"{self.path}, line {self.lines[place[:end]]}"
        return str(self.path)


def read_settings(path: str | Path) -> Settings:
    """Read a file: JSON where its name ends in ``.json``, else YAML, of which JSON is a part.

    Raises:
        InputError: it cannot be read, is damaged, says a thing twice, or holds something else than ``{name: value}``.
    """
    path = Path(path)
    content = rk.read_file(path, _WANTED)
    if len(content) > _LARGEST:
        raise rk.InputError(
            f"{path} has {len(content):,} bytes, and is no file of choices; name a smaller one"
        )
    settings = _of_json(path, content) if path.suffix == ".json" else _of_yaml(path, content)
    if not isinstance(settings.values, dict):
        raise rk.InputError(
            f"{path} holds no choices: they are written as {{name: value}}, or name: value in a line"
        )
    return settings


def write_settings(path: Path, values: Mapping[str, Any], head: str) -> None:
    """Write plain ``values`` so that :func:`read_settings` gives them: as JSON where the name ends in ``.json``, else
    as YAML under the comment ``head``.
    """
    text = json.dumps(values, indent=2) if path.suffix == ".json" else f"# {head}\n{as_yaml(values)}"
    with rk.atomic_file(path) as file:
        file.write(text.encode("utf-8", "surrogateescape"))


def as_yaml(values: Mapping[str, Any]) -> str:
    """Return plain values as YAML."""
    from ruamel.yaml import YAML

    yaml, stream = YAML(typ="safe", pure=True), io.StringIO()
    yaml.default_flow_style, yaml.width = False, 4096
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.representer.ignore_aliases = lambda _: True
    yaml.dump(dict(values), stream)
    return stream.getvalue()


def yaml_value(text: str) -> Any:
    """Return what ``text`` is as a value in a file, or the text itself where it is none: patterns and expressions may
    begin with what has another meaning in YAML.
    """
    try:
        return _of_yaml(Path(), text.encode()).values
    except rk.InputError:
        return text


def _of_json(path: Path, content: bytes) -> Settings:
    try:
        return Settings(path, json.loads(content, object_pairs_hook=_once, parse_constant=_no_number))
    except (ValueError, RecursionError) as error:
        raise rk.InputError(f"{path} is no JSON that can be read: {rk.first_line(error)}") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise ValueError(f"{name!r} stands in it twice")
        values[name] = value
    return values


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def _of_yaml(path: Path, content: bytes) -> Settings:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    yaml = YAML(typ="safe", pure=True)
    try:
        root = yaml.compose(content.decode("utf-8-sig"))
        reader = _Reader(path, yaml)
        return Settings(path, reader.value(root, ()), reader.lines)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{path}, line {mark.line + 1}" if mark else str(path)
        raise rk.InputError(f"{place}: {_problem(error)}") from error
    except RecursionError as error:
        raise rk.InputError(f"{path} is nested too deeply to be read") from error
    except (YAMLError, UnicodeDecodeError) as error:
        raise rk.InputError(f"{path} is no YAML that can be read: {rk.first_line(error)}") from error


def _problem(error: Any) -> str:
    problem = " ".join(str(error.problem or error.context).split())
    if "'\\t'" in problem:
        return "a tab, where YAML takes spaces alone"
    return f"no YAML that can be read: {problem}"


class _Reader:
    """Makes plain values of the nodes of a YAML file."""

    def __init__(self, path: Path, yaml: YAML) -> None:
        self.path, self.yaml = path, yaml
        self.lines: dict[Place, int] = {}
        self.count = 0

    def value(self, node: Any, place: Place) -> Any:
        """Return the value of ``node``, which stands at ``place``."""
        self.count += 1
        if self.count > _MOST:
            raise self._error(node, f"more than {_MOST:,} values, aliases (*name) written out; write less")
        kind = "null" if node is None else str(node.tag).removeprefix(_TAG)
        if kind == "map":
            return self._mapping(node, place)
        if kind == "seq":
            return [self._part(item, item, (*place, str(number))) for number, item in enumerate(node.value)]
        if kind in ("str", "timestamp", "merge"):  # a date is no kind of value of YAML 1.2
            return node.value
        if kind not in ("null", "bool", "int", "float"):
            shown = kind if kind.startswith("!") else f"!!{kind}"
            raise self._error(node, f"a value of the kind {shown}, which is not read: write it plainly")
        return node and self._scalar(node, kind)

    def _scalar(self, node: Any, kind: str) -> Any:
        try:
            return self.yaml.constructor.construct_object(node)
        except (ValueError, KeyError, IndexError) as error:
            raise self._error(node, f"{node.value[:40]!r} is no {kind}") from error

    def _mapping(self, node: Any, place: Place) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, item in node.value:
            if not isinstance(key.value, str):
                raise self._error(key, "a name that is no text")
            name, here = key.value, (*place, key.value)
            if name in values:
                raise self._error(key, f"{name!r} stands there twice, first in line {self.lines[here]}")
            values[name] = self._part(key, item, here)
        return values

    def _part(self, named: Any, item: Any, place: Place) -> Any:
        self.lines[place] = named.start_mark.line + 1
        return self.value(item, place)

    def _error(self, node: Any, says: str) -> rk.InputError:
        return rk.InputError(f"{self.path}, line {node.start_mark.line + 1}: {says}")
