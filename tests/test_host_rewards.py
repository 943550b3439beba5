"""Rewards in Python on strings: every way in which a call can fail, in this process and in workers of its own."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import text_rewards

from polopt_jax.language import Prompt, _reward_team, import_reward, reward_columns, reward_workers, score_texts

pytestmark = pytest.mark.timeout(60)
ENVIRON = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}

# What a completion of `text_rewards.fault` comes to wherever it is called ...
ANYWHERE = {
    "raise": "raised ValueError: no such answer (text_rewards.py, line",
    "recursion": "raised RecursionError: ",
    "none": "gave a NoneType, which is no number",
    "text": "gave a str, which is no number",
    "bytes": "gave a bytes, which is no number",
    "list": "gave a list, which is no number",
    "complex": "gave a complex, which is no number",
    "nan": "gave nan, which is no finite float32",
    "inf": "gave -inf, which is no finite float32",
    "huge": "gave 1e+300, which is no finite float32",
    "integer too large": "raised OverflowError: ",
    "sys.exit": "raised SystemExit: 5 (text_rewards.py, line",
}
# ... and in a worker.
IN_WORKERS = {
    "exit": "ended its process (exit status 3)",
    "interrupt": "raised KeyboardInterrupt (text_rewards.py, line",
    "segfault": "ended its process (SIGSEGV)",
    "kill": "ended its process (SIGKILL)",
    "sleep": "took longer than 1 s",
    "loop": "took longer than 1 s",
    "regex": "took longer than 1 s",
    "close": "ended its process (SIGKILL)",
}


def among_good_ones(faults):
    """Completions of which every second one is good, so that what a fault does to its neighbours is seen."""
    return [text for i, name in enumerate(faults) for text in (str(i + 0.5), name)]


def check_faults(scores, faults):
    assert scores.reward.dtype == np.float32
    np.testing.assert_array_equal(scores.reward[::2], np.arange(len(faults)) + 0.5)
    assert np.isnan(scores.reward[1::2]).all()
    assert [failure.index for failure in scores.failures] == list(range(1, 2 * len(faults), 2))
    for failure, (name, why) in zip(scores.failures, faults.items(), strict=True):
        assert failure.why.startswith(why), name
        assert len(failure.why) < 400


def running(pid):
    """Whether there is such a process, and not only what nobody has asked after."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pids, seconds=5.0):
    until = time.monotonic() + seconds
    while any(map(running, pids)):
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


on_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")


# --- what is given ----------------------------------------------------------------------------------------------------


def test_numbers_of_every_kind_are_scored_here():
    kinds = [1, 2.5, True, np.float32(0.25), np.int8(-3), np.bool_(True), np.array(4.0), 3.4028234663852886e38]
    scores = score_texts(lambda prompt, completion: kinds[int(completion)], ["?"] * len(kinds), [*"01234567"])
    np.testing.assert_array_equal(scores.reward, np.array([1, 2.5, 1, 0.25, -3, 1, 4, 3.4028235e38], np.float32))
    assert scores.failures == []
    assert scores.told() == ""


def test_faults_here_cost_their_own_sample_alone():
    texts = among_good_ones(ANYWHERE)
    check_faults(score_texts(text_rewards.fault, ["2+2="] * len(texts), texts), ANYWHERE)


def test_an_interrupt_is_not_caught_here():
    with pytest.raises(KeyboardInterrupt):
        score_texts(text_rewards.fault, ["?"], ["interrupt"])


def test_faults_in_workers_cost_their_own_sample_alone():
    faults = ANYWHERE | IN_WORKERS
    texts = among_good_ones(faults)
    with reward_workers(text_rewards.fault, workers=3, time_limit=1.0) as score:
        check_faults(score(["2+2="] * len(texts), texts), faults)
        check_faults(score(["2+2="] * 6, texts[:6]), dict([*faults.items()][:3]))


