"""Learning from texts on the host: examples and their order, what an update learns from, and what it reports."""

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import polopt_jax as po
from polopt_jax import driver, texts
from polopt_jax.language import (
    ByteTokenizer,
    Failure,
    Labelled,
    Pair,
    Prompt,
    Scores,
    Text,
    labelled_rows,
    packed_rows,
    pair_rows,
    prompt_rows,
    reward_workers,
    rotary_positions,
    sample_groups,
    text_rows,
    transformer,
)

TOKENIZER, LENGTH = ByteTokenizer(), 24
NETWORK = transformer(
    vocab_size=258, num_outputs=258, max_length=LENGTH, width=16, depth=1, heads=2, positions=rotary_positions()
)
SENTENCES = ["one", "two and", "three or four", "é", "five", "six six", "seven", "eight 8"]


@pytest.fixture(scope="module")
def params():
    return jax.jit(NETWORK.init)(jax.random.key(0))


@jax.jit
def said_of(params, batch):
    """The log-probability of each token."""
    return NETWORK.apply(params, batch.obs).policy.log_prob(batch.action)


@jax.jit
def kl_of(params, others, batch):
    """KL of what is said at each token to what is said with the other parameters."""
    return NETWORK.apply(params, batch.obs).policy.kl_divergence(NETWORK.apply(others, batch.obs).policy)


@jax.jit
def noisy(params, scale, seed):
    return jax.tree.map(lambda x: x + scale * jax.random.normal(jax.random.key(seed), x.shape), params)


@jax.jit
def logits_of(params, batch):
    return NETWORK.apply(params, batch.obs).policy.logits


def of_first_seed(tree):
    return jax.tree.map(lambda x: np.asarray(x)[0], tree)


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def trees_close(ours, theirs, atol=1e-6):
    for x, y in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
        np.testing.assert_allclose(x, y, atol=atol)


# --- examples -------------------------------------------------------------------------------------------------------


def test_no_prompt_is_both_learnt_from_and_held_out():
    records = [Pair(f"p{n % 7}", "a", "b", n) for n in range(40)]
    train, held = texts.split_records(records, share=0.3, most=100)
    assert not {r.prompt for r in train} & {r.prompt for r in held}
    assert len({r.prompt for r in held}) == 2
    assert sorted([*train, *held], key=lambda r: r.line) == records, "nothing is lost"
    assert [r.line for r in train] == sorted(r.line for r in train), "in the order of the file"
    assert texts.split_records(records, share=0.3, most=100) == (train, held)


def test_as_many_are_held_out_as_was_asked_for():
    records = [Text("", f"{n}", n) for n in range(50)]
    assert [len(part) for part in texts.split_records(records, share=0.2, most=100)] == [40, 10]
    assert [len(part) for part in texts.split_records(records, share=0.2, most=4)] == [46, 4]
    assert [len(part) for part in texts.split_records(records, share=0.0, most=4)] == [50, 0]
    assert [len(part) for part in texts.split_records(records[:1], share=0.5, most=4)] == [1, 0]
    assert [len(part) for part in texts.split_records(records[:2], share=0.01, most=4)] == [1, 1]
    with pytest.raises(ValueError, match=r"share must be at least 0 and below 1; it is 1\.0"):
        texts.split_records(records, share=1.0, most=4)


@pytest.mark.parametrize("prompts", [2, 3, 7])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_not_all_are_held_out(prompts, share):
    train, held = texts.split_records([Prompt(f"p{n}", n) for n in range(prompts)], share=share, most=99)
    assert train
    assert held


def test_rloo_begins_with_the_gradient_of_its_paper_and_clips_the_ratio_of_an_answer():
    rng = np.random.default_rng(0)
    logits, action = jnp.asarray(rng.normal(size=(3, 4, 5, 6))), jnp.asarray(rng.integers(0, 6, (3, 4, 5)))
    mask = jnp.asarray(rng.random((3, 4, 5)) < 0.7)
    advantage = jnp.broadcast_to(po.leave_one_out(jnp.asarray(rng.normal(size=(3, 4))))[..., None], (3, 4, 5))
    said = lambda x: po.Outputs(policy=po.Categorical(logits=x))  # noqa: E731
    batch = po.Batch(
        obs=None, action=action, mask=mask, advantage=advantage, log_prob=said(logits).policy.log_prob(action)
    )
    term = texts.GROUPED["rloo"].term
    first = jax.grad(lambda x: term()(said(x), batch)[0])(logits)
    paper = jax.grad(lambda x: po.reinforce(reduce=po.sequence_sum)(said(x), batch)[0])(logits)
    assert jnp.abs(first).max() > 0.01
    np.testing.assert_allclose(first, paper, atol=1e-6)
    moved = logits + 0.5 * rng.normal(size=logits.shape)
    ratio = jnp.exp(jnp.where(mask, said(moved).policy.log_prob(action) - batch.log_prob, 0).sum(-1))
    row = advantage[..., 0]
    gain = jnp.minimum(ratio * row, jnp.clip(ratio, 0.8, 1.2) * row)
    some = mask.any(-1)
    np.testing.assert_allclose(term()(said(moved), batch)[0], -(gain * some).sum() / some.sum(), rtol=1e-5)
    assert 0 < term()(said(moved), batch)[1]["clip_fraction"] < 1


