"""The command with what is one's own: environment, network, schedule, file of options, loggers, evaluations."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_run import ENVIRON, compiled_once, rows_without_times, run_small

import polopt_jax as po
from polopt_jax import report, runs
from polopt_jax.cli import _build, _devices, _evaluate, _main, _plan, main
from polopt_jax.cli._options import Compare, Train
from polopt_jax.cli._presets import PRESETS
from polopt_jax.envs import import_env
from polopt_jax.runs import _log, _summary
from polopt_jax.settings import ACTIVATIONS

OWN = '''
import jax, jax.numpy as jnp
from polopt_jax.envs import Box, Discrete, EnvStep, TimeLimit

class Line:
    """Five steps, each rewarded by the action."""

    obs_shape = (2,)
    action_space = Box(1)

    def reset(self, key):
        return jnp.int32(0), jnp.zeros(2)

    def step(self, state, action, key):
        return EnvStep(state=state + 1, obs=jnp.ones(2), reward=action[0], terminated=jnp.bool_(False),
                       truncated=state + 1 >= 5)

def unboolean():
    env = TimeLimit(limit=3)
    class Wrong:
        obs_shape, action_space, reset = env.obs_shape, env.action_space, env.reset
        def step(self, state, action, key):
            step = env.step(state, action, key)
            return EnvStep(state=step.state, obs=step.obs, reward=step.reward, terminated=0.0, truncated=False)
    return Wrong()

def inner():
    return {}["nothing"]

def failing():
    return inner()

class KeyLost(Line):
    def reset(self, key):
        return {}["lost"]

class Unset(Line):
    def step(self, state, action, key):
        return self.missing

class HostIf(Line):
    def step(self, state, action, key):
        if action[0] > 1:
            return super().step(state, action, key)
        return super().step(state, -action, key)

class Unresettable:
    obs_shape, action_space = (2,), Box(1)

class Named(Line):
    def reset(self, key):
        return jnp.int32(0), {"a": jnp.zeros(2)}

    def step(self, state, action, key):
        step = super().step(state, action, key)
        return EnvStep(state=step.state, obs={"a": step.obs}, reward=step.reward, terminated=step.terminated,
                       truncated=step.truncated)

class Blind(Line):
    obs_shape = (0,)

    def reset(self, key):
        return jnp.int32(0), jnp.zeros(0)

    def step(self, state, action, key):
        step = super().step(state, action, key)
        return EnvStep(state=step.state, obs=jnp.zeros(0), reward=step.reward, terminated=step.terminated,
                       truncated=step.truncated)

class Choice(Line):
    action_space = Discrete(2)

    def step(self, state, action, key):
        return super().step(state, action[None] * 1.0, key)

def choice():
    return Choice()

class Breaking(Line):
    """Of every third episode the last reward is no number."""

    def reset(self, key):
        return jnp.stack([jnp.int32(0), jax.random.randint(key, (), 0, 3)]), jnp.zeros(2)

    def step(self, state, action, key):
        time, third = state[0] + 1, state[1]
        reward = jnp.where((time == 5) & (third == 0), jnp.nan, action[0])
        return EnvStep(state=jnp.stack([time, third]), obs=jnp.ones(2), reward=reward, terminated=jnp.bool_(False),
                       truncated=time >= 5)

def garden():
    """A garden with two ways."""
    from polopt_jax.worlds import Move, Rules, Sign
    along = lambda state: (state[0] + 1, state[1])
    return Rules(
        starts=[(1.0, (0, False))],
        actions=("along", "through"),
        moves=lambda state, action: [Move(1.0, (2, True) if action == "through" else along(state), 0.5, 0.5)],
        ended=lambda state: state[0] == 2,
        outcome=lambda state: {"success": state[0] == 2, "trodden": state[1]},
        frame=lambda state: ("A".rjust(state[0] + 1).ljust(3), "xxx" if state[1] else "***"),
        legend={"A": Sign("you", "#000000"), "*": Sign("flowers", "#00ff00"), "x": Sign("mud", "#777777")},
        horizon=3,
    )

number = 3
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module with environments in the working directory; its name."""
    monkeypatch.chdir(tmp_path)
    name = f"own_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(OWN)
    yield name
    sys.modules.pop(name, None)


@pytest.fixture(scope="module", autouse=True)
def shared():
    with compiled_once():
        yield


def last_line(capsys):
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.fixture
def importable(own, tmp_path, monkeypatch):
    """`own`, where no command puts the working directory among the places of modules."""
    monkeypatch.syspath_prepend(tmp_path)
    return own


