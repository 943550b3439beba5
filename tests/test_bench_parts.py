"""The parts of `polopt bench`: that what is timed computes the same, who stands beside whom, what is counted."""

import jax
import numpy as np
import pytest
from scipy import stats

from benchmarks import entrants
from benchmarks.entrants import estimator, given_logits, ours, term, token_loss
from benchmarks.entrants.built import several
from benchmarks.entrants.race import Timed
from benchmarks.parts import (
    Goal,
    Peers,
    Wanted,
    as_json,
    baselines,
    estimators,
    from_json,
    language,
    learning,
    objectives,
    page,
    seeds,
    solvers,
)

pytestmark = pytest.mark.filterwarnings("ignore")

ONCE = Wanted(Peers(("/no/such/python",)), quick=True)
"""As few rounds as there are, and nobody else's programs."""


@pytest.mark.parametrize("name", estimator.FORMS)
@pytest.mark.parametrize("form", [estimator.HAND, estimator.ASSOCIATIVE])
def test_the_associative_scan_and_the_recursion_by_hand_are_the_same_estimator(name, form):
    given, forms = estimator.arrays(40, 8), estimator.FORMS[name]
    np.testing.assert_allclose(*(jax.jit(forms[its])(given) for its in (form, estimator.OURS)), atol=1e-4)


@pytest.mark.peers
@pytest.mark.parametrize("name", estimator.FORMS)
def test_where_no_episode_ends_rlax_has_the_same_estimator(name):
    pytest.importorskip("rlax")
    given, forms = estimator.arrays(40, 8), estimator.FORMS[name]
    following = np.concatenate([given["value"][1:], given["next_value"][-1:]])
    given |= {"terminated": np.zeros((40, 8), bool), "next_value": following}
    np.testing.assert_allclose(forms["rlax"](given), forms["ours"](given), atol=1e-4)


def test_another_answer_is_not_timed(monkeypatch):
    another = {**estimator.FORMS["GAE"], estimator.HAND: lambda given: given["reward"]}
    monkeypatch.setitem(estimator.FORMS, "GAE", another)
    with pytest.raises(RuntimeError, match="by hand has another answer"):
        estimators.measure(ONCE, "GAE", 8, 4)
    ours, _, kind = term.BY_HAND["ppo"]
    monkeypatch.setitem(term.BY_HAND, "ppo", (ours, lambda said, batch: said["mean"].sum(), kind))
    with pytest.raises(RuntimeError, match="ppo, by hand: "):
        objectives.by_hand(8, 1)


def test_small_parts_measure_what_they_say(monkeypatch):
    """Every form takes part, and so is held to the same answer; memory and flops are counts that can be known."""
    rows = from_json(as_json(objectives.by_hand(16, 1)))
    assert [row.what for row in rows if row.beside == "by hand"] == list(term.BY_HAND)
    assert {row.size for row in rows} == {16 * term.STEPS}
    rows = {row.what: row for row in from_json(solvers.composition(64)["rows"])}
    assert rows["clip + value + entropy"].ratio == pytest.approx(1, abs=0.02)
    assert rows["three objectives that each call the network"].ratio > 1.5
    monkeypatch.setattr(solvers, "SHARE", 16)
    *rows, time, space = from_json(solvers.products(64, 1)["rows"])
    assert {row.beside for row in rows if row.unit == "ms"} == {"one policy gradient"}
    assert [row.ratio < 1 for row in rows if row.unit == "MB"] == [True, True]
    assert (time.what, time.beside, time.unit, time.goal) == (solvers.IN_SHARES, solvers.CG, "ms", None)
    assert (space.what, space.unit, space.goal) == (f"{solvers.IN_SHARES}: memory", "MB", None)  # few decisions
    assert space.ratio < 1


def test_shares_of_rows_are_the_same_direction(monkeypatch):
    monkeypatch.setattr(solvers, "SHARE", 16)
    forms = solvers.Forms(64)
    g = jax.jit(forms.gradient)(forms.params, forms.batch)
    whole, shares = (jax.jit(solve)(forms.params, forms.batch, g)[0] for solve in (forms.solve, forms.solve_in_shares))
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(shares), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3 * float(np.abs(a).max()))


# What is measured in processes of its own


