"""The command: wrong input, a run and its files, resuming, locks, the report. Long runs are marked slow."""

import json
import math
import os
import re
import resource
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from polopt_jax import presets
from polopt_jax.cli import _log, _metrics, _plan, _report, _run_directory, _table, main
from polopt_jax.cli._errors import UsageError, one_line
from polopt_jax.cli._hyperparameters import Hyperparameters, flag, parameters
from polopt_jax.cli._names import ABOUT, algorithms, environments
from polopt_jax.cli._options import Compare, Train
from polopt_jax.driver import Chunk
from polopt_jax.envs import brax_backends, brax_env, brax_names

ENVIRON = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
"""For subprocesses: they see the modules that the tests see."""

# --- wrong input ---------------------------------------------------------------------------------------------------

WRONG = [
    ("trian", "did you mean 'train'"),
    ("--frobnicate", "unknown command"),
    ("train", "ALGORITHM, --env NAME"),
    ("train ppo", "--env NAME"),
    ("train pp0 --env ant", "did you mean 'ppo'"),
    ("train GPRO --env skip_the_test", "did you mean 'grpo'"),
    ("train ppo --env anti", "did you mean 'ant'"),
    ("train ppo --env inverted-pendulun", "did you mean 'inverted_pendulum'"),
    ("train grpo --env ant", "--env skip_the_test"),
    ("train dpo --env hopper", "token worlds only"),
    ("train ppo --env ant --stepz 3", "did you mean --steps"),
    ("train ppo --env ant surplus", "surplus"),
    ("train ppo --env", "--env"),
    ("train ppo --env ant --steps", "--steps"),
    ("train ppo --env ant --steps many", "'many' is not a whole number"),
    ("train ppo --env ant --steps 1.5", "'1.5' is not a whole number"),
    ("train ppo --env ant --steps inf", "'inf' is not a whole number"),
    ("train ppo --env ant --steps 0", "--steps must be from 1"),
    ("train ppo --env ant --steps -5", "--steps must be from 1"),
    ("train ppo --env ant --num-envs 0", "--num-envs must be from 1"),
    ("train ppo --env ant --num-envs 100", "not a multiple of --num-minibatches 8"),
    ("train trpo --env ant --num-envs 100", "not a multiple of --value-minibatches 8"),
    ("train grpo --env skip_the_test --num-envs 100", "not a multiple of"),
    ("train ppo --env skip_the_test --group-size 7", "not a multiple of --group-size 7"),
    ("train grpo --env skip_the_test --group-size 1", "at least 2"),
    ("train dpo --env skip_the_test --pairs-per-update 5000", "more than --num-pairs 512"),
    ("train ppo --env ant --num-envs 1048576 --num-seeds 4096", "fewer --num-envs"),
    ("train ppo --env ant --num-seeds 0", "--num-seeds must be from 1"),
    ("train ppo --env ant --seed -1", "--seed must be from 0"),
    ("train ppo --env ant --rollout-steps 0", "--rollout-steps must be from 1"),
    ("train ppo --env ant --episode-length 0", "--episode-length must be from 1"),
    ("train ppo --env ant --learning-rate -1", "--learning-rate must be a finite number above 0"),
    ("train ppo --env ant --learning-rate 0", "--learning-rate must be a finite number above 0"),
    ("train ppo --env ant --learning-rate nan", "--learning-rate must be a finite number above 0"),
    ("train ppo --env ant --learning-rate 1e400", "--learning-rate must be a finite number above 0"),
    ("train ppo --env ant --learning-rate fast", "'fast' is not a number"),
    ("train ppo --env ant --gamma 1.5", "--gamma must be a finite number from 0 to 1"),
    ("train ppo --env ant --lambda -0.1", "--lambda must be a finite number from 0 to 1"),
    ("train trpo --env ant --radius 0", "--radius must be a finite number above 0"),
    ("train trpo --env ant --cg-iters 0", "--cg-iters must be a finite number from 1"),
    ("train trpo --env ant --clip-eps 0.1", "trpo has no --clip-eps; it has --gamma"),
    ("train ppo --env ant --baseline learned", "ppo has no --baseline"),
    ("train reinforce --env ant --baseline lerned", "did you mean 'learned'"),
    ("train ppo --env ant --backend sprin", "did you mean 'spring'"),
    ("train ppo --env swimmer --backend spring", "did you mean 'generalized'"),
    ("train ppo --env skip_the_test --backend spring", "--backend does not apply"),
    ("train ppo --env skip_the_test --episode-length 10", "--episode-length does not apply"),
    ("train ppo --env ant --group-size 4", "--group-size does not apply"),
    ("train ppo --env ant --resume", "--resume needs --out"),
    ("train ppo --env ant --out a/../b", "cannot be a run directory"),
    ("train ppo --env ant --out .hidden", "cannot be a run directory"),
    ("train ppo --env ant --out aux", "cannot be a run directory"),
    ("train ppo --env ant --out nowhere --resume", "there is no nowhere"),
    ("compare --algorithms ppo trop", "did you mean 'trpo'"),
    ("compare --algorithms ppo ppo", "names ppo twice"),
    ("compare --env ant --algorithms dpo", "token worlds only"),
    ("compare --env ant hoper", "did you mean 'hopper'"),
    ("compare --budget nan", "--budget must be a finite number above 0"),
    ("compare --budget -1", "--budget must be a finite number above 0"),
    ("compare --num-envs 100", "not a multiple of"),
    ("compare --env skip_the_test --backend mjx", "--backend does not apply"),
    ("envs ant", "unrecognized options: ant"),
]


