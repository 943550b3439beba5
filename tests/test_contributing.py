"""CONTRIBUTING.md against the code: its example is run, its edits are made and left out, its rooms are counted."""

import doctest
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from registry import PAIRS, A, ragged_mask

import polopt_jax as po
from polopt_jax import objectives

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
EXAMPLE = PAGE[PAGE.index("## A new term") : PAGE.index("What happens if one is forgotten")]
COPIED = ("polopt_jax", "tests", "docs", "pyproject.toml")


def edits():
    """`(number, path, code)` of every block of the example, in order: a diff, or the text of a new file."""
    parts = re.split(r"^\*\*(\d)\. `([\w./]+)`.*?\*\*", EXAMPLE, flags=re.MULTILINE)[1:]
    return [
        (int(number), path, block)
        for number, path, text in zip(*(parts[i::3] for i in range(3)), strict=True)
        for block in re.findall(r"```(?:python|diff)\n(.*?)```", text, flags=re.DOTALL)
    ]


def edited(text, diff):
    """`text` with the lines of a diff in place; a diff without context goes to its end."""
    lines = [(line[:1], line[1:] + "\n") for line in diff.splitlines()]
    before, after = ("".join(line for sign, line in lines if sign != other) for other in "+-")
    if not before:
        return text + after
    assert text.count(before) == 1, f"the page's context is there {text.count(before)} times:\n{before}"
    return text.replace(before, after)


def follow(folder, leave_out=()):
    """Makes the edits of the page below `folder`, without the lines `(number of the edit, line)` in `leave_out`."""
    for number, path, block in edits():
        file = folder / path
        if block.startswith((" ", "+", "-")):
            kept = [line for line in block.splitlines() if (number, line) not in leave_out]
            file.write_text(edited(file.read_text(), "\n".join(kept)))
        else:
            file.write_text(block)


def module():
    """The names of the example's module."""
    names = {"__name__": "example"}
    exec(compile(edits()[0][2], "CONTRIBUTING.md", "exec"), names)
    return names


# --- the example ------------------------------------------------------------------------------------------------------


def test_the_example_is_not_there_yet():
    assert "odpo" not in po.__all__, "the example has come true: choose another one"


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("beta", "offset"), [(0.1, 0.0), (0.8, 1.5)])
def test_the_example_equals_numpy_in_value_and_gradient(beta, offset):
    """L = mean log(1 + exp(δ - βh)), so dL/dlog π(chosen) is -β σ(δ - βh) / N, and the opposite of the rejected one."""
    rng = np.random.default_rng(11)
    logits, action = rng.normal(size=(*PAIRS, A)), rng.integers(A, size=PAIRS)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    ref = np.take_along_axis(log_p, action[..., None], -1)[..., 0] - rng.normal(size=PAIRS)
    mask = ragged_mask(PAIRS, rng)
    batch = po.Batch(obs=None, action=jnp.asarray(action), mask=jnp.asarray(mask), ref_log_prob=jnp.asarray(ref))
    (loss, metrics), gradient = jax.value_and_grad(
        lambda x: module()["odpo"](beta=beta, offset=offset)(po.Outputs(policy=po.Categorical(logits=x)), batch),
        has_aux=True,
    )(jnp.asarray(logits))

    pairs = [n for n in range(PAIRS[1]) if mask[0, n].any() and mask[1, n].any()]
    assert 0 < len(pairs) < PAIRS[1]
    total, expected = 0.0, np.zeros_like(logits)
    for n in pairs:
        taken = [[(t, action[side, n, t]) for t in range(PAIRS[2]) if mask[side, n, t]] for side in (0, 1)]
        scores = [sum(log_p[side, n, t, a] - ref[side, n, t] for t, a in taken[side]) for side in (0, 1)]
        short = offset - beta * (scores[0] - scores[1])
        total += np.log1p(np.exp(short)) / len(pairs)
        for side, sign in ((0, 1), (1, -1)):
            for t, a in taken[side]:
                score = np.eye(A)[a] - np.exp(log_p[side, n, t])
                expected[side, n, t] -= sign * beta / (1 + np.exp(-short)) * score / len(pairs)
    np.testing.assert_allclose(loss, total, rtol=1e-12)
    np.testing.assert_allclose(gradient, expected, atol=1e-12)
    assert int(metrics["num_valid"]) == mask.sum()