def raced(monkeypatch, module, answers):
    """A race whose programs take as many seconds as `answers` says; returns what was asked to run."""
    asked = []

    def race(programs, repeats):
        asked.extend(programs)
        return {p.name: Timed([answers[p.name][0]] * repeats, answers[p.name][1]) for p in programs}

    monkeypatch.setattr(module, "race", race)
    return asked


def test_rlax_runs_in_its_own_python_and_so_do_we_beside_it(monkeypatch):
    monkeypatch.setattr(Peers, "python", lambda self, name: "python" if name == "rlax" else None)
    asked = raced(monkeypatch, estimators, {"ours": (1.0, {}), "rlax": (4.0, {})})
    rows = {row.beside: row for row in from_json(estimators.measure(ONCE, "V-trace", 4, 2)["rows"])}
    assert list(rows) == ["by hand", "an associative scan", "rlax"]
    calls = estimators.SMALL // 8
    assert (rows["rlax"].ratio, rows["rlax"].ours) == (0.25, pytest.approx(1e3 / calls, rel=1e-3))
    assert {(p.python, p.options["estimator"], p.options["form"]) for p in asked} == {
        ("python", "V-trace", "ours"),
        ("python", "V-trace", "rlax"),
    }
    asked = raced(monkeypatch, objectives, {"ours": (1.0, {"value": 2.0}), "rlax": (4.0, {"value": 2.0})})
    rows = objectives.in_rlax(ONCE, 8, 3)
    assert [(row.what, row.ratio, row.size) for row in rows] == [("ppo", 0.25, 128), ("value_loss", 0.25, 128)]
    raced(monkeypatch, objectives, {"ours": (1.0, {"value": 2.0}), "rlax": (4.0, {"value": 2.1})})
    with pytest.raises(RuntimeError, match="ppo, rlax: 2.1 where ours is 2.0"):
        objectives.in_rlax(ONCE, 8, 3)


def test_what_is_timed_several_times_is_called_so_often_and_waited_for(monkeypatch):
    called, waited = [], []
    monkeypatch.setattr(jax, "block_until_ready", waited.append)
    several(lambda x: called.append(x) or len(called), "given", calls=3)
    assert (called, waited) == (["given"] * 3, [3])


def test_programs_of_terms_and_estimators_count_what_they_do():
    for built in (
        term.build(name="dpo", form="ours", rows=8, calls=3),
        estimator.build(estimator="GAE", form="ours", num_steps=16, num_rows=8, calls=3),
    ):
        assert (built.decisions, built.updates) == (3 * 8 * 16, 3)
        assert built.chunk() is None
    with pytest.raises(KeyError):
        term.loss_of("dpo", "rlax")


@pytest.mark.parametrize("loss", [token_loss.GRPO, token_loss.DPO])
def test_losses_of_given_logits_are_the_same_in_all_forms(loss):
    shared = {"loss": loss, "rows": 4, "length": 8, "vocabulary": 32, "calls": 2}
    ours, *others = (given_logits.build(**shared, log_prob=name) for name in (None, *given_logits.LOG_PROBS))
    assert len(others) == 2
    assert all(token_loss.same(ours.more, other.more) for other in others)
    assert ours.decisions == 2 * 4 * 8
    assert ours.more["planned_mb"] < min(other.more["planned_mb"] for other in others) + 0.01
    moved = {**ours.more, "entries": [x + 1e-3 for x in ours.more["entries"]]}
    assert not token_loss.same(ours.more, moved)
    assert not token_loss.same(ours.more, {**ours.more, "norm": 1.01 * ours.more["norm"]})
    assert not token_loss.same(ours.more, {**ours.more, "value": 1.01 * ours.more["value"]})


def test_rows_of_given_logits_are_ragged_and_of_pairs_where_pairs_are_learnt():
    its = token_loss.example(token_loss.GRPO, 6, 10, 16)
    assert its["logits"].shape == (6, 10, 16)
    lengths = its["mask"].sum(-1)
    assert 5 <= lengths.min() < lengths.max() <= 10
    assert (its["advantage"] == its["advantage"][:, :1]).all()
    assert token_loss.example(token_loss.DPO, 6, 10, 16)["action"].shape == (2, 3, 10)


