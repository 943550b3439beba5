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
    found = json.loads((ROOT / "benchmarks/results/cpu-2/simulators-CartPole-v1.json").read_text())["figures"]
    rows = re.findall(r"^\| (8|64) \| (\d+)k \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", PAGE, flags=re.MULTILINE)
    assert len(rows) == 2
    for num_envs, rate, one, both, alone in rows:
        programs = found["simulators"][num_envs]
        assert round(programs["ours"]["decisions_per_second_median"] / 1000) == int(rate)
        for said, name in ((one, "stable-baselines3, 1 threads"), (both, "stable-baselines3, all threads")):
            assert float(said) == pytest.approx(programs[name]["ours_over_it"]["median"], rel=0.03)
        assert float(alone) == pytest.approx(programs["stepping"]["ours_over_it"]["median"], abs=0.005)
