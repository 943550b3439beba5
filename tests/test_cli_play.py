"""`polopt play`: a page of what a run has learnt, and nothing else of the run changes."""

import io
import json
import re
import shutil
from html.parser import HTMLParser

import jax
import numpy as np
import pytest
from PIL import Image
from small_run import compiled_once, hashes, run_small

import polopt_jax as po
from polopt_jax import settings
from polopt_jax.cli import _play, _play_answers, _train, main
from polopt_jax.envs import Bodies, Discrete, chain
from polopt_jax.evaluation import Episode
from polopt_jax.networks import mlp_actor_critic
from polopt_jax.normalization import init_stats
from polopt_jax.settings import Control


def small_setting(env, **sizes):
    """That of `small_run`, whatever the config says."""
    made = chain(num_states=4, horizon=6)
    return Control(made, mlp_actor_critic(made.obs_shape, made.action_space, hidden=(8,)))


@pytest.fixture(scope="module", autouse=True)
def shared():
    with compiled_once():
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run") / "two"
    assert run_small("--num-seeds", "2", "--out", str(directory)) == 0
    return directory


@pytest.fixture
def run(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "control", small_setting)
    shutil.copytree(finished, tmp_path / "two")
    return tmp_path / "two"


def played(page):
    """What the script of a page is given."""
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', page.read_text())[1])


def test_a_run_is_shown_and_nothing_else_of_it_changes(run, capsys):
    before = hashes(run)
    assert main(["play", str(run)]) == 0
    said, told = capsys.readouterr()
    assert re.fullmatch(
        rf"Return \S+ in \d steps?; the episode (was terminated|reached its time limit)\.\nPage: {run}/play\.html\n",
        said,
    )
    assert told == "actor_critic on inverted_pendulum: seed 3 after 12 updates\n"
    after = hashes(run)
    assert set(after) - set(before) == {"play.html"}
    assert {name: x for name, x in after.items() if name != "play.html"} == before
    data = played(run / "play.html")
    assert data["stage"] is None
    assert [track["title"] for track in data["tracks"]][:2] == ["reward", "return"]
    assert {"action", "4 observations"} <= {track["title"] for track in data["tracks"]}


def test_the_episode_is_that_of_the_seed_and_the_key(run, tmp_path, capsys):
    policy = po.load(run, seed=4)
    expected = po.evaluate_policy(policy.env, policy, jax.random.key(7), episodes=1)
    page = tmp_path / "x.html"
    assert main(["play", str(run), "--seed", "4", "--key", "7", "--sampled", "--html", str(page)]) == 0
    total, length = float(expected.episode_return[0]), int(expected.length[0])
    assert capsys.readouterr().out.startswith(f"Return {total:.3g} in {length} step")
    assert played(page)["steps"] == list(range(length + 1))
    assert "Seed 4 after 12 updates, actions sampled." in page.read_text()
    assert not (run / "play.html").exists()


