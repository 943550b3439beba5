"""docs/simulators.md: its code runs and says what it says that it says; its figures are those that were measured."""

import json
import re
from pathlib import Path

import pytest

from polopt_jax import simulators

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "simulators.md").read_text()


@pytest.mark.slow
def test_the_page_runs_and_says_what_comes_out(capsys):
    names = {}
    for code in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL):
        exec(compile(code, "docs/simulators.md", "exec"), names)
    promised = re.findall(r"^print\(.*\) +# (.*)$", PAGE, flags=re.MULTILINE)
    assert capsys.readouterr().out.splitlines() == promised
    assert len(promised) == 3


def test_every_name_on_the_page_is_there():
    names = re.findall(r"\bsimulators\.(\w+)\(", PAGE)
    assert len(names) > 3
    assert set(names) <= set(simulators.__all__)


def test_its_figures_are_those_of_the_file():
    file = json.loads((ROOT / "benchmarks/results/cpu-2/bench/simulators.json").read_text())
    measured = {(row["size"], row["beside"]): row for case in file["cases"] for row in case["rows"]}
    rows = re.findall(r"^\| (8|64) \| (\d+)k \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", PAGE, flags=re.MULTILINE)
    assert len(rows) == 2
    for num_envs, rate, one, both, alone in rows:
        besides = ("Stable-Baselines3, one thread", "Stable-Baselines3, all threads", "the simulators alone")
        its = [measured[int(num_envs), beside] for beside in besides]
        assert round(its[0]["ours"] / 1000) == int(rate)
        assert [f"{row['ratio']:.{digits}f}" for row, digits in zip(its, (1, 1, 2), strict=True)] == [one, both, alone]
