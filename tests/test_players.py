"""What plays an episode: the camera and its projection by hand, numbers that come back, a page that is alone."""

import base64
import hashlib
import io
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser

import hypothesis
import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import numpy as np
import pytest
from PIL import Image

from polopt_jax import report
from polopt_jax.report import Answer, Recording, Stage, Track, _players, _stages
from polopt_jax.report._stages import Bar, Camera, Polygon

FOCAL = 50 / math.tan(math.radians(17.5))
SIZE = (200, 100)
HOSTILE = ["<script>alert(1)</script>", "</script><b>", '" onload="x', "{{ 1 }}", "&lt;", "http://x.example"]


def camera(azimuth=0.0, elevation=0.0, distance=2.0, target=(0.0, 0.0, 0.0), tile=1.0):
    return Camera(np.array([target]), math.radians(azimuth), math.radians(elevation), distance, tile)


def balls(*centres, radius=0.1, ground=None, limb=None):
    """Spheres that stand still, in one frame."""
    ends = np.array([[[c, c] for c in centres]], float)
    return Stage(ends, np.full(len(centres), radius), np.arange(len(centres)) if limb is None else limb, ground)


# The projection


@pytest.mark.parametrize(
    ("view", "point", "pixel", "scale"),
    [
        ({}, (0, 0, 0), (100, 50), FOCAL / 2),
        ({}, (0, 1, 0), (100 + FOCAL / 2, 50), FOCAL / 2),
        ({}, (0, 0, 1), (100, 50 - FOCAL / 2), FOCAL / 2),
        ({}, (1, 0, 1), (100, 50 - FOCAL), FOCAL),
        ({}, (3, 0, 0), (100, 50), -FOCAL),
        ({"azimuth": 90}, (1, 0, 0), (100 - FOCAL / 2, 50), FOCAL / 2),
        ({"azimuth": 90}, (0, 1, 1), (100, 50 - FOCAL), FOCAL),
        ({"azimuth": -90}, (1, 0, 0), (100 + FOCAL / 2, 50), FOCAL / 2),
        ({"elevation": 90}, (1, 0, 0), (100, 50 + FOCAL / 2), FOCAL / 2),
        ({"elevation": 90}, (0, 1, 1), (100 + FOCAL, 50), FOCAL),
        ({"target": (5, 6, 7)}, (5, 7, 7), (100 + FOCAL / 2, 50), FOCAL / 2),
        ({"distance": 4.0}, (0, 1, 0), (100 + FOCAL / 4, 50), FOCAL / 4),
        ({"elevation": 30}, (0, 0, 1), (100, 50 - FOCAL * math.sqrt(3) / 2 / 1.5), FOCAL / 1.5),
    ],
)
def test_points_are_projected_as_by_hand(view, point, pixel, scale):
    found, size = _stages.project(np.array(point, float), camera(**view), 0, SIZE)
    np.testing.assert_allclose(found, pixel, atol=1e-9)
    assert size == pytest.approx(scale)


@hypothesis.given(
    ends=arrays.arrays(float, (3, 2, 2, 3), elements=st.floats(-1, 1)),
    shift=st.floats(-100, 100),
    radius=st.floats(0.01, 1),
)
def test_a_camera_that_stands_still_has_everything_in_view(ends, shift, radius):
    stage = Stage(ends + shift, np.full(2, radius), np.zeros(2, int), None)
    seen = _stages.camera_of(stage)
    hypothesis.assume((seen.target[0] == seen.target[-1]).all())
    for frame in range(3):
        pixels, scale = _stages.project(stage.ends[frame], seen, frame, SIZE)
        assert (scale > 0).all()
        assert ((pixels - radius * scale[..., None] * 0.9 >= [-0.5, -0.5]) & (pixels <= [200.5, 100.5])).all()


def test_a_camera_goes_with_what_goes_far_and_else_stands_still():
    path = np.arange(101)[:, None, None, None] * np.array([0.1, 0.0, 0.0])
    body = np.array([[[0, 0, 0.0], [0, 0, 1.0]]])
    far = _stages.camera_of(Stage(body + path, np.array([0.1]), np.array([0]), 0.0))
    np.testing.assert_allclose(far.target[12:-12], [[0.1 * t, 0, 0.5] for t in range(12, 89)], atol=1e-9)
    assert far.target[0, 0] == pytest.approx(0.6)  # the mean of the first thirteen
    near = _stages.camera_of(Stage(body + path / 100, np.array([0.1]), np.array([0]), 0.0))
    np.testing.assert_allclose(near.target, np.tile([0.05, 0, 0.5], (101, 1)), atol=1e-12)


