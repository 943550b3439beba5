"""When training has broken down, and when it has not."""

import json
import math
import re
import signal

import jax
import numpy as np
import pytest
from small_run import RUN, build, compiled_once, interrupt_at, rows_without_times, run_small

from polopt_jax import checkpoint, driver
from polopt_jax.cli import _build, _plan, _recipes, _running, main
from polopt_jax.cli._options import Train
from polopt_jax.cli._presets import PRESETS, Preset, Presets
from polopt_jax.driver import Chunk
from polopt_jax.envs import chain
from polopt_jax.language import token_table
from polopt_jax.networks import mlp_actor_critic
from polopt_jax.runs import _health, _loop
from polopt_jax.tasks import control_task
from polopt_jax.training import TrainState
from polopt_jax.worlds import skip_the_test


@pytest.fixture(autouse=True)
def somewhere_else(tmp_path, monkeypatch):
    """Each test runs in a directory of its own."""
    monkeypatch.chdir(tmp_path)


def plan_of(algorithm="ppo", seeds=1, steps=100_000):
    return _plan.plan_train(algorithm, Train(env="inverted_pendulum", steps=steps, num_seeds=seeds))


FINE = {
    "loss": 0.5,
    "kl_old_new": 0.01,
    "entropy": 0.3,
    "skipped": 0.0,
    "grad_norm": 1.0,
    "policy/num_valid": 64.0,
}


def chunk_of(updates, *, last, params=1.0):
    """A chunk that ends at update `last`; `updates` has, seed by seed, what differs from fine."""
    metrics = {
        name: np.array([[{**FINE, **update}.get(name, 1.0) for update in seed] for seed in updates], np.float32)
        for name in {**FINE, **updates[0][0]}
    }
    weights = np.broadcast_to(np.float32(params), (len(updates), 3))
    state = TrainState(params={"w": weights}, opt_state=(), collect_state=(), key=None, update=None)
    return Chunk(last, metrics, 0.0, state)


def complaint_after(*updates, plan=None, rows=()):
    """What is complained of after these updates of one seed, a chunk each; None if nothing is."""
    plan, health, why = plan or plan_of(), _health.healthy(1, list(rows)), None
    for number, update in enumerate(updates, start=1):
        health = _health.look(health, chunk_of([[update]], last=number))
        why = why or _health.complaint(health, plan.schedule, number)
    return why


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"loss": NAN}, "loss not finite"),
        ({"loss": -INF}, "loss not finite"),
        ({"policy/loss": INF, "kl_old_new": 0.01}, "policy/loss not finite"),
        ({"value/loss": INF}, "value/loss not finite"),
        ({"kl_old_new": NAN}, "kl_old_new not finite"),
        ({"kl_old_new": INF}, "kl_old_new not finite"),
        ({"entropy": -INF}, "entropy not finite"),
        ({"skipped": 1.0}, "every step skipped"),
        ({"critic/skipped": 1.0}, "every step skipped"),
        ({"policy/num_valid": 0.0, "nonfinite_steps": 64.0}, "no decision left"),
        ({"policy/num_valid": 0.0, "nonfinite_steps": 0.0}, "nothing to learn from"),
        ({"kl_old_new": 88.0}, "kl_old_new of 88 nats"),
        ({"kl_old_new": 0.0}, "the policy did not move"),
        ({"kl_old_new": 0.0, "grad_norm": INF}, "the policy did not move"),
    ],
)
def test_ten_bad_updates_in_a_row_are_enough_and_say_what_and_since_when(fault, said):
    start = [] if said == "the policy did not move" else [{name: FINE.get(name, 0.0) for name in {**FINE, **fault}}]
    assert complaint_after(*start, *[fault] * 9) is None
    since, stopped = 1 + len(start), 10 + len(start)
    advice = {
        "no decision left": "look at the environment",
        "nothing to learn from": "look at the network, whose outputs may not be finite, and at the reward",
    }.get(said, "try a smaller step or smaller weights")
    assert complaint_after(*start, *[fault] * 10) == (
        f"broken since update {since} ({said}), stopped at update {stopped}; {advice}"
    )


def test_a_run_of_which_nothing_is_scored_learns_nothing():
    """Ten in a row, or all that there are; a last one of which nothing is scored is bad luck."""
    none, some = ({"episode/unscored": 8.0, "episode/finished": finished} for finished in (0.0, 1.0))
    assert complaint_after(*[none] * 9) is None
    assert complaint_after(*[none] * 10) == (
        "broken since update 1 (no answer could be scored), stopped at update 10; look at the reward"
    )
    short = plan_of(steps=3 * plan_of().schedule.decisions)
    assert "no answer could be scored" in complaint_after(none, none, none, plan=short)
    assert complaint_after(some, none, none, plan=short) is None
    assert complaint_after(*[none] * 9, some, *[none] * 9) is None
    empty = {"episode/unscored": 0.0, "episode/finished": 0.0}
    assert complaint_after(*[empty] * 20) is None, "no episode has ended"


