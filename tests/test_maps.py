"""Maps in colour: every cell in its place, in HTML and in the terminal."""

import re

import pytest
from markupsafe import escape
from rich.console import Console

from polopt_jax import report
from polopt_jax.report import Map, Mark

MARKS = {
    "#": Mark("", "#606060"),
    " ": Mark("", "#f4f4f4"),
    "A": Mark("agent", "#56b4e9"),
    "<": Mark("way", "#f0e442"),
    ">": Mark("way", "#f0e442"),
}
MAPS = [Map("before", ["#A>#", "#< #"]), Map("after", ["# >#", "#<A#"])]
HOSTILE = ["<script>alert(1)</script>", '"><img src=x>', "</div>", "{{ 1 }}"]


def shown(width, *, color=None, maps=MAPS):
    console = Console(width=width, force_terminal=color is not None, color_system=color, highlight=False)
    with console.capture() as captured:
        console.print(report.terminal_maps(maps, MARKS, width=width))
    return captured.get()


def test_every_cell_is_in_the_page_in_order():
    html = report.maps(MAPS, MARKS)
    cells = re.findall(r'<span style="background:(#\w+)">(.*?)</span>', html)
    chars = [char for map_ in MAPS for row in map_.rows for char in row]
    assert [color for color, _ in cells] == [MARKS[char].color for char in chars]
    letters = {"<": "&lt;", ">": "&gt;", "#": "", " ": ""}
    assert [letter for _, letter in cells] == [letters.get(char, char) for char in chars]
    assert html.count("--columns:4;") == 2


def test_the_legend_has_each_meaning_once():
    html = report.maps(MAPS, MARKS)
    legend = re.findall(r'<b style="background:(#\w+);color:#\w+">(.*?)</b> (\w+)', html)
    assert legend == [("#56b4e9", "A", "agent"), ("#f0e442", "&lt;&gt;", "way")]


@pytest.mark.parametrize("text", HOSTILE)
def test_titles_and_meanings_are_escaped(text):
    tags = lambda html: re.findall(r"<[^>]*>", re.sub(r'aria-label="[^"]*"', "", html))  # noqa: E731
    html = report.maps([Map(text, ["A"])], {"A": Mark(text, "#fff")})
    assert tags(html) == tags(report.maps([Map("x", ["A"])], {"A": Mark("x", "#fff")}))
    assert html.count(str(escape(text))) == 3  # the title, what a screen reader says, the legend


def test_the_terminal_shows_them_side_by_side_without_colour():
    lines = [line.rstrip() for line in shown(60).splitlines()]
    assert lines[0].split() == ["before", "after"]
    assert [re.split(r" {4,}", line) for line in lines[1:3]] == [["##A > ##", "##  > ##"], ["##<   ##", "##< A ##"]]
    assert lines[4].split() == ["A", "agent", "<", ">", "way"]


def test_where_there_is_no_room_they_stand_below_each_other_and_narrow():
    lines = [line.rstrip() for line in shown(7).splitlines()]
    assert lines[:6] == ["before", "#A>#", "#< #", "after", "# >#", "#<A#"]


def test_the_terminal_has_the_colours():
    out = shown(60, color="truecolor", maps=MAPS[:1])
    for mark in set(MARKS.values()):
        red, green, blue = (int(mark.color[i : i + 2], 16) for i in (1, 3, 5))
        assert f"48;2;{red};{green};{blue}m" in out
    assert "38;2;96;96;96" in out  # a wall is all wall
    assert "38;2;16;17;18;48;2;86;180;233mA " in out  # dark letters


@pytest.mark.parametrize("draw", [report.maps, lambda maps, marks: report.terminal_maps(maps, marks, width=60)])
def test_a_character_without_a_mark_is_refused(draw):
    with pytest.raises(ValueError, match=r"marks must have every .* '!\?' are missing"):
        draw([Map("x", ["A!", "?A"])], MARKS)
