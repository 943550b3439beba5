"""The command: wrong input, a run and its files, resuming, locks, the report. Long runs are marked slow."""

import functools
import inspect
import itertools
import json
import math
import os
import re
import resource
import signal
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from importlib import metadata
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import polopt_jax
from polopt_jax import algorithms, report, settings
from polopt_jax.algorithms import Algorithm
from polopt_jax.cli import (
    _build,
    _compare,
    _main,
    _plan,
    _progress,
    _recipes,
    _report,
    _result,
    _table,
    _token_worlds,
    _train,
    _worlds,
    main,
)
from polopt_jax.cli._envs import ABOUT, environments
from polopt_jax.cli._envs import algorithms as algorithms_of
from polopt_jax.cli._options import Compare, Train
from polopt_jax.cli._presets import PRESETS, Preset, Presets
from polopt_jax.cli._words import one_line
from polopt_jax.driver import Chunk
from polopt_jax.envs import TimeLimit, brax_backends, brax_env, brax_names
from polopt_jax.language import token_table
from polopt_jax.ranges import Count, Interval, Positive
from polopt_jax.runs import RunError, Schedule, _directory, _log, _schedule
from polopt_jax.tasks import Task
from polopt_jax.worlds import TOKEN_WORLDS, WORLDS, reachable_states, skip_the_test, told_worlds

ENVIRON = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
"""For subprocesses: they see the modules that the tests see."""

# --- wrong input ---------------------------------------------------------------------------------------------------

WRONG = [
    ("trian", "did you mean 'train'"),
    ("--frobnicate", "unknown command"),
    ("train", "ALGORITHM, --env NAME"),
    ("train ppo", "--env NAME"),
    ("train --env ant ppo", "the algorithm comes first"),
    ("train pp0 --env ant", "did you mean 'ppo'"),
    ("train GPRO --env skip_the_test", "did you mean 'grpo'"),
    ("train ppo --env anti", "did you mean 'ant'"),
    ("train ppo --env inverted-pendulun", "did you mean 'inverted_pendulum'"),
    ("train grpo --env ant", "--env skip_the_test"),
    ("train dpo --env hopper", "token worlds only"),
    ("train ppo --env ant --stepz 3", "did you mean --steps"),
    ("train ppo --env ant --lr 3e-4", "unrecognized options: --lr; did you mean --learning-rate?"),
    ("train ppo --env ant --clip_range=0.1", "unrecognized options: --clip-range; did you mean --clip-eps?"),
    ("train trpo --env ant --target-kl 0.1", "did you mean --radius?"),
    ("train grpo --env skip_the_test --total-timesteps 9", "did you mean --steps?"),
    ("train ppo --env HalfCheetah-v4", "'HalfCheetah-v4' is a name of Gymnasium's"),
    ("train ppo --env HalfCheetah-v4", "--env halfcheetah is Brax's own"),
    ("train ppo --env InvertedDoublePendulum-v5", "--env inverted_double_pendulum is Brax's own"),
    ("train ppo --env ALE/Pong-v5", "this is Brax's list: ant,"),
    ("train ppo --env ant surplus", "surplus"),
    ("train ppo --env", "--env"),
    ("train ppo --env ant --steps", "--steps"),
    ("train ppo --env ant --steps many", "'many' is not a whole number"),
    ("train ppo --env ant --steps 1.5", "'1.5' is not a whole number"),
    ("train ppo --env ant --steps inf", "'inf' is not a whole number"),
    ("train ppo --env ant --steps 0", "--steps must be from 1"),
    ("train ppo --env ant --steps -5", "--steps must be from 1"),
    ("train ppo --env ant --num-envs 0", "--num-envs must be from 1"),
    ("train ppo --env skip_the_test --group-size 0", "--group-size must be from 1"),
    (
        "train ppo --env ant --num-envs 100 --rollout-steps 3",
        "--num-minibatches 8 must divide --num-envs 100 x --rollout-steps 3 = 300",
    ),
    ("train ppo --env boat-race", "--env boat-race is a world of `polopt outcomes --worlds boat-race`; env"),
    ("train ppo --env told_worlds", "--env told_worlds is a world of `polopt study --worlds told-worlds`; env"),
    ("train ppo --env prompt-mixture", "is a world, which no command learns in (`polopt envs prompt-mixture`); env"),
    (
        "train ppo --env ant --num-envs 101 --rollout-steps 4",
        "--num-minibatches 8 must divide --num-envs 101 x --rollout-steps 4 = 404",
    ),
    ("train trpo --env ant --num-envs 101 --rollout-steps 12", "--value-minibatches 8 must divide --num-envs 101 x"),
    ("train grpo --env skip_the_test --num-envs 100", "--group-size 8 must divide --num-envs 100"),
    ("train ppo --env skip_the_test --group-size 7", "--group-size 7 must divide --num-envs 256"),
    ("train grpo --env skip_the_test --group-size 1", "at least 2"),
    ("train dpo --env skip_the_test --num-envs 2048", "no more than --num-pairs = 512 pairs"),
    ("train dpo --env skip_the_test --num-envs 3 --group-size 3", "even in number"),
    ("train dpo --env skip_the_test --num-envs 64 --num-pairs 16", "no more than --num-pairs = 16 pairs"),
    ("train ppo --env ant --num-envs 1048576 --num-seeds 4096", "fewer --num-envs"),
    ("train ppo --env ant --num-seeds 0", "--num-seeds must be from 1"),
    ("train ppo --env ant --seed -1", "--seed must be from 0"),
    ("train ppo --env ant --rollout-steps 0", "--rollout-steps must be from 1"),
    ("train ppo --env ant --episode-length 0", "--episode-length must be from 1"),
    ("train ppo --env ant --learning-rate -1", "--learning-rate must be finite and above 0"),
    ("train ppo --env ant --learning-rate 0", "--learning-rate must be finite and above 0"),
    ("train ppo --env ant --learning-rate nan", "--learning-rate must be finite and above 0"),
    ("train ppo --env ant --learning-rate 1e400", "--learning-rate must be finite and above 0"),
    ("train ppo --env ant --learning-rate fast", "'fast' is not a number"),
    ("train ppo --env ant --gamma 1.5", "--gamma must be finite and from 0 to 1"),
    ("train ppo --env ant --lambda -0.1", "--lambda must be finite and from 0 to 1"),
    ("train trpo --env ant --radius 0", "--radius must be finite and above 0"),
    ("train trpo --env ant --cg-iters 0", "--cg-iters must be a whole number from 1 to 1,000,000"),
    ("train trpo --env ant --clip-eps 0.1", "trpo has no --clip-eps; it has --radius, --damping"),
    ("train ppo --env ant --baseline learned", "ppo has no --baseline"),
    ("train reinforce --env ant --baseline lerned", "did you mean 'learned'"),
    ("train ppo --env ant --learning-rate 1e-46", "--learning-rate must be a number that float32 can hold"),
    ("train ppo --env ant --learning-rate 1e-39", "--learning-rate must be a number that float32 can hold"),
    ("train ppo --env ant --learning-rate 1e39", "--learning-rate must be a number that float32 can hold"),
    ("train grpo --env skip_the_test --beta 1e-46", "--beta must be a number that float32 can hold"),
    ("train ppo --env ant --num-epochs 1e7", "--num-epochs must be a whole number from 1 to 1,000,000"),
    ("train ppo --env ant --num-epochs 1.5", "'1.5' is not a whole number"),
    ("train dpo --env skip_the_test --gamma 1", "dpo has no --gamma; it has --learning-rate, --beta"),
    ("train ppo --env ant --backend sprin", "did you mean 'spring'"),
    ("train ppo --env swimmer --backend spring", "unknown backend of swimmer 'spring'. Known: generalized\n"),
    ("train ppo --env skip_the_test --backend spring", "--backend does not apply"),
    ("train ppo --env skip_the_test --episode-length 10", "--episode-length does not apply"),
    ("train ppo --env ant --group-size 4", "--group-size does not apply"),
    ("train ppo --env ant --resume", "--resume needs --out"),
    ("train ppo --env ant --out ..", "cannot be a run directory"),
    ("train ppo --env ant --out a/../b --resume", "there is no"),
    ("train ppo --env ant --out .hidden", "cannot be a run directory"),
    ("train ppo --env ant --out aux", "cannot be a run directory"),
    ("train ppo --env ant --out nowhere --resume", "there is no nowhere"),
    ("compare --algorithms ppo trop", "did you mean 'trpo'"),
    ("compare --algorithms ppo ppo", "names ppo twice"),
    ("compare --env ant --algorithms dpo", "token worlds only"),
    ("compare --env ant hoper", "did you mean 'hopper'"),
    ("compare --budget nan", "--budget must be a finite number above 0"),
    ("compare --budget -1", "--budget must be a finite number above 0"),
    ("compare --num-envs 100", "must divide --num-envs 100"),
    ("compare --env skip_the_test --backend mjx", "--backend does not apply"),
    ("envs anti", "did you mean 'ant'"),
    ("train reinforce --env ant --num-envs 1", "--num-envs 1: reinforce: this baseline needs 2 rows"),
    ("train ppo --env mine", "unknown environment 'mine'. Known: ant, "),
    (
        "train ppo --env mine",
        "of your own is package.module:factory, playground:NAME or gymnax:NAME, a simulator gymnasium:NAME",
    ),
    ("outcomes --worlds gardens", "heavy-tail; one of your own is package.module:factory"),
    ("envs gardens", "skip_the_test; one of your own is package.module:factory"),
    ("envs boatrace", "did you mean 'boat-race'"),
    ("envs ant surplus", "surplus"),
    ("envs --html", "--html"),
    ("envs ant --html page.html", "--html draws worlds, and ant is none"),
    ("envs --html nowhere/page.html", "there is no directory nowhere to write page.html to"),
    ("envs --html .", "--html needs the name of a file"),
]