def test_what_could_not_be_scored_is_told():
    scores = score_texts(text_rewards.fault, ["a question " * 9] * 5, ["none", "1", "nan", "raise at length", "text"])
    assert scores.told(most=2) == (
        "4 of 5 completions could not be scored: completion 0 of 'a question a question a question a quest': gave a "
        "NoneType, which is no number; completion 2 of 'a question a question a question a quest': gave nan, which is "
        "no finite float32"
    )
    assert scores.told().count("completion ") == 3
    assert len(scores.failures[2].why) < 400
    assert "\n" not in scores.told()


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_texts_arrive_as_they_are_and_in_order(workers):
    texts = ["", "\0", "\r\n\n", "né", "\U0001f600", "\ud800", "\udcff", "  ", '"\\u0041"', "x" * 300_000]
    prompts = [*texts, *texts[::-1]] * 3
    completions = [*texts[::-1], *texts] * 3
    expected = [text_rewards.checksum(*pair) for pair in zip(prompts, completions, strict=True)]
    scores = score_texts(text_rewards.checksum, prompts, completions, workers=workers)
    np.testing.assert_array_equal(scores.reward, np.array(expected, np.float32))


@pytest.mark.parametrize("workers", [0, 2])
def test_no_texts_are_no_scores(workers):
    scores = score_texts(text_rewards.length, [], [], workers=workers)
    assert scores.reward.shape == (0,)
    assert scores.told() == ""


# --- columns ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_a_reward_is_given_the_columns_that_it_names(workers):
    answers = [{"answer": "4", "line": 1}, {"line": 2, "answer": "5"}, {"answer": "6"}]
    assert score_texts(text_rewards.right, ["?"] * 3, ["4", "5", "5"], answers, workers=workers).reward.tolist() == [
        1, 1, 0,
    ]  # fmt: skip
    near = [{"answer": 4, "tolerance": 1}, {"answer": 4}, {"answer": 4, "tolerance": 2}]
    assert score_texts(text_rewards.near, ["?"] * 3, ["5", "5", "5"], near, workers=workers).reward.tolist() == [
        1,
        0,
        1,
    ]
    values = [None, True, -3, 0.1, 1e300, 2**80, "né\0\U0001f600\ud800", [1, [2, "x"]], {"a": {"b": [None]}}, "", []]
    columns = [{"value": x, "tests": [x]} if n % 2 else {"value": x} for n, x in enumerate(values)]
    said = [repr([x, [x] if n % 2 else ()]) for n, x in enumerate(values)]
    scores = score_texts(text_rewards.as_told, ["?"] * len(values), said, columns, workers=workers)
    assert scores.reward.tolist() == [1.0] * len(values), scores.told()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_reward_may_take_all_columns_but_none_that_is_called_as_its_own_two(workers):
    columns = [{}, {"a": 1}, {"a": 1, "b": 2, "completion": "the right one", "prompt": "?"}]
    scores = score_texts(text_rewards.how_many, ["?"] * 3, ["the answer"] * 3, columns, workers=workers)
    assert scores.reward.tolist() == [0, 1, 2]


@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_reward_does_to_its_columns_is_gone_after_the_call(workers):
    shared = {"tests": {"first": [1]}}
    scores = score_texts(text_rewards.spoiling, ["?"] * 3, ["a"] * 3, [shared] * 3, workers=workers)
    assert scores.reward.tolist() == [2, 2, 2]
    assert shared == {"tests": {"first": [1]}}


def test_columns_that_are_not_taken_are_not_sent():
    columns = [{"answer": "4", "picture": object()}]
    assert score_texts(text_rewards.right, ["?"], ["4"], columns, workers=1).reward.tolist() == [1]
    assert score_texts(text_rewards.length, ["?"], ["4"], columns, workers=1).reward.tolist() == [2]
    bare = [Prompt("?").columns, {"answer": "4"}]
    assert score_texts(text_rewards.length, ["?"] * 2, ["4"] * 2, bare, workers=1).reward.tolist() == [2, 2]
    columns = [{"answer": "4"}, {"answer": object()}]
    with pytest.raises(TypeError, match=r"'answer' of completion 1 is a object: .* workers=0 takes anything"):
        score_texts(text_rewards.right, ["?"] * 2, ["4"] * 2, columns, workers=1)
    assert score_texts(text_rewards.right, ["?"] * 2, ["4"] * 2, columns).reward.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("columns", "kind", "said"),
    [
        ((), ValueError, r'takes "answer" of the columns, and there are none \(completion 0\)'),
        ([{"answer": "4"}, {"id": 3, "reply": "4"}], ValueError, r'"answer" of .* are id, reply \(completion 1\)'),
        ([{"answer": "4"}], ValueError, "there must be columns for each completion: 1 for 2 completions"),
        ({"answer": ["4", "4"]}, TypeError, "a list of dicts, one for each completion; it is a dict"),
        (None, TypeError, "a list of dicts, one for each completion; it is None"),
        ([{"answer": "4"}, "4"], TypeError, "columns must be a list of dicts, one for each completion; there is a str"),
    ],
)
def test_columns_that_are_not_there_are_told(columns, kind, said):
    with pytest.raises(kind, match=said):
        score_texts(text_rewards.right, ["?"] * 2, ["4"] * 2, columns)