def test_a_record_without_a_prompt_is_parted_by_itself():
    records = [*(Text("", f"{n}", n) for n in range(500)), Text("p", "x", 500)]
    assert [len(part) for part in texts.split_records(records, share=0.1, most=128)] == [451, 50]


def test_no_more_are_held_out_than_was_asked_for_whatever_the_size_of_a_prompt():
    large = [Text(f"p{n % 3}", f"{n}", n) for n in range(900)]
    assert [len(part) for part in texts.split_records(large, share=0.1, most=128)] == [900, 0]
    some = [*large, *(Text("small", f"{n}", n) for n in range(7))]
    assert {record.prompt for record in texts.split_records(some, share=0.1, most=128)[1]} == {"small"}


def test_every_pass_is_over_all_examples_in_an_order_of_its_own():
    taken = [texts.places_of(10, rows=4, seed=3, update=update) for update in range(10)]
    passes = np.concatenate(taken).reshape(4, 10)
    np.testing.assert_array_equal(np.sort(passes, axis=1), np.broadcast_to(np.arange(10), (4, 10)))
    assert len({tuple(order) for order in passes.tolist()}) == 4
    other = [texts.places_of(10, rows=4, seed=4, update=update) for update in range(10)]
    assert not np.array_equal(taken, other)
    np.testing.assert_array_equal(texts.places_of(10, rows=4, seed=3, update=7), taken[7])


@pytest.mark.parametrize("rows", [0, 11])
def test_an_update_takes_no_example_twice(rows):
    with pytest.raises(ValueError, match="rows must be from 1 to the 10 examples"):
        texts.places_of(10, rows=rows, seed=0, update=0)


def test_rows_are_taken_along_their_axis():
    rows = pair_rows([Pair("p", f"{n}", "x", n) for n in range(5)], TOKENIZER, max_length=LENGTH)
    found = texts.examples(rows.batch, rows.kept, axis=1)
    taken = found.take(np.array([3, 1]))
    assert taken.mask.shape[:2] == (2, 2)
    assert [chr(t) for t in taken.action[0, :, 1]] == ["3", "1"]


def test_packed_texts_have_the_loss_of_texts_in_rows_of_their_own(params):
    records = [Text("say: ", sentence, n) for n, sentence in enumerate(SENTENCES)]
    packed, apart = (f(records, TOKENIZER, max_length=LENGTH) for f in (packed_rows, text_rows))
    assert len(packed.kept) < len(apart.kept) == 8
    assert sorted(r.line for row in packed.kept for r in row) == list(range(8))
    loss = jax.jit(jax.value_and_grad(lambda p, b: po.objective(NETWORK.apply, po.negative_log_likelihood())(p, b)[0]))
    one, other = loss(params, packed.batch), loss(params, apart.batch)
    np.testing.assert_allclose(one[0], other[0], rtol=1e-6)
    trees_close(one[1], other[1])
    assert int(packed.batch.mask.sum()) == sum(len(s.encode()) + 1 for s in SENTENCES)


def test_prompts_end_in_the_last_column():
    found = prompt_rows([Prompt("abc", 1), Prompt("", 2), Prompt("x" * 30, 3)], TOKENIZER, max_length=LENGTH)
    np.testing.assert_array_equal(found.tokens.token, [[256, 97, 98, 99], [0, 0, 0, 256]])
    np.testing.assert_array_equal(found.tokens.segment, [[1, 1, 1, 1], [0, 0, 0, 1]])
    assert [str(problem) for problem in found.problems] == ["line 3: has 31 tokens, more than 24 (left out)"]
    with pytest.raises(ValueError, match="no prompt is left: 'xxx.*' has 31 tokens, more than 24"):
        prompt_rows([Prompt("x" * 30, 3)], TOKENIZER, max_length=LENGTH)


