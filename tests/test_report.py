"""The room of tables, figures and pages, with things that no command knows: fruit."""

import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

from polopt_jax import report
from polopt_jax.report import Column, Curve, Group, Panel, Section, Strip

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</style><script>alert(1)</script>",
    "</svg><a href=https://example.com>x</a>",
    "--><script>alert(1)</script><!--",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;b&gt; &#x3c;b&#x3e;",
    "`<script>`",
    "$\\frac{1}{",
    "$x_1$",
    "\u2028</title>\u2029",
]
COLUMNS = [
    Column(("", "fruit"), lambda row: row["name"]),
    Column(("mass,", "g"), lambda row: report.short(row["mass"]), "Of one, without the stalk."),
    Column(("stones", "/fruit"), lambda row: report.short(row.get("stones"))),
]
GROUPS = [
    Group("from here", [{"name": "apple", "mass": 182.4}, {"name": "plum", "mass": 66.0, "stones": 1.0}]),
    Group("from far away", [{"name": "pineapple", "mass": 905.0}]),
]


def curve(label="apple", place=0, y=(1.0, 2.0, 4.0)):
    middle = np.array(y)
    return Curve(label, place, np.arange(1.0, 4.0), middle, middle - 0.5, middle + 0.5)


def strip(text="weight", **axes):
    return Strip(text, [Panel(text, text, [curve(text), curve("plum", 1)], **axes)])


def page(text):
    """A page with the text in every place that takes one."""
    row = Group(text, [{"name": text}])
    columns = [Column((text, text), lambda row: row["name"], text)]
    pieces = [
        report.table(columns, [row], mark=lambda row: 0),
        report.listing([Column(("", text), lambda row: report.settings({text: text}))], [row]),
        report.definitions({text: text}),
        report.code(text),
        report.figure(text, report.svg(strip(text), alt=text), text),
        report.prose(text, [text], place=9),
    ]
    return report.page(text, text, [Section(text, pieces)], notes=[text])