def test_the_prompt_comes_first_and_then_the_completion():
    for reward, said in (
        (
            lambda completion, answer: 0,
            r"\(prompt, completion, columns by name\), in this order; .* \(completion, answer\)",
        ),
        (lambda completion, prompt, answer: 0, "in this order"),
        (lambda question, said, prompt: 0, "in this order"),
    ):
        with pytest.raises(TypeError, match=said):
            entered(reward)
    said = r'calls its second parameter "answer", as a column is called, and is given the completion there'
    with pytest.raises(ValueError, match=said):
        score_texts(lambda question, answer: 0, ["?"], ["4"], [{"answer": "4"}])
    assert score_texts(lambda question, answer: 1, ["?"], ["4"], [{"right": "4"}]).reward == 1
    shadowed = [{"completion": "the right one"}]
    assert score_texts(lambda p, c, completion: completion == "the right one", ["?"], ["4"], shadowed).reward == 1


def test_what_float_would_read_is_no_number():
    for given, said in (
        (np.str_("1.0"), "gave a str_, which is no number"),
        (np.complex64(1 + 2j), "gave a complex64, which is no number"),
        ([1.0, 2.0], "gave a list, which is no number; it is called once for each completion"),
    ):
        assert score_texts(lambda p, c, given=given: given, ["?"], [""]).failures[0].why.startswith(said)
    for given in (np.float16(0.5), np.bool_(True), np.uint8(3), jnp.float32(2), jnp.bfloat16(1.5), np.array(4)):
        assert score_texts(lambda p, c, given=given: given, ["?"], [""]).reward == float(given)


def test_which_columns_a_reward_takes_is_read_off_its_signature():
    class Marker:
        def __call__(self, question, said, answer, *, weight=1.0):
            return weight

    for reward, expected in (
        (lambda prompt, completion: 0, ((), (), False, ("prompt", "completion"))),
        (Marker(), (("answer",), ("weight",), False, ("question", "said"))),
        (lambda *texts, answer, **columns: 0, (("answer",), (), True, ())),
        (lambda prompt, /, *rest, answer=3: 0, ((), ("answer",), False, ("",))),
        (partial(text_rewards.near, tolerance=3), (("answer",), ("tolerance",), False, ("prompt", "completion"))),
        (max, ((), (), False, ())),
        (text_rewards.three, ((), (), False, ("", ""))),
    ):
        assert reward_columns(reward) == expected, reward


# --- workers ----------------------------------------------------------------------------------------------------------


def test_workers_work_at_once_and_stay(tmp_path):
    """Also an idle one, beside one at work, for longer than a sample may take."""
    for folder in ("a", "b", "one"):
        (tmp_path / folder).mkdir()
    with reward_workers("text_rewards:meet", workers=2, time_limit=1.0) as score:
        assert score([str(tmp_path / "a")] * 4, ["2"] * 4).reward.tolist() == [1.0] * 4
        time.sleep(1.0)
        assert score([str(tmp_path / "one")], ["1"]).reward.tolist() == [1.0]
        assert score([str(tmp_path / "b")] * 4, ["2"] * 4).reward.tolist() == [1.0] * 4
    assert len(os.listdir(tmp_path / "a")) == 2
    assert sorted(os.listdir(tmp_path / "a")) == sorted(os.listdir(tmp_path / "b"))


def test_a_time_limit_is_that_of_a_sample():
    with reward_workers(text_rewards.sleep, workers=2, time_limit=0.8) as score:
        np.testing.assert_array_equal(
            score(["?"] * 5, ["0.2", "1.2", "0.2", "0.3", "0.3"]).reward, [1, np.nan, 1, 1, 1]
        )