def test_its_own_page_is_written_anew(run):
    assert main(["play", str(run), "--max-steps", "1"]) == 0
    first = (run / "play.html").read_text()
    assert "went on beyond what is shown" in first
    assert main(["play", str(run)]) == 0
    assert (run / "play.html").read_text() != first


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--html", "{there}"], "{there} is there already; name another file"),
        (["--gif", "{there}"], "{there} is there already; name another file"),
        (["--html", "{run}/none/x.html"], "there is no directory {run}/none to write x.html to"),
        (["--gif", "{run}/x.gif"], "--gif draws bodies, and inverted_pendulum has none"),
        (["--gif", "{run}/x", "--html", "{run}/x"], "--html and --gif both name {run}/x"),
        (["--seed", "9"], "{run} has no seed 9; it has 3, 4"),
        (["--key", "-1"], "--key must be from 0 to 1,000,000,000; it is -1"),
        (["--max-steps", "0"], "--max-steps must be from 1 to 10,000; it is 0"),
        (["--json"], "unrecognized options: --json"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_is_written(run, words, said, capsys):
    (run / "there").write_text("mine")
    names = {"run": run, "there": run / "there"}
    before = hashes(run)
    assert main(["play", str(run), *(word.format(**names) for word in words)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"polopt: error: {said.format(**names)}")
    assert hashes(run) == before


def test_where_there_is_no_run(tmp_path, capsys):
    assert main(["play", str(tmp_path)]) == 2
    assert "there is no run in" in capsys.readouterr().err
    assert main(["play"]) == 2
    assert "missing: RUN" in capsys.readouterr().err
    assert main(["play", "--help"]) == 0
    assert "--gif FILE" in capsys.readouterr().out


def test_a_finished_run_says_how_to_watch_it(finished):
    assert f"<code>polopt play {finished}</code>" in (finished / "report.html").read_text()


# Bodies


def policy_on(env):
    network = mlp_actor_critic(env.obs_shape, env.action_space, hidden=(8,))
    params, normalizer = network.init(jax.random.key(0)), init_stats(jax.numpy.zeros(env.obs_shape))
    config = {"algorithm": "ppo", "env": "a_ball", "seed": 0}
    return po.Policy(params=params, network=network, normalizer=normalizer, env=env, config=config)


class Ball:
    """A chain whose state is shown as a ball that moves by one link."""

    def __init__(self, env, is_posed=False):
        self.env, self.is_posed = env, is_posed
        self.obs_shape, self.action_space = env.obs_shape, env.action_space
        self.reset, self.step = env.reset, env.step

    def bodies(self):
        ends = np.zeros((1, 2, 3))
        return Bodies(np.array([0]), ends, np.array([0.3]), np.array([0]), 0.0, 0.1)

    def posed(self):
        return Ball(self.env, is_posed=True)

    def poses(self, state):
        assert self.is_posed
        x = jax.numpy.float32(jax.tree.leaves(state)[0]).reshape(-1)[0]
        return jax.numpy.array([[x, 0.0, 0.0]]), jax.numpy.array([[1.0, 0.0, 0.0, 0.0]])


def test_bodies_of_any_environment_are_drawn(tmp_path, monkeypatch, capsys):
    policy = policy_on(Ball(chain(num_states=4, horizon=6)))
    monkeypatch.setattr(_play, "load", lambda run, seed: policy)
    monkeypatch.setattr(_play.checkpoint, "latest_step", lambda store: 5)
    assert main(["play", str(tmp_path), "--gif", str(tmp_path / "x.gif")]) == 0
    assert f"GIF: {tmp_path}/x.gif\nPage: {tmp_path}/play.html\n" in capsys.readouterr().out
    data = played(tmp_path / "play.html")
    assert (len(data["stage"]["radius"]), data["timed"], data["seconds_per_step"]) == (1, True, 0.1)
    image = Image.open(io.BytesIO((tmp_path / "x.gif").read_bytes()))
    assert 1 < image.n_frames <= len(data["steps"])


def episode(length, room, obs_size=2):
    """Reward t, action 10 t, observation 100 t at step t."""
    steps = np.arange(room, dtype=np.float32)
    live = steps < length
    states = np.arange(room + 1, dtype=np.float32)
    position = np.zeros((room + 1, 1, 3)) + states[:, None, None]
    return Episode(
        obs=100 * np.tile(states[:, None], (1, obs_size)) * (states <= length)[:, None],
        shown=(position, np.tile([1.0, 0, 0, 0], (room + 1, 1, 1))),
        action=10 * steps * live,
        reward=steps * live,
        outcome={"height": np.where(live, steps + 0.5, 0)},
        terminated=steps == length - 1,
        truncated=np.zeros(room, bool),
        length=np.int32(length),
        broken=np.bool_(False),
    )


def bodies(seconds):
    return Bodies(np.array([0]), np.zeros((1, 2, 3)), np.array([0.1]), np.array([0]), None, seconds)


def test_frames_of_an_episode():
    """At 8 ms a step every third is a frame, and the last; a frame has the reward of the step that led to it."""
    recording = _play.recording_of(episode(7, 10), bodies(0.008))
    assert recording.steps.tolist() == [0, 3, 6, 7]
    curves = {track.title: track.values.T.tolist() for track in recording.tracks}
    assert list(curves) == ["reward", "return", "height", "action", "2 observations"]
    nan = pytest.approx(np.nan, nan_ok=True)
    assert curves["reward"] == [[nan, 2, 5, 6]]
    assert curves["return"] == [[0, 0 + 1 + 2, 15, 21]]
    assert curves["height"] == [[nan, 2.5, 5.5, 6.5]]
    assert curves["action"] == [[0, 30, 60, nan]]
    assert curves["2 observations"] == [[0, 300, 600, 700]] * 2
    assert recording.stage.ends[:, 0, 0, 0].tolist() == [0, 3, 6, 7]


@pytest.mark.parametrize(("seconds", "every"), [(0.05, 1), (0.02, 1), (0.015, 2), (0.008, 3)])
def test_no_more_frames_than_can_be_seen(seconds, every):
    assert np.diff(_play.recording_of(episode(12, 12), bodies(seconds)).steps).tolist() == [every] * (12 // every)


def test_many_observations_are_drawn_in_part():
    (track,) = [t for t in _play.recording_of(episode(2, 2, 99), None).tracks if "observations" in t.title]
    assert (track.title, track.values.shape) == ("the first 64 of 99 observations", (3, 64))
    assert _play.recording_of(episode(2, 2), None).timed is False


def test_a_gif_has_twelve_seconds_at_most():
    short, captions = _play.beginning(_play.recording_of(episode(900, 1000), bodies(0.05)))
    assert (len(captions), short.steps.tolist()) == (241, list(range(241)))
    assert captions[4] == "0.20 s    return 6"
    fine, _ = _play.beginning(_play.recording_of(episode(900, 1000), bodies(0.02)))
    assert np.diff(fine.steps).tolist() == [2] * (len(fine.steps) - 1)
    assert fine.steps[-1] == 600


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "Return 21 in 7 steps; the episode was terminated."),
        ({"terminated": np.zeros(10, bool)}, "went on beyond what is shown"),
        ({"terminated": np.zeros(10, bool), "truncated": np.arange(10) == 6}, "reached its time limit"),
        ({"broken": np.bool_(True)}, "broke: what came next was not finite"),
    ],
)
def test_how_an_episode_ended_is_said(change, said):
    seen = episode(7, 10)
    assert said in _play.described(Episode(**{**vars(seen), **change}))