class Tags(HTMLParser):
    """Counts tags with their attributes, and collects the text between them."""

    def __init__(self, page):
        super().__init__()
        self.found, self.attributes, self.texts = Counter(), [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found[tag, tuple(sorted(name for name, _ in attrs))] += 1
        self.attributes += attrs

    def handle_data(self, data):
        self.texts.append(data.strip())


# --- pages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", HOSTILE)
def test_everything_is_escaped_in_every_place(text):
    tags, plain = Tags(page(text)), Tags(page("x"))
    if "`" in text:  # what stands between backticks is code, and still only text
        assert tags.found.pop(("code", ())) > 1
    assert tags.found == plain.found
    if "`" not in text:
        places = [i for i, shown in enumerate(plain.texts) if shown == "x"]
        assert len(places) > 15
        assert all(tags.texts[i] == text.strip() for i in places)
    assert {name for name, _ in tags.attributes} == {name for name, _ in plain.attributes}


def test_a_page_needs_nothing_from_outside():
    whole = page("x")
    tags = Tags(whole)
    assert not {tag for tag, _ in tags.found} & {"script", "link", "iframe", "object", "embed", "base", "img", "form"}
    assert "://" not in whole
    assert "@import" not in whole
    assert all(value.startswith("#") for name, value in tags.attributes if name in ("src", "href", "xlink:href"))
    assert not re.search(r"url\((?!#)", whole)
    policy = next(value for name, value in tags.attributes if name == "content" and "default-src" in value)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def test_what_stands_between_backticks_is_code():
    assert "<p>a <code>b &lt; c</code></p>" in report.prose("x", ["a `b < c`"])
    assert "<dd><code>b</code></dd>" in report.definitions({"a": "`b`"})


def test_settings_are_not_parted():
    html = report.settings({"a": 1, "b": 0.5})
    assert " ".join(html.split()) == '<span class="whole">a 1,</span> <span class="whole">b 0.5</span>'


def test_a_table_in_the_page():
    html = report.table(COLUMNS, GROUPS, mark=lambda row: {"apple": 1, "plum": 8}.get(row["name"], 0))
    tags = Tags(html)
    assert [text for text in tags.texts if text] == [
        *("fruit", "mass, g", "stones/fruit", "from here", "apple", "182", "-", "plum", "66", "1"),
        *("from far away", "pineapple", "905", "-"),
    ]
    swatches = re.findall(r'class="swatch (\w+)" style="color:(#\w+)"', html)
    assert swatches == [("filled", "#56b4e9"), ("hollow", "#56b4e9"), ("filled", "#7f7f7f")]


# --- tables in a terminal ------------------------------------------------------------------------------------------


def printed(width):
    console = Console(width=width, record=True, file=None, quiet=False, highlight=False, markup=False)
    with console.capture() as captured:
        console.print(report.terminal(COLUMNS, GROUPS, width=width))
    return captured.get().splitlines()


def test_a_table_in_the_terminal():
    assert [line.rstrip() for line in printed(80)] == [
        "           mass,  stones",
        "fruit          g  /fruit",
        "from here",
        "apple        182       -",
        "plum          66       1",
        "from far away",
        "pineapple    905       -",
    ]


def test_a_narrow_terminal_gets_a_narrower_table_and_then_a_cut_one():
    assert [len(printed(width)[3]) for width in (24, 23, 22, 10)] == [24, 22, 22, 10]


def test_text_is_shown_as_it_is():
    rows = [Group("[bold]x[/bold]", [{"name": "[red]y", "mass": 1.0}])]
    console = Console(width=80)
    with console.capture() as captured:
        console.print(report.terminal(COLUMNS, rows, width=80))
    assert "[bold]x[/bold]" in captured.get()
    assert "[red]y" in captured.get()


def test_columns_that_say_nothing_are_left_out():
    without_stones = [Group("", [{"name": "apple", "mass": 1.0}])]
    assert [report.full_name(c) for c in report.informative(COLUMNS, GROUPS)] == ["fruit", "mass, g", "stones/fruit"]
    assert [report.full_name(c) for c in report.informative(COLUMNS, without_stones)] == ["fruit", "mass, g"]
    assert report.meanings(COLUMNS) == {"mass, g": "Of one, without the stalk."}


# --- figures -------------------------------------------------------------------------------------------------------


def test_a_picture_and_the_same_in_a_page():
    panels = [Panel("a", "x", [curve(), curve("plum", 7)]), Panel("b", "x", [curve()], log=True, limits=(1, 10))]
    strips = [Strip("first", panels), Strip("second", panels[:1])]
    assert report.png(strips).startswith(b"\x89PNG")
    drawn = report.svg(strips[0], alt="two fruit")
    assert drawn == report.svg(strips[0], alt="two fruit")  # the same bytes
    assert drawn.startswith('<svg viewBox="')
    assert 'aria-label="two fruit"' in drawn
    assert {*re.findall(r"#[0-9a-f]{6}\b", drawn)} == {report.style(0).color}  # the rest, text and grid, is the page's
    assert all(text in drawn for text in (">a<", ">b<", ">apple<", ">plum<"))
    assert "stroke-dasharray" in drawn  # the eighth thing has a colour again, dashed
    assert "first" not in drawn


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("y", [(np.nan,) * 3, (np.inf, 1.0, np.nan), (0.0, -1.0, 0.0), (1.0, 1.0, 1.0)])
@pytest.mark.parametrize("log", [False, True])
def test_any_numbers_can_be_drawn(y, log):
    drawn = report.svg(Strip("x", [Panel("x", "x", [curve(y=y)], log=log)]), alt="x")
    assert not re.search(r"\b(nan|inf)\b", drawn)


@pytest.mark.parametrize(("log", "hole"), [(False, np.inf), (True, 0.0), (True, -1.0)])
def test_what_cannot_be_drawn_is_left_out(log, hole):
    with_hole, left_out = (
        report.svg(Strip("x", [Panel("x", "x", [curve(y=(1.0, value, 4.0))], log=log)]), alt="x")
        for value in (hole, np.nan)
    )
    assert with_hole == left_out


def test_an_empty_curve_draws_an_empty_panel():
    none = np.array([])
    empty = Curve("x", 0, none, none, none, none)
    assert "<svg" in report.svg(Strip("x", [Panel("x", "x", [empty], log=True)]), alt="x")


def test_styles_differ():
    styles = [report.style(place) for place in range(60)]
    assert len({(s.color, str(s.dashes)) for s in styles[:21]}) == 21
    assert len({s.color for s in styles[:7]}) == len({s.marker for s in styles[:7]}) == 7
    assert {s.dashes for s in styles[:7]} == {"solid"}


# --- imports -------------------------------------------------------------------------------------------------------


def test_importing_the_room_loads_none_of_what_it_draws_with():
    program = (
        "import sys, polopt_jax.report as r; r.style(0);"
        "sys.exit(bool({'matplotlib', 'rich', 'jinja2', 'tyro', 'polopt_jax.cli', 'polopt_jax.algorithms'}"
        "& sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=120).returncode == 0


def test_a_legend_names_what_is_in_any_panel_once():
    """The second panel has a curve that the first has not; both share one."""
    panels = [Panel("a", "x", [curve("pear"), curve("fig", 1)]), Panel("b", "x", [curve("pear"), curve("quince", 2)])]
    text = str(report.svg(Strip("x", panels), alt=""))
    assert [len(re.findall(f">{name}<", text)) for name in ("pear", "fig", "quince")] == [1, 1, 1]


def legend_of(svg):
    """Of each entry of a picture's legend: name, from where to where its line goes, its dashes, where the name begins.

    Lengths in points.
    """
    entries = str(svg).split('id="legend')[1].split('<g id="line2d_')[1:]
    for entry in entries:
        ends = [float(x) for x in re.findall(r"[ML] ([\d.-]+) ", entry.split('style="')[0])]
        dashes = re.search(r"stroke-dasharray: ([\d.]+),([\d.]+)", entry)
        (name,) = re.findall(r">([^<>]+)</text>", entry)
        start = float(re.search(r'<text[^>]* x="([\d.-]+)"', entry)[1])
        yield name, (ends[0], ends[-1]), dashes and tuple(map(float, dashes.groups())), start


def test_a_legend_shows_dashes_beside_the_marker():
    drawn = list(legend_of(report.svg(Strip("x", [Panel("a", "x", [curve(f"c{i}", i) for i in range(21)])]), alt="")))
    assert [dashes is not None for _, _, dashes, _ in drawn] == [False] * 7 + [True] * 14
    for _, (left, right), dashes, _ in drawn:
        if dashes:
            dash, gap = dashes
            gaps = [left + dash + n * (dash + gap) for n in range(20)]
            seen = [at for at in gaps if at + gap < right and abs(at + gap / 2 - (left + right) / 2) > 2.3 + gap / 2]
            assert len(seen) >= 2, "nothing but a marker and what may be two halves of a line"


@pytest.mark.parametrize(("number", "name"), [(17, "region-conditional"), (7, "region-conditional"), (3, "x" * 60)])
def test_a_legend_stays_inside_the_picture(number, name):
    svg = report.svg(Strip("x", [Panel("a", "x", [curve(f"{name}{i}", i) for i in range(number)])]), alt="")
    width = float(re.search(r'viewBox="0 0 ([\d.]+)', svg)[1])
    drawn = list(legend_of(svg))
    assert len(drawn) == number
    for label, (left, _), _, start in drawn:
        assert left > 0
        assert start + 4.5 * len(label) < width, "half of the size of the letters is less than they take"


def test_a_legend_with_a_name_wider_than_the_picture_is_still_there():
    panel = Panel("a", "x", [curve("x" * 300), curve("short", 1)])
    drawn = report.svg(Strip("x", [panel]), alt="")
    assert all(f">{name}<" in drawn for name in ("x" * 300, "short"))


def test_a_share_is_written_as_it_is_and_a_count_in_thousands():
    share = curve()._replace(x=np.array([0.5, 0.75, 1.0]))
    drawn = [report.svg(Strip("x", [Panel("a", "x", [share], x_limits=ends)]), alt="") for ends in (None, (0.25, 1.0))]
    as_count, as_share = (re.findall(r">([^<>\s]+)</text>", str(svg)) for svg in drawn)
    assert "600m" in as_count
    assert {"0.3", "0.6"} <= set(as_share)
    assert "600m" not in as_share


def test_a_piece_is_orange_where_it_has_become_likelier_and_blue_where_less_the_deeper_the_more():
    pieces = re.findall(
        r"--color:(#\w+);--depth:(\d+)%\">(\w)<",
        report.contrasts_html([report.Contrast("a", ["x", "y", "z"], [1.0, -2.0, 4.0], {})], scale=2.0),
    )
    reddish = {piece: int(color[1:3], 16) > int(color[5:7], 16) for color, _, piece in pieces}
    assert reddish == {"x": True, "y": False, "z": True}
    assert [int(depth) for _, depth, _ in pieces] == [38, 75, 75]
