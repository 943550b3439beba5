"""Episodes that play by themselves: every frame in its place and time, words that stay words, nothing from outside."""

import base64
import io
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from polopt_jax import report, worlds
from polopt_jax.report import Mark

MARKS = {
    "#": Mark("", "#606060"),
    " ": Mark("", "#f4f4f4"),
    "A": Mark("agent", "#56b4e9"),
    "<": Mark("way", "#f0e442"),
    ">": Mark("way", "#f0e442"),
}
FRAMES = [["#A>#", "#< #"], ["# A#", "#< #"], ["# >#", "#<A#"]]
CAPTIONS = ["start", "right", "down: there"]
HOSTILE = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "</text></svg>", "{{ 1 }}", "]]>", "&lt;"]
SVG = "{http://www.w3.org/2000/svg}"


class Tags(HTMLParser):
    """Every tag with its attributes, and what stands between them."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def parts(html):
    """The still, the moving picture, both parsed by a strict reader, and the tag that holds the second."""
    (picture, _), (source, still), (img, moving) = Tags(html).tags
    assert (picture, source, img) == ("picture", "source", "img")
    prefix = "data:image/svg+xml;base64,"
    assert still["srcset"].startswith(prefix)
    assert moving["src"].startswith(prefix)
    svgs = (base64.b64decode(address[len(prefix) :]).decode() for address in (still["srcset"], moving["src"]))
    return *(ElementTree.fromstring(svg) for svg in svgs), moving


def groups(svg):
    return svg.findall(f"{SVG}g")


def boxes(element):
    return [box.get("fill") for box in element.findall(f"{SVG}rect")]


def texts(element):
    return [text.text for text in element.findall(f"{SVG}text")]


def style(svg):
    return svg.find(f"{SVG}style").text


def shown_at(svg, seconds):
    """Numbers of the frames that are visible, read off the style as CSS means it (step-end, repeated, delayed)."""
    css = style(svg)
    total = float(re.search(r"animation: frame ([\d.]+)s step-end infinite", css)[1])
    until = {
        name: float(percent) / 100 * total
        for name, percent in re.findall(
            r"@keyframes (\w+) { 0% { visibility: visible; } ([\d.]+)% { visibility: hidden; } }", css
        )
    }
    assert set(until) == {"frame", "last"}
    assert ".frame:last-of-type { animation-name: last; }" in css
    found = []
    for number, group in enumerate(groups(svg)):
        delay = float(re.fullmatch(r"animation-delay:([\d.]+)s", group.get("style"))[1])
        name = "last" if number == len(groups(svg)) - 1 else "frame"
        started = seconds >= delay
        visible = (seconds - delay) % total < until[name] if started else number == 0
        found += [number] if visible else []
    return found


def test_every_cell_of_every_frame_is_there_in_order():
    _, moving, _ = parts(report.animation_html(FRAMES, MARKS, CAPTIONS))
    assert len(groups(moving)) == len(FRAMES)
    for group, frame in zip(groups(moving), FRAMES, strict=True):
        chars = "".join(frame)
        assert boxes(group) == [MARKS[char].color for char in chars]
        letters = [char for char in chars if MARKS[char].words]
        assert texts(group)[: len(letters)] == letters
        places = [(int(box.get("y")), int(box.get("x"))) for box in group.findall(f"{SVG}rect")]
        assert places == sorted(set(places))  # row by row, each cell in a place of its own


def test_every_frame_has_its_caption_and_its_number():
    _, moving, img = parts(report.animation_html(FRAMES, MARKS, CAPTIONS))
    said = [texts(group)[-2:] for group in groups(moving)]
    assert said == [["1/3", "start"], ["2/3", "right"], ["3/3", "down: there"]]
    assert img["alt"] == "1. start 2. right 3. down: there"


def test_one_frame_is_seen_at_a_time_and_the_last_one_longest():
    html = report.animation_html(FRAMES, MARKS, CAPTIONS, seconds_per_frame=0.5, seconds_at_end=2.0)
    _, moving, _ = parts(html)
    expected = {0.01: 0, 0.49: 0, 0.51: 1, 0.99: 1, 1.01: 2, 2.5: 2, 2.99: 2, 3.01: 0, 3.51: 1, 5.99: 2, 6.01: 0}
    assert {time: shown_at(moving, time) for time in expected} == {time: [n] for time, n in expected.items()}


def test_the_number_of_keyframes_does_not_grow_with_the_episode():
    for length in (2, 3, 40):
        _, moving, _ = parts(report.animation_html(FRAMES[:1] * length, MARKS, ["x"] * length))
        assert style(moving).count("@keyframes") == 2
        assert len(groups(moving)) == length


def test_who_wants_less_motion_sees_the_first_frame():
    html = report.animation_html(FRAMES, MARKS, CAPTIONS)
    still, moving, _ = parts(html)
    assert dict(Tags(html).tags)["source"]["media"] == "(prefers-reduced-motion: reduce)"
    assert [boxes(group) for group in groups(still)] == [boxes(groups(moving)[0])]
    assert "animation" not in style(still)
    assert "@media (prefers-reduced-motion: reduce) { .frame { animation: none; } }" in style(moving)
    assert ".frame:first-of-type { visibility: visible; }" in style(moving)


def test_one_frame_is_a_still():
    still, moving, _ = parts(report.animation_html(FRAMES[:1], MARKS, CAPTIONS[:1]))
    assert ElementTree.tostring(still) == ElementTree.tostring(moving)
    assert "visibility" not in style(moving)


def test_the_legend_has_each_meaning_once():
    _, moving, _ = parts(report.animation_html(FRAMES, MARKS, CAPTIONS))
    assert texts(moving) == ["A", "agent", "<>", "way"]
    assert boxes(moving) == ["#ffffff", "#56b4e9", "#f0e442"]


@pytest.mark.parametrize("text", HOSTILE)
def test_words_stay_words(text):
    marks = {**MARKS, "A": Mark(text, "#56b4e9")}
    html = report.animation_html(FRAMES, marks, [text, *CAPTIONS[1:]])
    still, moving, img = parts(html)  # a strict reader finds no other structure
    plain = report.animation_html(FRAMES, MARKS, CAPTIONS)
    assert [tag for tag, _ in Tags(html).tags] == [tag for tag, _ in Tags(plain).tags]
    assert not Tags(html).text
    for svg in (still, moving):
        assert {element.tag for element in svg.iter()} == {SVG + tag for tag in ("svg", "style", "rect", "text", "g")}
        assert " ".join(texts(groups(svg)[0])[-1:]).strip()
    assert text in img["alt"]
    assert text in texts(moving)
    assert text.split()[0] in texts(groups(moving)[0])[4]


def test_nothing_comes_from_outside_and_nothing_runs():
    html = report.animation_html(FRAMES, MARKS, CAPTIONS)
    for svg in parts(html)[:2]:
        text = ElementTree.tostring(svg).decode()
        assert not re.search(r"(?<!w3\.org)url\(|@import|href|<script|\bon\w+=|javascript:", text)
        assert re.findall(r"\w+://[^\"' ]+", text) == ["http://www.w3.org/2000/svg"]  # the name of SVG, not an address
    assert "://" not in html


def test_a_page_lets_it_play():
    page = report.page("t", "l", [report.Section("s", [report.animation_html(FRAMES, MARKS, CAPTIONS)])])
    assert "img-src data:" in page  # the page's policy
    assert page.count("<picture>") == 1


def test_what_no_document_can_hold_is_shown_as_such():
    _, moving, img = parts(report.animation_html(FRAMES, MARKS, ["a\x00b\x1b", "c\nd", "e\ud800"]))
    assert [texts(group)[-1] for group in groups(moving)] == ["a\ufffdb\ufffd", "c\ufffdd", "e\ufffd"]
    assert img["alt"] == "1. a\ufffdb\ufffd 2. c\ufffdd 3. e\ufffd"


def test_long_captions_are_wrapped_and_lose_nothing():
    caption = "right: " + "and then something else happened " * 6
    _, moving, img = parts(report.animation_html(FRAMES, MARKS, [caption, *CAPTIONS[1:]]))
    lines = groups(moving)[0].findall(f"{SVG}text")[4:]
    assert len(lines) > 2
    assert " ".join(line.text for line in lines).split() == caption.split()
    heights = [int(line.get("y")) for line in lines]
    assert heights == sorted(set(heights))
    assert heights[-1] < int(img["height"])


def seen(gif):
    image = Image.open(io.BytesIO(gif))
    for number in range(image.n_frames):
        image.seek(number)
        yield np.asarray(image.convert("RGB"), int), image.info["duration"]


def test_the_gif_has_the_same_frames_and_times():
    gif = report.animation_gif(FRAMES, MARKS, CAPTIONS, seconds_per_frame=0.5, seconds_at_end=2.0)
    _, moving, img = parts(report.animation_html(FRAMES, MARKS, CAPTIONS))
    pictures = list(seen(gif))
    assert [duration for _, duration in pictures] == [500, 500, 2000]
    assert Image.open(io.BytesIO(gif)).info["loop"] == 0  # for ever
    for (pixels, _), group in zip(pictures, groups(moving), strict=True):
        assert pixels.shape == (int(img["height"]), int(img["width"]), 3)
        for box in group.findall(f"{SVG}rect"):
            x, y = int(box.get("x")) + 3, int(box.get("y")) + 3
            color = [int(box.get("fill")[i : i + 2], 16) for i in (1, 3, 5)]
            np.testing.assert_allclose(pixels[y, x], color, atol=2)
    captions = [pixels[-34:] for pixels, _ in pictures]
    assert all((pixels < 100).any() for pixels in captions)  # there are letters
    assert (captions[0] != captions[1]).any()
    legend = [pixels[:, 14 + 4 * 44 + 14 :][:-40] for pixels, _ in pictures]
    assert np.abs(legend[0] - legend[2]).max() < 40  # what stands still; a GIF chooses its greys frame by frame
    assert (legend[0] < 100).any()


def test_equal_frames_are_kept_apart():
    assert len(list(seen(report.animation_gif(FRAMES[:1] * 3, MARKS, ["wait"] * 3)))) == 3


WRONG = [
    (([], MARKS, []), {}, "frames must be at least one"),
    (([[]], MARKS, ["a"]), {}, "frames must be at least one"),
    (([["A "], ["A"]], MARKS, ["a", "b"]), {}, "one shape; frame 1 has another"),
    (([["A "], ["A ", "A "]], MARKS, ["a", "b"]), {}, "one shape; frame 1 has another"),
    ((FRAMES, MARKS, CAPTIONS[:2]), {}, "captions must be one for each of 3 frames"),
    ((FRAMES, MARKS, "abc"), {}, "captions must be one for each of 3 frames, got 'abc'"),
    (([["A?"]], MARKS, ["a"]), {}, r"marks must have every .* '\?' are missing"),
    ((FRAMES, MARKS, CAPTIONS), {"seconds_per_frame": 0.0}, "seconds_per_frame must be positive and finite, got 0"),
    ((FRAMES, MARKS, CAPTIONS), {"seconds_at_end": float("nan")}, "seconds_at_end must be positive and finite"),
    ((FRAMES, MARKS, CAPTIONS), {"seconds_at_end": float("inf")}, "seconds_at_end must be positive and finite"),
]


@pytest.mark.parametrize("draw", [report.animation_html, report.animation_gif])
@pytest.mark.parametrize(("arguments", "options", "said"), WRONG)
def test_wrong_arguments_are_named(draw, arguments, options, said):
    with pytest.raises(ValueError, match=said):
        draw(*arguments, **options)


def test_an_episode_of_a_world_is_replayed():
    """The numbers that a tabulated world gives, step by step, against the rules followed by hand."""
    rules = worlds.burning_building(slip=0.0, p_out=1.0)
    world = worlds.tabulate(rules)
    state, _ = world.reset(jax.random.key(0))
    numbers = [int(state.state)]
    for action in ("left", "pull"):
        step = jax.jit(world.step)(state, jnp.int32(rules.actions.index(action)), jax.random.key(0))
        state = step.state
        numbers.append(int(step.outcome["state"]))
    first, second, third = worlds.replay(rules, numbers)
    assert first[1] == "#GA VM#"
    assert second[1] == "#AE VM#"
    assert third[1] == "#*E V #"
    assert worlds.replay(rules, jnp.asarray(numbers)) == [first, second, third]


@pytest.mark.parametrize("number", [-1, 64])
def test_a_state_that_is_none_is_named(number):
    with pytest.raises(ValueError, match=rf"states must be numbers from 0 to 63, got \[{number}\]"):
        worlds.replay(worlds.burning_building(), [0, number])
