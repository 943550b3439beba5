"""The command on simulators of Gymnasium's."""

import json
import re
import sys

import jax
import numpy as np
import pytest
from PIL import Image

import polopt_jax as po
from polopt_jax import runs
from polopt_jax.cli import _evaluate, _main, _plan, main
from polopt_jax.cli._build import EVALUATION
from polopt_jax.simulators import Simulator

ENV = "gymnasium:counting_simulator:Counted-v0"
SMALL = f"train reinforce --env {ENV} --num-envs 2 --rollout-steps 4 --hidden 4"


def rows_of(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def last_line(capsys):
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of two seeds and six updates; its directory, and what it said."""
    directory = tmp_path_factory.mktemp("simulators") / "run"
    line = f"{SMALL} --steps 48 --num-seeds 2 --eval-every 24 --eval-episodes 3 --out {directory}"
    with pytest.MonkeyPatch.context() as patch:
        said, evaluated = [], []

        def worth(policy, act, key, *, episodes):
            evaluated.append(
                (float(policy.params["policy"]["kernel"].sum()), int(jax.random.key_data(key)[1]), episodes)
            )
            return _evaluate.worth(policy, act, key, episodes=episodes)

        patch.setattr("polopt_jax.cli._running.say", said.append)
        patch.setattr("polopt_jax.cli._simulated.worth", worth)
        assert main(line.split()) == 0
    return directory, said, evaluated


def test_a_run_learns_evaluates_and_says_that_it_is_slow(finished):
    directory, said, evaluated = finished
    config = json.loads((directory / "config.json").read_text())
    assert (config["env"], config["vectorization"], config["backend"]) == (ENV, "sync", None)
    assert set(config["versions"]) == {"polopt_jax", "jax", "jaxlib", "flax", "optax", "gymnasium"}
    rows = rows_of(directory)
    assert [row["steps"] for row in rows][-1] == 48
    assert rows[0]["reward"] == [6.0, 6.0]
    assert rows[2]["eval/return"] == rows[5]["eval/return"] == [6.0, 6.0]
    assert rows[2]["eval/length"] == [3.0, 3.0]
    assert rows[0]["eval/return"] == [None, None]
    first, second = (of_seed for of_seed, _, _ in evaluated[:2])
    assert first != second, "each seed has a policy of its own"
    assert {(key, episodes) for _, key, episodes in evaluated} == {(EVALUATION, 3)}
    assert len(evaluated) == 4
    assert said == ["simulators step in Python on the host: expect thousands of steps a second, or tens of thousands"]


def test_several_choices_are_learnt_and_played(tmp_path, capsys):
    words = SMALL.replace(ENV, "gymnasium:counting_simulator:Chosen").replace("reinforce", "npg").split()
    assert main([*words, "--steps", "16", "--out", str(tmp_path / "run")]) == 0
    policy = po.load(tmp_path / "run")
    assert policy.act(np.zeros((5, 2)), jax.random.key(0)).shape == (5, 2)
    (kl,), (entropy,) = (rows_of(tmp_path / "run")[0][name] for name in ("kl_old_new", "entropy"))
    assert kl > 0
    assert 1.5 < entropy < np.log(6), "of both choices"
    assert main(["play", str(tmp_path / "run")]) == 0
    assert "2 actions" in (tmp_path / "run" / "play.html").read_text()


def test_what_it_has_learnt_is_loaded_evaluated_and_played(finished, capsys, tmp_path):
    directory, *_ = finished
    policy = po.load(directory, seed=1)
    assert isinstance(policy.env, Simulator)
    assert int(policy.act(np.zeros(2))) in (0, 1)
    assert main(["evaluate", str(directory), "--episodes", "5", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [(row["seed"], row["policy"], row["length"]) for row in told["seeds"]] == [
        (0, "greedy", 3), (1, "greedy", 3), (0, "sampled", 3), (1, "sampled", 3),
    ]  # fmt: skip
    assert {row["return"] for row in told["seeds"]} == {6.0}
    assert main(["play", str(directory), "--html", str(tmp_path / "page.html")]) == 0
    assert "Return 6 in 3 steps; the episode was terminated." in capsys.readouterr().out
    assert main(["play", str(directory), "--gif", str(tmp_path / "film.gif")]) == 2
    assert "--gif: counting_simulator:Counted-v0 draws nothing" in last_line(capsys)


def test_a_film_shows_the_first_seconds_of_what_draws_itself(tmp_path, monkeypatch, capsys):
    """50 pictures a second are half as many in the GIF, 500 pixels are half as wide; the last one rests."""
    monkeypatch.chdir(tmp_path)
    line = "train reinforce --env gymnasium:counting_simulator:Drawn-v0 --num-envs 2 --rollout-steps 4 --hidden 4"
    assert main([*line.split(), "--steps", "8", "--out", "run"]) == 0
    capsys.readouterr()
    assert main(["play", "run", "--gif", "film.gif"]) == 0
    length = int(re.search(r"in (\d+) step", capsys.readouterr().out)[1])
    with Image.open("film.gif") as film:
        assert film.size == (250, 3)
        pictures = [
            film.seek(n) or (film.convert("RGB").getpixel((0, 0)), film.info["duration"]) for n in range(film.n_frames)
        ]
    seen = list(range(length, -1, -2))
    assert pictures == [((5 * left,) * 3, 40 if left != seen[-1] else 1500) for left in seen]


def test_a_run_that_goes_on_begins_new_episodes_and_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = f"{SMALL.replace('--rollout-steps 4', '--rollout-steps 1')} --steps 2 --out run"
    assert main(line.split()) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    del config["vectorization"]  # a run of an earlier version
    runs.write_json(tmp_path / "run" / "config.json", config)
    capsys.readouterr()
    assert main(["train", "--resume", "--out", "run", "--steps", "8"]) == 0
    assert "those of this run begin new episodes" in capsys.readouterr().err
    rows = rows_of(tmp_path / "run")
    assert [row["update"] for row in rows] == [1, 2, 3, 4]
    assert [row["episode/finished"] for row in rows] == [[0], [0], [0], [2]], "three steps after it went on"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("ppo --env gymnasium:CartPol-v1", "did you mean: `cartpole`"),
        ("ppo --env gymnasium:counting_simulator:Nested", "observations must be a box or a discrete; they are dict"),
        ("ppo --env gymnasium:counting_simulator:nothing", "must make a gymnasium.env; it made a int"),
        ("ppo --env gymnasium:", "cannot be made"),
        ("ppo --env CartPole-v1", "--env gymnasium:cartpole-v1 is gymnasium's, which is slower"),
        (f"ppo --env {ENV} --backend spring", "--backend does not apply to a simulator of gymnasium's"),
        (f"ppo --env {ENV} --episode-length 3", "--episode-length does not apply to a simulator of gymnasium's"),
        (f"ppo --env {ENV} --vectorization asink", "unknown vectorization 'asink'; did you mean 'async'?"),
        ("ppo --env ant --vectorization async", "--vectorization does not apply to a brax environment ant"),
        (f"grpo --env {ENV}", "grpo learns token worlds only"),
    ],
)
def test_wrong_simulators_and_options(line, said, capsys):
    assert main(["train", *line.split()]) == 2
    assert said in last_line(capsys).lower()


def test_only_simulators_have_a_vectorization():
    options = _main.read_words(_main.train_options("ppo"), "train", ["--env", "ant"])
    assert _plan.plan_train("ppo", options.run).config()["vectorization"] is None


def test_gymnasium_may_be_missing(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    assert main(["train", "ppo", "--env", "gymnasium:CartPole-v1"]) == 2
    assert "needs the package gymnasium: pip install 'polopt-jax[gymnasium]'" in last_line(capsys)


def test_a_simulator_that_fails_ends_the_run_and_what_was_saved_stays(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    line = "train actor_critic --env gymnasium:counting_simulator:Stuck --num-envs 1 --rollout-steps 2 --hidden 4"
    assert main([*line.split(), "--steps", "8", "--out", "run"]) == 3
    line = last_line(capsys)
    assert "Stuck: step failed: RuntimeError: the motor is stuck (counting_simulator.py, line" in line
    assert line.endswith("polopt train --out run --resume")
    assert len(rows_of(tmp_path / "run")) == 2
    assert (tmp_path / "run" / "checkpoints" / "0").is_dir()


def test_envs_looks_at_a_simulator(capsys):
    assert main(["envs", ENV]) == 0
    said = capsys.readouterr().out
    assert "observations [2], actions Discrete(num=2); it can be reset and stepped" in said
    assert main(["envs"]) == 0
    assert "gymnasium:NAME is any environment of Gymnasium's" in capsys.readouterr().out
