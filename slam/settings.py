"""How settings are declared, checked, read from YAML and written back; config.py says which.

A section is a frozen dataclass derived from Section; sections nest. YAML holds differences only.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

# --- declaring -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Setting:
    """What is known of one setting besides its type and default."""

    unit: str = ""
    help: str = ""
    minimum: float | None = None  # smallest number allowed, in the unit
    maximum: float | None = None  # largest number allowed, in the unit

    def range(self) -> str:
        """Range and unit in words: ` from 0 to 1 px`, ` of at least 1`, ` in px`, or nothing."""
        if self.minimum is not None and self.maximum is not None:
            words = f" from {self.minimum:.15g} to {self.maximum:.15g} {self.unit}"
        elif self.minimum is not None:
            words = f" of at least {self.minimum:.15g} {self.unit}"
        elif self.maximum is not None:
            words = f" of at most {self.maximum:.15g} {self.unit}"
        else:
            words = f" in {self.unit}" if self.unit else ""
        return words.rstrip()

    def contains(self, number: float) -> bool:
        """Whether a number is finite and in range."""
        low = -math.inf if self.minimum is None else self.minimum
        high = math.inf if self.maximum is None else self.maximum
        return low <= number <= high and abs(number) != math.inf  # NaN fails every comparison


def setting(
    default: Any,
    *,
    unit: str = "",
    help: str = "",
    minimum: float | None = None,
    maximum: float | None = None,
) -> Any:
    """One field of a section: `huber: float = setting(2.5, unit="px", minimum=0.1)`.

    A section inside a section is `tracking: TrackingConfig = TrackingConfig()`.
    """
    return field(default=default, metadata={"setting": Setting(unit, help, minimum, maximum)})


class Section:
    """Base of every section: values are checked whenever one is made, from YAML or in code.

    Types a field may have: bool, int, float, str, Literal of texts, tuple[T, ...], tuple[T, T, T]
    of one T, `T | None`, or another Section. Raises ValueError that names the field.
    """

    __slots__ = ()

    def __post_init__(self) -> None:
        for name, (wanted, about) in fields_of(type(self)).items():
            value = getattr(self, name)
            if not _fits(value, wanted, about):
                got = "null" if value is None else repr(value)
                raise ValueError(f"{name}: wanted {_described(wanted, about)}, got {got}")


AnySection = TypeVar("AnySection", bound=Section)


@cache
def fields_of(kind: type) -> dict[str, tuple[Any, Setting]]:
    """Name of each field of a section → its type and what is known of it, in order."""
    hints = get_type_hints(kind)
    return {
        entry.name: (hints[entry.name], entry.metadata.get("setting", Setting()))
        for entry in dataclasses.fields(kind)
    }


# --- one value -----------------------------------------------------------------------------------


def _is_section(wanted: Any) -> bool:
    return isinstance(wanted, type) and issubclass(wanted, Section)


def _alternatives(wanted: Any) -> tuple[Any, ...]:
    """The types of a union; of any other type, the type itself."""
    return get_args(wanted) if get_origin(wanted) in (Union, UnionType) else (wanted,)


def _is_text(wanted: Any) -> bool:
    """Whether a type takes text as it stands: str, or a choice of texts, or null."""
    return any(one is str or get_origin(one) is Literal for one in _alternatives(wanted))


def _fits(value: Any, wanted: Any, about: Setting) -> bool:
    """Whether a value has exactly the wanted type and is, where a number, finite and in range."""
    arguments = get_args(wanted)
    if get_origin(wanted) in (Union, UnionType):
        return any(_fits(value, one, about) for one in arguments)
    if get_origin(wanted) is Literal:
        return isinstance(value, str) and value in arguments
    if get_origin(wanted) is tuple:
        if type(value) is not tuple or (arguments[-1] is not ... and len(value) != len(arguments)):
            return False
        return all(_fits(one, arguments[0], about) for one in value)
    if type(value) is not wanted:
        return False
    return wanted not in (int, float) or about.contains(value)


def _described(wanted: Any, about: Setting) -> str:
    """A type and range in the words of an error message."""
    arguments = get_args(wanted)
    if get_origin(wanted) in (Union, UnionType):
        return " or ".join(_described(one, about) for one in arguments)
    if get_origin(wanted) is Literal:
        return "one of " + ", ".join(arguments)
    if get_origin(wanted) is tuple:
        count = "any number of" if arguments[-1] is ... else str(len(arguments))
        return f"a list of {count} values, each {_described(arguments[0], about)}"
    if wanted in (int, float):
        return ("a whole number" if wanted is int else "a number") + about.range()
    names = {bool: "true or false", str: "text", NoneType: "null"}
    return names.get(wanted) or f"a {wanted.__name__}"


def _converted(value: Any, wanted: Any) -> Any:
    """A value as YAML reads it, with the type its field has: 1 → 1.0 and lists → tuples."""
    for one in _alternatives(wanted):
        if one is float and type(value) is int:
            return float(value)
        if get_origin(one) is tuple and isinstance(value, list):
            return tuple(_converted(entry, get_args(one)[0]) for entry in value)
    return value


# --- reading -------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """YAML that also reads 1e-3 as a number, and refuses a key that stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for place, key in enumerate(keys):
            if key in keys[:place]:
                mark = node.value[place][0].start_mark
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} stands twice", mark)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """YAML that _Loader reads back exactly; lists of numbers on one line."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_text(self, value: str) -> yaml.ScalarNode:
        """Line breaks that are no newline only survive between double quotes."""
        style = '"' if any(mark in value for mark in "\x85\u2028\u2029") else None
        return self.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_EXPONENT_WITHOUT_POINT = re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$|[-+]?[0-9]*\.[0-9]+[eE][0-9]+$")
