"""What the viewer can be told to do: name, keys and words of each command, said once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Command:
    """One command of the window."""

    name: str  # of the Window's method that does it
    keys: str  # as Qt writes them
    label: str  # on its button
    help: str  # in the list of keys
    toggles: bool = False  # it is on or off
    live: bool = False  # only while a run goes
    replay: bool = False  # only where there is a recording


COMMANDS = (
    Command("pause", "Space", "Pause", "pause the run, and go on", toggles=True, live=True),
    Command("step", "N", "Step", "one more image, while it is paused", live=True),
    Command("save", "Ctrl+S", "Save now", "write what the run has so far", live=True),
    Command("play", "Space", "", "play the recording, and stop", toggles=True, replay=True),
    Command("forward", "Right", "", "the next frame of a recording", replay=True),
    Command("back", "Left", "", "the frame before", replay=True),
    Command("first", "Home", "", "the first frame", replay=True),
    Command("last", "End", "", "the last frame", replay=True),
    Command("faster", ".", "", "play faster", replay=True),
    Command("slower", ",", "", "play slower", replay=True),
    Command("follow", "F", "Follow", "follow the camera", toggles=True),
    Command("reset", "R", "Reset view", "see all of the map"),
    Command("measure", "M", "Measure", "distance between two points: click them", toggles=True),
    Command("screenshot", "P", "Screenshot", "a picture of the window into a file"),
    Command("export", "E", "Export PLY", "the points that are shown into a file"),
    Command("see_through", "B", "See through", "hide surfaces seen from behind", toggles=True),
    Command("next_coloring", "C", "", "colour by image, confidence, height, keyframe"),
    Command("larger", "+", "", "larger points"),
    Command("smaller", "-", "", "smaller points"),
    Command("surer", "]", "", "only more confident points"),
    Command("less_sure", "[", "", "less confident ones too"),
    Command("theme", "L", "Light / dark", "light or dark colours"),
    Command("help", "?", "Help", "this list", toggles=True),
    Command("close", "Ctrl+Q", "", "close: a run is adjusted and saved"),
)
MOUSE = (
    ("drag", "turn"),
    ("right drag, Ctrl+drag", "move along"),
    ("wheel", "nearer, farther"),
    ("double click", "turn round this point"),
)
LAYERS = {
    "points": ("1", "map"),
    "path": ("2", "path"),
    "keyframes": ("3", "keyframes"),
    "edges": ("4", "covisibility"),
    "loops": ("5", "loops"),
    "camera": ("6", "camera"),
}


def help_text() -> str:
    """The list of keys and of what the mouse does, as HTML."""
    rows = [(where, what) for where, what in MOUSE]
    rows += [(command.keys, command.help) for command in COMMANDS]
    first, *_, last = (key for key, _ in LAYERS.values())
    rows.append((f"{first} … {last}", "show or hide " + ", ".join(t for _, t in LAYERS.values())))
    half = (len(rows) + 1) // 2
    cell = "<td><b>{}</b></td><td style='padding-right: 24px'>{}</td>"
    lines = [
        "<tr>" + "".join(cell.format(*row) for row in pair) + "</tr>"
        for pair in zip(rows[:half], [*rows[half:], ("", "")], strict=False)
    ]
    return "<table cellpadding='3'>" + "".join(lines) + "</table>"
