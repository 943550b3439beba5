"""Rewards that are called with lists: what each completion gets, and what a call that fails costs."""

import jax.numpy as jnp
import numpy as np
import pytest
import text_rewards

from polopt_jax.language import reward_workers, score_texts

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_call_is_about_so_many_and_the_last_about_the_rest(workers):
    with reward_workers(text_rewards.many, workers=workers, batch_size=3) as score:
        assert score(["?"] * 7, ["a"] * 7).reward.tolist() == [30, 31, 32, 30, 31, 32, 10]
        assert score(["?"] * 2, ["a"] * 2).reward.tolist() == [20, 21]
        assert score([], []).reward.shape == (0,)


@pytest.mark.parametrize("workers", [0, 3])
def test_texts_arrive_in_lists_and_in_order(workers):
    texts = ["", "\0", "n\u00e9", "\U0001f600", "\ud800", "x" * 10_000]
    prompts, completions = texts * 3, texts[::-1] * 3
    own = [text_rewards.checksum(*pair) for pair in zip(prompts, completions, strict=True)]
    scores = score_texts(text_rewards.checksums, prompts, completions, workers=workers, batch_size=4)
    np.testing.assert_array_equal(scores.reward, np.array(own, np.float32))


def test_a_list_is_what_a_reward_is_given():
    def typed(prompts, completions, answer, **others):
        assert [type(x) for x in (prompts, completions, answer, *others.values())] == [list] * 4
        assert (prompts, completions) == (["p", "q"], ["a", "b"])
        assert (answer, others) == ([1, {"deep": 2}], {"more": [None, 3]})
        prompts.clear(), answer[1].clear()
        return np.array([1.5, 2.5])

    columns = [{"answer": 1}, {"answer": {"deep": 2}, "more": 3}]
    with reward_workers(typed, batch_size=2) as score:
        for _ in range(2):
            scores = score(["p", "q"], ["a", "b"], columns)
            assert scores.reward.tolist() == [1.5, 2.5], scores.told()


@pytest.mark.parametrize("workers", [0, 1])
def test_columns_are_lists(workers):
    columns = [{"answer": "4"}, {"answer": "5"}, {"answer": "6", "weights": 0.5}, {"answer": "5"}, {"answer": "5"}]
    completions = ["4", "4", "6", "5", "5"]
    scores = score_texts(text_rewards.compared, ["?"] * 5, completions, columns, workers=workers, batch_size=2)
    assert scores.reward.tolist() == [1, 0, 0.5, -1, 1], scores.told()
    with pytest.raises(ValueError, match=r'takes "answer" of the columns, and there are weights \(completion 1\)'):
        score_texts(text_rewards.compared, ["?"] * 2, ["4"] * 2, [columns[0], {"weights": 1}], batch_size=2)


def test_a_column_that_no_worker_can_be_sent_is_told_of_its_completion():
    columns = [{"answer": "4"}] * 2 + [{"answer": object()}]
    with pytest.raises(TypeError, match=r"'answer' of completion 2 is a object: .* workers=0 takes anything"):
        score_texts(text_rewards.compared, ["?"] * 3, ["4"] * 3, columns, workers=1, batch_size=2)


@pytest.mark.parametrize("workers", [0, 1])
def test_what_is_no_number_costs_its_own_completion(workers):
    faults = {
        "none": "gave a NoneType, which is no number",
        "list": "gave a list, which is no number",
        "nan": "gave nan, which is no finite float32",
        "integer too large": "raised OverflowError: ",
    }
    completions = [x for i, name in enumerate(faults) for x in (str(i), name)]
    scores = score_texts(text_rewards.faults, ["?"] * 8, completions, workers=workers, batch_size=8)
    np.testing.assert_array_equal(scores.reward, [0, np.nan, 1, np.nan, 2, np.nan, 3, np.nan])
    for failure, (index, why) in zip(scores.failures, enumerate(faults.values()), strict=True):
        assert failure.index == 2 * index + 1
        assert failure.why.startswith(why)
        assert "called once" not in failure.why


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("few", "gave 1 of 3 numbers"),
        ("one number", "gave a float, which is no list of numbers"),
        ("by name", "gave a dict, which is no list of numbers"),
        ("text", "gave a str, which is no list of numbers"),
        ("raise", "raised ValueError: no such answer (text_rewards.py, line"),
    ],
)
def test_a_call_that_fails_costs_all_its_completions_and_no_other(workers, fault, why):
    completions = ["1", "2", "3", fault, "4", "5", "6"]
    scores = score_texts(text_rewards.faults, list("abcdefg"), completions, workers=workers, batch_size=3)
    np.testing.assert_array_equal(scores.reward, [1, 2, 3, np.nan, np.nan, np.nan, 6])
    assert [(x.index, x.prompt) for x in scores.failures] == [(3, "d"), (4, "e"), (5, "f")]
    assert all(x.why.startswith(why) for x in scores.failures)


def test_a_call_that_ends_its_process_or_takes_too_long_costs_all_its_completions_and_no_other():
    completions = ["1", "2", "exit", "4", "sleep", "6", "7", "8", "sys.exit", "10"]
    with reward_workers(text_rewards.faults, workers=2, time_limit=1.0, batch_size=2) as score:
        scores = score(["?"] * 10, completions)
    np.testing.assert_array_equal(scores.reward, [1, 2, *[np.nan] * 4, 7, 8, np.nan, np.nan])
    ended, slow = "ended its process (exit status 3)", "took longer than 1 s"
    assert [x.why for x in scores.failures[:4]] == [ended, ended, slow, slow]
    assert all(x.why.startswith("raised SystemExit: 5") for x in scores.failures[4:])


def test_an_array_is_a_list_of_numbers():
    for given in (jnp.arange(3.0), np.arange(3), (0, True, np.float16(2))):
        scores = score_texts(lambda p, c, given=given: given, ["?"] * 3, [""] * 3, batch_size=3)
        assert scores.reward.tolist() == [0, 1, 2], scores.told()
    told = score_texts(lambda p, c: jnp.float32(1), ["?"] * 3, [""] * 3, batch_size=3).failures[2].why
    assert told.startswith("raised TypeError: ")


def test_a_reward_of_lists_without_a_batch_size_says_what_it_needs():
    scores = score_texts(text_rewards.many, ["?"], ["a"])
    assert scores.failures[0].why == (
        "gave a list, which is no number; it is called once for each completion, unless a batch size is given"
    )


def test_lists_have_an_order_too():
    for reward in (lambda completions, prompts: [], lambda completions, answer: [], lambda asked, prompts: []):
        with pytest.raises(TypeError, match=r"\(prompt, completion, columns by name\), in this order; it is one of \("):
            score_texts(reward, ["?"], ["a"], batch_size=1)


@pytest.mark.parametrize("size", [0, -1, 2.0, True, "4"])
def test_a_batch_size_must_be_a_whole_number(size):
    with pytest.raises(ValueError, match="reward_workers: batch_size must be a whole number from 1; it is"):
        score_texts(text_rewards.many, ["?"], ["a"], batch_size=size)