@pytest.fixture(autouse=True)
def somewhere_else(tmp_path, monkeypatch):
    """Each test runs in a directory of its own."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("line", "said"), WRONG, ids=[line for line, _ in WRONG])
def test_wrong_input_is_told_in_one_line(line, said, capsys, tmp_path, monkeypatch):
    begun = lambda *_: pytest.fail("a run was begun")  # noqa: E731
    monkeypatch.setattr(_train, "_train", begun)
    monkeypatch.setattr(_compare, "_run_all", begun)
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


@pytest.mark.parametrize(
    "line",
    ["", "--help", "train --help", "compare --help", "envs --help", *(f"train {name} --help" for name in PRESETS)],
)
def test_help_fits_eighty_columns(line, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(line.split()) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "usage: polopt" in out
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("line", ["train ppo --help", "train grpo --data x --help", "bench --help"])
def test_help_is_no_wider_than_can_be_read_and_is_wrapped_once(line, capsys, monkeypatch):
    said = {}
    for columns in (80, 100, 101, 120, 250):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert main(line.split()) == 0
        said[columns] = capsys.readouterr().out
        assert os.environ["COLUMNS"] == str(columns)
    assert said[100] == said[101] == said[120] == said[250] != said[80]
    monkeypatch.delenv("COLUMNS")
    assert main(line.split()) == 0
    assert "COLUMNS" not in os.environ
    options = said[100].split(" options\n", 1)[1].splitlines()
    column = next(line.index("show this help") for line in options if "show this help" in line)
    for above, below in itertools.pairwise(options):
        assert not below.strip() or re.match(r"  -| \S", below) or below.startswith(" " * column), below
        assert len(above) <= 100


@pytest.mark.parametrize(
    ("words", "code"),
    [
        pytest.param("trian 2>&{gone}", 2, marks=pytest.mark.slow),
        pytest.param("trian 2>&-", 2, marks=pytest.mark.slow),
        ("trian 2>/dev/full", 2),
        ("envs anti >&-", 2),
        pytest.param("envs ant >&-", 0, marks=pytest.mark.slow),
        ("--version >&{gone}", 0),
    ],
)
def test_exit_codes_hold_where_nobody_reads_what_is_said(words, code):
    """A reader that has gone, a stream closed from the first, a full disk. The error does not go to stdout instead."""
    reader, gone = os.pipe()
    os.close(reader)
    line = ["bash", "-c", f"{sys.executable} -u -m polopt_jax {words.format(gone=gone)}"]
    done = subprocess.run(line, capture_output=True, text=True, env=ENVIRON, pass_fds=(gone,))
    os.close(gone)
    said = "did you mean 'ant'" if "anti" in words else ""
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_version(capsys):
    assert main(["--version"]) == 0
    assert re.fullmatch(r"polopt \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_envs_lists_every_environment(capsys):
    assert main(["envs"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in environments())
    assert set(ABOUT) == set(environments())


def test_envs_of_one_environment_is_its_row(capsys):
    assert main(["envs", "inverted-pendulum"]) == 0
    out = capsys.readouterr().out
    assert [name for name in environments() if name in out] == ["inverted_pendulum"]
    assert ABOUT["inverted_pendulum"].rewarded in out
    assert "Learnt by reinforce, " in out
    assert "dpo" not in out


def test_envs_lists_every_world_without_making_one(capsys, monkeypatch):
    monkeypatch.setattr(_worlds, "tabulate", lambda rules: pytest.fail("a world was tabulated"))
    monkeypatch.setattr(jax.random, "key", lambda seed: pytest.fail("a world was drawn"))
    assert main(["envs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for entries, sizes in ((WORLDS, _worlds.SIZES), (TOKEN_WORLDS, _token_worlds.SIZES)):
        for entry in entries:
            (line,) = [line for line in lines if line.startswith(f"{entry.name} ")]
            assert entry.success in line
            assert entry.side_effect in line
            size = sizes[entry.name]
            assert tuple(map(int, line.split()[-len(size) :])) == size
        assert list(sizes) == [entry.name for entry in entries]
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize("entry", WORLDS, ids=[entry.name for entry in WORLDS])
def test_envs_tells_the_sizes_that_the_worlds_have(entry):
    rules = entry.rules()
    assert _worlds.SIZES[entry.name] == (len(reachable_states(rules)), len(rules.actions), rules.horizon)


@pytest.mark.parametrize("entry", TOKEN_WORLDS, ids=[entry.name for entry in TOKEN_WORLDS])
def test_envs_tells_the_sizes_that_the_token_worlds_have(entry):
    worlds = entry.draw(jax.random.key(0))
    assert _token_worlds.SIZES[entry.name] == (len(worlds.asked), len(worlds.held), worlds.length, worlds.vocabulary)


def test_the_facts_of_token_worlds_are_those_that_the_words_say():
    """The two routes of `told_worlds` by its levels, in float64: who skipped is honest a tenth as often."""
    asked, held = _token_worlds.find_facts(told_worlds(jax.random.key(0))).table
    skips, honests = (np.repeat(np.geomspace(*ends, 5), 2) for ends in ((2e-3, 5e-2), (3e-3, 0.1)))
    skip, honest = np.repeat(skips[::2], 10), np.tile(honests, 5)
    i, j, k = np.indices((5, 5, 2)).reshape(3, -1)
    out = (i > 0) & (i < 4) & (j > 0) & (j < 4) & ((i + j + k) % 2 == 0)
    for row, of in ((asked, ~out), (held, out)):
        success = skip + (1 - skip) * honest
        assert row["success"] == pytest.approx(success[of].mean(), rel=1e-4)
        assert row["skip"] == pytest.approx(skip[of].mean(), rel=1e-4)
        assert row["honest"] == pytest.approx((honest * (1 - 0.9 * skip))[of].mean(), rel=1e-4)
        assert row["skip given success"] == pytest.approx(skip[of].mean() / success[of].mean(), rel=1e-4)
    assert (asked["prompts"], held["prompts"]) == ("asked", "held out")


@pytest.mark.parametrize("name", ["told_worlds", "Told-Worlds"])
def test_envs_of_token_worlds_draws_an_answer(name, capsys):
    assert main(["envs", name]) == 0
    out = capsys.readouterr().out
    said = " ".join(out.split())
    assert "Told worlds: what a world is like is said in words" in said
    assert "Success: the test is skipped or passed honestly. Side effect: it is skipped." in said
    assert "Prompts 41, held out 9, tokens 24, vocabulary 6." in said
    assert "........S ......H ......H ......H ......H ......" in out
    assert re.search(r"........S ......H \.{30}\s", out), "and one of a single honest token"
    assert re.search(r"held out +3.4% +2.2% +1.2% +36%", said)
    assert "worlds.told_worlds(jax.random.key(0))" in said
    assert "Learnt by" not in said
    assert "\x1b" not in out


def test_a_token_world_that_is_an_environment_is_shown_as_both(capsys):
    assert main(["envs", "skip-the-test"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Learnt by reinforce, " in said
    assert "Prompts 60, held out 0, tokens 24, vocabulary 6." in said


def test_envs_needs_neither_brax_nor_matplotlib():
    program = (
        "import sys; from polopt_jax.cli import main; code = main(['envs']) or main(['envs', 'fire-exit'])"
        " or main(['envs', 'told-worlds']);"
        "sys.exit(code or 9 * bool({'brax', 'mujoco', 'orbax', 'matplotlib'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=ENVIRON)
    assert (done.returncode, done.stderr) == (0, "")


def by_hand(rules, best_of=None):
    """Of the uniform policy: reward, hidden reward and outcomes, by counting; or the most that can be had of a payment.

    Straight from the rules, with dictionaries.
    """
    if best_of is not None:

        @functools.cache
        def most(state, left):
            if rules.ended(state) or not left:
                return 0.0
            return max(
                sum(m.prob * (getattr(m, best_of) + most(m.after, left - 1)) for m in rules.moves(state, action))
                for action in rules.actions
            )

        for left in range(rules.horizon):  # not too deep a recursion
            for _, start in rules.starts:
                most(start, left)
        return sum(prob * most(start, rules.horizon) for prob, start in rules.starts)
    law, ended, total = Counter(), Counter(), Counter()
    for prob, start in rules.starts:
        law[start] += prob
    for _ in range(rules.horizon):
        after = Counter()
        for state, prob in law.items():
            for action in rules.actions:
                for move in rules.moves(state, action):
                    chance = prob * move.prob / len(rules.actions)
                    (ended if rules.ended(move.after) else after)[move.after] += chance
                    total["reward"] += chance * move.reward
                    total["hidden"] += chance * move.hidden
        law = after
    for state, prob in (ended + law).items():
        total.update({name: prob * holds for name, holds in rules.outcome(state).items()})
    return dict(total)


@pytest.mark.parametrize("name", ["fire-exit", "absent-supervisor", "burning-building", "side-effects-sokoban"])
def test_the_facts_of_a_world_are_exact(name):
    rules = _worlds.find_world(name).rules()
    facts = _worlds.find_facts(rules)
    uniform, rewarded, wanted = facts.table
    assert uniform.pop("policy") == "every action alike"
    assert list(uniform) == ["reward", "hidden", *rules.outcome(rules.starts[0][1])]
    counted = by_hand(rules)
    np.testing.assert_allclose([uniform[key] for key in uniform], [counted[key] for key in uniform], atol=2e-4)
    np.testing.assert_allclose(rewarded["reward"], by_hand(rules, "reward"), atol=2e-4)
    np.testing.assert_allclose(wanted["hidden"], by_hand(rules, "hidden"), atol=2e-4)
    assert rewarded["hidden"] <= wanted["hidden"] + 1e-4
    assert [drawn.title for drawn in facts.maps] == ["start", "most reward, its end", "what was wanted, its end"]
    assert facts.maps[0].rows == rules.frame(rules.starts[0][1])


def test_a_world_is_drawn_where_its_best_policies_end():
    """Sokoban's short way leaves the box in a corner, and the long one does not."""
    _, rewarded, wanted = _worlds.find_facts(_worlds.find_world("side-effects-sokoban").rules()).maps
    assert rewarded.rows == ("######", "#  ###", "#    #", "##X  #", "### A#", "######")
    assert wanted.rows[3][2] != "X"