def test_scores_do_not_depend_on_the_number_of_workers():
    texts = [f"answer {i}" for i in range(20)]
    found = [score_texts(text_rewards.by_hash, texts, texts, workers=workers).reward.tolist() for workers in (1, 2, 2)]
    assert found[0] == found[1] == found[2]
    assert len(set(found[0])) > 10


def test_a_worker_imports_neither_jax_nor_the_library(monkeypatch):
    names = ["text_rewards", "jax", "numpy", "polopt_jax", "polopt_jax.language"]
    assert score_texts(text_rewards.modules, names, names, workers=1).reward.tolist() == [1, 0, 0, 0, 0]
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    variables = ["JAX_PLATFORMS=cpu", "JAX_PLATFORMS=tpu"]
    assert score_texts(text_rewards.surroundings, variables, variables, workers=1).reward.tolist() == [1, 0]
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    assert score_texts(text_rewards.surroundings, variables, variables, workers=1).reward.tolist() == [0, 1]


def test_a_start_that_takes_long_is_not_in_the_time_of_a_sample(tmp_path, monkeypatch):
    """And a reward may be beside whoever starts the command, whose path has "" for that folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, ""])
    Path("slow_to_import.py").write_text(
        "import os, sys, time\nif sys.argv[0].endswith('_reward_worker.py'): time.sleep(0.6)\n"
        "def reward(prompt, text): return os._exit(1) if text == 'exit' else 1.0\n"
    )
    try:
        with reward_workers("slow_to_import:reward", workers=1, time_limit=0.5) as score:
            scores = score(["?"] * 3, ["", "exit", ""])
    finally:
        sys.modules.pop("slow_to_import", None)
    np.testing.assert_array_equal(scores.reward, [1, np.nan, 1])
    assert scores.failures[0].why == "ended its process (exit status 1)"


def test_an_object_that_is_called_has_a_name_too():
    assert score_texts("text_rewards:judge", ["?"], [""], workers=1).reward == 7
    assert score_texts("text_rewards:judge.judge", ["?"], [""], workers=1).reward == 8


def test_a_reward_that_forks_answers_once():
    scores = score_texts(text_rewards.forked, ["?"] * 4, ["a", "b", "c", "d"], workers=1)
    assert scores.reward.tolist() == [1.0] * 4


def test_a_process_that_ends_is_seen_though_its_child_keeps_the_connection():
    with reward_workers(text_rewards.orphaned, workers=1) as score:
        scores = score(["?"] * 3, ["stay", "go", "stay"])
    np.testing.assert_array_equal(scores.reward, [1, np.nan, 1])
    assert scores.failures[0].why == "ended its process (exit status 4)"


def test_a_worker_that_ends_while_it_is_idle_costs_no_sample():
    with reward_workers(text_rewards.process, workers=1) as score:
        before = int(score(["?"], [""]).reward[0])
        os.kill(before, signal.SIGKILL)
        assert gone([before])
        scores = score(["?"] * 2, ["", ""])
        assert scores.failures == []
        assert int(scores.reward[0]) not in (before, os.getpid())


def test_a_worker_that_ends_before_it_reads_its_sample_is_replaced():
    with reward_workers(text_rewards.process, workers=1) as score:
        before = int(score(["?"], [""]).reward[0])
        os.kill(before, signal.SIGSTOP)
        killer = threading.Timer(0.3, os.kill, (before, signal.SIGKILL))
        killer.start()
        scores = score(["?"] * 2, ["", ""])
        killer.join()
    assert [failure.why for failure in scores.failures] == ["ended its process (SIGKILL)"]
    assert np.isnan(scores.reward[0])
    assert int(scores.reward[1]) != before


def test_a_worker_that_ends_as_it_is_given_its_sample_is_replaced(monkeypatch):
    """In the moment between the look at it and what it is sent."""
    with reward_workers(text_rewards.process, workers=1) as score:
        before = int(score(["?"], [""]).reward[0])
        os.kill(before, signal.SIGKILL)
        assert gone([before])
        monkeypatch.setattr(_reward_team._Worker, "is_gone", lambda self: False)
        scores = score(["?"] * 2, ["", ""])
    assert [failure.why for failure in scores.failures] == ["ended its process (SIGKILL)"]
    assert int(scores.reward[1]) != before


@on_linux
def test_what_a_reward_started_is_killed_with_it(tmp_path):
    with reward_workers(text_rewards.noted, workers=1, time_limit=1.0) as score:
        assert "took longer than 1 s" in score([str(tmp_path)], [""]).told()
        (file,) = tmp_path.iterdir()
        pids = [int(pid) for pid in file.read_text().split()]
        assert gone(pids)


def test_at_the_end_idle_workers_finish_what_they_registered(tmp_path):
    score_texts(text_rewards.farewell, ["?"], [str(tmp_path / "done")], workers=1)
    assert (tmp_path / "done").exists()


def test_an_interrupted_batch_leaves_nothing_to_the_next(tmp_path):
    """Ctrl-C is caught, and the workers go on: what they were at is not taken for an answer to something else."""
    with reward_workers(text_rewards.fault, workers=2) as score:

        def interrupt():
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGINT)

        sender = threading.Thread(target=interrupt)
        sender.start()
        with pytest.raises(KeyboardInterrupt):
            score(["?"] * 3, ["sleep", "1", "2"])
        sender.join()
        assert score(["?"] * 3, ["4", "5", "6"]).reward.tolist() == [4, 5, 6]


def test_a_worker_that_cannot_begin_is_told(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    begin = "import os, sys\nif sys.argv[0].endswith('_reward_worker.py'): {}\ndef reward(prompt, text): return 1.0\n"
    for name, what, why in (
        ("refuses", "raise OSError('not here')", r"raised OSError: not here \(refuses.py, line 2\)"),
        ("leaves", "os._exit(9)", r"ended its process \(exit status 9\)"),
    ):
        (tmp_path / f"{name}.py").write_text(begin.format(what))
        message = f"{name}:reward cannot be called in a worker process: it {why}"
        with pytest.raises(RuntimeError, match=message), reward_workers(f"{name}:reward", workers=2):
            pass


@on_linux
def test_where_one_cannot_begin_none_is_left(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("FOLDER_OF_THE_TEST", str(tmp_path))
    (tmp_path / "only_one.py").write_text(
        "import os, pathlib, sys\n"
        "folder = pathlib.Path(os.environ['FOLDER_OF_THE_TEST'])\n"
        "if sys.argv[0].endswith('_reward_worker.py'):\n"
        "    (folder / 'taken').mkdir()\n"
        "    (folder / 'taken' / str(os.getpid())).touch()\n"
        "def reward(prompt, text): return 1.0\n"
    )
    with pytest.raises(RuntimeError, match="raised FileExistsError") as raised:
        entered("only_one:reward", workers=2)
    assert gone([int(name) for name in os.listdir(tmp_path / "taken")])
    assert raised.value


# --- the process that scores ------------------------------------------------------------------------------------------

SCRIPT = """
import json, os, sys
from polopt_jax.language import score_texts
reward, workers, *texts = sys.argv[1:]
try:
    scores = score_texts(reward, texts, texts[1:] + [texts[0]], workers=int(workers))