@pytest.mark.parametrize(("x", "tile"), [(0.99, 0.5), (1.0, 1.0), (4.9, 2.0), (0.2, 0.2), (70, 50)])
def test_tiles_have_round_sides(x, tile):
    assert _stages._round_number(x) == pytest.approx(tile)


# What is drawn


def test_what_is_nearer_is_drawn_later_and_what_stands_still_first():
    stage = balls((0.5, 0, 0), (-0.5, 0, 0), (1.0, 0, 0), limb=np.array([0, 1, -1]))
    shapes = _stages.body_shapes(stage, camera(), 0, SIZE)
    assert [shape.color for shape in shapes[1::3]] == [_stages.limb_color(limb) for limb in (-1, 1, 0)]
    widths = [shape.width for shape in shapes[1::3]]
    np.testing.assert_allclose(widths, [0.2 * FOCAL / 1.0, 0.2 * FOCAL / 2.5, 0.2 * FOCAL / 1.5])
    np.testing.assert_allclose(shapes[1].points, [[100, 50]] * 2)


def test_what_is_behind_the_camera_is_not_drawn():
    shapes = _stages.body_shapes(balls((2.5, 0, 0), (0, 0, 0)), camera(), 0, SIZE)
    assert len(shapes) == 3


def test_a_shadow_lies_below_its_body():
    """From straight above: a ball at height 0.5 shades a circle of its own radius at height -1."""
    shapes = _stages.body_shapes(balls((0, 0.25, 0.5), ground=-1.0), camera(elevation=90), 0, SIZE)
    shadow, *bars = shapes
    assert isinstance(shadow, Polygon)
    assert all(isinstance(bar, Bar) for bar in bars)
    middle = [100 + 0.25 * FOCAL / 3, 50]
    np.testing.assert_allclose(np.linalg.norm(shadow.corners - middle, axis=1), 0.1 * FOCAL / 3, rtol=1e-9)
    assert np.ptp(shadow.corners, axis=0) == pytest.approx([0.2 * FOCAL / 3] * 2)


def test_tiles_are_squares_that_stay_where_they_are():
    def tiles(target):
        seen = camera(elevation=90, distance=10.0, target=target, tile=2.0)
        shapes = _stages.ground_shapes(balls((0, 0, 0), ground=0.0), seen, 0, SIZE)
        ground = [(shape.corners - [100, 50]) * 10 / FOCAL for shape in shapes]  # right is y, down is x
        return {tuple(np.round(corners[:, ::-1].min(0) + target[:2]).astype(int)) for corners in ground}, ground

    here, ground = tiles((0.0, 0.0, 0.0))
    there, _ = tiles((6.0, 2.0, 0.0))
    assert all(np.ptp(corners, axis=0) == pytest.approx([2, 2]) for corners in ground)
    assert {(x // 2 + y // 2) % 2 for x, y in here | there} == {0}
    assert len(here & there) > 100
    assert _stages.ground_shapes(balls((0, 0, 0)), camera(), 0, SIZE) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ends": np.zeros((1, 2, 3))}, r"ends must be \[F, C, 2, 3\]"),
        ({"ends": np.full((1, 1, 2, 3), np.nan)}, "ends must be finite"),
        ({"radius": np.ones(2)}, r"radius must have shape \[1\]; it has \(2,\)"),
        ({"limb": np.ones(3)}, r"limb must have shape \[1\]; it has \(3,\)"),
    ],
)
def test_what_is_no_stage_is_refused(change, said):
    with pytest.raises(ValueError, match=said):
        _stages.camera_of(balls((0, 0, 0))._replace(**change))


# The page


def unpacked(packed, width):
    codes = np.frombuffer(base64.b64decode(packed["data"]), "<u2").astype(float).reshape(-1, width)
    return np.where(codes == 65535, np.nan, np.array(packed["low"]) + codes * np.array(packed["step"]))


@hypothesis.given(arrays.arrays(float, (5, 2), elements=st.floats(-1e6, 1e6) | st.sampled_from([math.nan, math.inf])))
def test_packed_numbers_come_back(values):
    packed = json.loads(json.dumps(_players.packed(values), allow_nan=False))
    back = unpacked(packed, 2)
    finite = np.isfinite(values)
    np.testing.assert_array_equal(np.isfinite(back), finite)
    error = np.abs(back - values)[finite] - (0.5 * np.array(packed["step"]) * np.ones((5, 1)))[finite]
    assert (error <= 1e-9 + 1e-12 * np.abs(values[finite])).all()