@pytest.mark.parametrize("rows", [3, 8, 20])
def test_the_reference_is_asked_in_parts(params, rows):
    batch = pair_rows([Pair("p", s, "no", n) for n, s in enumerate(SENTENCES)], TOKENIZER, max_length=LENGTH).batch
    found = texts.with_reference(NETWORK, params, batch, rows=rows, axis=1).ref_log_prob
    np.testing.assert_allclose(found, said_of(params, batch), atol=1e-5)


# --- what is learnt from examples -----------------------------------------------------------------------------------


def learning(params, rows=4, seeds=(0,)):
    return texts.Learning(NETWORK, params, rows, seeds)


def pairs(params, number=8):
    records = [Pair("p:", s, s[::-1] + "!", n) for n, s in enumerate(SENTENCES[:number])]
    rows = pair_rows(records, TOKENIZER, max_length=LENGTH)
    return texts.examples(texts.with_reference(NETWORK, params, rows.batch, rows=4, axis=1), rows.kept, axis=1)


def one_update(hosted):
    run = driver.prepare(hosted, driver.seed_keys(0, 1), chunk_updates=1)
    return run, next(driver.chunks(run, 1))


def stepped(params, term, batch, *, rate=1e-3, optimizer=None):
    """What one step of the recipe does, put together by hand: clip at norm 1, then Adam with ε = 1e-5."""
    optimizer = optimizer or optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate, eps=1e-5))

    @jax.jit
    def step(params, batch):
        grads = jax.grad(lambda p: term(NETWORK.apply(p, batch.obs), batch)[0])(params)
        updates, _ = optimizer.update(grads, optimizer.init(params), params)
        return optax.apply_updates(params, updates)

    return step(params, batch)


@pytest.fixture(scope="module")
def of_pairs(params):
    """Before and after one update on pairs, at a rate that moves: the examples, what is seen, the chunk."""
    train, held = pairs(params), pairs(params, 3)
    hosted = texts.from_pairs(learning(params), train, held, po.dpo(beta=0.5), learning_rate=1e-2)
    run = driver.prepare(hosted, driver.seed_keys(0, 1), chunk_updates=1)
    before = run.evaluate(run.state)
    chunk = next(driver.chunks(run, 1))
    assert set(before) == set(run.evaluated)
    return train, held, before, run.evaluate(chunk.state), chunk


def test_an_update_of_pairs_is_one_step_on_the_pairs_that_are_due(params, of_pairs):
    train, *_, chunk = of_pairs
    due = train.take(texts.places_of(8, rows=4, seed=0, update=0))
    now = of_first_seed(chunk.state.params)
    expected = stepped(params, po.dpo(beta=0.5), due, rate=1e-2)
    trees_close(now, expected, atol=1e-4)
    trees_close(of_first_seed(chunk.state.collect_state[texts.REFERENCE]), params)
    assert chunk.metrics["loss"].shape == (1, 1)
    moved = np.asarray(kl_of(params, now, due))[due.mask].mean()
    np.testing.assert_allclose(chunk.metrics["kl_old_new"], [[moved]], rtol=1e-3)  # four pairs are all of them


def test_at_the_reference_nothing_has_moved(of_pairs):
    seen = of_pairs[2]
    np.testing.assert_allclose(seen["held/loss"], np.log(2), rtol=1e-5)
    for name in ("ref_kl", "chosen_moved", "rejected_moved", "margin"):
        np.testing.assert_allclose(seen[f"held/{name}"], 0, atol=1e-4)


def test_what_is_reported_of_held_out_pairs_is_what_they_say(params, of_pairs):
    _, held, _, seen, chunk = of_pairs
    now = of_first_seed(chunk.state.params)
    ratio = np.where(held.given.mask, np.asarray(said_of(now, held.given)) - held.given.ref_log_prob, 0)
    chosen, rejected = ratio.sum(-1)
    np.testing.assert_allclose(seen["held/chosen_moved"], [chosen.mean()], rtol=1e-3)
    np.testing.assert_allclose(seen["held/rejected_moved"], [rejected.mean()], rtol=1e-3)
    np.testing.assert_allclose(seen["held/margin"], [0.5 * (chosen - rejected).mean()], rtol=1e-3)
    kl = np.asarray(kl_of(now, params, held.given))[held.given.mask].mean()
    np.testing.assert_allclose(seen["held/ref_kl"], [kl], rtol=1e-3)
    assert abs(chosen.mean()) > 0.1


