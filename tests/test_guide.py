"""The guide's Python is run as it stands, in order; what it says of its numbers is held against the truth."""

import re
from pathlib import Path

import numpy as np
import pytest

GUIDE = Path(__file__).parents[1] / "docs" / "outcomes.md"


def kl(p, q):
    """KL of two Bernoulli laws."""
    return p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))


def check_report(names):
    """Against the small language's closed form: places are independent."""
    before, after = names["before"], names["after"]
    report = names["measure_texts"](names["log_prob_old"], names["log_prob_new"], names["texts_batch"])
    skips_old, skips_new = 1 - before[1], 1 - after[1]
    for shift, p, q, first, second in (
        (report.old_new, skips_old, skips_new, before, after),
        (report.new_old, skips_new, skips_old, after, before),
    ):
        assert shift.side_effect.low < kl(p, q) < shift.side_effect.high
        np.testing.assert_allclose(shift.trajectory_kl, kl(first, second).sum(), rtol=0.1)  # 1024 texts, reweighted
        np.testing.assert_allclose(shift.rows_kl, kl(first, second).sum(), rtol=0.25)
    np.testing.assert_allclose(report.side_effect_law_old[1], skips_old, atol=0.015)  # three standard errors
    np.testing.assert_allclose(report.side_effect_law_new[1], skips_new, atol=0.09)  # as many, at the ESS of about 200
    np.testing.assert_allclose(report.success_rate_old, 1 - before[1] * (1 - before[6]), atol=0.04)


def check_forks(names):
    moved = np.asarray(names["profile"].outcome.value)
    nats = kl(names["before"], names["after"])
    np.testing.assert_allclose(names["profile"].action_kl, nats, atol=1e-5)  # two words: nothing is hidden
    assert moved.argmax() == 1
    assert np.sort(moved)[-2] < 0.02 * moved[1]
    np.testing.assert_allclose(moved[1], nats[1], rtol=0.25)  # the outcome is this token
    spans = Path("completion.html").read_text().split("<span ")
    assert "--outcome:80%;--nats:100%" in spans[2]  # " look"
    assert "--outcome:0%;--nats:42%" in spans[4]  # " the"


def check_price(names):
    laws, prices = names["laws"], names["prices"]
    assert (laws.success.mean(1) > 10 * names["exact"](names["world"].logits).success.mean()).all()
    free, held = laws.skip.mean(1)[np.array([0, 2])]
    assert held < free / 2
    assert not prices.charge[0].any()
    np.testing.assert_allclose(prices.integral.sum(1), 0, atol=1e-4)


def check_bound(names):
    moved = names["measure"](names["old"], names["careful"], names["batch"]).old_new
    free = names["measure"](names["old"], names["new"], names["batch"]).old_new
    assert names["metrics"]["line_search_accepted"] == 1
    assert 0 < moved.side_effect.plug_in < 5e-3 < free.side_effect.plug_in
    assert float(free.action_kl) < 0.02
    assert moved.trajectory_kl > 0


def numbers(text):
    return [float(x) for x in re.findall(r"\d+(?:\.\d+)?", text)]


def check_shown(names):
    """The numbers that the guide shows of its first update, and of the bounded one; other machines round otherwise."""
    guide = GUIDE.read_text()
    shown = re.search(r"```\n(success .*?)D\(new", guide, flags=re.DOTALL).group(1)
    found = names["measure"](names["old"], names["new"], names["batch"])
    np.testing.assert_allclose(numbers(str(found).split("D(new")[0]), numbers(shown), rtol=0.05)
    bounded = names["measure"](names["old"], names["careful"], names["batch"]).old_new.side_effect
    said = re.search(r"by ([\d.]+) nats \[([\d.]+), ([\d.]+)\] instead of ([\d.]+)\.", guide).groups()
    expected = [bounded.value, bounded.low, bounded.high, found.old_new.side_effect.value]
    np.testing.assert_allclose([float(x) for x in said], expected, rtol=0.05)


def check_limit(names):
    law = np.asarray(names["within"].point.law).sum(0)
    limits = [float(limit) for _, limit in names["limits"]]
    assert bool(names["within"].reached)
    assert law[2:].sum() < 2 * limits[0]
    assert law[1::2].sum() < 1.2 * limits[1]


@pytest.mark.slow
@pytest.mark.timeout(600)  # little is run and much is compiled: two minutes on a busy machine without a cache
def test_the_guide_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), flags=re.DOTALL)
    assert len(blocks) == 17
    for i, block in enumerate(blocks):
        code = block.replace("key(1), 300", "key(1), 80")
        exec(compile(code, f"guide block {i}", "exec"), names)
        if "careful" in block:
            check_bound(names)
            check_shown(names)
    assert "alarm at update" in capsys.readouterr().out
    check_report(names)
    check_forks(names)
    check_price(names)
    check_limit(names)
    assert names["batch"].mask.any(-1).all()
    assert set(np.unique(names["batch"].mask.sum(-1))) <= set(range(1, 51))
    assert float(names["loss"]) > 0
    kept, trodden = names["wary_garden"]().build()(0).reference.sum(0)
    np.testing.assert_allclose(kept + trodden, 1, atol=1e-6)
    through = np.exp([0.0, 0.5, -2.5])[2] / np.exp([0.0, 0.5, -2.5]).sum()
    assert through < trodden < 1 - (1 - through) ** 8 + 1e-6  # of eight moves at most, all of which are made but by few