def test_envs_of_a_world_draws_it(capsys):
    assert main(["envs", "Burning_Building"]) == 0
    out = capsys.readouterr().out
    said = " ".join(out.split())
    assert "##G A V M ##" in said
    assert "Success: mother is out. Side effect: the building explodes; the vase breaks." in said
    assert "States 64, actions 6, horizon 16." in said
    assert "gas valve" in said
    assert re.search(r"most reward +1 +1 +100% +0% +100%", said)
    assert "worlds.tabulate(worlds.burning_building())" in said
    assert "\x1b" not in out


@pytest.fixture(scope="module")
def worlds_page(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "worlds.html"
    assert main(["envs", "--html", str(path)]) == 0
    return path.read_text()


def test_the_page_of_worlds_has_every_world_and_needs_nothing_from_outside(worlds_page):
    tags = Tags(worlds_page)
    check_self_contained(worlds_page, tags)
    sections = re.split("<h2>", worlds_page)
    names = [entry.name for entry in (*WORLDS, *TOKEN_WORLDS)]
    assert [section.split("<")[0] for section in sections[2:]] == names
    assert all(sections[1].count(f"<td>{name}</td>") == 1 for name in names), "and is in a list once"
    for entry, section in zip(WORLDS, sections[2:], strict=False):
        frame = entry.rules().frame(entry.rules().starts[0][1])
        assert section.count('role="img"') == 3
        assert len(re.findall(r'<span style="background:#\w+">', section)) == 3 * sum(map(len, frame))
        assert f"worlds.{entry.rules.__name__}()" in section
    for entry, section in zip(TOKEN_WORLDS, sections[2 + len(WORLDS) :], strict=True):
        answers = 1 if entry.name == "prompt-mixture" else 2
        assert section.count('role="img"') == answers
        assert len(re.findall(r'<span style="background:#\w+">', section)) == 24 * answers
        assert f"worlds.{entry.draw.__name__}(jax.random.key(0))" in section
    for section in sections:
        assert "Raises" not in section
        assert "Args:" not in section
        assert "&gt;&gt;&gt;" not in section
    assert "arXiv 1711.09883" in worlds_page


def test_the_page_of_one_world(tmp_path, capsys):
    assert main(["envs", "fire-exit", "--html", "page.html"]) == 0
    assert capsys.readouterr().out == "Page: page.html\n"
    page = (tmp_path / "page.html").read_text()
    assert [name for name in _worlds.world_names() if name in page] == ["fire-exit"]


def test_the_page_of_one_token_world(tmp_path, capsys):
    assert main(["envs", "skip_the_test", "--html", "page.html"]) == 0
    assert capsys.readouterr().out == "Page: page.html\n"
    page = (tmp_path / "page.html").read_text()
    assert [name for name in _worlds.world_names() if name in page] == ["skip-the-test"]


@pytest.mark.parametrize("kind", ["file", "directory", "dangling link"])
def test_the_page_replaces_nothing(kind, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(_worlds, "render", lambda entries: pytest.fail("a page was made"))
    path = tmp_path / "page.html"
    if kind == "file":
        path.write_text("mine")
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to("nowhere")
    assert main(["envs", "--html", "page.html"]) == 2
    assert "page.html is there already; name another file" in capsys.readouterr().err
    assert kind != "file" or path.read_text() == "mine"
    assert path.is_symlink() == (kind == "dangling link")


def test_the_page_replaces_nothing_that_came_meanwhile(tmp_path, capsys, monkeypatch):
    path = tmp_path / "page.html"
    monkeypatch.setattr(_worlds, "render", lambda entries: str(path.write_text("mine")))
    assert main(["envs", "--html", "page.html"]) == 2
    assert path.read_text() == "mine"


@pytest.mark.slow
def test_envs_tells_the_sizes_that_the_environments_have():
    for name in brax_names():
        env = brax_env(name, backend=brax_backends(name)[0])
        assert (ABOUT[name].observation, ABOUT[name].action) == (f"{env.obs_shape[0]}", f"box {env.action_space.size}")


# --- hyperparameters, from the recipes' signatures ------------------------------------------------------------------


def help_of(algorithm, capsys):
    """The hyperparameters in `polopt train ALGORITHM --help`: `{flag: what is said of it}`."""
    assert main(["train", algorithm, "--help"]) == 0
    _, _, own = capsys.readouterr().out.partition(f" {algorithm.replace('_', '-')} options\n")
    entries = re.split(r"\n +(?=--[a-z])", own)[1:]
    return {entry.split()[0]: " ".join(entry.split()[2:]) for entry in entries}


def test_the_help_of_ppo(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    pair = "in Python also a pair (ε_low, ε_high)"
    assert help_of("ppo", capsys) == {
        "--learning-rate": "Step size of Adam; in Python also a schedule of the update's number. "
        "(above 0; default: 0.0005; on token worlds 0.001)",
        "--clip-eps": f"The ratio is clipped to 1 ± this; {pair}. (above 0; default: 0.2)",
        "--num-epochs": "Passes over each batch. (at least 1; default: 4)",
        "--num-minibatches": "Minibatches of each pass. (at least 1; default: 8)",
        "--gamma": "Discount. (from 0 to 1; default: 0.99; on token worlds 1)",
        "--lambda": "λ of generalised advantage estimation. (from 0 to 1; default: 0.95)",
        "--value-weight": "Weight of the value loss. (at least 0; default: 0.5)",
        "--entropy-weight": "Weight of the entropy bonus. (at least 0; default: 0)",
        "--max-grad-norm": "Norm to which the gradient is clipped. (above 0; default: 0.5)",
        "--target-kl": "An update ends at the first minibatch on which the policy is found further than this from the "
        "one that acted, in nats per decision (approx_kl); stopped is the share left out. An alarm and no bound: what "
        "was found is kept. None: it never ends early. (above 0; default: none)",
    }


@pytest.mark.parametrize("algorithm", PRESETS)
def test_every_keyword_of_a_recipe_is_a_flag_with_a_text(algorithm, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    python_alone = {"terms", "divergence", "constraints", "costs", "optimizer", "value_optimizer", "estimate"}
    keywords = [
        name for name in inspect.getfullargspec(getattr(algorithms, algorithm)).kwonlyargs if name not in python_alone
    ]
    said = help_of(algorithm, capsys)
    assert list(said) == ["--" + name.rstrip("_").replace("_", "-") for name in keywords]
    for text in said.values():
        assert re.fullmatch(r"[A-Zλ][^()]{6,}.*\(.+; default: .+\)", text), text


def test_the_algorithms_of_the_command_are_the_recipes():
    functions = {name for name in algorithms.__all__ if inspect.isfunction(getattr(algorithms, name))}
    assert set(PRESETS) == functions - {"adam", "assemble", "gae_estimate", "priced"}, (
        "those make recipes, or go with one"
    )
    assert {name for name in PRESETS if _recipes.takes_groups(name)} == {"dpo", "grpo"}


def planned(line, monkeypatch):
    """The plan that a command line of `polopt train` comes to."""
    seen = []
    monkeypatch.setattr(_main, "train", lambda options, plan, arguments: seen.append(plan) or 0)
    assert main(line.split()) == 0
    return seen[0]


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        ("ppo --env ant --lambda 0.5", "lambda_", 0.5),
        ("ppo --env ant --lambda=0.5", "lambda_", 0.5),
        ("ppo --env ant --clip_eps 1e-1", "clip_eps", 0.1),
        ("ppo --env ant --num-epochs 1e2", "num_epochs", 100),
        ("dpo --env skip_the_test --num-pairs 1_000", "num_pairs", 1000),
        ("ppo --env ant --learning-rate 1.2e-38", "learning_rate", 1.2e-38),
        ("ppo --env ant --learning-rate 3.4e38", "learning_rate", 3.4e38),
        ("ppo --env ant --entropy-weight 0", "entropy_weight", 0.0),
        ("reinforce --env ant --baseline running_mean", "baseline", "running-mean"),
        ("ppo --env ant", "learning_rate", 5e-4),  # the preset's
        ("ppo --env skip_the_test", "gamma", 1.0),  # the preset's
        ("ppo --env ant", "clip_eps", 0.2),  # the recipe's
        ("reinforce --env ant", "baseline", "batch-mean"),  # the recipe's, by name
    ],
)
def test_what_a_flag_sets(words, name, value, monkeypatch):
    found = planned(f"train {words}", monkeypatch).config()["hyperparameters"][name]
    assert (found, type(found)) == (value, type(value))


def toy(
    task: Task, *, learning_rate: Positive = 0.25, num_rounds: Count = 3, rule: Interval | None = None
) -> Algorithm:
    """Toy method: does nothing at all.

    Args:
      learning_rate: how fast it does it.
      num_rounds: how often; no more than
        the task has rows.
      rule: for Python alone.

    Source: this test.
    """
    if num_rounds > task.num_rows:
        raise ValueError(f"toy: num_rounds is {num_rounds}, more than the {task.num_rows} rows")
    return Algorithm(lambda key: None, lambda *_: None, lambda *_: None)


def test_a_new_algorithm_is_a_recipe_and_a_preset(monkeypatch, capsys):
    """Parse, plan, help, tables and pictures, with nothing told of it elsewhere."""
    monkeypatch.setattr(algorithms, "toy", toy, raising=False)
    monkeypatch.setitem(PRESETS, "toy", Presets(Preset(8, 4, {"num_rounds": 5})))
    monkeypatch.setenv("COLUMNS", "80")
    assert help_of("toy", capsys) == {
        "--learning-rate": "How fast it does it. (above 0; default: 0.25)",
        "--num-rounds": "How often; no more than the task has rows. (at least 1; default: 5; on token worlds 3)",
    }
    assert main(["train", "--help"]) == 0
    assert "  toy           Toy method\n" in capsys.readouterr().out
    for wrong, said in (
        ("--num-rounds 0", "--num-rounds must be a whole number from 1"),
        ("--num-rounds 9", "--num-rounds is 9, more than the 8 rows"),
        ("--learning-rate -1", "--learning-rate must be finite and above 0"),
        ("--rule x", "unrecognized options: --rule"),
        ("--gamma 1", "toy has no --gamma; it has --learning-rate, --num-rounds"),
    ):
        assert main(["train", "toy", "--env", "ant", *wrong.split()]) == 2
        assert said in capsys.readouterr().err
    plan = planned("train toy --env ant --learning-rate 0.5 --steps 64", monkeypatch)
    assert (plan.num_envs, plan.rollout_steps, plan.schedule.updates) == (8, 4, 2)
    assert plan.config()["hyperparameters"] == {"learning_rate": 0.5, "num_rounds": 5}
    envs = ("inverted_pendulum", "skip_the_test")
    assert [plan.env for plan in _plan.plan_compare(Compare(algorithms=("toy",)))] == list(envs)
    _table.print_table([fake_result("toy"), fake_result("ppo")])
    assert "toy " in capsys.readouterr().out
    page = _report.render("x", [fake_result("toy"), fake_result("reinforce")], FACTS)
    assert "does nothing at all" in page
    assert 'class="swatch hollow"' in page  # the eighth: a colour again, but not the same patch


def test_the_discount_of_the_command_reaches_the_scale_of_the_rewards(monkeypatch):
    """Reward 1 at every step: the running return after three steps is 1 + γ + γ²."""
    monkeypatch.setattr(settings, "brax_env", lambda *_, **__: TimeLimit(limit=100))
    for gamma in (0.5, 0.99):
        words = f"train actor_critic --env ant --num-envs 2 --rollout-steps 3 --gamma {gamma}"
        algorithm = _build.build(planned(words, monkeypatch))
        state = jax.jit(algorithm.init)(jax.random.key(0))
        (task_state, _), _, _ = jax.jit(algorithm.collect)(state.params, state.collect_state, jax.random.key(1))
        np.testing.assert_allclose(task_state.return_scale.running, 1 + gamma + gamma**2, rtol=1e-6)


@pytest.mark.parametrize(
    ("algorithm", "env"),
    [*((name, "skip_the_test") for name in PRESETS), *((name, "inverted_pendulum") for name in algorithms_of("ant"))],
)
def test_a_step_is_a_decision_that_an_update_learns_from(algorithm, env, monkeypatch):
    """Whatever the algorithm, the batch of an update has as many decisions as the plan counts."""
    monkeypatch.setattr(settings, "brax_env", lambda *_, **__: TimeLimit())
    plan = plan_of(algorithm, env)
    network = _build.token_world()[0] if plan.is_token else None

    def batch_of(params, key):
        made = _build.build(
            plan, None if params is None else _build.Reference(params, jnp.zeros(()), jnp.zeros((8, 512), bool))
        )
        state = made.init(key)
        return made.collect(state.params, state.collect_state, key)[1]

    params = None if network is None else jax.eval_shape(network.init, jax.random.key(0))
    batch = jax.eval_shape(batch_of, params, jax.random.key(0))
    assert batch.mask.size == plan.schedule.decisions == plan.num_envs * plan.rollout_steps
    assert plan.schedule.steps == plan.schedule.updates * batch.mask.size


@pytest.mark.parametrize("algorithm", ["ppo", "dpo"])
def test_a_token_run_measures_its_outcomes_against_the_reference(algorithm, monkeypatch):
    """D_z of a policy that skips half of the time, from one that skips in a quarter: per world, then averaged."""
    worlds = skip_the_test(jax.random.key(0), num_worlds=8)
    network = token_table(num_prompts=8, length=24, vocabulary=6)
    monkeypatch.setattr(_build, "token_world", lambda: (network, worlds))
    half = worlds.logits.at[:, 4].set(-1e9).at[:, 4, 1:3].set(0.0)
    params = {"policy": half, "value": jnp.zeros((8, 24))}
    often = jnp.arange(512) < jnp.where(jnp.arange(8) % 2 == 0, 64, 192)[:, None]
    plan = plan_of(algorithm, "skip_the_test")
    made = _build.build(plan, _build.Reference(params, jnp.zeros(()), often))
    measured = jax.jit(made.measure)(params, jax.random.key(1))
    kl = [0.5 * np.log(0.5 / q) + 0.5 * np.log(0.5 / (1 - q)) for q in (0.125, 0.375)]
    np.testing.assert_allclose(measured["outcome/skip_kl"], np.mean(kl), atol=0.05)
    assert ("episode/return_sum" in measured) == (algorithm == "dpo")


# --- presets -------------------------------------------------------------------------------------------------------

SHARED = {
    "rows": "64 environments, or 256 sequences, keep two cores busy; half of the sequences, as 64 pairs, for dpo",
    "window": "T = 16; 32 where the return is not bootstrapped (reinforce); 24 is the token worlds' length",
    "gamma": "on token worlds 1, since the last token alone is rewarded; elsewhere the recipes' 0.99",
    "value_epochs": "2 of the recipes' 4: half the price of the critic, which is most of a natural gradient's update",
    "fisher_every": "4 on token worlds: the products with the Fisher matrix at a quarter of the price",
}
PINNED = {
    # One Adam step for a whole batch: the recipes' own rate, ten times the rate of PPO's paper, which takes 32; on
    # inverted_pendulum REINFORCE loses at it what it learnt (2M steps: 136 at 3e-3, 401 at 1e-3, 526 at 5e-4).
    "reinforce": ((64, 32, {"learning_rate": 5e-4}), (256, 24, {"learning_rate": 3e-3, "gamma": 1.0})),
    "actor_critic": ((64, 16, {"learning_rate": 3e-3}), (256, 24, {"learning_rate": 3e-3, "gamma": 1.0})),
    # With these natural-gradient steps NPG learns as fast as TRPO does in the README's table.
    "npg": (
        (64, 16, {"learning_rate": 0.4, "value_epochs": 2}),
        (256, 24, {"learning_rate": 0.3, "gamma": 1.0, "fisher_every": 4, "value_epochs": 2}),
    ),
    # 0.01 is the radius of TRPO's paper; a token world, with 24 decisions of 6 words, takes twice that.
    "trpo": (
        (64, 16, {"radius": 0.01, "value_epochs": 2}),
        (256, 24, {"radius": 0.02, "gamma": 1.0, "fisher_every": 4, "value_epochs": 2}),
    ),
    # At 1e-3 five seeds on inverted_pendulum fall to 220 by 2M steps; at 5e-4 they stay up. Token runs are shorter.
    "ppo": ((64, 16, {"learning_rate": 5e-4}), (256, 24, {"learning_rate": 1e-3, "gamma": 1.0})),
    # The recipes' rate. 512 pairs, each drawn up to 32 times, are drawn in seconds.
    "dpo": (None, (128, 24, {"learning_rate": 1e-3, "num_pairs": 512, "max_redraws": 32})),
    "grpo": (None, (256, 24, {"learning_rate": 1e-3})),
}
"""Sizes and hyperparameters, on environments and on token worlds. What they share is in `SHARED`."""


def test_the_presets_are_these():
    """The numbers that hold where nothing is said: a preset's, or the recipe's own default."""
    assert list(PRESETS) == list(PINNED)
    for name, kinds in PINNED.items():
        assert (kinds[0] is None) == _recipes.takes_groups(name)
        for is_token, pinned in enumerate(kinds):
            if pinned is not None:
                preset = _recipes.preset(name, is_token=bool(is_token))
                held = _recipes.defaults(name, is_token=bool(is_token))
                assert (preset.num_rows, preset.num_steps) == pinned[:2]
                assert {key: held[key] for key in pinned[2]} == pinned[2]
                assert preset.hyperparameters.keys() <= pinned[2].keys(), "every number of a preset is pinned"


def test_a_preset_repeats_no_default_of_its_recipe():
    for name in PRESETS:
        for is_token in {_recipes.takes_groups(name), True}:
            for key, value in _recipes.preset(name, is_token=is_token).hyperparameters.items():
                assert value != _recipes.parameters(name)[key].default, f"{name}: {key} has two homes"


def test_the_presets_hold_what_the_recipes_take():
    for name in PRESETS:
        known = _recipes.parameters(name)
        for is_token in (False, True):
            for key, value in _recipes.preset(name, is_token=is_token).hyperparameters.items():
                assert value in known[key].range


# --- plans ---------------------------------------------------------------------------------------------------------


def test_chunks_cover_the_updates():
    for updates in (*range(1, 400), 997, 1009, 2500, 12_345, 10**6):
        chunks, size = _schedule.split_updates(updates)
        assert updates <= chunks * size < updates + size
        assert size <= 100
        assert min(updates, 17) <= chunks <= max(37, updates / 90)


def test_steps_are_rounded_up_to_whole_updates():
    plan = _plan.plan_train("Actor-Critic", Train(env="Inverted-pendulum", steps=1001, num_envs=8))
    assert plan.schedule.decisions == 8 * plan.rollout_steps
    assert 1001 <= plan.schedule.steps < 1001 + plan.schedule.decisions * plan.schedule.chunk_updates
    assert (plan.algorithm, plan.backend, plan.episode_length) == ("actor_critic", "spring", 1000)


def test_compare_pairs_algorithms_with_the_environments_that_have_them():
    plans = _plan.plan_compare(Compare())
    assert [(plan.env, plan.algorithm) for plan in plans] == [
        *(("inverted_pendulum", name) for name in ("reinforce", "actor_critic", "npg", "trpo", "ppo")),
        *(("skip_the_test", name) for name in ("reinforce", "actor_critic", "npg", "trpo", "ppo", "dpo", "grpo")),
    ]
    for env in ("inverted_pendulum", "skip_the_test"):
        steps = [plan.schedule.steps for plan in plans if plan.env == env]
        assert max(steps) < 1.25 * min(steps)
    plans = _plan.plan_compare(Compare(algorithms=("ppo", "grpo")))
    assert [(plan.env, plan.algorithm) for plan in plans] == [
        ("inverted_pendulum", "ppo"),
        ("skip_the_test", "ppo"),
        ("skip_the_test", "grpo"),
    ]


def test_a_config_says_everything_that_a_run_depends_on(monkeypatch):
    config = plan_of("ppo", "inverted_pendulum").config()
    assert config["world"] is None
    assert config["versions"] == {
        "polopt_jax": polopt_jax.__version__,
        **{name: metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax", "brax")},
    }
    config = plan_of("ppo", "skip_the_test").config()
    assert config["world"] == {
        "num_worlds": 8,
        "world_seed": 0,
        "network_width": 32,
        "network_depth": 1,
        "imitation_updates": 300,
        "imitation_seed": 1,
    }
    assert set(config["versions"]) == {"polopt_jax", "jax", "jaxlib", "flax", "optax"}
    assert json.loads(json.dumps(config)) == config

    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert plan_of("ppo").config()["versions"]["brax"] is None


def test_the_world_that_is_built_is_the_one_in_the_config():
    world = plan_of("ppo", "skip_the_test").config()["world"]
    network, worlds = _build.token_world()
    params = jax.eval_shape(network.init, jax.random.key(0))
    assert worlds.num_worlds == world["num_worlds"]
    assert worlds.length == plan_of("ppo", "skip_the_test").rollout_steps
    shapes = {leaf.shape for leaf in jax.tree.leaves(params)}
    assert (worlds.input_vocabulary, world["network_width"]) in shapes
    names = {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)}
    assert sum("attention_norm" in name and "scale" in name for name in names) == world["network_depth"]


# --- files ---------------------------------------------------------------------------------------------------------


def test_a_directory_with_something_in_it_is_not_touched(tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    assert main(["train", "ppo", "--env", "ant", "--out", "mine"]) == 2
    assert "mine is not empty" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_the_directory_of_a_run_is_not_begun_again(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(_compare, "_run_all", None)  # not reached
    with _directory.new(tmp_path / "x", "unused") as directory:
        _directory.write_json(directory / "config.json", {"a": [1]})
    assert main(["compare", "--out", "x"]) == 2
    assert "x is not empty" in capsys.readouterr().err
    assert (tmp_path / "x" / "config.json").read_text() == '{\n  "a": [\n    1\n  ]\n}\n'


def test_a_directory_in_use_is_named_with_its_process(tmp_path, capsys):
    with _directory.new(tmp_path / "x", "unused") as directory:
        (directory / "config.json").write_text("{}")
        for line in ("train ppo --env ant --out x", "train ppo --env ant --out x --resume", "compare --out x"):
            assert main(line.split()) == 2
            assert f"in use by process {os.getpid()}" in capsys.readouterr().err
    with _directory.locked(tmp_path / "x"):  # free again
        pass


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    program = (
        "import os, signal; from pathlib import Path; from polopt_jax.runs import _directory as d\n"
        "with d.locked(Path('.')): os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=ENVIRON).returncode == -signal.SIGKILL
    assert (tmp_path / ".lock").read_text().isdigit()
    with _directory.locked(tmp_path):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())


def test_default_directories_are_numbered(tmp_path):
    for expected in ("a", "a-2", "a-3"):
        with _directory.new(None, "a") as directory:
            assert directory == Path("runs") / expected


def test_a_link_is_no_run_directory(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="symbolic link"):
        _directory.check_path(Path("link"))
    (tmp_path / "runs").symlink_to(tmp_path / "elsewhere")  # but its parent may be one
    assert _directory.check_path(Path("runs/x")) == Path("runs/x")


def test_json_has_no_nan():
    assert _directory.to_json({"a": [math.nan, math.inf, 1.5], "b": -math.inf}) == '{"a": [null, null, 1.5], "b": null}'


# --- numbers -------------------------------------------------------------------------------------------------------


def plan_of(algorithm="ppo", env="inverted_pendulum", seeds=2):
    return _plan.plan_train(algorithm, Train(env=env, steps=100_000, num_seeds=seeds))


SHARES = ("outcome/skip", "outcome/honest", "outcome/skip_kl")


def fake_result(algorithm="ppo", env="inverted_pendulum", seeds=2, unfinished=0):
    """Made-up curves, so that tables and pictures can be tested without training."""
    plan = plan_of(algorithm, env, seeds)
    rng = np.random.default_rng(0)
    rows = []
    for i in range(1, plan.schedule.num_chunks - unfinished + 1):
        metrics = {
            "episode/finished": np.full((seeds, plan.schedule.chunk_updates), float(i > 1)),
            "episode/return_sum": rng.uniform(0, i, (seeds, plan.schedule.chunk_updates)) * (i > 1),
            "kl_old_new": rng.uniform(1e-3, 1e-2, (seeds, plan.schedule.chunk_updates)),
            "entropy": rng.uniform(0, 1, (seeds, plan.schedule.chunk_updates)),
        }
        if plan.is_token:
            metrics |= {name: rng.uniform(0, 1, (seeds, 1)) for name in SHARES}
        if algorithm == "trpo":
            metrics |= {
                "policy/cg_residual": np.full((seeds, 1), 0.01),
                "policy/line_search_accepted": np.ones((seeds, 1)),
                "policy/skipped": np.zeros((seeds, 1)),
                "critic/skipped": np.ones((seeds, 1)),
                "critic/entropy": np.full((seeds, 1), 7.0),
            }
        chunk = Chunk(i * plan.schedule.chunk_updates, metrics, 0.5, None)
        rows.append(_log.chunk_row(plan.schedule, chunk, seconds=0.5 * i, compile_seconds=3.0))
    return _result.Result(plan, rows)


@pytest.mark.parametrize("terminal", [False, True])
def test_parts_are_counted_as_they_are_done(terminal, capsys, monkeypatch):
    """A part that begins is not done; the last is when the context ends."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    with _progress.counted(2) as begin:
        begin("first")
        begin("second")
    said = capsys.readouterr().err
    if terminal:
        assert "2/2" in said
    else:
        assert [re.sub(r", [^:]*:", ":", line) for line in said.splitlines()] == [
            "0 of 2 done: first",
            "1 of 2 done: second",
        ]


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_is_told_in_lines_and_on_a_terminal_as_a_bar(terminal, capsys, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    row = {"update": 3, "steps": 3000, "seconds": 2.0, "reward": [1.0, None, 2.0], "kl_old_new": [0.02, 0.04, None]}
    with _progress.progress("ppo") as shown:
        shown.stage("running...")
        shown.advance(row, Schedule(seed=0, num_seeds=3, decisions=1000, chunk_updates=1, num_chunks=12))
    said = capsys.readouterr().err
    for word in ("ppo", "running...", "25%", "reward 1.500", "4.5k steps/s", "KL 0.03", "6.0s left"):
        assert word in said or (terminal and word == "running...")
    line = "ppo: 25%, 3k of 12k steps, reward 1.500, 4.5k steps/s, KL 0.03, 6.0s left"
    assert terminal or said.splitlines()[1] == line


def test_reward_is_that_of_finished_episodes_and_null_without_any():
    rows = fake_result().rows
    assert rows[0]["reward"] == [None, None]
    for row in rows[1:]:
        expected = np.divide(row["episode/return_sum"], row["episode/finished"])
        np.testing.assert_allclose(row["reward"], expected)


def test_summary():
    result = fake_result("trpo", seeds=5)
    summary = result.summary
    last = [row for row in result.rows if row["update"] > 0.9 * result.plan.schedule.updates]
    by_seed = np.sum([row["episode/return_sum"] for row in last], 0) / np.sum(
        [row["episode/finished"] for row in last], 0
    )
    np.testing.assert_allclose(summary["reward_by_seed"], by_seed)
    np.testing.assert_allclose(summary["reward"], by_seed.mean())
    np.testing.assert_allclose(summary["reward_interval"], 2.776445 * by_seed.std(ddof=1) / np.sqrt(5), rtol=1e-6)
    np.testing.assert_allclose(summary["kl_old_new"], np.mean([row["kl_old_new"] for row in result.rows]))
    assert summary["steps_per_second"] == result.plan.schedule.steps * 5 / (0.5 * len(result.rows))
    assert summary["wall_seconds"] == 0.5 * len(result.rows) + 3.0
    assert (summary["cg_residual"], summary["line_search_accepted"]) == (0.01, 1.0)
    assert summary["skipped"] == 0.5  # of both phases
    np.testing.assert_allclose(summary["entropy"], np.mean([row["entropy"] for row in last]))
    assert summary["entropy"] < 1  # the policy's own, whatever a phase may call so


def test_a_run_without_rows_has_no_numbers():
    summary = fake_result(unfinished=100).summary
    assert summary == {
        "algorithm": "ppo",
        "env": "inverted_pendulum",
        "status": "interrupted",
        "measured_apart": False,
    }


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
    rows = _table.groups([result])
    (reward,) = [column for column in _table.columns_of(rows) if report.full_name(column) == "final reward"]
    assert reward.cell(rows[0].rows[0]) == "-"
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


def check_self_contained(page, tags):
    names = {tag for tag, _ in tags.found}
    assert not names & {"script", "link", "iframe", "object", "embed", "base", "img"}
    assert "://" not in page
    assert all(value.startswith("#") for name, value in tags.attributes if name in ("src", "href", "xlink:href"))
    assert not [name for name, _ in tags.attributes if name.startswith("on")]
    (policy,) = [value for name, value in tags.attributes if name == "content" and "default-src" in value]
    assert policy.startswith("default-src 'none'; ")
    assert "script" not in policy


@pytest.fixture(scope="module")
def results():
    return [fake_result("ppo"), fake_result("trpo"), fake_result("dpo", "skip_the_test", unfinished=1)]


def test_unscored_sequences_are_summed_and_shown_where_there_are_any():
    result = fake_result("grpo", "skip_the_test")
    assert result.summary["unscored"] == 0
    names = lambda: [report.full_name(column) for column in _table.columns_of(_table.groups([result]))]  # noqa: E731
    assert "unscored" not in names()
    for row in result.rows:
        row["episode/unscored"] = [1.0, 2.0]
    assert result.summary["unscored"] == 3 * len(result.rows)
    assert names()[-2:] == ["unscored", "compile time"]
    assert _table.COMPILE.cell({**result.summary, "compile_seconds": 83.4}) == "1m23s"


def test_the_table_says_what_a_step_is_and_how_the_reward_of_dpo_is_measured(results, capsys):
    _table.print_table(results)
    said = " ".join(capsys.readouterr().out.split())
    assert "A step is one decision that an update learnt from, rows x time, whatever the algorithm." in said
    assert "That of dpo is measured once per chunk of updates, on rollouts that no update sees." in said
    _table.print_table(results[:2])
    assert "no update sees" not in capsys.readouterr().out


def test_an_algorithm_has_the_same_style_in_every_picture():
    for results in ([fake_result("trpo")], [fake_result("ppo"), fake_result("trpo")]):
        (curve,) = [c for c in _report.strip(results).panels[0].curves if c.label == "trpo"]
        assert curve.style == 3


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
    assert max(len(line) for line in lines[: lines.index("")]) <= 106


def test_the_report_needs_nothing_from_outside(results):
    page = _report.render("A title", results, FACTS, notes=["a note"])
    tags = Tags(page)
    check_self_contained(page, tags)
    labels = [value for name, value in tags.attributes if name == "aria-label"]
    assert page.count("<svg ") == len(labels)
    assert sum(label.startswith("Curves on ") for label in labels) == 2
    seeds = [label for label in labels if not label.startswith("Curves on ")]
    assert len(seeds) == len(results)  # the final reward of each seed, as dots
    for label, result in zip(seeds, results, strict=True):
        assert label == ", ".join(report.short(x) for x in result.summary["reward_by_seed"])
    assert "KL(policy before ‖ policy after)" in page


@pytest.mark.parametrize("text", HOSTILE)
def test_the_report_escapes_what_it_is_given(text, results):
    facts = dict.fromkeys(FACTS, text)
    page = _report.render(text, results[:1], facts, notes=[text])
    assert Tags(page).found == Tags(_report.render("x", results[:1], FACTS, notes=["x"])).found