def test_of_a_sum_the_preference_is_reported_under_plain_names(params, of_pairs):
    train, held, before, *_ = of_pairs
    hosted = texts.from_pairs(learning(params), train, held, po.orpo())
    state = jax.jit(driver.over_seeds(hosted.init, 1))(driver.seed_keys(0, 1))
    assert {"held/accuracy", "held/margin", "held/likelihood/loss"} <= set(hosted.evaluated)
    loss = hosted.evaluate(state)["held/loss"]
    assert abs(loss - before["held/loss"]) > 0.1, "the loss is that of the sum, and not of its part"


@pytest.mark.slow
def test_imitation_learns_what_it_reads():
    rows = packed_rows([Text("say: ", "hello", n) for n in range(12)], TOKENIZER, max_length=LENGTH)
    train = texts.examples(rows.batch, rows.kept)
    hosted = texts.imitation(learning(None, rows=4), train, train, learning_rate=1e-2)
    run = driver.prepare(hosted, driver.seed_keys(0, 1), chunk_updates=40)
    first = run.evaluate(run.state)["held/loss"][0]
    last = run.evaluate(next(driver.chunks(run, 1)).state)["held/loss"][0]
    assert first > 5
    assert last < 0.5


@pytest.mark.slow
def test_labelled_rows_are_measured_from_their_reference_point(params):
    """Stepped by the gradient itself, as the first step of Adam hardly knows how large the weight of a row is."""
    records = [Labelled("question: "[n:], s, n % 3 == 0, n) for n, s in enumerate(SENTENCES)]
    swapped = [r._replace(completion=o.completion) for r, o in zip(records, records[1:] + records[:1], strict=True)]
    moved = noisy(params, 0.05, 9)
    batches = [
        texts.with_reference(NETWORK, moved, labelled_rows(rows, TOKENIZER, max_length=LENGTH).batch, rows=4, axis=0)
        for rows in (records, swapped)
    ]
    given = texts.Labels(rows=batches[0], mismatched=batches[1])
    train = texts.examples(given, records)
    for name, member in texts.UNPAIRED.items():
        term, sgd = member.term(beta=2.0), optax.sgd(0.1)
        _, chunk = one_update(
            texts.from_labels(learning(params, rows=8), train, None, term, member.reference_point, optimizer=sgd)
        )
        source = batches[1] if name == "kto" else batches[0]
        ratio = np.asarray(said_of(params, source)) - np.asarray(source.ref_log_prob)
        scores = np.where(source.mask, ratio, 0).sum(-1)
        label = np.array([record.label for record in records])
        point = max(scores.mean(), 0) if name == "kto" else (scores[label].mean() + scores[~label].mean()) / 2
        assert abs(point) > 0.1
        batch = replace(batches[0], reference_point=np.full(8, point, np.float32))
        expected = stepped(params, term, batch, optimizer=sgd)
        trees_close(of_first_seed(chunk.state.params), expected, atol=1e-6)


def test_every_loss_of_the_page_of_losses_is_a_member_of_a_family():
    """The tables of docs/objectives.md, which a test holds against the library. Only `f_dpo` wants a function."""
    page = (Path(__file__).parents[1] / "docs" / "objectives.md").read_text()

    def named(title):
        section = page[page.index(f"## {title}") :].split("\n## ")[0]
        rows = re.findall(r"^\| (`[^|]*) \|", section, flags=re.MULTILINE)
        return {name for row in rows for name in re.findall(r"`(\w+)`", row)}

    assert named("From pairs") - {"f_dpo"} == set(texts.PAIRED)
    assert named("From labelled rows") == set(texts.UNPAIRED)
    assert named("From groups") == set(texts.GROUPED) - {"dual_clip", "rloo"}
    for families, kind in ((texts.PAIRED, "dpo"), (texts.GROUPED, "grpo")):
        assert next(iter(families)) == kind


@pytest.mark.parametrize("name", texts.PAIRED)
def test_every_member_over_pairs_has_a_gradient_at_the_reference(params, of_pairs, name):
    batch, term = of_pairs[0].given, texts.PAIRED[name]()
    loss, slope = jax.jit(jax.value_and_grad(lambda x: term(po.Outputs(policy=po.Categorical(logits=x)), batch)[0]))(
        logits_of(params, batch)
    )
    assert np.isfinite(loss)
    assert np.isfinite(slope).all()
    assert np.abs(slope).max() > 0


# --- answers that are scored on the host ----------------------------------------------------------------------------


def prompts(names):
    rows = prompt_rows([Prompt(name, n, {"called": name}) for n, name in enumerate(names)], TOKENIZER, max_length=8)
    return texts.examples(rows.tokens, rows.kept)