def plan(line):
    algorithm, *words = line.split()
    options = _main.read_words(_main.train_options(algorithm), "train", words)
    return _plan.plan_train(
        algorithm, options.run, _main.given(_main._recipes.parameters(algorithm), options.hyperparameters)
    )


# --- an environment of one's own -------------------------------------------------------------------------------------


def test_an_environment_of_ones_own_is_learnt_loaded_and_evaluated(own, tmp_path, capsys):
    line = f"train ppo --env {own}:Line --num-envs 16 --rollout-steps 5 --steps 4000 --learning-rate 0.01 --hidden 8,4"
    assert main([*line.split(), "--activation", "relu", "--out", "run"]) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["env"], config["backend"], config["episode_length"]) == (f"{own}:Line", None, None)
    assert (config["hidden"], config["activation"]) == ([8, 4], "relu")
    assert "brax" not in config["versions"]
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["reward"][0] > rows[0]["reward"][0] + 1, "it is learnt"
    policy = po.load("run")
    assert {name: x["kernel"].shape for name, x in policy.params.items() if name != "log_std"} == {
        "actor_0": (2, 8), "actor_1": (8, 4), "policy": (4, 1),
        "critic_0": (2, 8), "critic_1": (8, 4), "value": (4, 1),
    }  # fmt: skip
    capsys.readouterr()
    assert main(["evaluate", "run", "--episodes", "3", "--json"]) == 0
    greedy = json.loads(capsys.readouterr().out)["all"][0]
    assert greedy["length"] == 5
    action = float(policy.act(jnp.zeros(2))[0]) + 4 * float(policy.act(jnp.ones(2))[0])
    assert greedy["return"] == pytest.approx(action, rel=1e-4)


def test_the_activation_is_the_one_that_was_named(own, tmp_path):
    assert main(f"train reinforce --env {own}:Line --num-envs 4 --rollout-steps 5 --steps 20 --activation elu "
                "--hidden 3 --out run".split()) == 0  # fmt: skip
    policy = po.load("run")
    obs = jnp.array([0.3, -2.0])
    hidden = obs @ policy.params["actor_0"]["kernel"] + policy.params["actor_0"]["bias"]
    hidden = np.where(hidden > 0, hidden, np.expm1(hidden))
    read = policy.network.apply(policy.params, obs)
    head = policy.params["policy"]
    np.testing.assert_allclose(read.policy.mean, hidden @ head["kernel"] + head["bias"], atol=1e-6)
    assert set(ACTIVATIONS) == {"tanh", "relu", "silu", "gelu", "elu"}


def test_the_first_policy_is_as_wide_as_was_said_and_a_run_of_before_that_was_an_option_goes_on(own, tmp_path, capsys):
    small = (
        f"train reinforce --env {own}:Line --num-envs 4 --rollout-steps 5 --steps 20 --learning-rate 1e-4 --hidden 3"
    )
    assert main([*small.split(), "--initial-log-std", "-2.5", "--out", "run"]) == 0
    np.testing.assert_allclose(po.load("run").params["log_std"], [-2.5], atol=1e-3)
    config = runs.read_config(tmp_path / "run")
    assert config.pop("initial_log_std") == -2.5
    assert config.pop("memory") is None
    runs.write_json(tmp_path / "run" / "config.json", config)
    assert main([*small.split(), "--resume", "--memory", "3", "--out", "run"]) == 2
    assert "memory was absent, now 3" in capsys.readouterr().err
    assert main(["train", "--resume", "--out", "run", "--steps", "40"]) == 0
    config = runs.read_config(tmp_path / "run")
    assert (config["steps"], config["initial_log_std"]) == (40, 0.0), "what it was, before it was an option"
    np.testing.assert_allclose(po.load("run").params["log_std"], [-2.5], atol=1e-3)


def test_where_nothing_is_said_real_actions_have_a_width_and_choices_none(importable, tmp_path):
    assert plan(f"ppo --env {importable}:Line").config()["initial_log_std"] == -1
    assert plan("trpo --env ant").config()["initial_log_std"] == -1
    assert plan("ppo --env skip_the_test").config()["initial_log_std"] is None
    made = plan(f"ppo --env {importable}:choice")
    assert made.config()["initial_log_std"] is None
    (tmp_path / "config.json").write_text(runs.to_json(made.config()))
    algorithm, words = _main._with_config(["--config", str(tmp_path / "config.json")])
    assert plan(" ".join([algorithm, *words])) == made


