"""Settings: what YAML and overrides may say, what errors say, and that writing loses nothing."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from slam.config import Config, load_config
from slam.data import data_names
from slam.settings import Section, fields_of, read_settings, setting, to_yaml, with_overrides


@dataclass(frozen=True, slots=True)
class Inner(Section):
    """One field of each type."""

    huber: float = setting(2.5, unit="px", minimum=0.1, maximum=10)
    count: int = setting(3, minimum=1)
    exact: bool = True
    name: str | None = None
    mode: Literal["offline", "realtime"] = "offline"
    fov: float | None = setting(None, unit="deg", minimum=1, maximum=179)
    size: tuple[int, int] = setting((480, 640), unit="px", minimum=1)
    weights: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Range(Section):
    """Two fields that depend on each other."""

    start: int = 0
    end: int = 5

    def __post_init__(self) -> None:
        Section.__post_init__(self)
        if self.start >= self.end:
            raise ValueError(f"start: wanted less than end={self.end}, got {self.start}")


@dataclass(frozen=True, slots=True)
class Outer(Section):
    """Two sections."""

    tracking: Inner = Inner()
    frames: Range = Range()


def read(tmp_path: Path, text: str) -> Outer:
    path = tmp_path / "x.yaml"
    path.write_text(text, encoding="utf-8")
    return read_settings(Outer(), path)


def error_of(tmp_path: Path, text: str) -> str:
    with pytest.raises(ValueError) as caught:
        read(tmp_path, text)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(tmp_path / "x.yaml"))
    return message.removeprefix(f"{tmp_path / 'x.yaml'}: ")


@pytest.mark.parametrize("text", ["", "{}", "# nothing", "tracking:\n", "tracking: {}"])
def test_a_file_without_differences_gives_the_defaults(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text) == Outer()


def test_a_file_changes_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    changed = read(tmp_path, "tracking: {huber: 3, size: [2, 4], weights: [1, 1e-3], fov: 90}")
    expected = Inner(huber=3.0, size=(2, 4), weights=(1.0, 0.001), fov=90.0)
    assert changed == Outer(tracking=expected)
    assert type(changed.tracking.huber) is float


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tracking: {hubr: 2}", "tracking.hubr: unknown setting; did you mean tracking.huber?"),
        ("huber: 2", "huber: unknown setting; did you mean tracking.huber?"),
        ("traking: {huber: 2}", "traking: unknown setting; did you mean tracking?"),
        ("1: 2", "1: unknown setting; there are: tracking, frames"),
        ("tracking: 3", "tracking: wanted settings by name, got 3"),
        ("[1, 2]", "wanted settings by name, got [1, 2]"),
        ("tracking: {huber: .nan}", "wanted a number from 0.1 to 10 px, got nan"),
        ("tracking: {weights: [.inf]}", "each a number, got (inf,)"),
        ("tracking: {huber: 0.05}", "wanted a number from 0.1 to 10 px, got 0.05"),
        ("tracking: {huber: 10.5}", "wanted a number from 0.1 to 10 px, got 10.5"),
        ("tracking: {huber: '2'}", "wanted a number from 0.1 to 10 px, got '2'"),
        ("tracking: {huber: true}", "wanted a number from 0.1 to 10 px, got True"),
        ("tracking: {huber: }", "wanted a number from 0.1 to 10 px, got null"),
        ("tracking: {count: 1.0}", "wanted a whole number of at least 1, got 1.0"),
        ("tracking: {count: true}", "wanted a whole number of at least 1, got True"),
        ("tracking: {exact: 1}", "wanted true or false, got 1"),
        ("tracking: {name: 5}", "wanted text or null, got 5"),
        ("tracking: {mode: live}", "wanted one of offline, realtime, got 'live'"),
        ("tracking: {size: [1, 2, 3]}", "a list of 2 values, each a whole number"),
        ("tracking: {size: [1, 0]}", "each a whole number of at least 1 px, got (1, 0)"),
        ("tracking: {count: 1, count: 2}", "line 1, column 22: 'count' stands twice"),
        ("tracking: {count: [}", "not valid YAML in line 1, column 20"),
        ("frames: {start: 7}", "frames.start: wanted less than end=5, got 7"),
        ("a: \x00", "not valid YAML"),
    ],
)
def test_an_error_names_file_key_and_what_was_wanted(
    tmp_path: Path, text: str, message: str
) -> None:
    assert message in error_of(tmp_path, text)


def test_values_are_checked_in_code_as_well() -> None:
    with pytest.raises(ValueError, match=r"^fov: wanted a number from 1 to 179 deg or null"):
        Inner(fov=math.nan)
    with pytest.raises(ValueError, match=r"^count: wanted a whole number"):
        dataclasses.replace(Inner(), count=0)
    with pytest.raises(ValueError, match=r"^tracking: wanted a Inner, got 3"):
        Outer(tracking=3)  # type: ignore[arg-type]


def test_overrides_apply_in_order_and_together() -> None:
    overrides = ["tracking.huber=2", "tracking.huber=3e0", "frames.start=7", "frames.end=9"]
    assert with_overrides(Outer(), overrides) == Outer(Inner(huber=3.0), Range(7, 9))


@pytest.mark.parametrize("text", ["2024", "a=b", "no", "", " x ", "1e3", "{", "#1", "None"])
def test_a_text_is_taken_as_it_stands_in_an_override(text: str) -> None:
    assert with_overrides(Outer(), [f"tracking.name={text}"]).tracking.name == text


def test_null_in_an_override_means_none() -> None:
    named = with_overrides(Outer(), ["tracking.name=x", "tracking.fov=60"])
    assert with_overrides(named, ["tracking.name=null", "tracking.fov=null"]) == Outer()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tracking.huber", "wanted section.key=value, got 'tracking.huber'"),
        ("tracking.hubr=2", "tracking.hubr: unknown setting; did you mean tracking.huber?"),
        ("tracking.huber.x=2", "tracking.huber: wanted a number from 0.1 to 10 px, got {'x': 2}"),
        ("tracking.huber=[", "tracking.huber: not valid YAML in line 1"),
        ("=2", "unknown setting"),
    ],
)
def test_a_wrong_override_gives_one_clear_line(override: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        with_overrides(Outer(), [override])
    assert message in str(caught.value)


finite = st.floats(allow_nan=False, allow_infinity=False)
inner = st.builds(
    Inner,
    huber=st.floats(0.1, 10),
    count=st.integers(min_value=1),
    exact=st.booleans(),
    name=st.none() | st.text(),
    mode=st.sampled_from(["offline", "realtime"]),
    fov=st.none() | st.floats(1, 179),
    size=st.tuples(st.integers(min_value=1), st.integers(min_value=1)),
    weights=st.lists(finite, max_size=4).map(tuple),
)


@given(inner)
@example(Inner(name="\x85"))
@example(Inner(name="a\u2028b\u2029"))
def test_writing_and_reading_gives_the_same_settings(
    tmp_path_factory: pytest.TempPathFactory, values: Inner
) -> None:
    path = tmp_path_factory.getbasetemp() / "round_trip.yaml"
    path.write_text(to_yaml(Outer(tracking=values)), encoding="utf-8")
    assert read_settings(Outer(), path) == Outer(tracking=values)


@pytest.mark.parametrize(
    "text", ["1e-3", "1.5e3", ".5e7", "null", "~", "yes", "12:30", "# x", "é", "\udcff"]
)
def test_a_text_that_looks_like_something_else_stays_a_text(tmp_path: Path, text: str) -> None:
    values = Outer(tracking=Inner(name=text))
    assert read(tmp_path, to_yaml(values)) == values


def test_written_settings_tell_unit_and_range() -> None:
    assert "# (a number from 0.1 to 10 px)\n  huber: 2.5\n" in to_yaml(Outer())


def test_every_preset_loads_and_no_preset_is_the_default() -> None:
    assert load_config(None) == load_config("default") == Config()
    for name in data_names("configs"):
        assert isinstance(load_config(name), Config)


def test_an_unknown_preset_or_file_is_named() -> None:
    with pytest.raises(FileNotFoundError, match="no 'defualt' among the configs; did you mean def"):
        load_config("defualt")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml"):
        load_config("nowhere.yaml")


def test_overrides_come_after_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("source: {stride: 2, start: 3}")
    config = load_config(path, ["source.stride=5"])
    assert (config.source.stride, config.source.start) == (5, 3)


def unexplained(kind: type[Section]) -> list[str]:
    """Dotted names of the settings in a section, and in those inside of it, without help."""
    names = []
    for name, (wanted, about) in fields_of(kind).items():
        if isinstance(wanted, type) and issubclass(wanted, Section):
            names += [f"{name}.{one}" for one in unexplained(wanted)]
        elif not about.help:
            names.append(name)
    return names


def test_every_setting_is_explained() -> None:
    assert unexplained(Config) == []