@pytest.fixture(autouse=True)
def somewhere_else(tmp_path, monkeypatch):
    """Each test runs in a directory of its own."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("line", "said"), WRONG, ids=[line for line, _ in WRONG])
def test_wrong_input_is_told_in_one_line(line, said, capsys, tmp_path):
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("polopt: error: ")
    assert err.count("\n") == 1
    assert said in err
    assert list(tmp_path.iterdir()) == []


def test_wrong_input_needs_neither_brax_nor_orbax_nor_matplotlib():
    program = (
        "import sys; from polopt_jax.cli import main; code = main('train grpo --env ant'.split());"
        "sys.exit(code if not {'brax', 'mujoco', 'orbax', 'matplotlib'} & sys.modules.keys() else 99)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=ENVIRON)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("polopt: error: ")
    assert after.ru_utime - before.ru_utime < 4  # seconds; on an idle machine about one


@pytest.mark.parametrize("name", ["x\x1b[31mred", "a\nb", "<script>", "é", "x" * 65, "con.txt", "a ", "-rf", "\0"])
def test_hostile_names_touch_nothing(name, capsys, tmp_path):
    assert main(["train", "ppo", "--env", "ant", f"--out={name}"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err[:-1].isprintable()
    assert list(tmp_path.iterdir()) == []


def test_one_line_shows_control_characters():
    assert one_line("a\tb\n c\x07\x9b") == "a b c\\x07\\x9b"


# --- help ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["", "--help", "train --help", "compare --help", "envs --help"])
def test_help_fits_eighty_columns(line, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(line.split()) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "usage: polopt" in out
    assert max(map(len, out.splitlines())) <= 80


def test_version(capsys):
    assert main(["--version"]) == 0
    assert re.fullmatch(r"polopt \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_envs_lists_every_environment(capsys):
    assert main(["envs"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in environments())
    assert set(ABOUT) == set(environments())


@pytest.mark.slow
def test_envs_tells_the_sizes_that_the_environments_have():
    for name in brax_names():
        env = brax_env(name, backend=brax_backends(name)[0])
        assert (ABOUT[name].observation, ABOUT[name].action) == (f"{env.obs_shape[0]}", f"box {env.action_space.size}")


@pytest.mark.parametrize("algorithm", algorithms("skip_the_test"))
def test_every_hyperparameter_has_a_flag(algorithm, capsys):
    main(["train", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert set(parameters(algorithm)) <= {field.name for field in fields(Hyperparameters)}
    for preset in (presets.CONTROL.get(algorithm), presets.TOKENS[algorithm]):
        assert preset is None or set(preset.hyperparameters) <= set(parameters(algorithm))
    assert all(f"{flag(name)} " in said for name in parameters(algorithm))


# --- plans ---------------------------------------------------------------------------------------------------------


def test_chunks_cover_the_updates():
    for updates in (*range(1, 400), 997, 1009, 2500, 12_345, 10**6):
        chunks, size = _plan.split_updates(updates)
        assert updates <= chunks * size < updates + size
        assert size <= 100
        assert min(updates, 17) <= chunks <= max(37, updates / 90)


def test_steps_are_rounded_up_to_whole_updates():
    plan = _plan.plan_train(Train(algorithm="actor-critic", env="inverted_pendulum", steps=1001, num_envs=8))
    assert plan.decisions == 8 * plan.rollout_steps
    assert 1001 <= plan.steps < 1001 + plan.decisions * plan.chunk_updates
    assert (plan.algorithm, plan.backend, plan.episode_length) == ("actor_critic", "spring", 1000)


def test_compare_pairs_algorithms_with_the_environments_that_have_them():
    plans = _plan.plan_compare(Compare())
    assert [(plan.env, plan.algorithm) for plan in plans] == [
        *(("inverted_pendulum", name) for name in ("reinforce", "actor_critic", "npg", "trpo", "ppo")),
        *(("skip_the_test", name) for name in ("reinforce", "actor_critic", "npg", "trpo", "ppo", "dpo", "grpo")),
    ]
    for env in ("inverted_pendulum", "skip_the_test"):
        steps = [plan.steps for plan in plans if plan.env == env]
        assert max(steps) < 1.25 * min(steps)
    plans = _plan.plan_compare(Compare(algorithms=("ppo", "grpo")))
    assert [(plan.env, plan.algorithm) for plan in plans] == [
        ("inverted_pendulum", "ppo"),
        ("skip_the_test", "ppo"),
        ("skip_the_test", "grpo"),
    ]


# --- files ---------------------------------------------------------------------------------------------------------


def test_a_directory_with_something_in_it_is_not_touched(tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    assert main(["train", "ppo", "--env", "ant", "--out", "mine"]) == 2
    assert "mine is not empty" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_a_directory_in_use_is_named_with_its_process(tmp_path, capsys):
    with _run_directory.new(tmp_path / "x", "unused") as directory:
        (directory / "config.json").write_text("{}")
        for line in ("train ppo --env ant --out x", "train ppo --env ant --out x --resume", "compare --out x"):
            assert main(line.split()) == 2
            assert f"in use by process {os.getpid()}" in capsys.readouterr().err
    with _run_directory.locked(tmp_path / "x"):  # free again
        pass


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    program = (
        "import os, signal; from pathlib import Path; from polopt_jax.cli import _run_directory as d\n"
        "with d.locked(Path('.')): os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=ENVIRON).returncode == -signal.SIGKILL
    assert (tmp_path / ".lock").read_text().isdigit()
    with _run_directory.locked(tmp_path):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())


def test_default_directories_are_numbered(tmp_path):
    for expected in ("a", "a-2", "a-3"):
        with _run_directory.new(None, "a") as directory:
            assert directory == Path("runs") / expected


def test_a_link_is_no_run_directory(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="symbolic link"):
        _run_directory.check_path(Path("link"))
    (tmp_path / "runs").symlink_to(tmp_path / "elsewhere")  # but its parent may be one
    assert _run_directory.check_path(Path("runs/x")) == Path("runs/x")


def test_json_has_no_nan():
    assert (
        _run_directory.to_json({"a": [math.nan, math.inf, 1.5], "b": -math.inf})
        == '{"a": [null, null, 1.5], "b": null}'
    )


# --- numbers -------------------------------------------------------------------------------------------------------


def plan_of(algorithm="ppo", env="inverted_pendulum", seeds=2):
    return _plan.plan_train(Train(algorithm=algorithm, env=env, steps=100_000, num_seeds=seeds))


def fake_result(algorithm="ppo", env="inverted_pendulum", seeds=2, status="finished"):
    """Made-up curves, so that tables and pictures can be tested without training."""
    plan = plan_of(algorithm, env, seeds)
    rng = np.random.default_rng(0)
    rows = []
    for i in range(1, plan.num_chunks + 1):
        metrics = {
            "episode/finished": np.full((seeds, plan.chunk_updates), float(i > 1)),
            "episode/return_sum": rng.uniform(0, i, (seeds, plan.chunk_updates)) * (i > 1),
            "kl_old_new": rng.uniform(1e-3, 1e-2, (seeds, plan.chunk_updates)),
            "entropy": rng.uniform(0, 1, (seeds, plan.chunk_updates)),
        }
        if plan.is_token:
            metrics |= {name: rng.uniform(0, 1, (seeds, 1)) for name in ("outcome/skip", "outcome/honest")}
        if algorithm == "trpo":
            metrics |= {"0/cg_residual": np.full((seeds, 1), 0.01), "0/line_search_accepted": np.ones((seeds, 1))}
        chunk = Chunk(i * plan.chunk_updates, metrics, 0.5, None)
        rows.append(_log.chunk_row(plan, chunk, seconds=0.5 * i, compile_seconds=3.0))
    return _metrics.Result(plan, rows, status)


def test_reward_is_that_of_finished_episodes_and_null_without_any():
    rows = fake_result().rows
    assert rows[0]["reward"] == [None, None]
    for row in rows[1:]:
        expected = np.divide(row["episode/return_sum"], row["episode/finished"])
        np.testing.assert_allclose(row["reward"], expected)


def test_summary():
    result = fake_result("trpo", seeds=3)
    summary = result.summary
    last = [row for row in result.rows if row["update"] > 0.9 * result.plan.updates]
    by_seed = np.sum([row["episode/return_sum"] for row in last], 0) / np.sum(
        [row["episode/finished"] for row in last], 0
    )
    np.testing.assert_allclose(summary["reward_by_seed"], by_seed)
    np.testing.assert_allclose(summary["reward"], by_seed.mean())
    np.testing.assert_allclose(summary["reward_interval"], 4.302653 * by_seed.std(ddof=1) / np.sqrt(3), rtol=1e-6)
    np.testing.assert_allclose(summary["kl_old_new"], np.mean([row["kl_old_new"] for row in result.rows]))
    assert summary["steps_per_second"] == result.plan.steps * 3 / (0.5 * len(result.rows))
    assert summary["wall_seconds"] == 0.5 * len(result.rows) + 3.0
    assert (summary["cg_residual"], summary["line_search_accepted"]) == (0.01, 1.0)


def test_the_final_reward_is_that_of_the_episodes_that_ended_last():
    """Where the last tenth holds none, as on reacher, whose episodes all end at the same step."""
    result = fake_result()
    for i, row in enumerate(result.rows):
        ended = [float(i in (3, 5)), float(i == 4)]
        row.update({"episode/finished": ended, "episode/return_sum": [10.0 * i * ended[0], -7.0 * ended[1]]})
    assert len(result.rows) > 10
    assert result.summary["reward_by_seed"] == [50.0, -7.0]


def test_a_run_in_which_no_episode_finished_has_no_reward():
    result = fake_result()
    for row in result.rows:
        row.update({"reward": [None, None], "episode/finished": [0.0, 0.0], "episode/return_sum": [0.0, 0.0]})
    assert result.summary["reward"] is None
    assert "-" in _table.cells([result])[1][0]
    assert "<svg" in _report.render("x", [result], FACTS)


# --- table and report ----------------------------------------------------------------------------------------------

FACTS = {"Command": "polopt x", "Directory": "runs/x", "Date": "today", "Device": "2 CPU cores", "Versions": "1"}
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</style><script>alert(1)</script>",
    "</svg><a href=https://example.com>x</a>",
    "&lt;b&gt; &#x3c;b&#x3e;",
    "javascript:alert(1)",
    "\u2028</title>\u2029",
]


class Tags(HTMLParser):
    """Counts tags and attributes."""

    def __init__(self, page):
        super().__init__()
        self.found, self.attributes = Counter(), []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found[tag, tuple(sorted(name for name, _ in attrs))] += 1
        self.attributes += attrs


@pytest.fixture(scope="module")
def results():
    return [fake_result("ppo"), fake_result("trpo"), fake_result("dpo", "skip_the_test", status="interrupted")]


def test_the_table_fits(results, capsys):
    _table.print_table(results)
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert "\x1b" not in out
    assert max(map(len, lines)) <= 120
    titles = [line for line in lines if " seeds, " in line]
    assert len(titles) == 2
    assert [line.split()[0] for line in lines[3:5]] == ["ppo", "trpo"]
    assert "dpo*" in out
    assert "100%" in next(line for line in lines if line.startswith("trpo"))
    columns, rows = _table.cells(results)
    widths = [max(map(len, (*column.name, *(row[i] for row in rows)))) for i, column in enumerate(columns)]
    assert sum(widths) + len(widths) - 1 <= 80


def test_the_report_needs_nothing_from_outside(results):
    page = _report.render("A title", results, FACTS, notes=["a note"])
    tags = Tags(page)
    names = {tag for tag, _ in tags.found}
    assert not names & {"script", "link", "iframe", "object", "embed", "base", "img"}
    assert "://" not in page
    assert all(value.startswith("#") for name, value in tags.attributes if name in ("src", "href", "xlink:href"))
    assert "default-src 'none'" in page
    assert page.count("<svg ") == 2
    for name, value in tags.attributes:
        if name == "aria-label":
            assert value.startswith("Curves on ")
    assert "KL(policy before ‖ policy after)" in page


@pytest.mark.parametrize("text", HOSTILE)
def test_the_report_escapes_what_it_is_given(text, results):
    facts = dict.fromkeys(FACTS, text)
    page = _report.render(text, results[:1], facts, notes=[text])
    assert Tags(page).found == Tags(_report.render("x", results[:1], FACTS, notes=["x"])).found


# --- runs ----------------------------------------------------------------------------------------------------------


def test_compare_prints_one_table(tmp_path, capsys):
    line = "compare --algorithms actor_critic reinforce --env inverted_pendulum --num-envs 8 --steps 1024 --num-seeds 2"
    assert main([*line.split(), "--out", "both"]) == 0
    out = capsys.readouterr().out
    assert out.count("algorithm ") == 1
    assert [line.split()[0] for line in out.splitlines() if line.startswith(("rein", "actor"))] == [
        "reinforce",
        "actor_critic",
    ]
    assert "Report: both/report.html" in out
    rows = [json.loads(line) for line in (tmp_path / "both" / "metrics.jsonl").read_text().splitlines()]
    assert {row["algorithm"] for row in rows} == {"reinforce", "actor_critic"}
    assert all(len(row["kl_old_new"]) == 2 for row in rows)
    assert {path.name for path in (tmp_path / "both").iterdir()} == {
        ".lock",
        "config.json",
        "curves.png",
        "metrics.jsonl",
        "report.html",
        "summary.json",
    }
