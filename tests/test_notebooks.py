"""Each notebook is a script `notebooks/NN_name.py`; the `.ipynb` beside it holds the outputs of the same cells."""

import os
import subprocess
import sys
from pathlib import Path

import jupytext
import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "notebooks").glob("*.py"))
NAMES = [script.stem for script in SCRIPTS]
DRAWS = ("plt.show()", "worlds.picture(", "report.completion_figure(")


def code_cells(path):
    return [cell for cell in jupytext.read(path).cells if cell.cell_type == "code"]


def test_there_are_notebooks():
    assert NAMES == [
        "01_history",
        "02_natural_gradient",
        "03_outcome_pump",
        "04_preferences_and_groups",
        "05_scaling",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=NAMES)
def test_script_runs_and_its_own_checks_hold(script):
    """At the small sizes, a minute each with nothing compiled yet. What a notebook claims, it asserts."""
    environment = {
        **os.environ,
        "POLOPT_FAST": "1",
        "MPLBACKEND": "Agg",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    run = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=290)
    assert run.returncode == 0, run.stderr[-4000:]


@pytest.mark.parametrize("script", SCRIPTS, ids=NAMES)
def test_notebook_has_the_cells_of_its_script(script):
    cells, paired = code_cells(script), code_cells(script.with_suffix(".ipynb"))
    assert [cell.source for cell in cells] == [cell.source for cell in paired]
    texts = [
        [cell.source for cell in jupytext.read(path).cells if cell.cell_type == "markdown"]
        for path in (script, script.with_suffix(".ipynb"))
    ]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("script", SCRIPTS, ids=NAMES)
def test_notebook_holds_outputs_and_no_errors(script):
    cells = code_cells(script.with_suffix(".ipynb"))
    outputs = [output for cell in cells for output in cell.outputs]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    drawn = sum(cell.source.count(draw) for cell in cells for draw in DRAWS)
    assert len(pictures) == drawn > 0
    plays = [output for output in outputs if "text/html" in output.get("data", {})]
    assert len(plays) == sum(cell.source.count("report.animation_html(") for cell in cells)
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert script.with_suffix(".ipynb").stat().st_size < 1_000_000
