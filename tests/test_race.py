"""Programs that are timed in turns: what is counted, what fails, who stands beside whom. No test is of a time."""

import functools
import itertools
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import entrants
from benchmarks.entrants import NUM_STEPS, ours
from benchmarks.entrants import __main__ as entrants_main
from benchmarks.entrants.built import returns
from benchmarks.entrants.race import Program, Timed, race
from benchmarks.parts import Goal, Peers, Wanted, training

pytestmark = pytest.mark.filterwarnings("ignore")


def timed(seconds, decisions=100, **told):
    shared = {"build_seconds": 4.0, "first_update_seconds": 5.0, "peak_mb": 10, "differs": "nothing"}
    return Timed(list(seconds), {"decisions": decisions, **shared, **told})


def wanted(**own):
    return Wanted(Peers(("python",), **own))


@pytest.mark.slow
def test_programs_of_other_processes_do_what_they_are_told_in_turns():
    environment, _, learner = training.programs(Wanted(), "inverted_pendulum", 8, "ppo")[:3]
    small = [p._replace(options={**p.options, "updates": 2}) for p in (environment, learner)]
    small[1].options["slices"] = 1
    found = race(small, repeats=3)
    assert list(found) == ["environment", "ours"]
    for one in found.values():
        assert one.told["decisions"] == 2 * NUM_STEPS * 8
        assert len(one.seconds) == 3
        assert all(x > 0 for x in one.seconds)
        assert one.told["first_update_seconds"] > one.told["build_seconds"] > 0
        assert one.told["first_seconds"] > 0
        assert one.told["peak_mb"] > 50
        assert one.told["device_peak_mb"] is None
        assert one.each == [seconds / one.told["decisions"] for seconds in one.seconds]
    assert "values not clipped" in found["ours"].told["differs"]
    assert np.shape(found["ours"].told["return_sum"]) == (1, 1)
    assert "return_sum" not in found["environment"].told


def test_a_program_that_fails_is_named_with_its_last_words():
    options = {"env": "no_such_world", "backend": "spring", "num_envs": 1, "updates": 1}
    with pytest.raises(RuntimeError, match=r"mine ended with status 1:\n(.*\n)*.*no_such_world"):
        race([Program("mine", "environment", options)], repeats=1)


def test_returns_are_summed_by_slices_and_the_last_takes_what_is_left():
    found = returns([[1, 2, 3, 4, 5]], [[1, 0, 1, 0, 2]], 2)
    assert found == {"return_sum": [[3.0, 12.0]], "finished": [[1.0, 3.0]]}


def test_everybody_works_on_as_many_environments(monkeypatch):
    """The environment alone and rollouts alone have no seeds, so they have all their rows."""
    monkeypatch.setattr(Peers, "python", lambda self, name: "python")
    found = training.programs(wanted(purejaxrl="folder"), "inverted_pendulum", 16, "ppo", seeds=4)
    rows = {p.name: p.options["num_envs"] * p.options.get("seeds", 1) for p in found}
    assert rows == dict.fromkeys(("environment", "collecting", "ours", "purejaxrl", "rejax"), 64)
    assert len({p.options["updates"] for p in found}) == 1
    own = dict.fromkeys(("environment", "collecting", "ours"), sys.executable)
    assert {p.name: p.python for p in found} == {**own, "purejaxrl": "python", "rejax": "python"}
    assert {p.name: p.options.get("source") for p in found if "source" in p.options} == {"purejaxrl": "folder"}
    decisions = found[0].options["updates"] * NUM_STEPS * 64
    assert decisions == pytest.approx(training.DECISIONS["inverted_pendulum"], rel=0.01)
    alone = training.programs(wanted(purejaxrl="folder"), "inverted_pendulum", 16, "ppo")
    assert {p.name for p in alone} - rows.keys() == {training.BRAX, training.MULTIPLYING}  # these know one seed
    quick = training.programs(wanted()._replace(quick=True), "inverted_pendulum", 16, "ppo")
    assert {p.options["updates"] for p in quick} == {2}


def test_an_accelerator_has_sizes_of_its_own_and_longer_chunks(monkeypatch):
    names = [case.name for case in training.cases(wanted())]
    assert names[0] == "ppo-inverted_pendulum-64"
    assert names[-5:] == ["ppo-inverted_pendulum-64-8-seeds", *(f"{x}-inverted_pendulum-1024" for x in training.OTHERS)]
    updates = training.programs(wanted(), "ant", 256, "ppo")[0].options["updates"]
    monkeypatch.setattr(training.jax, "default_backend", lambda: "gpu")
    names = [case.name for case in training.cases(wanted())]
    assert names[:3] == ["ppo-ant-2048", "ppo-ant-16384", "ppo-ant-65536"]
    assert names[-5:] == ["ppo-ant-2048-8-seeds", *(f"{x}-ant-16384" for x in training.OTHERS)]
    assert training.programs(wanted(), "ant", 256, "ppo")[0].options["updates"] == round(50 * 20_000 / 256 / NUM_STEPS)
    assert updates == 5
    assert [case.name for case in training.cases(Wanted(quick=True))] == ["ppo-ant-8"]


def test_the_memory_of_an_accelerator_is_counted_where_there_is_one(monkeypatch):
    assert entrants_main._device_peak_mb() is None
    devices = [SimpleNamespace(memory_stats=lambda n=n: n and {"peak_bytes_in_use": n}) for n in (None, 2e6, 3e6)]
    monkeypatch.setattr(entrants_main.sys.modules["jax"], "local_devices", lambda: devices)
    assert entrants_main._device_peak_mb() == 3
    monkeypatch.delitem(entrants_main.sys.modules, "jax")
    assert entrants_main._device_peak_mb() is None


