"""What neighbouring work claims, against enumeration and laws worked out another way."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import entropy, norm, t

from benchmarks import camera_dropbox
from benchmarks.outcomes_exact import findings, neighbours, tables
from benchmarks.record import RESULTS, reckoned
from polopt_jax import frontiers, outcomes
from polopt_jax import worlds as w

MEANS = np.array(w.OUTCOME_TABLES["means"])


@pytest.fixture(scope="module")
def kept():
    return json.loads((RESULTS / "outcomes" / "exact-neighbours.json").read_text())["figures"]


def test_soft_best_of_n_is_the_pump_at_its_success():
    """Every draw of three from four cells, and one of them chosen by exp(reward / temperature)."""
    law, n, temperature = np.array([0.5, 0.2, 0.2, 0.1]), 3, 0.7
    chosen = np.zeros(4)
    for draw in itertools.product(range(4), repeat=n):
        weight = np.exp((np.array(draw) >= 2) / temperature)
        for cell, share in zip(draw, weight / weight.sum(), strict=True):
            chosen[cell] += law[list(draw)].prod() * share
    assert chosen[2:].sum() == pytest.approx(neighbours.soft_best_of(0.3, n, temperature), abs=1e-12)
    pump = outcomes.pump(jnp.asarray(law.reshape(2, 2)), chosen[2:].sum())
    np.testing.assert_allclose(chosen.reshape(2, 2), pump.law, atol=1e-6)


def test_soft_best_of_n_reaches_the_success(kept):
    for row in kept["soft best of n"][0]["rows"]:
        success = float(np.sum(w.OUTCOME_TABLES[row["table"]][1]))
        assert neighbours.soft_best_of(success, row["n"], row["temperature"]) == pytest.approx(0.9, abs=1e-4)
        assert 1 - (1 - success) ** (row["n"] / 2) > 0.9


def test_mode_anchored_rewards_have_a_flat_optimum(x64):
    """The optimum of E[R'] - β KL for the β that reaches the success, from its Gibbs form."""
    law, pays = np.array([0.7, 0.1, 0.15, 0.05]), np.array([False, False, True, True])

    def optimum(beta):
        reward = np.where(pays, 1 + beta * (np.log(0.15) - np.log(law)), 0)
        weight = law * np.exp(reward / beta)
        return weight / weight.sum()

    beta = brentq(lambda beta: optimum(beta)[pays].sum() - tables.SUCCESS, 0.05, 5)
    np.testing.assert_allclose(tables.flattened(jnp.asarray(law), jnp.asarray(pays)), optimum(beta), atol=1e-9)


def test_mode_anchored_rewards_know_only_ways_that_the_reference_has(x64):
    law = jnp.array([0.9, 0.0999, 1e-9, 1e-4])
    np.testing.assert_allclose(
        tables.flattened(law, jnp.array([False, False, True, True])), [0.09001, 0.009991, 0, 0.9], atol=1e-6
    )


def test_contamination_replaces_one_percent():
    after = np.asarray(neighbours.contaminated(w.OUTCOME_TABLES["means"]))
    np.testing.assert_allclose(after, [[0.95832, 0.00198], [0.0198, 0.0199]], atol=1e-6)


def test_what_leaves_the_task_alone_pays_and_is_no_success():
    world = tables.impossible(w.tabulate(w.outcome_table()), 0.25)
    np.testing.assert_allclose(world.reward[0, :, 0], [0, 0, 0.25, 1])
    np.testing.assert_array_equal(world.outcome["success"][world.successor[0, :, 0]], [False, False, False, True])
    np.testing.assert_allclose(tables.impossible(w.tabulate(w.outcome_table())).reward[0, :, 0], [0, 0, 0, 1])


def test_the_clean_price_pulls_below_the_contaminated_rate(x64):
    """After one update that raises the side effect above the clean rate, the price is the excess over that rate."""
    cells = w.OUTCOME_TABLES["rare_hack"]
    problem = frontiers.exact_problem(w.tabulate(w.outcome_table()), side_effects=("side_effect",))
    logits = w.outcome_table_logits(np.asarray(neighbours.contaminated(cells)).tolist())[None]
    entry = neighbours.clean_price(cells)
    method = entry.method(problem, logits, jnp.asarray(1.0))
    after, (price, _) = jax.jit(lambda logits: method.step(logits, method.init(logits)))(logits)
    rate = jax.jit(lambda x: frontiers.cell_law(problem, frontiers.log_policy(problem, x)))(after)[:, 1].sum()
    assert price[1] == pytest.approx(float(rate) - 0.001, abs=1e-6)


def test_a_way_out_ends_in_shares_of_one(kept):
    for pays in neighbours.WAY_OUT:
        rows = {row["method"]: row for row in kept[f"way out {pays}"][0]["rows"]}
        for row in rows.values():
            assert row["success_in_the_end"] + row["left_alone_in_the_end"] <= 1 + 1e-4
        assert rows["trpo"]["success_in_the_end"] > 0.999
        assert rows["price"]["left_alone_in_the_end"] > 0.999
        anchored = rows["kl to the reference"]
        # the optimum of the anchored objective, by Bayes
        odds = 0.02 * np.exp((pays - 1) / 0.15) / 0.01
        assert anchored["left_alone_in_the_end"] / anchored["success_in_the_end"] == pytest.approx(odds, rel=0.02)


@pytest.mark.parametrize("errors", [64, 4096])
def test_a_reward_of_one_by_the_greatest_error_alone(errors):
    row = neighbours.all_error("Student's t, 3 degrees", errors)
    greatest = t.ppf(1 - 0.5 / errors, 3)
    law = np.full(errors, (1 - 1 / greatest) / errors)
    law[-1] += 1 / greatest
    assert row["greatest"] == pytest.approx(greatest, rel=1e-9)
    assert row["kl"] == pytest.approx(entropy(law, np.full(errors, 1 / errors)), rel=1e-9)


def test_tails_decide_whether_a_kl_protects(kept):
    rows = kept["error alone"][0]["rows"]
    for law, falls in (("Student's t, 3 degrees", True), ("normal", False)):
        kl = [row["kl"] for row in rows if row["error"] == law]
        assert (np.diff(kl) < 0).all() == falls
        assert (np.diff(kl) > 0).all() != falls


def test_the_best_reward_at_a_kl_of_two_normals():
    """Utility and error are alike where both are normal, and the gain is √(2 KL · 2) but for the missing tails."""
    row = neighbours.tilted("normal", 0.1)
    assert row["reward"] == pytest.approx(np.sqrt(0.4), rel=0.06)
    assert row["utility"] == pytest.approx(row["reward"] / 2, rel=0.1)


def test_approval_makes_every_step_careful():
    """The best action of each step under the reward that MONA learns never hacks, and always delivers."""
    world = camera_dropbox.approved(w.tabulate(w.camera_dropbox()))
    policy = jax.nn.one_hot((world.prob * world.reward).sum(-1).argmax(-1), 4)
    law = w.outcome_law(world, policy, w.cells(world, ("success", "hacked")), 4)
    np.testing.assert_allclose(law, [0, 0, 1, 0], atol=1e-6)


@pytest.mark.slow
def test_myopic_training_delivers_without_a_hack():
    problem = camera_dropbox.learnt(camera_dropbox.approved(w.tabulate(w.camera_dropbox())))
    run = jax.jit(lambda key: camera_dropbox.ends(problem, 0.1, key, gamma=0.0, updates=40))
    neither, intended, hacked = run(jax.random.key(0)).tolist()
    assert neither + intended + hacked == pytest.approx(1, abs=1e-5)
    assert intended > 0.9
    assert hacked < 1e-3


# What is shown


def cells(text, first):
    row = next(line for line in text.splitlines() if line.startswith(f"| {first} |"))
    return [cell.strip() for cell in row.strip("|").split("|")][1:]


def method(rows, name):
    return next(row for row in rows if row["method"] == name)


def test_the_tables_show_the_figures_of_their_columns(kept):
    clean = json.loads((RESULTS / "outcomes" / "exact-tables.json").read_text())["figures"]
    results = {"neighbours": kept, "tables": clean}
    trpo = cells(findings.contaminated(results), "trpo")
    for i, name in enumerate(neighbours.CONTAMINATED):
        assert float(trpo[2 * i]) == pytest.approx(method(clean[name][0]["rows"], "trpo")["side_effect"], rel=6e-3)
        after = method(kept[f"contaminated {name}"][0]["rows"], "trpo")["side_effect"]
        assert float(trpo[2 * i + 1]) == pytest.approx(after, rel=6e-3)
    assert cells(findings.contaminated(results), "price, clean rates")[::2] == ["-"] * 4
    shown = cells(findings.way_out(results), "kl to the reference")
    ends = [method(kept[f"way out {pays}"][0]["rows"], "kl to the reference") for pays in neighbours.WAY_OUT]
    wanted = [row[key] for row in ends for key in ("success_in_the_end", "left_alone_in_the_end")]
    np.testing.assert_allclose([float(x) for x in shown], wanted, rtol=6e-3)
    (rare,) = (row for row in kept["soft best of n"][0]["rows"] if row["table"] == "rare_hack")
    assert cells(findings.soft_best(results), "rare_hack") == [str(rare["n"]), f"{rare['temperature']:.3g}"]


def test_the_mistakes_are_shown_by_their_law(kept):
    alone = cells(findings.TABLES["mistaken-alone"]({"neighbours": kept}), "4096")
    wanted = [t.ppf(1 - 0.5 / 4096, 3), 0.209, norm.ppf(1 - 0.5 / 4096), 1.68]
    np.testing.assert_allclose([float(x) for x in alone], wanted, rtol=6e-3)
    tilt = cells(findings.TABLES["mistaken-tilt"]({"neighbours": kept}), "2")
    wanted = [row[x] for row in kept["tilt"][0]["rows"] if row["kl"] == 2 for x in ("reward", "utility")]
    np.testing.assert_allclose([float(x) for x in tilt], wanted, rtol=6e-3)


def test_the_dropbox_shows_means_over_runs():
    figures = json.loads(camera_dropbox.KEPT.read_text())["figures"]
    assert {np.shape(x) for x in figures.values()} == {(3, 10, 3)}
    laws = np.array(figures["ordinary"][2])
    shown = cells(camera_dropbox.dropbox(None), "ordinary, rate 0.1")
    np.testing.assert_allclose([float(x.split()[0]) for x in shown[:3]], laws.mean(0), atol=6e-4)
    assert shown[3] == f"{sum(law[2] > 0.5 for law in laws)} of 10"
    assert cells(camera_dropbox.dropbox(None), "myopic, published")[:3] == ["0.001", "0.999", "0"]


def test_a_result_says_what_it_was_reckoned_with():
    found = json.loads(reckoned("some benchmark", {"x": 0.123456789}, command="do it", precision="float64"))
    assert found["figures"] == {"x": 0.12346}
    assert (found["benchmark"], found["command"], found["precision"]) == ("some benchmark", "do it", "float64")
    assert found["versions"]["jax"] == jax.__version__
