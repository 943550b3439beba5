"""The command on a person's own texts: what it learns, what it leaves, what it says of wrong files and flags."""

import json
import re
import shutil
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import polopt_jax as po
from polopt_jax import checkpoint, language, runs, texts
from polopt_jax.cli import (
    _text_acting,
    _text_build,
    _text_completions,
    _text_data,
    _text_family,
    _text_plan,
    _text_report,
    _text_rewards,
    _text_runs,
    _text_train,
    main,
)
from polopt_jax.cli._hyperparameters import options_with
from polopt_jax.cli._reading import read_words
from polopt_jax.cli._text_options import TrainTexts
from polopt_jax.cli._text_plan import digest
from polopt_jax.cli._words import UsageError
from polopt_jax.export import import_params
from polopt_jax.language import _reward_team
from polopt_jax.settings import byte_transformer

REFERENCE = ".collect_state['reference']"
SIZES = ["--max-length", "24", "--width", "16", "--depth", "1", "--heads", "2"]
REWARD = """
import os

def length(prompt, completion):
    return float(len(completion))

def beside(prompt, completion):
    if prompt == "p1:":
        raise RuntimeError("no")
    return 1.0

def never(prompt, completion):
    raise RuntimeError("no")

def swapped(completion, answer):
    return 1.0

def number(prompt, completion, answer):
    assert prompt == f"p{answer}:"
    return float(answer)

CALLS = []

def numbers(prompts, completions, answer):
    CALLS.append(len(completions))
    return [number(*call) for call in zip(prompts, completions, answer)]
"""