def answering(params, score, *, held=None, seeds=(0,), rows=2, group=4, term=None, **kwargs):
    answers = texts.Answers(5, group, TOKENIZER, score)
    train = prompts(["a:", "bb:", "ccc:"])
    own = dict(num_epochs=1, num_minibatches=1, learning_rate=1e-3)
    return texts.from_rewards(
        learning(params, rows=rows, seeds=seeds),
        train,
        held,
        answers,
        term or po.grpo(beta=0.0),
        po.group_relative,
        **{**own, **kwargs},
    )


class Scorer:
    """What scores, to be set by a test, and what it was asked."""

    def __init__(self):
        self.asked, self.rewards = [], lambda completions: np.arange(len(completions), dtype=float)
        self.returned = None

    def __call__(self, prompts, completions, columns):
        self.asked.append((list(prompts), list(completions)))
        self.columns = list(columns)
        if self.returned is not None:
            return self.returned
        return Scores(np.asarray(self.rewards(completions), np.float32), [])


def scoring(of_completion):
    """A score that is a function of each completion."""
    return lambda prompts, completions, columns: Scores(
        np.array([of_completion(c) for c in completions], np.float32), []
    )


@pytest.fixture(scope="module")
def group_run(params):
    """A run over groups, compiled once: `(hosted, run, scorer)`; no test may advance it from its first state."""
    scorer = Scorer()
    hosted = answering(params, scorer, held=prompts(["a:", "zz:"]), term=po.grpo(beta=1.0))
    return hosted, driver.prepare(hosted, driver.seed_keys(0, 1), chunk_updates=1), scorer


@partial(jax.jit, static_argnums=2)
def batch_of(rollout, reward, advantage):
    return po.to_batch(rollout, advantage=jnp.broadcast_to(advantage(reward), rollout.reward.shape))


def copied(state):
    return jax.tree.map(lambda x: x.copy() if isinstance(x, jax.Array) else x, state)


def test_answers_are_scored_as_texts_beside_their_own_prompts(group_run):
    hosted, run, scorer = group_run
    scorer.rewards = lambda completions: np.arange(len(completions), dtype=float)
    given, told = hosted.gather(run.state, 0)
    asked_prompts, completions = scorer.asked[-1]
    due = texts.places_of(3, rows=2, seed=0, update=0)
    assert asked_prompts == [["a:", "bb:", "ccc:"][place] for place in due for _ in range(4)]
    assert scorer.columns == [{"called": name} for name in asked_prompts]
    np.testing.assert_array_equal(given.reward, np.arange(8.0).reshape(1, 2, 4))
    for n in range(2):
        for g in range(4):
            mask, action, token, segment = (
                np.asarray(x[0, :, n, g])
                for x in (
                    given.rollout.mask,
                    given.rollout.action,
                    given.rollout.obs.token,
                    given.rollout.obs.segment,
                )
            )
            said = action[mask]
            assert completions[4 * n + g] == TOKENIZER.decode(said[said != 257].tolist())
            assert TOKENIZER.decode(token[segment > 0].tolist()).startswith(asked_prompts[4 * n])
    np.testing.assert_allclose(told["episode/return_sum"], [28.0])
    np.testing.assert_allclose(told["answer/length"], [np.asarray(given.rollout.mask).sum(1).mean()])
    again, _ = hosted.gather(run.state, 0)
    np.testing.assert_array_equal(again.rollout.action, given.rollout.action)


def test_an_answer_that_cannot_be_scored_is_left_out_of_its_group(params, group_run):
    hosted, run, scorer = group_run
    scorer.rewards = lambda completions: np.array([0, np.nan, 2, 3, 4, 5, np.nan, 7])
    state = copied(run.state)
    given, told = hosted.gather(state, 0)
    assert told["episode/unscored"] == [2.0]
    assert told["episode/finished"] == [6.0]
    np.testing.assert_allclose(told["episode/return_sum"], [21.0])
    batch = batch_of(*of_first_seed((given.rollout, given.reward)), po.group_relative)
    batch = jax.tree.map(np.asarray, batch)
    assert not batch.mask[0, 1].any()
    assert not batch.mask[1, 2].any()
    assert batch.mask[0, 0].any()
    after, metrics = run.advance(state)
    batch = replace(batch, ref_log_prob=said_of(params, batch))
    trees_close(of_first_seed(after.params), stepped(params, po.grpo(beta=1.0), batch), atol=1e-4)
    assert int(after.update[0]) == 1
    np.testing.assert_allclose(metrics["ref_kl"], 0, atol=1e-5, err_msg="the penalty is to the start")