@pytest.mark.parametrize(("env", "was"), [("ant", 0.0), ("{own}:Line", 0.0), ("{own}:choice", None)])
def test_the_config_of_a_run_of_before_the_width_was_an_option_means_the_width_of_then(importable, tmp_path, env, was):
    config = plan(f"ppo --env {env.format(own=importable)}").config()
    del config["initial_log_std"]
    (tmp_path / "config.json").write_text(runs.to_json(config))
    algorithm, words = _main._with_config(["--config", str(tmp_path / "config.json")])
    assert plan(" ".join([algorithm, *words])).initial_log_std == was


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("{own}:Missing", "has no attribute 'Missing'"),
        ("nowhere_at_all:make", "No module named 'nowhere_at_all'"),
        ("{own}:failing", "failing() failed: KeyError: 'nothing' ({own}.py, line 28)"),
        ("{own}:KeyLost", "KeyLost() made what fails: KeyError: 'lost' ({own}.py, line 35)"),
        (
            "{own}:HostIf",
            "made what cannot be compiled ({own}.py, line 43): what depends on states or actions is not known",
        ),
        ("{own}:Unset", "made what fails: 'Unset' object has no attribute 'missing' ({own}.py, line 39)"),
        ("{own}:Unresettable", "with reset and step; it is a Unresettable"),
        ("{own}:Named", "observations must be an array of one number or more; they are a dict"),
        ("{own}:Blind", "observations must be an array of one number or more; they are of shape [0]"),
        ("{own}:number", "must be what makes an environment when it is called; it is 3"),
        ("{own}:unboolean", "terminated must be boolean; it is float32[]"),
        ("{own}:Line()", "named package.module:factory"),
    ],
)
def test_what_is_no_environment_is_told_in_a_line(name, said, own, capsys):
    assert main(["train", "ppo", "--env", name.format(own=own)]) == 2
    line = last_line(capsys)
    assert said.format(own=own) in line
    assert line.startswith("polopt: error: --env ")


@pytest.mark.parametrize("name", ["_draft", "a" * 70, "con"])
def test_a_run_is_named_so_that_it_has_a_directory(name, own, tmp_path, monkeypatch):
    (tmp_path / f"{name}.py").write_text(f"from {own} import Line")
    monkeypatch.syspath_prepend(tmp_path)
    made = plan(f"ppo --env {name}:Line --num-envs 8 --rollout-steps 5 --steps 40")
    with runs.new(None, f"{made.name}-{10**9}") as first, runs.new(None, f"{made.name}-{10**9}") as second:
        assert first != second
    assert plan(f"ppo --env {own}:Line --num-envs 8").name != made.name
    sys.modules.pop(name)