except KeyboardInterrupt:
    sys.exit(130)
print(json.dumps(scores.reward.tolist()))
"""


def script(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments],
        env=ENVIRON,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def test_what_a_reward_prints_is_not_on_our_stdout(capfd):
    with script("text_rewards:loud", "1", "a", "b") as command:
        out, err = command.communicate(timeout=60)
    assert (json.loads(out), command.returncode) == ([1.0, 1.0], 0)
    assert sorted(err.splitlines()) == ["printed by the reward"] * 2 + ["written by the reward"] * 2
    score_texts(text_rewards.talking, ["?"], [""])
    out, err = capfd.readouterr()
    assert (out, err) == ("", "printed by the reward\n")


@on_linux
@pytest.mark.parametrize(("sent", "what"), [("SIGINT", ""), ("SIGKILL", "regex")])
def test_no_process_is_left_when_ours_is_ended(tmp_path, sent, what):
    """By Ctrl-C, which the terminal sends to the whole group, and by what nobody can catch."""
    with script("text_rewards:noted", "2", str(tmp_path), what or "loop") as command:
        at_work = lambda: [file for file in tmp_path.iterdir() if file.suffix == ""]  # noqa: E731
        until = time.monotonic() + 30
        while len(at_work()) < 1 and time.monotonic() < until:
            time.sleep(0.02)
        pids = [int(pid) for file in at_work() for pid in file.read_text().split()]
        assert len(pids) >= 2
        assert all(map(running, pids))
        os.killpg(command.pid, getattr(signal, sent))
        command.communicate(timeout=30)
    assert command.returncode == (130 if sent == "SIGINT" else -signal.SIGKILL)
    assert gone(pids)


# --- what is refused --------------------------------------------------------------------------------------------------


def entered(*arguments, **options):
    with reward_workers(*arguments, **options):
        pass


@pytest.mark.parametrize("workers", [-1, 1.0, True, None])
def test_workers_must_be_a_whole_number(workers):
    with pytest.raises(ValueError, match="workers must be a whole number from 0"):
        entered(text_rewards.length, workers=workers)


@pytest.mark.parametrize("limit", [0, -1.0, float("nan"), float("inf")])
def test_a_time_limit_must_be_a_time(limit):
    with pytest.raises(ValueError, match="time_limit must be a number of seconds above 0"):
        entered(text_rewards.length, workers=1, time_limit=limit)


def test_a_time_limit_needs_workers():
    with pytest.raises(ValueError, match="a time_limit needs workers=1 or more"):
        entered(text_rewards.length, time_limit=1.0)


def test_workers_need_a_name():
    def inner(prompt, completion):
        return 1.0

    def of_a_script(prompt, completion):
        return 1.0

    of_a_script.__module__, of_a_script.__qualname__ = "__main__", "of_a_script"
    sys.modules["__main__"].of_a_script = of_a_script
    same_name = lambda prompt, completion: 1.0  # noqa: E731
    same_name.__module__, same_name.__qualname__ = "text_rewards", "length"
    try:
        for reward in (inner, of_a_script, same_name, lambda prompt, completion: 1.0, text_rewards.Judge().judge):
            with pytest.raises(ValueError, match="workers find a reward by its name"):
                entered(reward, workers=1)
            assert score_texts(reward, ["?"], [""]).failures == []
    finally:
        del sys.modules["__main__"].of_a_script


def test_texts_must_be_lists_of_strings_of_one_length():
    with reward_workers(text_rewards.length) as score:
        for prompts, completions, said in (
            ("abc", ["a", "b", "c"], "prompts must be a list of strings; there is a str"),
            (["a"], "a", "completions must be a list of strings"),
            (["a", 3], ["a", "b"], "prompts must be a list of strings; there is a int"),
            (["a"], [None], "completions must be a list of strings; there is None"),
        ):
            with pytest.raises(TypeError, match=said):
                score(prompts, completions)
        with pytest.raises(ValueError, match="there are 2 prompts and 1 completions"):
            score(["a", "b"], ["c"])


def test_after_its_block_a_team_scores_nothing():
    with reward_workers(text_rewards.length, workers=1) as score:
        pass
    with pytest.raises(ValueError, match="within the `with` block"):
        score(["a"], ["b"])


def test_a_reward_is_imported_by_its_name(capsys, tmp_path, monkeypatch):
    assert import_reward("text_rewards:length") is text_rewards.length
    for name, said in (
        ("text_rewards.length", "a reward of one's own is named package.module:function; 'text_rewards.length' is not"),
        ("text_rewards:size", "text_rewards:size cannot be imported: module 'text_rewards' has no attribute 'size'"),
        ("no_rewards:length", "no_rewards:length cannot be imported: No module named 'no_rewards'"),
        ("text_rewards:number", r"text_rewards:number must be a function of \(prompt, completion\); it is 3"),
    ):
        with pytest.raises(ValueError, match=said):
            import_reward(name)
        with pytest.raises(ValueError, match=said):
            entered(name, workers=1)
    with pytest.raises(TypeError, match=r"text_rewards:three must be a function of \(prompt, completion\), and three"):
        import_reward("text_rewards:three")
    with pytest.raises(TypeError, match=r"reward must be a function of \(prompt, completion\), and three"):
        entered(text_rewards.three)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "talks.py").write_text("print('imported')\ndef reward(prompt, completion): return 1.0\n")
    import_reward("talks:reward")
    (tmp_path / "goes.py").write_text("import sys\nsys.exit(0)\n")
    with pytest.raises(ValueError, match=r"goes:reward cannot be imported: SystemExit: 0 \(goes.py, line 2\)"):
        import_reward("goes:reward")
    assert capsys.readouterr() == ("", "imported\n")
