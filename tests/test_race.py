"""Programs that are timed in turns: what is counted, what fails, what a table says of whom. No test is of a time."""

import argparse
import statistics
import sys

import pytest

from benchmarks import entrants, training
from benchmarks.entrants import NUM_STEPS, ours
from benchmarks.entrants.race import Program, Timed, race, ratio

pytestmark = pytest.mark.filterwarnings("ignore")


def timed(seconds, decisions=100, **told):
    shared = {"build_seconds": 4.0, "first_update_seconds": 5.0, "peak_mb": 10, "differs": "nothing"}
    return Timed(list(seconds), {"decisions": decisions, **shared, **told})


def asked(**own):
    known = {"env": "inverted_pendulum", "backend": "spring", "algorithm": "ppo", "seeds": 1}
    return argparse.Namespace(**{**known, "beside": [], "peers_python": "python", "purejaxrl": "folder", **own})


def test_programs_of_other_processes_do_what_they_are_told_in_turns():
    environment, _, learner = training.programs(asked(), 8)
    small = [p._replace(options={**p.options, "updates": 2}) for p in (environment, learner)]
    found = race(small, repeats=3)
    assert list(found) == ["environment", "ours"]
    for one in found.values():
        assert one.told["decisions"] == 2 * NUM_STEPS * 8
        assert len(one.seconds) == 3
        assert all(x > 0 for x in one.seconds)
        assert one.told["first_update_seconds"] > one.told["build_seconds"] > 0
        assert one.told["peak_mb"] > 50
        assert one.rate == one.told["decisions"] / statistics.median(one.seconds)
    assert "rows are shuffled" in found["ours"].told["differs"]


def test_a_program_that_fails_is_named_with_its_last_words():
    options = {"env": "no_such_world", "backend": "spring", "num_envs": 1, "updates": 1}
    with pytest.raises(RuntimeError, match=r"mine ended with status 1:\n(.*\n)*.*no_such_world"):
        race([Program("mine", "environment", options)], repeats=1)


def test_a_ratio_is_of_rates_round_by_round():
    """Twice the decisions in the same time is twice as fast; quartiles by hand."""
    one, other = timed([1, 2, 4, 4], decisions=200), timed([1, 1, 1, 2], decisions=100)
    found = ratio(one, other)  # 2, 1, 1/2, 1
    assert found.median == 1
    assert (found.low, found.high) == tuple(statistics.quantiles([2, 1, 0.5, 1], n=4)[::2])
    assert found.rounds == 4
    assert ratio(timed([2]), timed([1]))[:3] == (0.5, 0.5, 0.5)


def test_everybody_works_on_as_many_environments():
    """The environment alone and rollouts alone have no seeds, so they have all their rows."""
    found = training.programs(asked(seeds=4, beside=["purejaxrl"]), 16)
    rows = {p.name: p.options["num_envs"] * p.options.get("seeds", 1) for p in found}
    assert rows == dict.fromkeys(("environment", "collecting", "ours", "purejaxrl"), 64)
    assert len({p.options["updates"] for p in found}) == 1
    assert {p.name: p.python for p in found} == {
        "environment": sys.executable, "collecting": sys.executable, "ours": sys.executable, "purejaxrl": "python",
    }  # fmt: skip
    assert found[-1].options["source"] == "folder"
    decisions = found[0].options["updates"] * NUM_STEPS * 64
    assert decisions == pytest.approx(training.DECISIONS["inverted_pendulum"], rel=0.01)


def test_ours_is_set_beside_each_of_the_others():
    found = training.figures(
        {
            "environment": timed([1, 1, 1], first_update_seconds=1.0),
            "ours": timed([2, 2, 4], first_update_seconds=3.0),
            "purejaxrl": timed([4, 4, 4], first_update_seconds=6.0),
        }
    )
    assert found["ours"]["over_environment"]["median"] == 0.5
    assert found["purejaxrl"]["ours_over_it"]["median"] == 2
    assert found["purejaxrl"]["our_first_update_over_its"] == 0.5
    assert found["ours"]["decisions_per_second_median"] == 50
    assert [("ours_over_it" in row) for row in found.values()] == [False, False, True]
    table = training.drawn({"64": found})
    assert [column.header for column in table.columns][-2:] == ["ours over it", "first update"]
    assert table.row_count == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--purejaxrl DIRECTORY"),
        (["--purejaxrl", "folder", "--algorithm", "trpo"], "what stands there is PPO, and --algorithm is trpo"),
    ],
)
def test_a_peer_that_cannot_be_beside_is_refused(words, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["training", "--beside", "purejaxrl", *words])
    with pytest.raises(SystemExit) as exit_:
        training.main()
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


def test_ours_learns_with_the_settings_of_everybody(monkeypatch):
    """Said one by one, so that other defaults of the recipe change no comparison."""
    given = {}
    monkeypatch.setattr(ours.algorithms, "ppo", lambda task, **own: given.update(own))
    ours.recipe_of(None, "ppo")
    elsewhere = {"NUM_STEPS", "HIDDEN", "EPISODE_LENGTH"}  # of the task
    settings = {name: x for name, x in vars(entrants).items() if name.isupper() and name not in elsewhere}
    named = {"CLIP": "clip_eps", "LAMBDA": "lambda_"}
    assert given == {named.get(name, name.lower()): x for name, x in settings.items()}
    task = ours.task_of("inverted_pendulum", "spring", 8)
    assert task.decisions == 8 * entrants.NUM_STEPS