def test_losses_of_given_logits_stand_beside_trl_where_it_is(monkeypatch):
    assert [p.name for p in language.programs(ONCE, "grpo", 64)] == ["ours", language.HAND, language.NAIVE]
    monkeypatch.setattr(Peers, "python", lambda self, name: "python")
    told = {"value": 1.0, "norm": 2.0, "entries": [0.5], "planned_mb": 1.024}
    times = {"ours": 1.0, language.HAND: 1.0, language.NAIVE: 2.0, "TRL": 4.0, language.TORCH: 5.0}
    asked = raced(monkeypatch, language, {name: (seconds, told) for name, seconds in times.items()})
    rows = {row.beside: row for row in from_json(language.given(Wanted(), "grpo", 32768)["rows"])}
    assert {name: row.ratio for name, row in rows.items() if name in times} == {
        name: 1 / seconds for name, seconds in times.items() if name != "ours"
    }
    assert rows["the logits"].ratio == pytest.approx(1.024 / (4e-6 * 8 * 512 * 32768), rel=1e-3)
    assert {p.name: p.python for p in asked if p.python == "python"}.keys() == {"TRL", language.TORCH}
    assert [p.options["calls"] for p in asked] == [1] * 5
    assert {p.options["calls"] for p in language.programs(Wanted(), "grpo", 1024)} == {16}
    raced(monkeypatch, language, {name: (1.0, {**told, "value": 1.0 + (name == "TRL")}) for name in times})
    with pytest.raises(RuntimeError, match="GRPO of given logits, TRL: another answer"):
        language.given(Wanted(), "grpo", 32768)


def test_a_head_is_measured_over_what_is_written_by_hand():
    rows = {(row.what, row.beside): row for row in from_json(language.through_head(ONCE, 256)["rows"])}
    ways = [f"GRPO through a head, {name}" for name in language.HEADS]
    assert [what for what, beside in rows if beside == "by hand"] == ways[1:]
    assert [what for what, beside in rows if beside == "the logits"] == [f"{way}: memory" for way in ways]
    assert rows[ways[2], "by hand"].goal == Goal("at most", 1.05)
    assert rows[f"{ways[2]}: memory", "the logits"].goal is None  # of a large vocabulary alone


def test_stable_baselines_is_asked_both_questions(monkeypatch):
    monkeypatch.setattr(Peers, "python", lambda self, name: f"python of {name}")
    told = {"decisions": 100, "differs": "that"}
    names = {"ours": (1.0, {**told, "decisions": 800}), "Stable-Baselines3": (1.0, told), "SB3-contrib": (1.0, told)}
    asked = raced(monkeypatch, baselines, names)
    alike, usual = from_json(baselines.measure(Wanted(), "ppo")["rows"])
    assert (alike.ratio, alike.goal, alike.size) == (8, Goal("at least", 6.0), 1024)
    assert (usual.ratio, usual.goal, usual.size) == (8, Goal("at least", 40.0), 64)
    assert "other physics" in alike.note
    ours, theirs, *_ = asked
    assert theirs.options["num_envs"] * theirs.options["num_steps"] == ours.options["num_envs"] * entrants.NUM_STEPS
    asked = raced(monkeypatch, baselines, names)
    (row,) = from_json(baselines.measure(Wanted(), "trpo")["rows"])
    assert (row.beside, row.what) == ("SB3-contrib", "TRPO, inverted_pendulum, defaults")
    assert [p.options["algorithm"] for p in asked] == ["trpo", "trpo"]
    assert asked[1].python == "python of sb3_contrib"
    assert [case.name for case in baselines.cases(Wanted())] == ["ppo", "trpo"]
    monkeypatch.setattr(Peers, "python", lambda self, name: None)
    assert baselines.cases(Wanted()) == []


def test_two_backward_passes_are_the_same_product():
    forms = solvers.Forms(32)
    v = jax.jit(forms.gradient)(forms.params, forms.batch)
    ours, theirs = (jax.jit(form)(forms.params, forms.batch, v) for form in (forms.product, forms.twice_backward))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_the_interquartile_mean_is_of_the_middle_half_and_its_interval_holds_it():
    scores = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 1000.0])
    assert learning.iqm(scores) == stats.trim_mean(scores, 0.25) == 3.5
    low, high = learning.interval(np.stack([scores, scores]), draws=200)
    assert low < 3.5 < high < 1000
    assert learning.interval(np.full((2, 4), 7.0), draws=10) == (7.0, 7.0)
    low, high = learning.ratio_interval(np.full(5, 6.0), np.full(5, 3.0))
    assert (low, high) == (2.0, 2.0)


