"""docs/objectives.md: its code runs, and its tables name the terms of the library."""

import re
from pathlib import Path

import jax.numpy as jnp
import pytest

import polopt_jax as po
from polopt_jax import language, objectives, surrogates

PAGE = (Path(__file__).parents[1] / "docs" / "objectives.md").read_text()


@pytest.mark.slow
def test_the_page_runs_and_says_what_comes_out(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for code in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL):
        exec(compile(code, "docs/objectives.md", "exec"), names)
    assert capsys.readouterr().out == '0.693, 0.5\nline 2: has no "rejected" (left out)\n'
    assert names["rows"].batch.mask.shape[:2] == (2, 2)
    assert abs(float(names["value"]) - 0.6931) < 1e-3
    assert float(names["step"].update(names["params"], names["state"], names["batch"], None)[2]["loss"]) < 0.69
    assert names["mismatched"][0].shape == names["mismatched"][1].shape == (32, 5)
    texts = names["text"].reshape(32, 6)
    for row in (0, 5):
        assert names["mismatched"][0][row].tolist() == [int(texts[row, 0]), *texts[row - 1, 1:-1].tolist()]
        assert names["mismatched"][1][row].tolist() == texts[row - 1, 1:].tolist()
    assert jnp.isfinite(names["kto_loss"])
    assert float(names["kto_metrics"]["desirable_fraction"]) == 0.5
    assert names["report"]["loss"] < 0.6  # it begins at log 2
    assert names["advantage"].shape == (4, 8)
    assert jnp.allclose(names["advantage"].mean(-1), 0, atol=1e-6)
    assert jnp.allclose(names["compared"], jnp.array([[0.5**0.5, -(0.5**0.5), jnp.nan]]), atol=1e-5, equal_nan=True)
    assert "ZeroDivisionError" in names["scores"].told()
    for term in ("forward", "both"):
        objective = names["po"].objective(names["model"], names[term])
        assert jnp.isfinite(objective(names["params"], names["batch"])[0])


def test_the_tables_have_every_loss():
    """The first cell of a row names terms; the seams and what a term is made of are in the text."""
    first = re.findall(r"^\| ([^|]*) \|", PAGE, flags=re.MULTILINE)
    named = {name for cell in first for name in re.findall(r"`(\w+)", cell)}
    parts = {name for name in objectives.__all__ if name.endswith(("_ratio", "_log_prob"))}
    seams = {"preference", "ratio_term", "unpaired_preference", "improved_weights", "temperature_loss"}
    assert named >= set(objectives.__all__) - parts - seams
    assert named <= {*objectives.__all__, *po.__all__}
    assert all(name in PAGE for name in seams & {"preference", "ratio_term"})


def test_every_name_on_the_page_is_there():
    code = {name for name in re.findall(r"`(?:po\.)?(\w+)(?:\([^`]*\))?`", PAGE) if "_" in name}
    fields = set(po.Batch.__dataclass_fields__)
    known = {*po.__all__, *objectives.__all__, *surrogates.__all__, *language.__all__, *fields}
    assert code - known - {"log_ratio", "chosen_log_ratio", "approx_kl"} == set()