def test_the_examples_docstring_runs():
    names = module()
    test = doctest.DocTestParser().get_doctest(names["odpo"].__doc__, names, "odpo", "CONTRIBUTING.md", 0)
    assert len(test.examples) == 4
    assert doctest.DocTestRunner().run(test).failed == 0


def test_the_example_refuses_what_is_negative_by_name():
    for wrong in (-1.0, float("nan")):
        for name in ("beta", "offset"):
            with pytest.raises(ValueError, match=f"odpo: {name} must be at least 0"):
                module()["odpo"](**{name: wrong})


def test_an_edit_goes_to_its_place_and_to_no_other():
    assert edited("a\nb\nc\n", " a\n-b\n+d\n+e\n c") == "a\nd\ne\nc\n"
    assert edited("a\n\nc\n", " a\n\n+b") == "a\n\nb\nc\n"
    assert edited("a\n", "+b") == "a\nb\n"
    for text in ("a\na\n", "b\n"):
        with pytest.raises(AssertionError, match="the page's context is there"):
            edited(text, " a\n+b")


def test_every_edit_fits_the_files_of_today():
    assert [number for number, _, _ in edits()] == [1, 2, 2, 3, 3, 4, 5]
    for number, path, block in edits():
        if number == 1:
            assert not (ROOT / path).exists()
        else:
            text = edited((ROOT / path).read_text(), block)
            assert "odpo" in text
            compile(text, path, "exec")


def test_the_terms_in_the_readme_are_those_of_the_library():
    rows = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("| terms")]
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert len(named) == len(set(named))
    ratios_and_scores = ("_ratio", "_log_prob")
    assert set(named) == {name for name in objectives.__all__ if not name.endswith(ratios_and_scores)}


# --- the example, in a copy of the library ----------------------------------------------------------------------------


@pytest.fixture
def copy(tmp_path):
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def pytest_in(folder, *arguments):
    """Exit code and output of pytest in a copy of the library."""
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


@pytest.mark.slow
def test_who_follows_the_page_passes_the_battery(copy):
    follow(copy)
    code, said = pytest_in(
        copy, "-k", "odpo or every or sorted", "tests/test_contracts.py", "tests/test_style.py",
        "tests/test_preferences.py", "tests/test_architecture.py", "polopt_jax/objectives/_odpo.py",
    )  # fmt: skip
    assert code == 0, said
    assert int(re.search(r"(\d+) passed", said)[1]) > 40