class Tags(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.tags, self.script, self.scripts = [], None, {}
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.script = dict(attrs).get("type", "code") if tag == "script" else None

    def handle_data(self, data):
        if self.script:
            self.scripts[self.script] = data
            self.script = None


def walk(frames=4, title="ant", names=("reward", "return")):
    """A body that goes along x, and curves of one and two lines."""
    ends = np.zeros((frames, 2, 2, 3))
    ends[:, 0, :, 0] += np.linspace(0, 3, frames)[:, None]
    ends[:, 0, 1, 2] = 1.0
    stage = Stage(ends, np.array([0.1, 0.2]), np.array([0, -1]), 0.0)
    tracks = [Track(name, np.arange(frames * (k + 1), dtype=float).reshape(frames, -1)) for k, name in enumerate(names)]
    return Recording(np.arange(frames), 0.05, True, tracks, stage)


def test_the_page_has_what_was_recorded():
    recording = walk()
    html = report.player_html("ant", "lead", recording)
    data = json.loads(Tags(html).scripts["application/json"])
    assert (data["steps"], data["seconds_per_step"], data["timed"]) == ([0, 1, 2, 3], 0.05, True)
    assert [track["title"] for track in data["tracks"]] == ["reward", "return"]
    np.testing.assert_allclose(unpacked(data["tracks"][1]["values"], 2), [[0, 1], [2, 3], [4, 5], [6, 7]], atol=1e-4)
    assert len(data["tracks"][1]["colors"]) == 2
    stage = data["stage"]
    np.testing.assert_allclose(unpacked(stage["ends"], 3).reshape(4, 2, 2, 3), recording.stage.ends, atol=1e-4)
    seen = _stages.camera_of(recording.stage)
    np.testing.assert_allclose(unpacked(stage["target"], 3), seen.target, atol=1e-4)
    assert [stage[name] for name in ("azimuth", "elevation", "distance", "tile")] == list(seen[1:])
    assert (stage["radius"], stage["moves"], stage["ground"]) == ([0.1, 0.2], [1, 0], 0.0)


def test_the_page_is_alone_and_runs_its_own_script_only():
    html = report.player_html("ant", "lead", walk())
    tags = Tags(html)
    assert "://" not in html
    assert not [name for _, attrs in tags.tags for name in attrs if name in ("src", "href") or name.startswith("on")]
    policy = next(
        attrs["content"] for tag, attrs in tags.tags if tag == "meta" and "default-src" in attrs.get("content", "")
    )
    digest = base64.b64encode(hashlib.sha256(tags.scripts["code"].encode()).digest()).decode()
    assert re.findall("script-src [^;]*", policy) == [f"script-src 'sha256-{digest}'"]
    assert policy.startswith("default-src 'none'; ")
    assert [attrs.get("type") for tag, attrs in tags.tags if tag == "script"] == ["application/json", None]


@pytest.mark.parametrize("text", HOSTILE)
def test_words_stay_words(text):
    hostile = Tags(report.player_html(text, text, walk(names=(text, text)), notes=[text]))
    plain = Tags(report.player_html("x", "x", walk(names=("x", "x")), notes=["x"]))
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in plain.tags]
    assert json.loads(hostile.scripts["application/json"])["tracks"][0]["title"] == text


def test_curves_alone_are_a_page_too():
    html = report.player_html("chain", "lead", walk()._replace(stage=None, timed=False))
    assert json.loads(Tags(html).scripts["application/json"])["stage"] is None
    assert 'class="stage"' not in html
    assert sum(tag == "canvas" for tag, _ in Tags(html).tags) == 2


def test_a_long_episode_of_many_bodies_stays_small():
    rng = np.random.default_rng(0)
    stage = Stage(rng.normal(size=(1001, 17, 2, 3)), np.ones(17), np.zeros(17, int), 0.0)
    recording = Recording(np.arange(1001), 0.05, True, [Track("observations", rng.normal(size=(1001, 40)))], stage)
    assert len(report.player_html("ant", "", recording)) < 600_000


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"steps": np.array([0, 2, 2, 3])}, "steps must be"),
        ({"steps": np.array([1, 2, 3, 4])}, "steps must be"),
        ({"seconds_per_step": 0.0}, "seconds_per_step must be positive and finite"),
        ({"tracks": [Track("x", np.zeros(4))]}, r"x must be \[4, K\]; it has shape \(4,\)"),
        ({"tracks": [Track("x", np.zeros((3, 1)))]}, r"x must be \[4, K\]"),
        ({"stage": balls((0, 0, 0))}, "ends must be of 4 frames; they are of 1"),
    ],
)
def test_what_does_not_fit_is_refused(change, said):
    with pytest.raises(ValueError, match=said):
        report.player_html("x", "x", walk()._replace(**change))