# Answers


@pytest.fixture(scope="module")
def speaker():
    """A policy of a small token world that has learnt nothing."""
    world = {"num_worlds": 3, "world_seed": 0, "network_width": 16, "network_depth": 1}
    env, network = settings.tokens(world)
    config = {"algorithm": "grpo", "env": "skip_the_test", "seed": 0}
    return po.Policy(params=network.init(jax.random.key(1)), network=network, env=env, config=config)


class Answers(HTMLParser):
    """Tokens, their probabilities and signs, and the facts, of each answer of a page."""

    def __init__(self, html):
        super().__init__()
        self.found, self.inside = [], None
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.inside = tag
        if tag == "article":
            self.found.append({"tokens": [], "signs": [], "probability": [], "facts": []})
        elif tag == "span" and self.found:
            self.found[-1]["probability"].append(float(dict(attrs)["title"].split()[1]))
            self.found[-1]["signs"].append("")

    def handle_endtag(self, tag):
        self.inside = "span" if tag == "small" else None

    def handle_data(self, data):
        if self.found and data.strip():
            name = {"span": "tokens", "dd": "facts"}.get(self.inside)
            if name:
                self.found[-1][name].append(data)
            elif self.inside == "small":
                self.found[-1]["signs"][-1] = data


def test_answers_are_those_of_the_policy_and_judged_by_the_world(speaker, tmp_path, monkeypatch, capsys):
    """Probabilities by the whole sequence at once; the most probable tokens; reward, outcome and signs by the world."""
    monkeypatch.setattr(_play, "load", lambda run, seed: speaker)
    monkeypatch.setattr(_play.checkpoint, "latest_step", lambda store: 5)
    assert main(["play", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "of 3 greedy answers" in out
    html = (tmp_path / "play.html").read_text()
    assert "<script" not in html
    assert "://" not in html
    prompts = [int(x) - 6 for x in re.findall(r"<h2>Prompt (\d+)</h2>", html)]
    assert sorted(prompts) == [0, 1, 2]
    found = Answers(html).found
    assert len(found) == 3 * (1 + _play_answers.SAMPLES)
    law_of = jax.jit(lambda inputs: jax.nn.softmax(speaker.network.apply(speaker.params, inputs).policy.logits))
    for place, answer in enumerate(found):
        prompt, greedy = prompts[place // 4], place % 4 == 0
        tokens = np.array([int(token) for token in answer["tokens"]])
        inputs = np.concatenate([speaker.env.words[prompt], tokens[:-1]])
        law = np.asarray(law_of(inputs))
        np.testing.assert_allclose(answer["probability"], law[np.arange(24), tokens], rtol=6e-3)
        assert (tokens == law.argmax(-1)).all() == greedy
        reward, outcome = speaker.env.reward(prompt, tokens), speaker.env.outcome(prompt, tokens)
        yes = {name: "yes" if x else "no" for name, x in outcome.items()}
        assert answer["facts"][:3] == [f"{float(reward):g}", yes["honest"], yes["skip"]]
        signs = np.where(speaker.env.route[prompt], "H", "").tolist()
        signs[4] = "S"
        assert answer["signs"] == signs
    earned = np.array([float(answer["facts"][0]) for answer in found]).reshape(3, 4)
    greedy, sampled = earned[:, 0].mean(), earned[:, 1:].mean()
    assert greedy != sampled
    assert f"Mean reward {greedy:.3g} of 3 greedy answers, {sampled:.3g} of 9 sampled ones" in out


@pytest.mark.parametrize(
    ("words", "said"), [(["--sampled"], "--sampled: of skip"), (["--gif", "x.gif"], "--gif draws")]
)
def test_what_is_of_episodes_is_refused(speaker, tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.setattr(_play, "load", lambda run, seed: speaker)
    monkeypatch.setattr(_play.checkpoint, "latest_step", lambda store: 5)
    assert main(["play", str(tmp_path), *words]) == 2
    assert capsys.readouterr().err.startswith(f"polopt: error: {said}")
    assert not list(tmp_path.iterdir())


def test_discrete_actions_have_one_curve():
    assert chain(num_states=4, horizon=6).action_space == Discrete(2)
    assert _play._flat(np.zeros((5,), np.int32)).shape == (5, 1)


def test_a_long_run_leaves_a_page_of_its_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(settings, "control", small_setting)
    assert run_small("--out", "short") == 0
    assert not (tmp_path / "short" / "play.html").exists()
    monkeypatch.setattr(_train, "LONG", 0.0)
    capsys.readouterr()
    assert run_small("--out", "long") == 0
    assert "Watch: long/play.html; a newer one, or of another seed: polopt play long" in capsys.readouterr().out
    assert played(tmp_path / "long" / "play.html")["steps"][0] == 0
    assert "<code>long/play.html</code>" not in (tmp_path / "short" / "report.html").read_text()
    assert "long/play.html" in (tmp_path / "long" / "report.html").read_text()


def test_a_run_whose_episode_cannot_be_drawn_is_a_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_train, "LONG", 0.0)  # and the setting is not that of the checkpoint
    assert run_small("--out", "run") == 0
    assert "no episode is drawn: " in capsys.readouterr().err
    assert (tmp_path / "run" / "report.html").exists()
    assert not (tmp_path / "run" / "play.html").exists()
