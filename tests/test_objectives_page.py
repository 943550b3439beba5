"""docs/objectives.md: its code runs, and its tables name the terms of the library."""

import re
from pathlib import Path

import jax.numpy as jnp

from polopt_jax import objectives

PAGE = (Path(__file__).parents[1] / "docs" / "objectives.md").read_text()


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
    for term in ("forward", "both"):
        objective = names["po"].objective(names["model"], names[term])
        assert jnp.isfinite(objective(names["params"], names["batch"])[0])


def test_the_tables_have_every_loss_over_pairs_and_over_labelled_rows():
    named = re.findall(r"^\| `(\w+)` \|", PAGE, flags=re.MULTILINE)
    assert len(named) == len(set(named))
    files = {"_bco", "_kto", "_dpo", "_ipo", "_slic", "_f_dpo", "_nca", "_exo", "_sppo", "_apo", "_discopop", "_aot"}
    files |= {"_simpo", "_cpo", "_orpo"}
    family = {
        name
        for name in objectives.__all__
        if getattr(objectives, name).__module__.removeprefix("polopt_jax.objectives.") in files
    }
    assert set(named) == family