def test_an_update_without_decisions_is_broken_only_where_no_term_had_one_and_names_its_cause_once():
    one_left = {"policy/num_valid": 0.0, "critic/num_valid": 8.0}
    assert complaint_after(*[one_left] * 20) is None
    unscored = {"policy/num_valid": 0.0, "episode/unscored": 8.0, "episode/finished": 0.0}
    assert "(no answer could be scored)" in complaint_after(*[unscored] * 10)
    good = [{}] * (plan_of().schedule.updates - 1)
    assert complaint_after(*good, {"policy/num_valid": 0.0}) is None, "bad luck at the end"


def test_one_good_update_forgives():
    assert complaint_after(*[{"loss": NAN}] * 9, {}, *[{"loss": NAN}] * 9) is None


def test_at_the_end_of_a_run_one_bad_update_is_enough():
    plan = plan_of()
    health = _health.healthy(1, [])
    assert plan.schedule.updates > 20
    health = _health.look(health, chunk_of([[{}]], last=plan.schedule.updates - 1))
    health = _health.look(health, chunk_of([[{"entropy": NAN}]], last=plan.schedule.updates))
    assert "since update" in _health.complaint(health, plan.schedule, plan.schedule.updates)
    short = plan_of(steps=3 * plan.schedule.decisions)
    assert short.schedule.updates == 3
    standing = {"kl_old_new": 0.0}
    assert complaint_after(standing, standing, standing, plan=short)
    assert complaint_after({}, standing, standing, plan=short) is None


def test_a_policy_that_stands_still_is_broken_only_where_it_never_moved_or_jumped_before():
    still, jump = {"kl_old_new": 0.0}, {"kl_old_new": 5e29}
    assert complaint_after({}, *[still] * 30) is None  # converged
    assert complaint_after(*[still] * 30, rows=[{"update": 4, "kl_old_new": [0.1]}]) is None  # the same, resumed
    assert complaint_after(*[{**still, "grad_norm": 0.0}] * 30) is None  # nothing was rewarded yet
    assert complaint_after(*[{**still, "grad_norm": 0.0}] * 30, *[still] * 9) is None
    assert "since update 31 " in complaint_after(*[{**still, "grad_norm": 0.0}] * 30, *[still] * 10)
    refused = {**still, "line_search_accepted": 0.0}
    assert complaint_after(*[refused] * 30) is None  # TRPO says itself that it takes no step
    assert "(kl_old_new of 5e+29 nats, the policy did not move)" in complaint_after({}, jump, *[still] * 9)
    assert complaint_after({}, jump, *[still] * 5, {}, *[still] * 30) is None


def test_every_seed_must_be_broken_and_chunks_of_many_updates_count_one_by_one():
    plan, bad = plan_of(seeds=2), {"loss": NAN}
    health = _health.healthy(2, [])
    health = _health.look(health, chunk_of([[bad] * 12, [bad] * 11 + [{}]], last=12))
    assert _health.complaint(health, plan.schedule, 12) is None
    assert not _health.is_broken(health)
    health = _health.look(health, chunk_of([[bad] * 9, [bad] * 9], last=21))
    assert _health.is_broken(health)
    assert _health.complaint(health, plan.schedule, 21) is None
    health = _health.look(health, chunk_of([[bad], [{"skipped": 1.0}]], last=22))
    why = _health.complaint(health, plan.schedule, 22)
    assert "broken in every seed since update 13 (loss not finite, every step skipped), stopped at update 22" in why


def test_parameters_that_are_not_finite_are_named():
    health = _health.healthy(1, [])
    for number in range(1, 11):
        health = _health.look(health, chunk_of([[{}]], last=number, params=NAN))
    assert "broken since update 1 (parameters not finite)" in _health.complaint(health, plan_of().schedule, 10)


def test_metrics_that_are_measured_once_in_a_chunk_are_no_obstacle():
    """Those of `Algorithm.measure` have one value where the others have one for each update."""
    updates = [{"num_valid": 8.0}, {"loss": NAN}, {}, {"loss": NAN}]
    chunk = chunk_of([updates] * 3, last=4)
    for name in ("episode/return_sum", "episode/unscored", "nonfinite_steps"):
        chunk.metrics[name] = np.ones((3, 1), np.float32)
    chunk.metrics["episode/finished"] = np.zeros((3, 1), np.float32)
    health = _health.look(_health.healthy(3, []), chunk)
    assert health == ((4,) * 3, (("loss not finite",),) * 3)


@pytest.fixture(scope="module", autouse=True)
def shared():
    with compiled_once():
        yield


slow = pytest.mark.slow
SLOW = [pytest.param(name, marks=slow) for name in ("reinforce", "actor_critic", "npg", "trpo")]


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", [*SLOW, "ppo"])
def test_no_run_that_learns_and_converges_is_complained_of(algorithm):
    plan = plan_of(algorithm, seeds=2, steps=256 * 16 * 300)
    run = driver.prepare(build(plan), driver.seed_keys(0, 2), chunk_updates=20)
    health = _health.healthy(2, [])
    for chunk in driver.chunks(run, 15):
        health = _health.look(health, chunk)
        assert _health.complaint(health, plan.schedule, chunk.update) is None