def test_held_out_prompts_are_answered_once_and_the_same_way_each_time(group_run):
    _, run, scorer = group_run
    scorer.rewards = lambda completions: np.array([len(c) for c in completions], float)
    first, second = run.evaluate(run.state), run.evaluate(run.state)
    assert scorer.asked[-1][0] == ["a:", "zz:"]
    assert tuple(first) == run.evaluated
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
    np.testing.assert_allclose(first["held/reward"], np.mean([len(c) for c in scorer.asked[-1][1]]))
    np.testing.assert_allclose(first["held/ref_kl"], 0, atol=1e-5)
    assert 0 < first["held/length"][0] <= 5


def test_how_far_answers_are_from_the_reference_is_added_up_token_by_token(params, group_run):
    """Sampled again, with the same key: the KL of each token, exact, summed over an answer; tokens and ends counted."""
    _, run, scorer = group_run
    scorer.rewards = lambda completions: np.ones(len(completions))
    moved = jax.tree.map(np.array, noisy(params, 0.1, 8))
    moved["policy"]["bias"][257] += 7
    seen = run.evaluate(replace(copied(run.state), params=jax.tree.map(lambda x: jnp.asarray(x[None]), moved)))
    asked = prompts(["a:", "zz:"]).given
    key = jax.random.key(texts._scored.EVALUATION)
    sample = jax.jit(lambda p, key: sample_groups(NETWORK, p, asked, key, length=5, group_size=1, stop=257))
    said = jax.jit(po.to_batch)(sample(moved, key))
    now, before = (log_softmax(np.asarray(logits_of(p, said))) for p in (moved, params))
    kl = np.where(said.mask, (np.exp(now) * (now - before)).sum(-1), 0).sum(-1)
    np.testing.assert_allclose(seen["held/ref_kl"], [kl.mean()], rtol=1e-4)
    assert kl.mean() > 0.1
    np.testing.assert_allclose(seen["held/length"], [np.asarray(said.mask).sum(-1).mean()])
    ended = (np.asarray(said.mask) & (np.asarray(said.action) == 257)).any(-1)
    np.testing.assert_allclose(seen["held/ended"], [ended.mean()])
    assert ended.any()


def test_a_score_that_is_not_one_number_for_each_answer_is_refused(group_run):
    hosted, run, scorer = group_run
    scorer.rewards = lambda completions: np.zeros(3)
    with pytest.raises(ValueError, match="one number for each of 8 answers"):
        hosted.gather(run.state, 0)


@pytest.mark.slow
def test_a_reward_that_is_one_letter_is_learnt(params):
    """The answer is to begin with an x, which the start says once in 258 times."""
    hosted = answering(
        params, scoring(lambda c: c.count("x")), held=prompts(["a:", "b:"]), rows=2, group=16, learning_rate=2e-2
    )
    run = driver.prepare(hosted, driver.seed_keys(0, 1), chunk_updates=20)
    rewards = [chunk.metrics["episode/return_sum"] for chunk in driver.chunks(run, 4)]
    assert rewards[-1][0, -5:].mean() > 10 * max(rewards[0][0, :5].mean(), 0.5)


@pytest.mark.parametrize("name", texts.GROUPED)
def test_every_member_over_groups_has_a_gradient(params, group_run, name):
    hosted, run, scorer = group_run
    scorer.rewards = lambda completions: np.arange(len(completions), dtype=float) ** 2
    given, member = of_first_seed(hosted.gather(run.state, 0)[0]), texts.GROUPED[name]
    batch = batch_of(given.rollout, given.reward, member.advantage)
    batch = replace(batch, ref_log_prob=said_of(params, batch))
    term = member.term(**({"length": 5} if name == "dr_grpo" else {}))
    slope = jax.jit(jax.grad(lambda x: term(po.Outputs(policy=po.Categorical(logits=x)), batch)[0]))(
        logits_of(params, batch)
    )
    assert np.isfinite(slope).all()
    assert np.abs(slope).max() > 0


def test_a_score_that_takes_no_columns_is_refused(params):
    with pytest.raises(
        TypeError, match=r"the score of Answers must be a function of \(prompts, completions, columns\)"
    ):
        answering(params, lambda prompts, completions: None)


def test_what_the_reward_takes_must_be_there_before_anything_is_answered(params):
    said = r"takes \"answer\" of the columns, .* called, in line 0, prompt 'a:'"
    with reward_workers(lambda prompt, completion, answer: 1.0) as score, pytest.raises(ValueError, match=said):
        answering(params, score)
    with reward_workers(lambda prompt, completion, called: 1.0) as score:
        answering(params, score, held=prompts(["z:"]))
        rows = prompts(["z:"])
        with pytest.raises(ValueError, match="'z:'"):
            answering(params, score, held=rows._replace(kept=[Prompt("z:")]))
        with pytest.raises(TypeError, match=r"records of the examples must be language.Prompt, not a dict"):
            answering(params, score, held=rows._replace(kept=[{"prompt": "z:"}]))