def test_steps_that_broke_are_counted_and_told(own, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("polopt_jax.envs._import.check_env", lambda env: None)  # it may meet one in its first steps
    line = f"train ppo --env {own}:Breaking --num-envs 16 --rollout-steps 5 --steps 4000 --hidden 4 --num-seeds 2"
    assert main([*line.split(), "--out", "run"]) == 0
    told = capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    broken = sum(x for row in rows for x in row["nonfinite_steps"])
    assert 0.2 < broken / (rows[-1]["steps"] * 2 / 5) < 0.45
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["results"][0]["nonfinite_steps"] == broken
    assert "broken" in told
    assert report.si(broken) in told


def test_rules_of_ones_own_are_drawn_and_learnt(own, tmp_path, capsys):
    assert main(["envs", f"{own}:garden"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("A garden with two ways.\nSuccess: success. Side effect: trodden.\nStates 4, actions 2, ")
    assert "every action alike" in said
    assert f"worlds.tabulate({own}.garden())" in said
    assert "Learnt by reinforce" in said
    line = f"train ppo --env {own}:garden --num-envs 8 --rollout-steps 3 --steps 24 --hidden 4 --out run"
    assert main(line.split()) == 0
    assert po.load("run").env.horizon == 3


def test_a_run_of_what_is_not_found_from_here_says_so(own, tmp_path, capsys, monkeypatch):
    line = f"train ppo --env {own}:Line --num-envs 8 --rollout-steps 5 --steps 40 --hidden 4 --out run"
    assert main(line.split()) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    sys.modules.pop(own)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    assert main(["evaluate", "../run"]) != 0
    told = last_line(capsys)
    assert f"the run in ../run cannot be made again: {own}:Line cannot be imported: No module named '{own}'" in told
    assert told.endswith("its module must be found from here: set PYTHONPATH")


def test_names_that_differ_stay_different():
    assert len({runs.plain_name(name) for name in ("a" * 60, "b" + "a" * 60, "_a", "a", "é.a", "ö.a")}) == 6


def test_the_command_finds_a_module_in_the_working_directory(own, tmp_path):
    """As `python -m` does; a console script alone would not."""
    program = "import sys; sys.path = [p for p in sys.path if p]; from polopt_jax.cli import main; sys.exit(main())"
    line = ["train", "ppo", "--env", f"{own}:failing"]
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, *line], capture_output=True, text=True, env=ENVIRON, timeout=120
    )
    assert "failing() failed" in done.stderr


def test_envs_looks_at_an_environment_of_ones_own(own, capsys):
    assert main(["envs", f"{own}:Line"]) == 0
    said = capsys.readouterr().out
    assert "observations [2], actions Box(size=1); check_env finds nothing wrong" in said
    assert "Learnt by reinforce, actor_critic, npg, trpo, ppo." in said
    assert main(["envs", f"{own}:unboolean"]) == 2
    assert "terminated must be boolean" in last_line(capsys)


def test_import_env_is_for_python_too(own):
    sys.path.append("")
    try:
        assert import_env(f"{own}:Line").obs_shape == (2,)
        with pytest.raises(TypeError, match="terminated must be boolean"):
            import_env(f"{own}:unboolean")
    finally:
        sys.path.remove("")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("ppo --env {own}:Line --backend mjx", "--backend does not apply to an environment of one's own"),
        ("ppo --env {own}:Line --episode-length 9", "--episode-length does not apply to an environment of one's own"),
        ("ppo --env {own}:Line --group-size 4", "--group-size does not apply to an environment of one's own"),
        ("ppo --env skip_the_test --hidden 8", "--hidden does not apply to the token world skip_the_test"),
        ("ppo --env skip_the_test --activation relu", "--activation does not apply to the token world skip_the_test"),
        ("ppo --env ant --group-size 4", "--group-size does not apply to a Brax environment ant"),
        ("dpo --env {own}:Line", "dpo learns token worlds only"),
        ("ppo --env ant --hidden 8,0", "--hidden must be from 1 to 65,536; it is 0"),
        ("ppo --env ant --hidden 8,x", "'8,x' is not whole numbers with commas between"),
        ("ppo --env ant --activation rleu", "unknown activation 'rleu'; did you mean 'relu'?"),
        ("ppo --env skip_the_test --initial-log-std 0", "--initial-log-std does not apply to the token world"),
        ("ppo --env {own}:choice --initial-log-std 0", "--initial-log-std is of real actions, and those of"),
        ("ppo --env ant --initial-log-std 20.5", "--initial-log-std must be from -20 to 20; it is 20.5"),
        ("ppo --env ant --initial-log-std nan", "--initial-log-std must be from -20 to 20; it is nan"),
        ("ppo --env ant --initial-log-std wide", "'wide' is not a number"),
        ("ppo --env ant --schedule lineer", "unknown schedule 'lineer'; did you mean 'linear'?"),
        ("trpo --env ant --schedule linear", "--schedule is what becomes of --learning-rate, and trpo has none"),
        ("ppo --env ant --eval-every 0", "--eval-every must be from 1"),
        ("ppo --env ant --eval-episodes 4", "--eval-every N asks for them"),
        ("ppo --env ant --log-to tensorbord", "unknown logger 'tensorbord'; did you mean 'tensorboard'?"),
        ("ppo --env ant --log-to csv,csv", "--log-to names csv twice"),
    ],
)
def test_wrong_options_of_ones_own(line, said, own, capsys):
    assert main(["train", *line.format(own=own).split()]) == 2
    assert said in last_line(capsys)


# --- schedules -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shares"), [("constant", (1, 1, 1)), ("linear", (1, 0.5, 0)), ("cosine", (1, 0.5, 0))]
)
def test_a_schedule_goes_to_the_last_update(name, shares):
    made = plan(f"ppo --env ant --steps 100000 --learning-rate 0.01 --schedule {name}")
    rate = made.arguments["learning_rate"]
    updates = made.schedule.updates
    at = (lambda update: rate) if name == "constant" else rate
    for update, share in zip((0, updates / 2, updates), shares, strict=True):
        assert float(at(update)) == pytest.approx(0.01 * share, abs=1e-9)
    assert made.config()["schedule"] == name
    if name == "cosine":
        assert float(at(updates / 4)) == pytest.approx(0.01 * (1 + np.cos(np.pi / 4)) / 2)