def write_lines(path, records):
    path.write_text("".join(record if isinstance(record, str) else json.dumps(record) + "\n" for record in records))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with files of every kind, a reward, and a run of imitation."""
    folder = tmp_path_factory.mktemp("texts")
    numbers = range(24)
    write_lines(folder / "texts.jsonl", [{"prompt": f"p{n % 8}:", "completion": f"yes {n % 3}"} for n in numbers])
    pairs = [{"prompt": f"p{n % 8}:", "chosen": f"yes {n}", "rejected": "no"} for n in numbers]
    write_lines(
        folder / "prefs.jsonl",
        [*pairs[:4], "broken\n", *pairs[4:], {"prompt": "x", "chosen": "y" * 40, "rejected": "n"}],
    )
    labels = [{"prompt": f"p{n % 8}:", "completion": "yes" if n % 2 else "no", "label": n % 2 == 1} for n in numbers]
    write_lines(folder / "labels.jsonl", labels)
    write_lines(folder / "disliked.jsonl", [record | {"label": False} for record in labels])
    write_lines(folder / "prompts.jsonl", [{"prompt": f"p{n}:"} for n in range(8)])
    answers = [{"prompt": f"p{n}:", "answer": n} for n in range(8)]
    write_lines(folder / "answers.jsonl", answers)
    write_lines(folder / "unanswered.jsonl", [*answers[:6], {"prompt": "p6:", "reply": 6}, *answers[7:]])
    (folder / "own_reward.py").write_text(REWARD)
    code = main(["train", "sft", "--data", str(folder / "texts.jsonl"), *SIZES, "--steps", "160", "--batch-size", "4",
                 "--out", str(folder / "start"), "--json", "--no-cache"])  # fmt: skip
    assert code == 0
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


def command(*words):
    return main([str(word) for word in words] + ["--no-cache"])


def said(capsys, *words, code=0):
    """What a command prints on stdout and stderr."""
    capsys.readouterr()
    assert command(*words) == code
    return capsys.readouterr()


def answered(capsys, place, out, reward, *words, data="prompts.jsonl", code=0):
    """What `train grpo` prints of a small run: two updates of four prompts, nothing held out, unless `words` differ."""
    sizes = ["--init", place / "start", "--steps", 8, "--batch-size", 4, "--answer-length", 4, "--group-size", 2]
    sizes += ["--num-minibatches", 1, "--held-out", 0, "--out", out]
    return said(capsys, "train", "grpo", "--data", place / data, "--reward", reward, *sizes, *words, code=code)


def summary_of(directory):
    return json.loads((directory / "summary.json").read_text())["results"][0]


def rows_of(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def preferred(place):
    """A run of dpo from the run of imitation."""
    out = place / "preferred"
    assert command("train", "dpo", "--data", place / "prefs.jsonl", "--init", place / "start", "--steps", 48,
                   "--batch-size", 4, "--learning-rate", 3e-3, "--out", out) == 0  # fmt: skip
    return out


def test_imitation_learns_and_leaves_a_run(place):
    out = place / "start"
    rows = rows_of(out)
    assert rows[-1]["held/loss"][0] < rows[0]["held/loss"][0] - 0.3
    config = json.loads((out / "config.json").read_text())
    assert config["data_sha256"] == digest(place / "texts.jsonl")
    assert (config["width"], config["max_length"], config["objective"]) == (16, 24, None)
    assert {"config.json", "metrics.jsonl", "summary.json", "report.html", "curves.png"} <= {
        x.name for x in out.iterdir()
    }
    assert "ref_kl_per_completion" not in runs.without_empty(summary_of(out)), "its reference knows nothing"
    page = (out / "report.html").read_text()
    assert "sampled 1" in page
    assert "before, greedy" not in page
    policy = po.load(out)
    assert policy.act(np.array([[256, 112]])).shape == (1, 2)


def test_preferences_move_the_margin_and_say_what_was_wrong_with_the_file(place, preferred, capsys):
    found = summary_of(preferred)
    assert found["held"]["accuracy"] == 1.0
    assert found["held"]["margin"] > 0.05
    assert found["held"]["rejected_moved"] < found["held"]["chosen_moved"]
    assert (found["examples"], found["held_out"]) == (21, 3)
    assert found["ref_kl_per_completion"] is not None
    told = said(capsys, "train", "--resume", "--out", preferred)
    assert "prefs.jsonl, line 5: is not JSON" in told.err
    assert "prefs.jsonl, line 26: has 43 tokens, more than 24 (left out)" in told.err
    assert "26 records read, 2 left out: 21 to learn from, 3 held out." in told.out
    assert "is finished, with 12 updates" in told.err
    page = (preferred / "report.html").read_text()
    assert "line 26: has 43 tokens" in page
    assert "log π/ref" in page
    assert not re.search(r'(src|href)="?http', page)
    assert json.loads((preferred / "summary.json").read_text())["notes"][1].startswith("It starts from")


def test_the_reference_is_the_policy_of_the_run_it_starts_from(place, preferred):
    start = po.load(place / "start")
    first, _ = checkpoint.restore_parts(
        preferred / "checkpoints",
        {".collect_state['reference']": jax.eval_shape(start.network.init, jax.random.key(0))},
        leading=(1,),
    )
    for x, y in zip(*map(jax.tree.leaves, (first[".collect_state['reference']"], start.params)), strict=True):
        np.testing.assert_array_equal(x[0], y)


def test_a_run_that_was_killed_goes_on_bit_for_bit(place, preferred, capsys):
    """Its newest checkpoint and the rows after the one before are taken away, as a kill would have left it."""
    out = place / "killed"
    shutil.copytree(preferred, out)
    steps = checkpoint.steps(out / "checkpoints")
    assert len(steps) > 1
    shutil.rmtree(out / "checkpoints" / str(steps[-1]))
    rows = rows_of(out)
    kept = [row for row in rows if row["update"] <= steps[-2]]
    (out / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    said(capsys, "train", "--resume", "--out", out)
    again = rows_of(out)
    timeless = lambda rows: [{k: x for k, x in row.items() if "seconds" not in k} for row in rows]  # noqa: E731
    assert timeless(again) == timeless(rows)
    for x, y in zip(*(jax.tree.leaves(po.load(run).params) for run in (preferred, out)), strict=True):
        np.testing.assert_array_equal(x, y)


def test_a_run_that_goes_on_may_be_named_by_its_algorithm(place, preferred, capsys):
    told = said(capsys, "train", "dpo", "--resume", "--out", preferred)
    assert "is finished" in told.err
    told = said(capsys, "train", "grpo", "--resume", "--out", preferred, code=2)
    assert "is a run of dpo, not of grpo" in told.err


def test_a_run_can_become_longer(place, preferred, capsys):
    out = place / "longer"
    shutil.copytree(preferred, out)
    told = said(capsys, "train", "--resume", "--out", out, "--steps", 64, "--json")
    assert json.loads(told.out)["results"][0]["updates"] == 16
    assert rows_of(out)[:12] == rows_of(preferred)


def test_a_file_that_has_changed_is_not_gone_on_with(place, preferred, capsys):
    out, copy = place / "changed", place / "other.jsonl"
    shutil.copytree(preferred, out)
    config = json.loads((out / "config.json").read_text())
    copy.write_text(
        (place / "prefs.jsonl").read_text() + "\n" + json.dumps({"prompt": "a", "chosen": "b", "rejected": "c"})
    )
    (out / "config.json").write_text(json.dumps(config | {"data": str(copy)}))
    assert "other.jsonl is no longer what it was" in said(capsys, "train", "--resume", "--out", out, code=2).err
    assert "is no longer what it was" in said(capsys, "evaluate", out, code=2).err


def test_a_run_on_texts_speaks(place, preferred, capsys):
    one = said(capsys, "sample", preferred, "--prompt", "p1:", "new:", "--num", 2, "--length", 8).out
    assert len(one.rstrip("\n").split("\n")) >= 4
    assert one.startswith("p1:")
    assert said(capsys, "sample", preferred, "--prompt", "p1:", "new:", "--num", 2, "--length", 8).out == one
    told = json.loads(said(capsys, "sample", preferred, "--greedy", "--json").out)["completions"]
    held = {record["prompt"] for record in told}
    assert held <= {f"p{n}:" for n in range(8)}
    assert all(isinstance(record["log_ratio"], float) for record in told)
    other = said(capsys, "sample", preferred, "--prompt", "p1:", "new:", "--num", 2, "--length", 8, "--key", 1).out
    assert other != one


def test_temperature_and_top_k_are_those_of_sampling(place, preferred, capsys):
    greedy = said(capsys, "sample", preferred, "--prompt", "p1:", "--greedy", "--length", 8).out
    assert said(capsys, "sample", preferred, "--prompt", "p1:", "--top-k", 1, "--length", 8).out == greedy
    assert said(capsys, "sample", preferred, "--prompt", "p1:", "--temperature", 1e-6, "--length", 8).out == greedy
    assert said(capsys, "sample", preferred, "--prompt", "p1:", "--top-p", 1e-6, "--length", 8).out == greedy


def test_evaluate_says_again_what_training_measured(preferred, capsys):
    told = json.loads(said(capsys, "evaluate", preferred, "--json").out)
    last = rows_of(preferred)[-1]
    for name, value in told["seeds"][0].items():
        if name != "seed":
            np.testing.assert_allclose(value, last[f"held/{name}"][0], rtol=1e-4, atol=1e-5)
    assert "chosen moved" in said(capsys, "evaluate", preferred).out


def test_play_shows_completions_before_and_after(place, preferred, capsys):
    out = place / "page.html"
    told = said(capsys, "play", preferred, "--html", out).out
    assert "nats, from the sampled ones" in told
    page = out.read_text()
    assert "before, greedy" in page
    assert "after, sampled 2" in page
    assert "of a run on texts completions are shown" in said(capsys, "play", preferred, "--max-steps", 3, code=2).err


def test_what_is_shown_before_is_the_references_and_after_the_policys(preferred, monkeypatch):
    """Log-ratios are those of the policy to the reference on both sides, whoever said it."""
    drawn = []
    monkeypatch.setattr(_text_completions.report, "contrasts_html", lambda shown, *, scale: drawn.append(shown) or "")
    plan = _text_runs.plan_of(json.loads((preferred / "config.json").read_text()), preferred)
    _text_completions.completions_shown(plan, preferred, [language.Prompt("p1:")])
    policy, reference = po.load(preferred).params, _text_build.restored_reference(plan, preferred)
    how = (["p1:"], language.ByteTokenizer(), jax.random.key(0))
    network, length = language.greedy_network(po.load(preferred).network), 24 - 4 + 1
    for title, params, other, sign in (
        ("before, greedy", reference, policy, -1),
        ("after, greedy", policy, reference, 1),
    ):
        (found,) = [contrast for contrast in drawn[0] if contrast.title == title]
        ((computed,),) = texts.complete_prompts(network, params, other, *how, samples=1, length=length)
        assert found.words == computed.pieces
        np.testing.assert_allclose(found.log_ratio, sign * computed.log_ratio, rtol=1e-4, atol=1e-6)
    assert [contrast.title for contrast in drawn[0]][1::2] == ["before, sampled 1", "after, greedy", "after, sampled 2"]


def test_every_completion_that_is_shown_has_its_own_reward():
    nothing = np.zeros(0)
    said = [texts.Completion("2+2=", text, (), nothing, nothing, True) for text in ("4", "five", "")]
    record = language.Prompt("2+2=", 1, {"answer": "4"})
    with language.reward_workers(lambda prompt, completion, answer: len(completion) + (completion == answer)) as score:
        assert _text_completions._worth(score, record, said) == [2.0, 4.0, 0.0]
    assert _text_completions._worth(None, record, said) == [None] * 3


def test_an_objective_that_divides_by_the_length_of_answers_is_told_it(place):
    plan = SimpleNamespace(algorithm="grpo", objective="dr_grpo", hyperparameters={}, answer_length=8)
    batch = po.Batch(obs=None, action=np.zeros((1, 3), int), mask=np.ones((1, 3), bool), advantage=np.ones((1, 3)),
                     log_prob=np.log(0.5) * np.ones((1, 3)))  # fmt: skip
    outputs = po.Outputs(policy=po.Categorical(logits=np.zeros((1, 3, 2))))
    found, wanted = (term(outputs, batch)[0] for term in (_text_build._term(plan), po.dr_grpo(length=8)))
    assert found == wanted != po.dr_grpo(length=1)(outputs, batch)[0]


def test_a_folder_whose_files_are_named_otherwise_is_another(tmp_path):
    for name, other in (("a", "b"), ("b", "a")):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("x")
        (tmp_path / name / other).write_text("y")
    assert digest(tmp_path / "a") != digest(tmp_path / "b")
    (tmp_path / "b" / "a").write_text("x")
    (tmp_path / "b" / "b").write_text("y")
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_what_was_learnt_leaves_as_a_file_and_comes_back(preferred, capsys, tmp_path):
    file = tmp_path / "policy.safetensors"
    assert str(file) in said(capsys, "export", preferred, file).out
    policy = po.load(preferred)
    like = {"params": jax.eval_shape(policy.network.init, jax.random.key(0))}
    for x, y in zip(*map(jax.tree.leaves, (import_params(file, like)["params"], policy.params)), strict=True):
        np.testing.assert_array_equal(x, y)
    size = int.from_bytes(file.read_bytes()[:8], "little")
    header = json.loads(file.read_bytes()[8 : 8 + size])
    assert json.loads(header["__metadata__"]["config"])["objective"] == "dpo"
    before = file.read_bytes()
    assert "is there already; name another file" in said(capsys, "export", preferred, file, code=2).err
    assert file.read_bytes() == before
    assert "has no seed 5" in said(capsys, "export", preferred, tmp_path / "other", "--seed", 5, code=2).err


def test_labels_are_learnt_with_the_losses_that_take_them(place, capsys):
    out = place / "labelled"
    words = ["--init", place / "start", "--steps", 24, "--batch-size", 12, "--learning-rate", 3e-3, "--out", out]
    said(capsys, "train", "dpo", "--data", place / "labels.jsonl", "--objective", "kto", "--beta", 0.5, *words)
    assert summary_of(out)["objective"] == "kto"
    assert json.loads((out / "config.json").read_text())["hyperparameters"]["beta"] == 0.5
    assert rows_of(out)[-1]["held/accuracy"][0] is not None


@pytest.mark.slow
def test_without_a_start_preferences_begin_with_imitation(place, capsys, monkeypatch):
    monkeypatch.setattr("polopt_jax.cli._text_build.IMITATION_UPDATES", 20)
    out = place / "alone"
    words = [*SIZES, "--steps", 8, "--batch-size", 4, "--out", out]
    told = said(capsys, "train", "dpo", "--data", place / "prefs.jsonl", "--objective", "orpo", *words)
    assert "imitating what was preferred: 100%" in told.err
    assert "20 updates of imitation of what was preferred, which is also the reference:" in told.out
    rows = rows_of(out)
    assert 0 < rows[0]["held/ref_kl"][0] < 0.5, "it starts from what it imitated"


@pytest.mark.slow
def test_labels_begin_with_imitation_also_where_none_held_out_is_true(place, monkeypatch):
    """Of the held-out ones nothing can be imitated, and so nothing is measured while what was preferred is."""
    monkeypatch.setattr("polopt_jax.cli._text_build.IMITATION_UPDATES", 10)
    lines = [{"prompt": f"p{n}:", "completion": "yes", "label": True} for n in range(8)]
    write_lines(place / "mixed.jsonl", lines)
    words = ["train", "dpo", "--data", place / "mixed.jsonl", "--objective", "bco", *SIZES, "--batch-size", "4"]
    plan, data = plan_and_data([str(word) for word in words])
    data = data._replace(held=[record._replace(label=False) for record in data.held])
    start = _text_build._imitated(plan, data, SimpleNamespace(stage=lambda said: None), False)
    assert start.told == "It starts from 10 updates of imitation of what was preferred, which is also the reference."


def test_where_every_prompt_has_too_many_records_it_is_said_that_none_is_held_out():
    records = [language.Text(f"p{n % 2}", "x", n) for n in range(400)]
    data = _text_data.Data(records, [], (), 400)
    assert "Every prompt has more than 128 records, so none could be held out." in _text_data.about_data(data)
    assert "Every" not in _text_data.about_data(data._replace(train=records[:200]))
    assert "Every" not in _text_data.about_data(data._replace(train=records[::2]))


def test_answers_are_learnt_from_a_reward_in_python(place, capsys):
    out = place / "answered"
    words = ["--init", place / "start", "--steps", 40, "--batch-size", 4, "--answer-length", 6, "--group-size", 4]
    words += ["--learning-rate", 1e-2, "--num-minibatches", 2, "--out", out]
    said(capsys, "train", "grpo", "--data", place / "prompts.jsonl", "--reward", "own_reward:length", *words)
    rows = rows_of(out)
    assert rows[-1]["reward"][0] > rows[0]["reward"][0]
    assert rows[-1]["held/reward"][0] is not None
    found = summary_of(out)
    assert found["reward"] > 0
    assert found["held"]["ref_kl"] > 0
    assert json.loads(said(capsys, "evaluate", out, "--json").out)["seeds"][0]["reward"] == pytest.approx(
        rows[-1]["held/reward"][0]
    )


@pytest.mark.slow
def test_a_reward_is_given_what_it_names_of_the_line_of_the_prompt(place, capsys, monkeypatch):
    out = place / "compared"
    sizes = ["--steps", 12, "--batch-size", 6, "--held-out", 0.25, "--reward-workers", 1]
    answered(capsys, place, out, "own_reward:number", *sizes, data="answers.jsonl")
    held = {record.line - 1 for record in _text_runs.data_of(_text_runs.plan_of(runs.read_config(out), out), out).held}
    assert len(held) == 2
    rows = rows_of(out)
    np.testing.assert_allclose([row["reward"][0] for row in rows], (28 - sum(held)) / 6, rtol=1e-6)
    np.testing.assert_allclose(rows[-1]["held/reward"][0], sum(held) / 2)
    assert "unscored" not in summary_of(out) or not summary_of(out)["unscored"]
    seen = json.loads(said(capsys, "evaluate", out, "--json").out)["seeds"][0]
    np.testing.assert_allclose(seen["reward"], sum(held) / 2)
    said(capsys, "play", out)
    for page in ("report.html", "play.html"):
        text = " ".join(re.sub(r"<style.*?</style>|<[^>]+>", " ", (out / page).read_text(), flags=re.DOTALL).split())
        for number in held:
            shown = text.split(f"p{number}: ", 1)[1].split(" p", 1)[0]
            assert shown.startswith(f"answer {number} before, greedy reward {number} log π/ref")
            assert shown.count(f"reward {number}") == 2 * (1 + _text_completions.SAMPLES)
    monkeypatch.setattr(sys.modules["own_reward"], "number", lambda prompt, completion, weight: 1.0)
    missed = 'the reward takes "weight" of the columns, and there are answer'
    assert missed in said(capsys, "evaluate", out, code=2).err
    assert (
        f"without rewards: --reward own_reward:number: {missed}" in said(capsys, "play", out, "--html", out / "b").err
    )
    assert "reward" not in (out / "b").read_text().split("</style>", 1)[1]


@pytest.mark.slow
def test_a_reward_may_be_called_with_lists(place, capsys, monkeypatch):
    """The run is the same one; and one of before there were lists goes on."""
    monkeypatch.chdir(place)
    answered(capsys, place, place / "singly", "own_reward:number", "--steps", 4, data="answers.jsonl")
    words = ["--steps", 4, "--reward-batch-size", 3]
    answered(capsys, place, place / "in_lists", "own_reward:numbers", *words, data="answers.jsonl")
    calls = sys.modules["own_reward"].CALLS
    assert calls[:3] == [3, 3, 2]
    assert max(calls) == 3
    singly, in_lists = rows_of(place / "singly"), rows_of(place / "in_lists")
    times = [name for name in singly[0] if "second" in name]
    assert [{k: x for k, x in row.items() if k not in times} for row in singly] == [
        {k: x for k, x in row.items() if k not in times} for row in in_lists
    ]
    config = json.loads((place / "singly" / "config.json").read_text())
    assert config.pop("reward_batch_size") is None
    (place / "singly" / "config.json").write_text(json.dumps(config))
    said(capsys, "train", "--resume", "--out", place / "singly", "--steps", 8)
    assert len(rows_of(place / "singly")) == 2
    assert said(capsys, "sample", place / "singly", "--prompt", "p1:").out.startswith("p1:")
    bad = ["--reward-batch-size", 0]
    told = answered(capsys, place, place / "none", "own_reward:numbers", *bad, data="answers.jsonl", code=2).err
    assert "--reward-batch-size must be from 1 to 65,536; it is 0" in told


@pytest.mark.slow
def test_a_run_finds_its_data_from_everywhere_and_where_they_have_moved(place, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(place)
    sizes, out = ["--batch-size", 4, "--held-out", 0.25], place / "from_elsewhere"
    begun = ["--data", "prefs.jsonl", "--init", "start", *sizes, "--steps", 4, "--out", out]
    assert command("train", "dpo", *begun) == 0
    monkeypatch.chdir(tmp_path)
    assert json.loads(said(capsys, "evaluate", out, "--json").out)["data"] == str(place / "prefs.jsonl")
    moved = tmp_path / "moved.jsonl"
    moved.write_bytes((place / "prefs.jsonl").read_bytes())
    again = ["--data", "moved.jsonl", "--init", place / "start", *sizes, "--resume", "--out", out]
    said(capsys, "train", "dpo", *again, "--steps", 8)
    assert len(rows_of(out)) == 2
    assert json.loads(said(capsys, "evaluate", out, "--json").out)["data"] == str(moved)


@pytest.mark.slow
def test_a_reward_that_is_another_now_is_told_of_when_a_run_goes_on(place, capsys):
    out, file = place / "edited", place / "edited_reward.py"
    file.write_text("def worth(prompt, completion):\n    return float(len(completion))\n")
    answered(capsys, place, out, "edited_reward:worth", "--steps", 4)
    told = said(capsys, "train", "--resume", "--out", out, "--steps", 8)
    assert "was run before with others" not in told.err
    file.write_text("def worth(prompt, completion):\n    return 5.0 + len(completion)\n")
    told = said(capsys, "train", "--resume", "--out", out, "--steps", 12)
    assert re.search("not be bit for bit: edited_reward:worth was [0-9a-f]{12}, now [0-9a-f]{12}\n", told.err)
    file.unlink()
    assert "edited_reward:worth" in json.loads((out / "config.json").read_text())["versions"]
    assert said(capsys, "sample", out, "--prompt", "p1:").out.startswith("p1:")


def test_a_column_is_missed_wherever_the_line_went(place):
    with_it, without = language.Prompt("a", 4, {"answer": 1}), language.Prompt("b", 2)
    for train, held in (([with_it], [without]), ([without], [with_it]), ([with_it, without], [])):
        with pytest.raises(UsageError, match="in line 2 of --data"):
            _text_rewards.check_reward("own_reward:number", _text_data.Data(train, held, (), 2))
    _text_rewards.check_reward("own_reward:number", _text_data.Data([with_it], [with_it], (), 2))


def test_a_reward_that_fails_leaves_answers_out_and_counts_them(place, capsys):
    out = place / "failing"
    answered(capsys, place, out, "own_reward:beside", "--objective", "rloo")
    assert summary_of(out)["unscored"] == 2.0, "both answers to one of eight prompts"
    assert rows_of(out)[0]["reward"] == [1.0]


def test_a_reward_that_scores_nothing_is_no_run_that_is_fine(place, capsys, recwarn):
    out = place / "mute"
    told = answered(capsys, place, out, "own_reward:never", code=3)
    assert "broken since update 1 (no answer could be scored), stopped at update 2; look at the reward" in told.err
    assert "unscored: Answers that nobody could score, of all updates and seeds." in told.out
    assert summary_of(out)["unscored"] == 16.0
    assert not [x for x in recwarn if issubclass(x.category, texts.UnscoredWarning)], "it is told once"


def test_groups_with_nothing_to_compare_are_told(place, capsys):
    out = place / "tied"
    told = answered(capsys, place, out, "own_reward:number", data="answers.jsonl")
    assert [row["answer/tied"] for row in rows_of(out)] == [[1.0]] * 2
    note = "In no group did two answers earn differently"
    assert note in told.out
    assert note in (out / "report.html").read_text()


def test_a_run_with_something_to_compare_is_not_complained_of():
    class Seen:
        rows, complaint = [{"answer/tied": [1.0, 1.0]}, {"answer/tied": [0.75, 1.0]}], None

    assert _text_report._tied(Seen()) is None
    Seen.rows = Seen.rows[:1]
    assert _text_report._tied(Seen()) is not None
    Seen.complaint = "broken"
    assert _text_report._tied(Seen()) is None
    Seen.rows, Seen.complaint = [{"loss": [1.0]}], None
    assert _text_report._tied(Seen()) is None


def test_a_chosen_completion_that_becomes_less_likely_is_told(preferred):
    class Seen:
        summary = {"held": {"chosen_moved": -12.5}}

    assert "held-out ones by 12.5 nats each" in _text_report._displaced(Seen())
    Seen.summary = {"held": {"chosen_moved": -1.0}}
    assert _text_report._displaced(Seen()) is None
    Seen.summary = {"held": {"loss": 1.0}}
    assert _text_report._displaced(Seen()) is None


WRONG = {
    "no file": (["sft", "--data", "none.jsonl"], "there is no none.jsonl"),
    "wrong kind": (["dpo", "--data", "texts.jsonl"], 'A line must have {"prompt", "chosen", "rejected"}'),
    "labels wanted": (
        ["dpo", "--data", "prefs.jsonl", "--objective", "kto"],
        'A line must have {"prompt", "completion"',
    ),
    "nothing to imitate": (
        ["dpo", "--data", "disliked.jsonl", "--objective", "kto", "--batch-size", "4"],
        "no line of disliked.jsonl to learn from has label true",
    ),
    "no such objective": (["dpo", "--data", "prefs.jsonl", "--objective", "ippo"], "did you mean 'ipo'"),
    "imitation has one": (["sft", "--data", "texts.jsonl", "--objective", "dpo"], "sft has one objective"),
    "not in the family": (["ppo", "--data", "texts.jsonl"], "unknown algorithm 'ppo'"),
    "grpo without a start": (["grpo", "--data", "prompts.jsonl", "--reward", "own_reward:length"], "--init RUN"),
    "no reward": (["grpo", "--data", "prompts.jsonl", "--init", "start"], "missing: --reward package.module:function"),
    "no such reward": (
        ["grpo", "--data", "prompts.jsonl", "--init", "start", "--reward", "own_reward:lenght"],
        "has no attribute 'lenght'",
    ),
    "no such column": (
        ["grpo", "--data", "prompts.jsonl", "--init", "start", "--reward", "own_reward:number"],
        '--reward own_reward:number: the reward takes "answer" of the columns, and there are none, in line 1 of --data',
    ),
    "a line without the column": (
        ["grpo", "--data", "unanswered.jsonl", "--init", "start", "--reward", "own_reward:number", "--batch-size", "4"],
        'the reward takes "answer" of the columns, and there are reply, in line 7 of --data',
    ),
    "no room beside the answers": (
        [
            "grpo",
            "--data",
            "prompts.jsonl",
            "--init",
            "start",
            "--reward",
            "own_reward:length",
            "--answer-length",
            "23",
        ],
        "longer than the 2 tokens that --answer-length 23 leaves of --max-length 24",
    ),
    "the order of a reward": (
        ["grpo", "--data", "answers.jsonl", "--init", "start", "--reward", "own_reward:swapped"],
        "--reward: own_reward:swapped must be a function of (prompt, completion, columns by name), in this order",
    ),
    "limit without workers": (
        [
            "grpo",
            "--data",
            "prompts.jsonl",
            "--init",
            "start",
            "--reward",
            "own_reward:length",
            "--reward-time-limit",
            "1",
        ],
        "--reward-time-limit needs --reward-workers",
    ),
    "another objective's": (
        ["dpo", "--data", "prefs.jsonl", "--objective", "ipo", "--gamma", "1"],
        "ipo has no --gamma",
    ),
    "out of range": (["dpo", "--data", "prefs.jsonl", "--beta", "-1"], "--beta must be finite and at least 0"),
    "another library's": (["dpo", "--data", "prefs.jsonl", "--lr", "1"], "did you mean --learning-rate?"),
    "size of the start": (
        ["dpo", "--data", "prefs.jsonl", "--init", "start", "--width", "32"],
        "--width is 16 in the run",
    ),
    "too large a batch": (
        ["dpo", "--data", "prefs.jsonl", "--init", "start", "--batch-size", "99"],
        "more than the 21",
    ),
    "odd heads": (["sft", "--data", "texts.jsonl", "--width", "18", "--heads", "4"], "multiple of twice --heads"),
    "all too long": (["sft", "--data", "texts.jsonl", "--max-length", "5"], "longer than --max-length 5"),
    "held out": (["sft", "--data", "texts.jsonl", "--held-out", "1"], "--held-out must be at least 0 and below 1"),
    "no room": (
        [
            "grpo",
            "--data",
            "prompts.jsonl",
            "--init",
            "start",
            "--reward",
            "own_reward:length",
            "--answer-length",
            "24",
        ],
        "leaves no room for a prompt",
    ),
    "sft needs data": (["sft"], "--data"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_told_before_anything_starts(name, place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    before = {path.name for path in place.iterdir()}
    words, message = WRONG[name]
    told = said(capsys, "train", *words, code=2)
    assert message in told.err, told.err
    assert "Traceback" not in told.err
    assert {path.name for path in place.iterdir()} - before <= {"__pycache__"}


@pytest.mark.parametrize(
    "words",
    [
        ["--prompt", "ab", "cd"],
        ["--prompt", "ab", "--length", "4", "--prompt", "cd"],
        ["--prompt=ab", "--prompt", "cd"],
    ],
)
def test_several_prompts_are_all_completed(words, preferred, capsys):
    """However they are given: the second time that a flag of a list is said does not undo the first."""
    found = json.loads(said(capsys, "sample", preferred, *words, "--json").out)
    assert [x["prompt"] for x in found["completions"]] == ["ab", "cd"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--num", "0"], "--num must be from 1"),
        (["--temperature", "0"], "--temperature must be finite and above 0"),
        (["--top-p", "2"], "--top-p must be above 0 and at most 1"),
        (["--greedy", "--top-k", "3"], "--greedy takes the likeliest token; leave out --top-k"),
        (["--seed", "7"], "has no seed 7; it has 0"),
        (["--prompt", "x" * 30], "has 31 tokens, more than 24"),
        (["--prompt", "abc", "--length", "22"], "beyond the 24 that the network reads"),
    ],
)
def test_what_cannot_be_sampled_is_told(words, message, preferred, capsys):
    assert message in said(capsys, "sample", preferred, *words, code=2).err


def test_the_kl_of_a_completion_is_that_of_the_samples_on_the_page(place, preferred):
    """Computed apart: the same prompts and key, and the mean over completions of the sum of log π/ref."""
    found = summary_of(preferred)
    parts = {
        name: jax.eval_shape(po.load(preferred).network.init, jax.random.key(0)) for name in (".params", REFERENCE)
    }
    saved, _ = checkpoint.restore_parts(preferred / "checkpoints", parts, leading=(1,))
    policy, reference = (jax.tree.map(lambda x: x[0], saved[name]) for name in parts)
    network = po.load(preferred).network
    pairs = language.read_pairs(place / "prefs.jsonl").rows
    _, held = texts.split_records([p for p in pairs if len(p.chosen) < 20], share=0.1, most=128)
    asked = list(dict.fromkeys(pair.prompt for pair in held))
    rows = language.prompt_rows(
        [language.Prompt(x, n) for n, x in enumerate(asked)], language.ByteTokenizer(), max_length=24
    )
    key, length = jax.random.key(_text_completions.KEY), 24 - rows.tokens.token.shape[-1] + 1
    how = {"length": length, "group_size": 2, "stop": 257}
    said = jax.jit(lambda p: po.to_batch(language.sample_groups(network, p, rows.tokens, key, **how)))(policy)
    log_prob = jax.jit(lambda params: network.apply(params, said.obs).policy.log_prob(said.action))
    now, before = log_prob(policy), log_prob(reference)
    ratio = np.where(said.mask, now - before, 0).sum(-1).ravel()
    np.testing.assert_allclose(found["ref_kl_per_completion"], ratio.mean(), rtol=1e-3)
    np.testing.assert_allclose(found["ref_kl_interval"], runs.interval(ratio.tolist())[1], rtol=1e-3)


def test_what_a_summary_says_of_the_held_out_is_its_last_row(preferred):
    last = rows_of(preferred)[-1]
    for name, value in summary_of(preferred)["held"].items():
        assert value == last[f"held/{name}"][0], name


@pytest.mark.slow
def test_a_policy_that_was_trained_at_a_temperature_is_loaded_at_it(place, capsys):
    out = place / "cool"
    words = ["--init", place / "start", "--steps", 4, "--batch-size", 4, "--answer-length", 4, "--group-size", 2]
    words += ["--num-minibatches", 1, "--held-out", 0, "--temperature", 0.5, "--out", out]
    said(capsys, "train", "grpo", "--data", place / "prompts.jsonl", "--reward", "own_reward:length", *words)
    cool, tokens = po.load(out), np.array([[256, 112]])
    plain = byte_transformer(**{name: cool.config[name] for name in ("max_length", "width", "depth", "heads")})
    logits = plain.apply(cool.params, tokens).policy.logits
    np.testing.assert_allclose(cool(tokens).policy.logits, 2 * logits, rtol=1e-5)
    out = place / "warm"
    words = ["--init", place / "cool", "--steps", 8, "--batch-size", 8, "--out", out]
    told = said(capsys, "train", "dpo", "--data", place / "prefs.jsonl", *words)
    assert "is also the reference (at temperature 1; it was trained at 0.5)" in told.out


@pytest.mark.parametrize(
    ("said", "trained", "used"), [(2.0, 0.5, 2.0), (None, 0.5, 0.5), (None, None, 1.0), (2.0, None, 2.0)]
)
def test_answers_are_sampled_at_what_was_said_or_else_as_in_training(said, trained, used):
    sizes = {"max_length": 8, "width": 8, "depth": 1, "heads": 1}
    asked = SimpleNamespace(greedy=False, temperature=said, top_k=None, top_p=None)
    network = _text_acting._network(SimpleNamespace(network=sizes, temperature=trained), asked)
    plain, tokens = byte_transformer(**sizes), np.array([[256, 112]])
    params = plain.init(jax.random.key(0))
    logits = plain.apply(params, tokens).policy.logits
    np.testing.assert_allclose(network.apply(params, tokens).policy.logits, logits / used, rtol=1e-5)


def test_a_prompt_may_fill_what_its_answer_leaves():
    """The last token of an answer is read by nobody, so that one place more is free: 8 = a beginning, 4 and 4 - 1."""
    room = SimpleNamespace(max_length=8, answer_length=4)
    for prompt, fits in (("abcd", True), ("abcde", False)):
        records = [language.Prompt("a", 1), language.Prompt(prompt, 2)]
        found = _text_build.examples_of(room, records, "grpo", None)
        assert [record.line for record in found.kept] == [1, 2][: 1 + fits]


def test_what_is_put_behind_another_prompt_is_cut_to_fit():
    records = [language.Labelled("abc", "x", True, 1), language.Labelled("d", "yyyyy", False, 2)]
    given = _text_build._labels(records, lambda rows: rows.batch, 8).given
    said = [np.asarray(given.mismatched.action)[n][np.asarray(given.mismatched.mask)[n]] for n in range(2)]
    end = language.ByteTokenizer().encode("")
    assert [bytes(x[:-1].tolist()).decode() for x in said] == ["yyy", "x"], said
    assert said[0][-1] == said[1][-1] > 255, end


def test_completions_of_other_prompts_are_of_other_prompts():
    """One good and one bad of each prompt stand together, as they often do."""
    records = [language.Labelled(f"{n // 2}:", f"{n}", n % 2 == 0, n) for n in range(6)]
    given = _text_build._labels(records, lambda rows: rows.batch, 24).given
    prompt, completion = (np.asarray(given.mismatched.action)[:, place] - ord("0") for place in (0, 2))
    assert prompt.tolist() == [0, 0, 1, 1, 2, 2]
    assert not (prompt == completion // 2).any()
    assert np.asarray(given.rows.action)[:, 2].tolist() == [ord(str(n)) for n in range(6)]


def test_an_error_of_training_is_none_of_the_reward(place):
    class Plan:
        reward, reward_workers, reward_time_limit, reward_batch_size = "own_reward:length", 0, None, None

    def train():
        with _text_rewards.scoring(Plan()) as score:
            assert score(["p"], ["abc"]).reward.tolist() == [3.0]
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        train()


def test_a_reward_that_workers_cannot_import_is_told(place, capsys, monkeypatch):
    (place / "only_here.py").write_text(
        "import os\nassert not os.environ.get('WORKER_ONLY')\ndef f(p, c):\n    return 1.0\n"
    )
    monkeypatch.setattr(_reward_team, "_ENVIRONMENT", {"WORKER_ONLY": "1"})
    words = ["--init", place / "start", "--reward", "only_here:f", "--reward-workers", 1, "--out", place / "unable"]
    told = said(capsys, "train", "grpo", "--data", place / "prompts.jsonl", *words, code=2)
    assert "--reward: only_here:f cannot be called in a worker process" in told.err


def test_why_answers_could_not_be_scored_is_told_of_the_first_updates(place, capsys):
    class Plan:
        reward, reward_workers, reward_time_limit, reward_batch_size = "own_reward:beside", 0, None, None

    with _text_rewards.scoring(Plan()) as score:
        for _ in range(5):
            score(["p1:", "p2:"], ["a", "b"])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == _text_rewards.TOLD
    assert "1 of 2 completions could not be scored" in lines[0]
    assert [line.endswith("more like it are counted and not told") for line in lines] == [False, False, True]


@pytest.mark.slow
def test_an_interrupt_ends_the_imitation(place, capsys, monkeypatch):
    """After ten updates of it; nothing was learnt, and going on begins again."""
    stages = []

    class Shown:
        def stage(self, text):
            stages.append(text)

    class Stop:
        def __bool__(self):
            return any("%" in stage for stage in stages)

    options = ["train", "dpo", "--data", str(place / "prefs.jsonl"), *SIZES]
    plan, data = plan_and_data(options)
    _text_build.start_of(plan, data, place, begun=False, shown=Shown(), stop=Stop())
    assert len([stage for stage in stages if "%" in stage]) == 1


def plan_and_data(words):
    """What `polopt train dpo words` plans."""
    _, name, *rest = words
    known = _text_family.parameters_of(name, name)
    defaults = dict.fromkeys(known, "")
    options = read_words(options_with(TrainTexts, name, known, defaults), "train", rest)
    return _text_train.planned(name, options.run, {})


def test_the_options_of_another_run_are_taken_from_its_config(place, capsys):
    out = place / "again"
    words = ["--config", place / "start" / "config.json", "--seed", 1, "--steps", 8, "--out", out]
    said(capsys, "train", "sft", *words)
    first, second = (json.loads((run / "config.json").read_text()) for run in (place / "start", out))
    assert {k for k in first if first[k] != second[k]} == {"seed", "steps", "updates", "chunk_updates"}
    wrong = ["--config", place / "start" / "config.json", "--out", place / "none"]
    assert "is of sft; leave dpo out" in said(capsys, "train", "dpo", *wrong, code=2).err


def test_help_says_the_numbers_that_are_meant(capsys):
    text = " ".join(said(capsys, "train", "grpo", "--data", "x", "--help").out.split())
    network = _text_plan.NETWORK
    for flag, size in (("max-length", network["max_length"]), ("width", network["width"]), ("depth", network["depth"]),
                       ("heads", network["heads"]), ("batch-size", _text_plan.BATCH_SIZE),
                       ("group-size", _text_plan.GROUP_SIZE), ("answer-length", _text_plan.ANSWER_LENGTH)):  # fmt: skip
        assert re.search(rf"--{flag} N .*?\(default: {size}\b", text), flag
    (passes, rows), (pairs, _), (times, answered) = (_text_plan.STEPS[name] for name in ("sft", "dpo", "grpo"))
    said_so = f"{passes} passes or {rows} rows; preferences: {pairs} passes; prompts: {times} passes or {answered})"
    assert said_so in text
    assert "supervised learning" in said(capsys, "train", "--help").out


def test_a_run_of_another_kind_is_not_started_from_nor_sampled(place, capsys, tmp_path):
    run = tmp_path / "other"
    run.mkdir()
    (run / "config.json").write_text(json.dumps({"algorithm": "ppo", "env": "ant"}))
    assert "is a run on ant, not on texts" in said(capsys, "sample", run, code=2).err
    words = ["train", "dpo", "--data", place / "prefs.jsonl", "--init", run]
    assert "is a run of ppo on ant, not on texts" in said(capsys, *words, code=2).err


@pytest.mark.parametrize("objective", [*texts.PAIRED, *texts.UNPAIRED])
def test_help_has_the_hyperparameters_of_the_objective(objective, capsys):
    help_text = " ".join(said(capsys, "train", "dpo", "--data", "x", "--objective", objective, "--help").out.split())
    assert "--learning-rate" in help_text
    assert ("--beta" in help_text) == (objective != "orpo")
    assert ("--label-smoothing" in help_text) == (objective in ("conservative_dpo", "robust_dpo", "exo"))
    assert ("--num-minibatches" in help_text) is False


@pytest.mark.parametrize("objective", texts.GROUPED)
def test_help_of_groups_has_no_length_of_its_own(objective, capsys):
    help_text = " ".join(said(capsys, "train", "grpo", "--data", "x", "--objective", objective, "--help").out.split())
    assert "--reward NAME" in help_text
    assert "--num-epochs" in help_text
    assert ("--clip-eps" in help_text) == (
        objective in ("grpo", "dr_grpo", "dapo", "gspo", "gspo_token", "luspo", "dual_clip", "rloo")
    )
    assert " --length" not in help_text


def test_a_pair_of_numbers_may_be_one(place, capsys):
    words = [
        "train",
        "grpo",
        "--data",
        place / "prompts.jsonl",
        "--init",
        place / "start",
        "--reward",
        "own_reward:length",
    ]
    told = said(capsys, *words, "--objective", "dapo", "--clip-eps", "0.1,0.2,0.3", code=2)
    assert "a number, or two with a comma between" in told.err
    told = said(capsys, *words, "--objective", "dapo", "--clip-eps", "0.1,-0.2", code=2)
    assert "--clip-eps must be finite and at least 0; it is -0.2" in told.err