@pytest.mark.parametrize(
    ("algorithm", "weights", "said"),
    [
        ("ppo", "--value-weight 1e38", "loss not finite"),
        pytest.param(
            "npg", "--learning-rate 1e30", r"kl_old_new of \S+e\+29 nats, the policy did not move", marks=slow
        ),
        pytest.param("actor_critic", "--value-weight 1e38", "the policy did not move", marks=slow),
        pytest.param("actor_critic", "--learning-rate 1e38", ".*kl_old_new not finite", marks=slow),
        pytest.param("actor_critic", "--learning-rate 1e-30", "the policy did not move", marks=slow),
    ],
)
def test_a_run_that_breaks_down_ends_with_3_and_keeps_the_last_good_checkpoint(
    algorithm, weights, said, tmp_path, capsys
):
    line = RUN.replace("actor_critic", algorithm)
    if algorithm == "npg":
        line += " --value-minibatches 1"
    assert run_small(*weights.split(), "--out", "broken", line=line) == 3
    err = capsys.readouterr().err.splitlines()[-1]
    assert re.match(rf"polopt: error: {algorithm} on inverted_pendulum: broken since update 1 \({said}", err)
    assert json.loads((tmp_path / "broken" / "summary.json").read_text())["results"][0]["status"] == "broken"
    assert checkpoint.steps(tmp_path / "broken" / "checkpoints") == [0]
    assert len(rows_without_times(tmp_path / "broken")) == 10
    assert run_small(*weights.split(), "--out", "broken", "--resume", line=line) == 3  # the same again


def test_a_run_whose_network_answers_nothing_finite_ends_with_3(monkeypatch, capsys):
    """All that it decides is masked out, so that the loss is 0 and nothing else tells."""

    def mute(plan, reference=None):
        env = chain(num_states=4, horizon=6)
        network = mlp_actor_critic(env.obs_shape, env.action_space, hidden=(8,))
        nothing = lambda params, obs: jax.tree.map(lambda x: x * np.nan, network.apply(params, obs))  # noqa: E731
        task = control_task(env, network._replace(apply=nothing), num_envs=8, num_steps=4)
        return _recipes.make(plan.algorithm, task, plan.arguments)

    monkeypatch.setattr(_running, "build", mute)
    line = "train reinforce --env inverted_pendulum --num-envs 8 --rollout-steps 4 --steps 640 --out run"
    assert main(line.split()) == 3
    said = "broken since update 1 (nothing to learn from), stopped at update 10; look at the network"
    assert said in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_a_comparison_in_which_one_run_breaks_down_does_the_others_and_ends_with_3(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(PRESETS, "ppo", Presets(Preset(8, 4, {"value_weight": 1e38})))
    monkeypatch.setattr(_running, "build", build)
    line = (
        "compare --algorithms ppo reinforce --env inverted_pendulum --num-envs 8 --steps 512 --num-seeds 1 --out both"
    )
    assert main(line.split()) == 3
    said = "ppo on inverted_pendulum: broken since update 1 (loss not finite)"
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"polopt: error: {said}")
    summary = json.loads((tmp_path / "both" / "summary.json").read_text())
    assert {result["algorithm"]: result["status"] for result in summary["results"]} == {
        "reinforce": "finished",
        "ppo": "broken",
    }
    (note,) = summary["notes"]
    assert note.startswith(said)


def test_what_is_broken_is_not_saved_but_a_signal_is_obeyed(monkeypatch):
    """Between the last good update and the end of a run there is no checkpoint, unless a signal asks for one."""
    saved, look = [], _health.look
    save = checkpoint.save

    def sick_from_seven(health, chunk):
        if chunk.update < 7:
            return look(health, chunk)
        return look(health, chunk._replace(metrics={**chunk.metrics, "loss": np.full((1, 1), np.nan)}))

    def noted_save(directory, step, state):
        saved.append(step)
        save(directory, step, state)

    monkeypatch.setattr(_loop, "look", sick_from_seven)
    monkeypatch.setattr(checkpoint, "save", noted_save)
    assert run_small("--out", "run") == 3
    assert saved == [0, 5]
    interrupt_at(monkeypatch, 8, signal.SIGINT)
    assert run_small("--out", "other") == 130
    assert saved == [0, 5, 0, 5, 8]


def test_what_is_measured_once_in_a_chunk_of_several_updates_is_no_fault_of_one(tmp_path, monkeypatch):
    """Two seeds of DPO, two updates a chunk: the rewards of a policy on fresh rollouts are no table of updates."""
    world = (token_table(num_prompts=8, length=24, vocabulary=6), skip_the_test(jax.random.key(0), num_worlds=8))
    monkeypatch.setattr(_build, "token_world", lambda: world)
    line = "train dpo --env skip_the_test --num-envs 16 --num-pairs 16 --steps 19200 --num-seeds 2 --out run"
    assert main(line.split()) == 0
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["update"] for row in rows] == list(range(2, 51, 2))
    assert len(rows[-1]["episode/return_sum"]) == len(rows[-1]["loss"]) == 2