def test_the_command_trains_with_the_schedule(tmp_path, monkeypatch):
    """At the last update the rate is a twelfth of the first; the next would be 0: an identical run moves further."""
    monkeypatch.chdir(tmp_path)
    assert run_small("--out", "linear", "--schedule", "linear", "--learning-rate", "0.05") == 0
    assert run_small("--out", "constant", "--learning-rate", "0.05") == 0
    kl = {
        name: [row["kl_old_new"][0] for row in rows_without_times(tmp_path / name)] for name in ("linear", "constant")
    }
    assert kl["linear"][0] == pytest.approx(kl["constant"][0], rel=1e-4)
    assert 0 < kl["linear"][-1] < 0.1 * kl["constant"][-1]


def test_a_run_whose_rate_ends_cannot_become_longer(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_small("--out", "run", "--schedule", "cosine") == 0
    capsys.readouterr()
    assert run_small(line="train --out run --resume --steps 500") == 2
    assert "down to 0 after its 384 steps (--schedule cosine)" in last_line(capsys)
    assert run_small(line="train --out run --resume") == 0


# --- a file of options -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("env", ["ant", "skip_the_test"])
def test_the_config_of_every_algorithm_is_read_back(name, env, tmp_path):
    """With which a run goes on. TRPO has no learning rate, whose schedule is written down all the same."""
    if env == "ant" and _main._recipes.takes_groups(name):
        return
    made = plan(f"{name} --env {env}")
    (tmp_path / "config.json").write_text(runs.to_json(made.config()))
    algorithm, words = _main._with_config(["--config", str(tmp_path / "config.json")])
    assert plan(" ".join([algorithm, *words])) == made


def test_a_runs_config_is_a_file_of_options(tmp_path):
    """Everything that is not its default, there and back."""
    line = "npg --env hopper --backend generalized --steps 70000 --num-envs 32 --rollout-steps 8 --episode-length 77 " \
           "--hidden 7,5 --activation silu --initial-log-std -0.25 --schedule cosine --eval-every 9000 --seed 4 " \
           "--eval-episodes 3 --num-seeds 2 --learning-rate 0.123456789 --gamma 0.5 " \
           "--lambda 0.25 --cg-iters 3"  # fmt: skip
    made = plan(line)
    path = tmp_path / "config.json"
    path.write_text(runs.to_json(made.config()))
    algorithm, words = _main._with_config(["--config", str(path)])
    again = plan(" ".join([algorithm, *words]))
    assert again == made
    other = plan(" ".join(["npg", *_main._with_config(["npg", f"--config={path}", "--gamma", "0.75"])[1]]))
    assert other.hyperparameters == {**made.hyperparameters, "gamma": 0.75}
    not_of_the_run = {"out", "resume", "json", "config", *_devices.FLAGS}  # nor where it is spread
    assert set(vars(Train)["__dataclass_fields__"]) - not_of_the_run <= {*made.config()}


def test_the_config_of_a_token_world_is_a_file_of_options(tmp_path):
    made = plan("grpo --env skip_the_test --group-size 4 --num-envs 64 --beta 0.01")
    (tmp_path / "config.json").write_text(runs.to_json(made.config()))
    algorithm, words = _main._with_config(["--config", str(tmp_path / "config.json")])
    assert plan(" ".join([algorithm, *words])) == made


def test_a_file_of_ones_own(own, tmp_path, capsys):
    path = tmp_path / "options.json"
    path.write_text(json.dumps({"algorithm": "ppo", "env": "ant", "num-envs": 32, "hidden": [8], "clip_eps": 0.3}))
    algorithm, words = _main._with_config(["--config", str(path), "--num-envs", "64"])
    made = plan(" ".join([algorithm, *words]))
    assert (made.algorithm, made.num_envs, made.hidden, made.hyperparameters["clip_eps"]) == ("ppo", 64, (8,), 0.3)
    for json_too, said in ((True, ["--json"]), (False, [])):
        path.write_text(json.dumps({"env": "ant", "json": json_too}))
        assert _main._with_config(["ppo", "--config", str(path)])[1] == ["--env", "ant", *said, "--config", str(path)]


@pytest.mark.parametrize(
    ("content", "words", "said"),
    [
        (None, "", "there is no file options.json"),
        ("[1]", "", "does not hold a JSON object"),
        ("{", "", "is not readable as JSON"),
        ('{"runs": []}', "ppo", "of a comparison"),
        ('{"env": "ant"}', "", "the algorithm comes first"),
        ('{"algorithm": "ppo", "env": "ant"}', "trpo", "is of ppo; leave trpo out"),
        ('{"algorithm": "ppo", "env": "ant", "frob": 1}', "", "unrecognized options: --frob"),
        ('{"algorithm": "ppo", "env": "ant", "radius": 1}', "", "ppo has no --radius"),
        ('{"algorithm": "ppo", "env": "ant", "seed": false}', "", "--seed"),
        ('{"algorithm": "ppo", "hyperparameters": 3}', "", "its hyperparameters an object"),
        ('{"algorithm": "ppp", "env": "ant"}', "", "unknown algorithm 'ppp'"),
        ('{"algorithm": "ppo", "num_envs": 8, "num-envs": 16}', "", "says --num-envs twice, with a hyphen and with an"),
    ],
)
def test_a_wrong_file_of_options(content, words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / "options.json").write_text(content)
    assert main(["train", *words.split(), "--config", "options.json"]) == 2
    assert said in last_line(capsys)


# --- loggers and evaluations -----------------------------------------------------------------------------------------


def test_what_is_logged_is_what_the_rows_say_also_when_it_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_small("--out", "whole", "--log-to", "csv", "--num-seeds", "2") == 0
    assert run_small("--out", "parts", "--log-to", "csv", "--num-seeds", "2", "--steps", "160") == 0
    assert run_small(line="train --out parts --resume --steps 384") == 0
    rows = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    found = {}
    for name in ("whole", "parts"):
        with (tmp_path / name / "metrics.csv").open(newline="") as file:
            found[name] = list(csv.DictReader(file))
    assert [int(line["step"]) for line in found["whole"]] == [row["steps"] for row in rows]
    for line, row in zip(found["whole"], rows, strict=True):
        assert float(line["entropy/seed4"]) == row["entropy"][1]
        assert float(line["entropy"]) == pytest.approx(sum(row["entropy"]) / 2)
    times = [{name: x for name, x in line.items() if "seconds" not in name} for line in found["whole"]]
    assert [{name: x for name, x in line.items() if "seconds" not in name} for line in found["parts"]] == times


@pytest.mark.parametrize("harm", ["cut", "gone", "never", "resaved"])
def test_a_spreadsheet_is_made_of_the_whole_log_when_it_goes_on(harm, tmp_path, monkeypatch, capsys):
    """It had a hole, or began where the run went on."""
    monkeypatch.chdir(tmp_path)
    told = () if harm == "never" else ("--log-to", "csv")
    assert run_small("--out", "run", *told, "--steps", "160") == 0
    sheet = tmp_path / "run" / "metrics.csv"
    if harm == "cut":
        sheet.write_text("".join(sheet.read_text().splitlines(keepends=True)[:2]))
    elif harm == "resaved":
        sheet.write_text(sheet.read_text().replace(",", ";"))
    elif harm == "gone":
        sheet.unlink()
    if harm == "never":
        assert run_small("--out", "run", "--log-to", "csv", "--resume") == 0
    else:
        assert run_small(line="train --out run --resume --steps 384") == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    with sheet.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [int(line["step"]) for line in lines] == [row["steps"] for row in rows]
    assert [float(line["entropy"]) for line in lines] == pytest.approx([row["entropy"][0] for row in rows])


def test_a_missing_package_is_told_before_anything_is_computed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert run_small("--out", "run", "--log-to", "wandb") == 2
    assert "--log-to wandb needs the package wandb: pip install wandb" in last_line(capsys)
    assert not (tmp_path / "run").exists()


def test_evaluations_are_whole_greedy_episodes_and_change_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_small("--out", "plain") == 0
    assert run_small("--out", "run", "--eval-every", "160", "--eval-episodes", "5", "--json") == 0
    rows, plain = rows_without_times(tmp_path / "run"), rows_without_times(tmp_path / "plain")
    evaluated = [row["update"] for row in rows if row["eval/return"] != [None]]
    assert evaluated == [5, 10, 12], "every 160 steps, and in the end"
    assert [{name: x for name, x in row.items() if not name.startswith("eval/")} for row in rows] == plain
    # the chain: six steps at most, a reward of 1 at its end; what the checkpoint's policy does greedily is known
    assert all(0 <= row["eval/return"][0] <= 1 for row in rows if row["eval/return"] != [None])
    assert rows[-1]["eval/ended"] == [1.0]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())["results"][0]
    assert summary["eval_return"] == rows[-1]["eval/return"][0]
    assert "Return of the most probable action" in (tmp_path / "run" / "report.html").read_text()
    assert "Return of the most probable action" not in (tmp_path / "plain" / "report.html").read_text()