ROW = '+    "odpo": pairs("odpo", offset=(1.0, 0.3)),'
FORGOTTEN = {
    "the import of the chapter": (
        [(2, "+from polopt_jax.objectives._odpo import odpo")],
        "tests/test_contracts.py",
        "cannot import name 'odpo' from 'polopt_jax.objectives'",
    ),
    "the import at the front": (
        [(3, "+    odpo,")],
        "tests/test_contracts.py",
        "odpo is public neither in polopt_jax nor in polopt_jax.outcomes",
    ),
    "__all__ at the front": (
        [(3, '+    "odpo",')],
        "tests/test_style.py::test_all_is_sorted_and_complete",
        "Extra items in the left set:\nE         'odpo'",
    ),
    "the row": (
        [(4, ROW)],
        "tests/test_contracts.py::test_every_public_name_has_a_row",
        "enter these in tests/registry.py: ['odpo']",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FORGOTTEN)
def test_a_forgotten_edit_is_told_as_the_page_says(name, copy):
    lines, where, message = FORGOTTEN[name]
    assert re.sub(r"\nE +", " ", message) in PAGE
    follow(copy, leave_out=lines)
    code, said = pytest_in(copy, where)
    assert code != 0
    assert message in said


# --- the rest of the page ---------------------------------------------------------------------------------------------


def test_every_room_has_an_owner_in_the_table():
    rows = re.findall(r"^\| (`.+?) \| .* \|$", PAGE[PAGE.index("| rooms | own |") : PAGE.index("## A new term")], re.M)
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    package = ROOT / "polopt_jax"
    there = {path.stem for path in package.glob("*.py")} | {path.parent.name for path in package.glob("*/__init__.py")}
    assert sorted(named) == sorted(there - {"__init__", "__main__"})


def test_every_place_and_every_test_on_the_page_is_there():
    places = set(re.findall(r"`((?:[\w.-]+/)+(?:[\w-]+\.\w+)?|[\w.-]+\.(?:md|txt|yaml))`", PAGE))
    assert len(places) > 12
    new = {edits()[0][1], "algorithms/_name.py", "worlds/_name.py"}
    for place in places - new:
        assert (ROOT / place).exists() or (ROOT / "polopt_jax" / place).exists(), place
    tests = "".join(path.read_text() for path in (ROOT / "tests").glob("*.py"))
    for name in set(re.findall(r"(?<!def )\btest_\w+", PAGE)) - {"test_x"}:
        assert f"def {name}(" in tests or (ROOT / "tests" / f"{name}.py").exists(), name


# --- the tools that the page names ------------------------------------------------------------------------------------


def test_the_hooks_are_the_projects_own_tools():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    (repo,) = config["repos"]
    assert repo["repo"] == "local"
    tools = {"ruff", *(tool for tool in ("python", "git"))}
    developers = " ".join(
        tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["dev"]
    )
    linted = re.findall(r"\.venv/bin/ruff (\w+)", (ROOT / "Makefile").read_text())
    for hook in repo["hooks"]:
        assert hook["language"] == "system"
        program, command, *_ = hook["entry"].split()
        tool = program.removeprefix(".venv/bin/")
        assert tool in tools
        if tool == "ruff":
            assert "ruff" in developers
            assert command in linted
        else:
            assert shutil.which("git") if tool == "git" else Path(sys.executable).with_name(tool).exists()


@pytest.mark.skipif(not (shutil.which("make") and shutil.which("git")), reason="needs make and git")
def test_make_check_runs_the_batteries_and_what_has_changed(tmp_path):
    """In a small repository, with tools that say what they are asked."""
    tools = tmp_path / ".venv" / "bin"
    tools.mkdir(parents=True)
    for tool in ("python", "ruff", "pyright"):
        (tools / tool).write_text(f'#!/bin/sh\necho {tool} "$@"\n')
        (tools / tool).chmod(0o755)
    shutil.copy(ROOT / "Makefile", tmp_path)
    files = ["polopt_jax/deep/_same.py", "polopt_jax/deep/_other.py", "tests/test_other.py", "tests/test_gone.py"]
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("1\n")
    outside = {
        name: value for name, value in os.environ.items() if not name.startswith("MAKE")
    }  # `make test` runs this
    run = lambda *command: subprocess.run(  # noqa: E731
        command, cwd=tmp_path, capture_output=True, text=True, check=False, env={**outside, **IDENTITY}
    )
    git = lambda *words: run("git", *words)  # noqa: E731
    make = lambda *words: run("make", "-o", ".venv/ok-dev", "check", *words)  # noqa: E731
    git("init", "-q")
    (tmp_path / ".git" / "info" / "exclude").write_text(".venv/\n")
    git("add", "-A")
    assert git("commit", "-qm", "all").returncode == 0
    (tmp_path / "tests" / "test_gone.py").unlink()
    for file in ("polopt_jax/deep/_other.py", "tests/test_other.py", "tests/test_new.py", "tests/no_test.py"):
        (tmp_path / file).write_text("2\n")
    names = ("style", "import", "architecture", "contributing", "contracts")
    batteries = [f"tests/test_{name}.py" for name in names]
    changed = ["polopt_jax/deep/_other.py", "tests/test_other.py"]

    def asked(*words):
        *_, first, last = make(*words).stdout.splitlines()
        assert last == "python -m pytest -m slow tests/test_contracts.py", "every row, also where it is like another"
        return first.split()

    assert asked() == ["python", "-m", "pytest", *batteries, *changed, "tests/test_new.py"]
    assert {line.split()[0] for line in make().stdout.splitlines()} >= {"ruff", "pyright"}
    git("add", "-A")
    git("commit", "-qm", "more")
    assert asked() == ["python", "-m", "pytest", *batteries]
    assert asked("SINCE=HEAD~1")[3:] == [*batteries, "polopt_jax/deep/_other.py", "tests/test_new.py", changed[1]]
    wrong = make("SINCE=nowhere")
    assert wrong.returncode != 0
    assert "nowhere" in wrong.stderr
    assert "pytest" not in wrong.stdout
    assert all((ROOT / battery).exists() for battery in batteries)


IDENTITY = {
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@b.c",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@b.c",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
}