for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float", _EXPONENT_WITHOUT_POINT, list("-+.0123456789")
    )
_Dumper.add_representer(str, lambda dumper, value: dumper.represent_text(value))
_Dumper.add_representer(
    tuple,
    lambda dumper, value: dumper.represent_sequence("tag:yaml.org,2002:seq", value, True),
)


def _parsed(text: str | bytes, origin: str) -> Any:
    """One YAML document; ValueError with line and column where it is not one."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ValueError(f"{origin}: not valid YAML{place}: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{origin}: not valid YAML: {' '.join(str(error).split())}") from error


def read_settings(defaults: AnySection, path: Path) -> AnySection:
    """The defaults with the differences that a YAML file holds."""
    return parse_settings(defaults, path.read_bytes(), str(path))


def parse_settings(defaults: AnySection, text: str | bytes, origin: str) -> AnySection:
    """The same of a YAML file's text. Args: origin: what errors call it."""
    return with_values(defaults, _parsed(text, origin), origin)


def from_yaml(defaults: AnySection, text: str, origin: str) -> AnySection:
    """The defaults with the differences that a text holds. Args: origin: named in errors."""
    return with_values(defaults, _parsed(text, origin), origin)


def with_overrides(defaults: AnySection, overrides: Iterable[str]) -> AnySection:
    """The defaults with `section.key=value` applied; all take effect together, the last one wins.

    The value is YAML, except that a setting of type text takes it as it stands (`null` = none).
    """
    values: dict[str, Any] = {}
    for override in overrides:
        name, separator, text = override.partition("=")
        if not separator:
            raise ValueError(f"wanted section.key=value, got {override!r}")
        *sections, key = name.strip().split(".")
        place = values
        for one in sections:
            place = place.setdefault(one, {})
            if not isinstance(place, dict):
                raise ValueError(f"{name.strip()}: {one} was already given a value")
        place[key] = _override_value(type(defaults), name.strip(), text)
    return with_values(defaults, values, "")


def _override_value(kind: type[Section], name: str, text: str) -> Any:
    wanted = dict(_names(kind)).get(name)
    if _is_text(wanted):
        return None if text == "null" and NoneType in _alternatives(wanted) else text
    return _parsed(text, name)


def with_values(
    current: AnySection, values: Any, origin: str, *, prefix: str = "", root: type | None = None
) -> AnySection:
    """A section with some values replaced by what YAML holds.

    Args:
        values: nested mapping; null stands for an empty one.
        origin: file name that errors begin with; may be empty.
        prefix: `tracking.` inside of that section.
        root: type of the outermost section, for the hint at an unknown key.
    """
    root = root or type(current)
    start = f"{origin}: {prefix}" if origin else prefix
    if values is None:
        return current
    if not isinstance(values, Mapping):
        raise ValueError(f"{start.rstrip('.: ')}: wanted settings by name, got {values!r}")
    changes: dict[str, Any] = {}
    for key, value in values.items():
        if key not in fields_of(type(current)):
            raise ValueError(f"{start}{key}: unknown setting; {_hint(root, f'{prefix}{key}')}")
        wanted, _ = fields_of(type(current))[key]
        if _is_section(wanted):
            inner = getattr(current, key)
            value = with_values(inner, value, origin, prefix=f"{prefix}{key}.", root=root)
        changes[key] = _converted(value, wanted)
    try:
        return dataclasses.replace(current, **changes)  # type: ignore[type-var]  # it is one
    except ValueError as error:
        raise ValueError(f"{start}{error}") from error


def _names(kind: type[Section], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and type of every section and setting."""
    for name, (wanted, _) in fields_of(kind).items():
        yield prefix + name, wanted
        if _is_section(wanted):
            yield from _names(wanted, f"{prefix}{name}.")


def _hint(root: type[Section], unknown: str) -> str:
    """The known name nearest to an unknown one, by the whole name or by its last part."""

    def likeness(known: str) -> float:
        whole = difflib.SequenceMatcher(None, unknown, known).ratio()
        last = difflib.SequenceMatcher(None, unknown.split(".")[-1], known.split(".")[-1]).ratio()
        return max(whole, 0.99 * last)

    names = [name for name, _ in _names(root)]
    nearest = max(names, key=likeness)
    if likeness(nearest) >= 0.6:
        return f"did you mean {nearest}?"
    return "there are: " + ", ".join(name for name in names if "." not in name)


# --- writing -------------------------------------------------------------------------------------


def to_yaml(values: Section) -> str:
    """Every setting with its help, unit and range as comments; reads back to an equal section."""
    parts = []
    for name, (wanted, about) in fields_of(type(values)).items():
        value = getattr(values, name)
        if isinstance(value, Section):
            parts.append(f"{name}:\n" + textwrap.indent(to_yaml(value), "  "))
            continue
        comment = f"{about.help} ({_described(wanted, about)})".lstrip()
        scalar = yaml.dump({name: value}, Dumper=_Dumper, allow_unicode=True, width=math.inf)
        parts.append(f"# {comment}\n{scalar}")
    return "".join(parts)