def test_ppo_alone_stands_beside_peers_whose_algorithm_it_is(monkeypatch):
    monkeypatch.setattr(Peers, "python", lambda self, name: "python")
    found = training.programs(wanted(), "inverted_pendulum", 16, "trpo")
    assert [p.name for p in found] == ["environment", "collecting", "ours"]
    assert found[2].options["algorithm"] == "trpo"


def test_ours_is_set_beside_each_of_the_others():
    found = training.rows_of(
        "PPO, inverted_pendulum",
        "inverted_pendulum",
        1024,
        {
            "environment": timed([1, 1, 1], first_update_seconds=1.0),
            "collecting": timed([1, 2, 2]),
            "multiplying": timed([1, 2, 1], decisions=200),
            "ours": timed([2, 2, 4], first_update_seconds=3.0),
            "purejaxrl": timed([4, 4, 4], first_update_seconds=6.0),
        },
    )
    by = {(row.what, row.beside): row for row in found}
    share = by["PPO, inverted_pendulum", "the environment alone"]
    assert (share.ratio, share.ours, share.theirs, share.rounds) == (0.5, 50, 100, 3)
    assert share.goal == Goal("at least", 0.6)
    assert not share.goal.met(share.ratio)
    assert by["rollouts of PPO, inverted_pendulum", "the environment alone"].ratio == 0.5
    limit = by[
        "PPO, inverted_pendulum", "the limit"
    ]  # a second for the environment, a half, one or a half for products
    assert (limit.ratio, limit.low, limit.goal) == (0.75, 0.375, None)
    assert limit.theirs == pytest.approx(100 / 1.5)
    peer = by["PPO, inverted_pendulum", "PureJaxRL"]
    assert (peer.ratio, peer.size, peer.unit) == (2, 1024, "decisions/s")
    assert peer.goal.met(peer.ratio)
    assert peer.note == "ours: nothing; theirs: nothing"
    first = by["PPO, inverted_pendulum: to the first update", "PureJaxRL"]
    assert (first.ours, first.theirs, first.ratio, first.unit) == (3.0, 6.0, 0.5, "s")
    assert len(found) == 5


def test_ours_learns_with_the_settings_of_everybody(monkeypatch):
    """Said one by one, so that other defaults of the recipe change no comparison."""
    given = {}
    monkeypatch.setattr(ours.algorithms, "ppo", lambda task, **own: given.update(own))
    ours.recipe_of(None, "ppo")
    elsewhere = {"NUM_STEPS", "HIDDEN", "INITIAL_LOG_STD", "EPISODE_LENGTH"}  # of the task
    settings = {name: x for name, x in vars(entrants).items() if name.isupper() and name not in elsewhere}
    named = {"CLIP": "clip_eps", "LAMBDA": "lambda_"}
    assert given == {named.get(name, name.lower()): x for name, x in settings.items()}
    task = ours.task_of("inverted_pendulum", "spring", 8)
    assert task.decisions == 8 * entrants.NUM_STEPS
    np.testing.assert_array_equal(task.init_params(jax.random.key(0))["log_std"], [entrants.INITIAL_LOG_STD])


@pytest.mark.slow
def test_braxs_trainer_is_held_between_epochs_and_its_episodes_are_counted(monkeypatch):
    """Beside its own environment: 8 environments of 500 steps must end some episodes, of a reward of 1 a step."""
    from benchmarks.entrants import brax_trainer

    monkeypatch.setattr(brax_trainer, "EPOCHS", 3)
    options = {"env": "inverted_pendulum", "backend": "spring", "num_envs": 8, "updates": 32}
    said = brax_trainer.build(**options, seeds=2, slices=4).chunk()
    finished, return_sum = np.array(said["finished"]), np.array(said["return_sum"])
    assert finished.shape == return_sum.shape == (2, 4)
    assert (finished.sum(1) > 10).all()
    decisions = 8 * 32 * NUM_STEPS
    assert (return_sum.sum(1) <= decisions).all()
    assert (return_sum.sum(1) > 0.8 * decisions).all()
    assert not np.array_equal(finished[0], finished[1])
    with pytest.raises(ValueError, match="one seed"):
        brax_trainer.build(**options, seeds=2)


def test_what_braxs_trainer_raises_is_raised_where_the_epoch_was_asked_for():
    from benchmarks.entrants.brax_trainer import build

    with pytest.raises(AssertionError):
        build(env="inverted_pendulum", backend="spring", num_envs=12, updates=1)


def test_the_limit_counts_the_products_of_the_networks_by_xlas_count():
    """Of acting, of one pass of learning, against what XLA says of networks without an activation, at three sizes."""
    from benchmarks.entrants import HIDDEN, multiplying

    def flops(f, *args):
        return jax.jit(f).lower(*args).compile().cost_analysis()["flops"]

    for num_obs, num_actions in ((4, 1), (27, 8), (87, 8)):
        rows, found = 512, 0
        for outputs in (num_actions, 1):
            sizes = (num_obs, *HIDDEN, outputs)
            weights = [jnp.ones(pair) for pair in itertools.pairwise(sizes)]
            through = lambda weights, obs: functools.reduce(jnp.matmul, weights, obs)  # noqa: E731
            acting = flops(through, weights, jnp.ones((rows, num_obs)))
            both = lambda w, x, g: jax.vjp(lambda w: through(w, x), w)[1](g)  # noqa: E731
            learning = flops(both, weights, jnp.ones((rows, num_obs)), jnp.ones((rows, outputs)))
            unused = 2 * rows * HIDDEN[-1] * outputs  # the last product of the forward pass has no use there
            found += acting + entrants.NUM_EPOCHS * (learning + unused)
        assert multiplying.operations(num_obs, num_actions) == pytest.approx(found / rows, rel=0.01)