# A browser without a screen need not draw a single frame before its virtual time is over; its timers do run.
FRAMES_BY_TIMER = "<script>window.requestAnimationFrame = (f) => setTimeout(() => f(performance.now()), 16)</script>"


@pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no browser")
@pytest.mark.parametrize("less_motion", [False, True])
def test_it_plays_in_a_browser(tmp_path, less_motion):
    """To the end, and then it stops; or not at all, for who asks for less motion."""
    html = report.player_html("ant", "lead", walk()._replace(seconds_per_step=0.01))
    assert html.count("<head>") == 1
    (tmp_path / "page.html").write_text(html.replace("<head>", "<head>" + FRAMES_BY_TIMER))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=30000", "--dump-dom"]
    line = ["chromium", *flags, *["--force-prefers-reduced-motion"] * less_motion, f"file://{tmp_path}/page.html"]
    page = subprocess.run(line, capture_output=True, text=True, timeout=100).stdout
    clock, hud, button = (
        re.search(rf"<{tag}[^>]*>([^<]*)<", page)[1] for tag in ('span class="clock"', 'div class="hud"', "button")
    )
    played, stood = ("step 3 of 3 · 0.03 s", "reward 3 · return 6"), ("step 0 of 3 · 0.00 s", "reward 0 · return 0")
    assert (clock, hud) == (stood if less_motion else played)
    assert button == "▶"


# The GIF


def frames_of(gif):
    image = Image.open(io.BytesIO(gif))
    frames = []
    for number in range(image.n_frames):
        image.seek(number)
        frames.append((image.info["duration"], np.asarray(image.convert("RGB"))))
    return frames


def test_a_gif_has_every_frame_and_its_time():
    frames = frames_of(report.player_gif(walk(), ["a", "b", "c", "d"]))
    assert [duration for duration, _ in frames] == [50, 50, 50, 1500]
    assert {pixels.shape for _, pixels in frames} == {(320, 480, 3)}


def test_a_body_is_drawn_where_it_is_projected():
    """A ball in the middle of the picture, in its colour; one to the right; paper in the corner."""
    stage = balls((0, 0, 0), (0.8, 0, 0), radius=0.3)
    seen = _stages.camera_of(stage)
    ((_, pixels),) = frames_of(report.player_gif(Recording(np.arange(1), 0.1, True, [], stage), [""]))
    for ball, centre in enumerate(stage.ends[0, :, 0]):
        (x, y), scale = _stages.project(centre, seen, 0, (480, 320))
        below = pixels[round(y + 0.2 * scale), round(x)].astype(int)
        color = [int(_stages.limb_color(ball)[i : i + 2], 16) for i in (1, 3, 5)]
        assert np.abs(below - color).max() < 12
    assert pixels[2, 2].min() > 245


def test_what_has_no_gif_is_told():
    with pytest.raises(ValueError, match="recording: it has no stage"):
        report.player_gif(walk()._replace(stage=None), ["a"] * 4)
    with pytest.raises(ValueError, match="captions must be one for each of 4 frames"):
        report.player_gif(walk(), ["a"])


# Answers


@pytest.mark.parametrize("text", HOSTILE)
def test_tokens_stay_words(text):
    hostile = report.answers_html([Answer(text, [text], [0.5], {text: text}, [text])])
    plain = report.answers_html([Answer("x", ["x"], [0.5], {"x": "x"}, ["x"])])
    assert [tag for tag, _ in Tags(hostile).tags] == [tag for tag, _ in Tags(plain).tags]


def test_tokens_are_coloured_by_their_probability():
    html = report.answers_html([Answer("greedy", ["3", "1", "0"], [1.0, 0.5, 0.0], {"reward": "1"}, " S ")])
    found = re.findall(r'title="probability ([^"]*)" style="--depth:(\d+)%"><small>(.?)</small>(\d)<', html)
    assert found == [("1", "75", "", "3"), ("0.5", "38", "S", "1"), ("0", "0", "", "0")]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"words": []}, "words must be a list of at least one token"),
        ({"words": "ab"}, "words must be a list"),
        ({"probability": [0.5]}, "probability must be one number"),
        ({"probability": [0.5, 1.5]}, "probability must be one number"),
        ({"signs": "S"}, "signs must be one for each of 2 tokens"),
    ],
)
def test_what_is_no_answer_is_refused(change, said):
    with pytest.raises(ValueError, match=said):
        report.answers_html([Answer("x", ["1", "2"], [0.5, 0.5], {})._replace(**change)])