def test_curves_are_means_of_the_episodes_that_ended():
    said = {"return_sum": [[0.0, 4.0, 1, 1, 1, 5]], "finished": [[0.0, 2.0, 1, 1, 1, 1]]}
    np.testing.assert_allclose(learning.curves(said), [[np.nan, 2, 1, 1, 1, 5]])
    np.testing.assert_allclose(learning.in_the_end(said), [8 / 4])
    np.testing.assert_allclose(learning.in_the_end(said, 4), [6 / 4])
    np.testing.assert_allclose(learning.on_the_way(said), [10 / 5])


@pytest.fixture
def few_draws(monkeypatch):
    monkeypatch.setattr(learning, "DRAWS", 20)


def learnt(returns, seconds, differs="that"):
    """Four seeds that end one episode a slice; the return grows to the end."""
    sums = np.tile(np.linspace(0, returns, learning.SLICES), (4, 1))
    return {"return_sum": sums, "finished": np.ones_like(sums), "first_seconds": seconds, "differs": differs}


@pytest.mark.usefixtures("few_draws")
def test_what_was_learnt_stands_beside_each_of_the_others():
    last = np.linspace(0, 1, learning.SLICES)[-learning.LAST :].mean()
    said = {"ours": learnt(6.0, 10.0, "this"), "PureJaxRL": learnt(3.0, 20.0), "brax": learnt(2.0, None)}
    rows = learning.rows_of("ant", 100, {**said, learning.TRPO: learnt(12.0, 40.0)})
    way = [row for row in rows if row.what == "mean return on the way, ant"]
    assert [(row.beside, row.ratio) for row in way] == [
        (name, pytest.approx(ratio)) for name, ratio in (("PureJaxRL", 2), ("brax", 3), (learning.TRPO, 0.5))
    ]
    end, soon, brax, trpo = [row for row in rows if row.unit == "return" and row not in way]
    assert (end.ours, end.theirs, end.ratio, end.rounds) == pytest.approx((6 * last, 3 * last, 2, 4))
    assert (end.size, end.size_of, end.goal) == (100, "decisions", Goal("at least", 1.0))
    assert end.note == "ours: this; theirs: that"
    assert (soon.ours, soon.size, soon.size_of) == (pytest.approx(6 * last), 10, "seconds")
    half = np.linspace(0, 3, learning.SLICES)[: learning.SLICES // 2][-learning.LAST :].mean()
    assert soon.theirs == pytest.approx(half)  # ten of its twenty seconds
    assert (brax.beside, brax.ratio) == ("brax", pytest.approx(3))  # of one that compiles as it goes no time is known
    assert (trpo.beside, trpo.ratio, trpo.goal) == (learning.TRPO, pytest.approx(0.5), None)


@pytest.mark.usefixtures("few_draws")
def test_the_seconds_to_a_stated_return_are_told(monkeypatch):
    """Returns grow evenly from 0, so the first slice at or above a share of the last one is known."""
    monkeypatch.setattr(learning, "STATED", {"ant": 3.0})
    said = {"ours": learnt(6.0, 10.0), "PureJaxRL": learnt(3.0, 20.0), learning.TRPO: learnt(2.0, 40.0)}
    rows = [row for row in learning.rows_of("ant", 100, said) if row.unit == "s"]
    assert [(row.what, row.beside) for row in rows] == [
        ("to a return of 3, ant", "PureJaxRL"),
        ("to a return of 3, ant", learning.TRPO),
    ]
    half = np.argmax(np.linspace(0, 6, learning.SLICES) >= 3) + 1
    assert (rows[0].ours, rows[0].theirs) == pytest.approx((10 * half / learning.SLICES, 20.0))
    assert (rows[0].ratio, rows[0].goal) == (pytest.approx(half / learning.SLICES / 2), Goal("at most", 1.0))
    assert (rows[1].theirs, rows[1].ratio, rows[1].goal) == (None, None, None)
    assert page.amount(rows[1].theirs, "s") == "-"
    assert not [row for row in learning.rows_of("hopper", 100, said) if row.unit == "s"]
    # a slice in which some seed ended nothing is passed over
    gap = learnt(6.0, 10.0)
    gap["finished"][0, half - 1] = 0
    assert learning.seconds_to(3.0, gap) == pytest.approx(10 * (half + 1) / learning.SLICES)


def test_where_no_episode_ends_in_the_last_tenth_nothing_is_said(monkeypatch):
    silent = {**learnt(6.0, 10.0), "finished": np.zeros((4, learning.SLICES))}
    monkeypatch.setattr(learning, "race", lambda programs, repeats: {programs[0].name: Timed([], silent)})
    with pytest.raises(RuntimeError, match="ours, ant: in the last tenth no episode of some seed ended"):
        learning.measure(ONCE, "ant", 1000, 8, 4)


def test_everybody_learns_from_as_many_decisions(monkeypatch):
    monkeypatch.setattr(Peers, "python", lambda self, name: "python")
    found = learning.programs(Wanted(Peers(("python",), "folder")), "ant", 50, 16, 3)
    assert [(p.name, p.module) for p in found] == [
        ("ours", "ours"),
        ("PureJaxRL", "purejaxrl"),
        ("brax's trainer", "brax_trainer"),
        (learning.TRPO, "ours"),
        (learning.NARROWER, "ours"),
    ]
    own = ("source", "algorithm", "initial_log_std")
    alike = [{k: x for k, x in p.options.items() if k not in own} for p in found]
    assert alike == [alike[0]] * 5
    assert (alike[0]["updates"], alike[0]["num_envs"], alike[0]["seeds"]) == (50, 16, 3)
    assert found[1].options["source"] == "folder"
    assert found[3].options["algorithm"] == "trpo"
    assert found[4].options["initial_log_std"] == -1
    assert not [p for p in found[:4] if "initial_log_std" in p.options]


@pytest.mark.usefixtures("few_draws")
def test_what_a_narrower_first_policy_is_worth_stands_beside_ours_and_each_of_the_others():
    said = {"ours": learnt(6.0, 10.0), "PureJaxRL": learnt(3.0, 20.0), learning.TRPO: learnt(12.0, 40.0)}
    said[learning.NARROWER] = learnt(9.0, 10.0)
    rows = learning.rows_of("ant", 100, said)
    end = [row for row in rows if row.what.startswith("return in the end")]
    of = "return in the end, ant, narrower at first"
    assert [(row.what == of, row.beside, row.ratio, row.goal) for row in end] == [
        (False, "PureJaxRL", pytest.approx(2), Goal("at least", 1.0)),
        (False, learning.TRPO, pytest.approx(0.5), None),
        (True, "ours", pytest.approx(1.5), None),
        (True, "PureJaxRL", pytest.approx(3), Goal("at least", 1.0)),
        (True, learning.TRPO, pytest.approx(0.75), None),
    ]
    assert {row.beside for row in rows if "after as long" in row.what} == {"PureJaxRL"}


def test_the_first_policy_is_as_wide_as_it_is_said_to_be():
    wide, narrow = (ours.task_of("inverted_pendulum", "spring", 4, **said) for said in ({}, {"initial_log_std": -1.0}))
    for task, log_std in ((wide, 0.0), (narrow, -1.0)):
        np.testing.assert_array_equal(task.init_params(jax.random.key(0))["log_std"], [log_std])


def test_an_entrant_learns_from_the_width_that_it_was_told(monkeypatch):
    class Asked(Exception):
        pass

    def task_of(env, backend, num_envs, *, initial_log_std):
        raise Asked(initial_log_std)

    monkeypatch.setattr(ours, "task_of", task_of)
    for more, log_std in (({}, 0.0), ({"initial_log_std": -2.0}, -2.0)):
        with pytest.raises(Asked) as asked:
            ours.build(env="ant", backend="spring", num_envs=4, updates=1, **more)
        assert asked.value.args == (log_std,)


def test_agents_side_by_side_are_compiled_and_counted(monkeypatch):
    monkeypatch.setattr(seeds, "UPDATES", 1)
    monkeypatch.setattr(seeds, "program", lambda n, by_rate=False: lambda: np.zeros(n))
    rows = from_json(seeds.measure(Wanted(quick=True))["rows"])
    assert [(row.size, row.beside, row.unit) for row in rows] == [(8, "one alone", "decisions/s")] * 2
    took = {"1": [1.0] * 3, "8": [2.0] * 3, "rates": [4.0] * 3}
    monkeypatch.setattr(seeds, "interleaved", lambda runs, repeats: {name: took[name] for name in runs})
    rows = from_json(seeds.measure(Wanted(quick=True))["rows"])
    assert [row.ratio for row in rows] == [4.0, 2.0]  # eight agents in the time of two, and of four