def test_a_reward_in_place_of_a_score_is_told(group_run):
    hosted, run, scorer = group_run
    for returned, said in ((3.0, "it returned a float"), ([1.0] * 8, "it returned a list")):
        scorer.returned = returned
        with pytest.raises(TypeError, match=f"must return language.Scores, as .* of a reward; {said}"):
            hosted.gather(run.state, 0)
    scorer.returned = Scores([1] * 8, [])
    assert hosted.gather(run.state, 0)[0].reward.dtype == np.float32
    scorer.returned = None


def test_an_update_without_a_score_is_warned_of(group_run):
    hosted, run, scorer = group_run
    scorer.returned = Scores(np.full(8, np.nan, np.float32), [Failure(n, "a:", "gave a list") for n in range(8)])
    with pytest.warns(texts.UnscoredWarning, match="no answer of an update could be scored: 8 of 8 .* gave a list"):
        hosted.gather(run.state, 0)
    scorer.returned = None


def test_groups_in_which_all_answers_earn_the_same_are_counted(group_run):
    hosted, run, scorer = group_run
    nan = np.nan
    for rewards, tied in (
        ([1, 1, 1, 1, 0, 0, 0, 1], 0.5),
        ([1, 1, 1, 1, 2, 2, 2, 2], 1.0),
        ([1, 2, 1, 1, 2, 2, 2, 3], 0.0),
        ([1, nan, 1, 1, nan, nan, 2, nan], 1.0),
        ([nan, nan, nan, nan, 1, nan, nan, 2], 0.5),
    ):
        scorer.rewards = lambda completions, rewards=rewards: np.array(rewards)
        assert hosted.gather(run.state, 0)[1]["answer/tied"].tolist() == [tied], rewards
    scorer.rewards = lambda completions: np.arange(len(completions), dtype=float)


def test_as_many_keys_as_seeds_are_needed(params, of_pairs):
    for hosted in (
        answering(params, Scorer(), seeds=(0, 1)),
        texts.from_pairs(learning(params, seeds=(0, 1)), of_pairs[0], None, po.dpo()),
    ):
        with pytest.raises(ValueError, match="what gathers for 2 seeds needs as many keys; they are 1"):
            driver.prepare(hosted, driver.seed_keys(0, 1), chunk_updates=1)


def test_examples_have_a_record_for_each_row():
    rows = prompt_rows([Prompt("a", 1), Prompt("b", 2)], TOKENIZER, max_length=8)
    with pytest.raises(ValueError, match="a record for each of 2 rows; it has 3"):
        texts.examples(rows.tokens, [*rows.kept, Prompt("c", 3)])


def test_sizes_that_do_not_go_together_are_refused(params):
    score = scoring(len)
    with pytest.raises(ValueError, match="group_size must be at least 2; it is 1"):
        answering(params, score, group=1)
    with pytest.raises(ValueError, match="multiple of num_minibatches = 2; they are 3"):
        answering(params, score, rows=3, num_minibatches=2)


# --- seeds, chunks --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_seeds_side_by_side_are_the_seeds_alone(params):
    train = pairs(params)
    together = driver.prepare(
        texts.from_pairs(learning(params, seeds=(5, 6)), train, train, po.dpo()),
        driver.seed_keys(5, 2),
        chunk_updates=3,
    )
    both = next(driver.chunks(together, 1))
    assert together.evaluate(both.state)["held/loss"].shape == (2,)
    for place, seed in enumerate((5, 6)):
        alone = driver.prepare(
            texts.from_pairs(learning(params, seeds=(seed,)), train, train, po.dpo()),
            driver.seed_keys(seed, 1),
            chunk_updates=3,
        )
        chunk = next(driver.chunks(alone, 1))
        trees_close(
            jax.tree.map(lambda x: x[place], both.state.params),  # noqa: B023
            of_first_seed(chunk.state.params),
        )
        np.testing.assert_allclose(both.metrics["loss"][place], chunk.metrics["loss"][0], rtol=1e-5)