def test_an_evaluation_is_that_of_evaluate_policy(own, tmp_path):
    line = f"train ppo --env {own}:Line --num-envs 8 --rollout-steps 5 --steps 400 --num-seeds 2 --eval-every 400"
    assert main([*line.split(), "--out", "run"]) == 0
    last = rows_without_times(tmp_path / "run")[-1]
    for seed in (0, 1):
        policy = po.load("run", seed=seed)
        found = po.evaluate_policy(policy.env, po.greedy(policy), jax.random.key(0), episodes=2)
        assert last["eval/return"][seed] == pytest.approx(float(found.episode_return[0]), rel=1e-4)
        assert last["eval/length"][seed] == 5


def test_an_evaluation_waits_for_the_longest_episode_and_says_what_did_not_end(own, tmp_path, monkeypatch, capsys):
    line = f"train ppo --env {own}:Line --num-envs 8 --rollout-steps 5 --steps 40 --eval-every 40 --out run"
    with monkeypatch.context() as patch:
        patch.setattr(_evaluate, "PATIENCE", 4)
        assert main(line.split()) == 0
        assert "Share of the episodes of the last evaluation that ended" in capsys.readouterr().out
        assert main(["evaluate", "run", "--episodes", "3"]) == 0
        out, err = capsys.readouterr()
        assert "6 of 6 episodes did not end in 4 steps: the means are of those that ended" in err
        assert "Episodes that were given up" in out
        config = json.loads((tmp_path / "run" / "config.json").read_text())
        (tmp_path / "run" / "config.json").write_text(json.dumps({**config, "episode_length": 5}))
        assert main(["evaluate", "run", "--episodes", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["all"][0]["unended"] == 0


def test_an_evaluation_is_of_the_episodes_that_ended():
    found = po.Evaluation(
        episode_return=jnp.array([3.0, jnp.nan, 5.0, jnp.nan]),
        length=jnp.array([2, 9, 4, 9]),
        ended=jnp.array([True, False, True, False]),
        broken=jnp.zeros(4, bool),
        outcome={},
        outcome_mean={},
    )
    assert {name: float(x) for name, x in _build.means(found).items()} == {
        "eval/return": 4.0,
        "eval/length": 3.0,
        "eval/ended": 0.5,
    }


def test_a_run_with_evaluations_goes_on_to_the_same_end(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--eval-every", "64", "--eval-episodes", "4"]
    assert run_small("--out", "whole", *options) == 0
    assert run_small("--out", "parts", *options, "--steps", "192") == 0
    assert run_small(line="train --out parts --resume --steps 384") == 0
    assert rows_without_times(tmp_path / "parts") == rows_without_times(tmp_path / "whole")


def test_chunks_end_where_an_evaluation_is_due():
    for within in (1, 2, 3, 7, 10, 50, 1000):
        made = runs.schedule(steps=10_000, decisions=10, seed=0, num_seeds=1, within=within)
        assert within % made.chunk_updates == 0
        assert made.updates >= 1000
        assert made.chunk_updates <= 40
    assert runs.schedule(steps=10_000, decisions=10, seed=0, num_seeds=1, within=80).chunk_updates == 40


def test_a_recipe_with_a_schedule_can_be_vmapped_over_its_rate():
    """A rate that is traced goes into the schedules too: the command's is a number, a user's need not be."""
    rates = jnp.array([0.1, 0.2])
    halves = jax.vmap(lambda rate: _plan.RATES["linear"](rate, 10)(5))(rates)
    np.testing.assert_allclose(halves, rates / 2, rtol=1e-6)


# --- what is shown ---------------------------------------------------------------------------------------------------


def test_json_says_nothing_of_what_is_not_there(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_small("--out", "run", "--json") == 0
    (summary,) = json.loads(capsys.readouterr().out)["results"]
    assert "reward" in summary
    assert "reward_interval" not in summary  # of one seed
    assert not {None, (), ""} & {x if not isinstance(x, list | dict) else tuple(x) for x in summary.values()}


@pytest.mark.parametrize(("num_seeds", "marks"), [pytest.param(1, 0, marks=pytest.mark.slow), (3, 3), (6, 6)])
def test_few_seeds_are_shown_each_and_not_by_an_interval(num_seeds, marks, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_small("--out", "run", "--num-seeds", str(num_seeds)) == 0
    said = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("actor_critic"))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())["results"][0]
    known = summary["reward_by_seed"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("<circle") == (marks if max(known) > min(known) else 0)
    assert (" ± " in said) == (num_seeds == 6)
    if num_seeds == 3:
        assert f"({min(known):.3g} to {max(known):.3g})" in said


def test_the_page_on_a_run_directory_names_all_of_its_files_and_numbers(tmp_path):
    assert run_small("--out", str(tmp_path / "run")) == 0
    page = (Path(__file__).parents[1] / "docs" / "runs.md").read_text()
    first = [re.findall(r"`([^`]+)`", row.split("|")[1]) for row in page.splitlines() if row.startswith("| `")]
    named = [name for names in first for name in names]
    files = {name for name in named if name == "checkpoints" or "." in name.removesuffix("/...")}
    assert files == {path.name for path in (tmp_path / "run").iterdir() if not path.name.startswith(".")}
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    keys = set(named) - files
    parts = {key.removesuffix("...") for key in keys if key.endswith("...")}
    assert {key for key in rows[-1] if not key.startswith(tuple(parts))} == {k for k in keys if not k.endswith("...")}
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 2
    summed = {key for row in page.splitlines() if "**sum" in row for key in re.findall(r"`([^`]+)`", row.split("|")[1])}
    assert summed == {key for key in rows[-1] if key.startswith(_log._SUMS)}


def test_a_run_goes_on_whatever_its_directory_is_called_now_and_wherever_it_is_seen_from(tmp_path, monkeypatch):
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert run_small("--out", "nowhere/../run") == 0
    assert [path.name for path in tmp_path.joinpath("below").iterdir()] == ["run"], "nothing is made on the way"
    (tmp_path / "below" / "run").rename(tmp_path / "d\u00e9 plac\u00e9")
    assert run_small("--out", "../d\u00e9 plac\u00e9", "--resume", line="train") == 0
    assert runs.read_config(tmp_path / "d\u00e9 plac\u00e9")["steps"] == 384


def test_evaluations_come_at_the_nearest_update():
    words = "--num-envs 8 --rollout-steps 5 --steps 4000 --num-minibatches 8"  # 40 decisions an update
    for wanted, given in ((95, 80), (105, 120), (1, 40)):
        assert plan(f"ppo --env ant {words} --eval-every {wanted}").config()["eval_every"] == given


def test_a_budget_multiplies_the_steps_that_were_said():
    def steps(**said):
        (made,) = _plan.plan_compare(Compare(algorithms=("ppo",), env=("inverted_pendulum",), num_envs=64, **said))
        return made.schedule.updates * made.schedule.decisions

    assert steps(budget=0.1, steps=1_024_000) == steps(steps=102_400) == 102_400
    assert steps(budget=0.5) == steps(steps=_plan.default_steps("inverted_pendulum") // 2)


def test_the_reference_is_as_far_from_its_language_as_it_was_in_the_end(monkeypatch):
    def imitate(network, worlds, key, *, updates):
        return {}, jnp.arange(updates, dtype=jnp.float32)

    monkeypatch.setattr(_build, "imitate", imitate)
    monkeypatch.setattr(_build, "_answers", lambda *_: None)
    monkeypatch.setattr(_build, "_skips", lambda *_: jnp.zeros((1, 1), bool))
    updates = _build.TOKEN_WORLD.imitation_updates
    found = _build.imitate_reference(SimpleNamespace(stage=lambda said: None))
    assert float(found.kl) == np.arange(updates)[-(updates // 10) :].mean()


def test_groups_stay_whole_on_devices(monkeypatch):
    monkeypatch.setattr(_devices, "row_mesh", lambda number: SimpleNamespace(size=number))
    made = plan("grpo --env skip_the_test --num-envs 32 --group-size 8 --num-minibatches 2")
    assert _devices.mesh_of(SimpleNamespace(devices=4), made).size == 4
    with pytest.raises(_devices.UsageError, match="--num-envs 32, 4 groups of 8, cannot be split evenly over 8"):
        _devices.mesh_of(SimpleNamespace(devices=8), made)


def test_the_last_tenth_of_a_run():
    rows = [{"update": number} for number in range(1, 21)]
    assert [row["update"] for row in _summary.tail(rows)] == [19, 20]
    assert [row["update"] for row in _summary.tail(rows[:5])] == [5]
