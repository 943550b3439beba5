"""docs/texts.md: its code runs and says what it says that it says."""

import re
from pathlib import Path

import jax.numpy as jnp
import pytest

from polopt_jax import driver, language, texts

PAGE = (Path(__file__).parents[1] / "docs" / "texts.md").read_text()


@pytest.mark.slow
def test_the_page_runs_and_says_what_comes_out(capsys):
    names = {}
    for code in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL):
        exec(compile(code, "docs/texts.md", "exec"), names)
    lines = capsys.readouterr().out.splitlines()
    said, told = ([line for line in lines if line.startswith("[[") == is_row] for is_row in (False, True))
    promised = re.findall(r"^print\(.*\) +# (.*)$", PAGE, flags=re.MULTILINE)
    assert said == ["0.0 nats a token", "4", "['held/accuracy', 'held/chosen_log_ratio']"]
    assert [promised[0].split(":")[0], *promised[1:]] == ["0.0", *said[1:]]
    assert names["batch"].mask.shape == (2, 8, 8)
    assert len(told) == 2
    assert all(line.endswith("[[0. 0.]]") for line in told)  # all answers could be scored
    assert jnp.isfinite(names["loss"])
    lengths = [len(completion) for completion in names["completions"]]
    assert names["rewards"].reshape(-1).tolist() == lengths
    assert names["seen"]["held/loss"].shape == (1,)


def test_every_name_on_the_page_is_there():
    known = {"language": language, "texts": texts, "driver": driver}
    for room, name in re.findall(r"\b(language|texts|driver)\.([A-Za-z_]+)", re.sub(r"\w+\.jsonl", "", PAGE)):
        assert name in known[room].__all__ if hasattr(known[room], "__all__") else hasattr(known[room], name), name