@pytest.mark.slow
def test_chunks_do_not_change_what_is_learnt(params):
    train = pairs(params)
    hosted = texts.from_pairs(learning(params, rows=3), train, None, po.dpo())
    ends = []
    for size in (6, 2):
        run = driver.prepare(hosted, driver.seed_keys(0, 1), chunk_updates=size)
        *_, last = driver.chunks(run, 6 // size)
        ends.append(last)
    for x, y in zip(*(jax.tree.leaves(end.state.params) for end in ends), strict=True):
        np.testing.assert_array_equal(x, y)
    assert ends[0].update == ends[1].update == 6
    assert driver.prepare(hosted, driver.seed_keys(0, 1), chunk_updates=1).evaluate is None


# --- completions ----------------------------------------------------------------------------------------------------


def test_completions_have_the_log_probabilities_of_both_policies(params):
    other = noisy(params, 0.1, 3)
    asked = ["a", "é: "]
    found = texts.complete_prompts(NETWORK, params, other, asked, TOKENIZER, jax.random.key(0), length=6, samples=3)
    assert [len(row) for row in found] == [3, 3]
    for prompt, row in zip(asked, found, strict=True):
        for said in row:
            assert said.prompt == prompt
            assert len(said.pieces) == len(said.log_prob) == len(said.ref_log_prob)
            assert said.ended == (said.pieces[-1] == "")
    plain = next(x for row in found for x in row if "\ufffd" not in x.text)
    tokens = [256, *TOKENIZER.encode(plain.prompt), *TOKENIZER.encode(plain.text), *([257] if plain.ended else [])]
    text = po.Batch(
        obs=np.array([tokens[:-1]]), action=np.array([tokens[1:]]), mask=np.ones((1, len(tokens) - 1), bool)
    )
    answer = len(TOKENIZER.encode(plain.prompt))
    for policy, total in ((params, plain.log_prob.sum()), (other, plain.ref_log_prob.sum())):
        expected = np.asarray(said_of(policy, text))[0, answer:].sum()
        np.testing.assert_allclose(total, expected, rtol=1e-4)
    assert "".join(plain.pieces) == plain.text


def test_what_was_compiled_is_used_again(params):
    """Other prompts of the same shape, and other rows of a batch, trace nothing anew."""
    traced = []

    def apply(params, tokens):
        traced.append(1)
        return NETWORK.apply(params, tokens)

    network = NETWORK._replace(apply=apply)
    sizes = dict(tokenizer=TOKENIZER, key=jax.random.key(0), length=4, samples=2)
    said = [texts.complete_prompts(network, params, params, asked, **sizes) for asked in (["ab"], ["cd"], ["ab"])]
    assert len(traced) == 1
    assert [row[0][0].prompt for row in said] == ["ab", "cd", "ab"]
    first, other, again = (row[0][0].log_prob for row in said)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    batch = pair_rows([Pair("p", s, "no", n) for n, s in enumerate(SENTENCES)], TOKENIZER, max_length=LENGTH).batch
    for _ in range(2):
        texts.with_reference(network, params, batch, rows=4, axis=1)
    assert len(traced) == 2


def test_a_prompt_that_is_too_long_is_named(params):
    with pytest.raises(ValueError, match="beyond the 24 that the network reads"):
        texts.complete_prompts(NETWORK, params, params, ["x" * 20], TOKENIZER, jax.random.key(0), length=6, samples=1)
    with pytest.raises(ValueError, match="has 31 tokens, more than 24"):
        texts.complete_prompts(NETWORK, params, params, ["x" * 30], TOKENIZER, jax.random.key(0), length=1, samples=1)


def test_the_token_that_ends_an_answer_is_none_of_its_text():
    """Also of a tokenizer that would write it out."""

    class Letters:
        eos_token_id = 0

        def encode(self, text):
            return [ord(c) for c in text]

        def decode(self, tokens):
            return "".join("<end>" if t == 0 else chr(t) for t in tokens)

    action = np.array([[[104], [105], [0]], [[0], [104], [105]]])
    mask = np.array([[[True], [True], [True]], [[True], [False], [False]]])
    assert texts._scored.answer_texts(action, mask, Letters()) == ["hi", ""]


@pytest.mark.parametrize("name", sorted(texts.GROUPED))
def test_a_member_weighs_answers_as_its_paper_does(name):
    """Of a group less its mean; over its standard deviation, but for those that leave that out (Liu et al. 2025)."""
    reward = np.array([[1.0, 2.0, 6.0, 7.0]])
    centred = reward - reward.mean()
    found = np.asarray(texts.GROUPED[name].advantage(jnp.asarray(reward, jnp.float32)))
    wanted = {
        "dr_grpo": centred,
        "rloo": (reward - (reward.sum() - reward) / 3),
    }.get(name, centred / reward.std())
    ratio = found / wanted
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-3)
    assert 0.8 < ratio[0, 0] < 1.2  # of whose standard deviation, N or N - 1, is the advantage's own test
