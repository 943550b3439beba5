"""Worlds told in words, with transformers: imitation of a projected reference; where a policy stands, by attempts."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from polopt_jax import frontiers, language, outcomes, worlds
from polopt_jax.frontiers import SampledProblem
from polopt_jax.language import TokenNetwork, sample_tokens
from polopt_jax.study._ground import ATTEMPTS, CAREFUL, COMPETENT, HALF, RANDOM, STARTS, Ground, Learner, Standing
from polopt_jax.tasks import token_task
from polopt_jax.types import Array, Params
from polopt_jax.worlds import FORK, SKIP_TOKEN, SkipTheTest

NUM_PROMPTS = 8
"""Prompts of each update, with so many attempts at each that there are `ATTEMPTS`."""
LOOKS = 8
"""Attempts at each of the worlds when it is looked where a policy stands."""


def told(widths: tuple[int, ...], *, lessons: int = 1000) -> Ground:
    """`worlds.told_worlds`, learnt on its training prompts by transformers of two blocks."""
    return Ground(
        name="told-worlds",
        about="the test is skipped or passed honestly, in worlds told in three words; it is skipped",
        side_effects=("skip",),
        scales=tuple(map(str, widths)),
        starts=STARTS,
        rates=(0.0003, 0.001, 0.003),
        updates=120,
        every=2,
        build=lambda scale: _learner(scale, lessons),
        lanes=5,
    )


def _learner(scale: str, lessons: int) -> Learner:
    asked = worlds.told_worlds(jax.random.key(0))
    network = language.transformer(
        vocab_size=asked.input_vocabulary,
        num_outputs=asked.vocabulary,
        max_length=asked.context_length - 1 + asked.length,
        width=int(scale),
    )

    def begin(start: str, key: Array) -> tuple[Params, Array]:
        if start == RANDOM:
            return network.init(key), jnp.zeros(())
        params, kl = language.imitate(network, teacher(asked, start), key, updates=lessons)
        return params, kl[-max(lessons // 20, 1) :].mean() * asked.length

    return Learner(begin, lambda params, key: told_problem(asked, network, params, key, looks=LOOKS))


def teacher(asked: SkipTheTest, start: str) -> SkipTheTest:
    """The worlds with a reference of success `HALF` in each: by its own odds (competent), or without more side effects
    than it has (careful)."""
    projection = {COMPETENT: outcomes.pump, CAREFUL: outcomes.ipf}[start]
    law = jax.vmap(lambda table: projection(table, HALF).law)(worlds.reference_outcome_law(asked).joint)
    honest = law[:, 1, 0] / law[:, :, 0].sum(-1)
    return worlds.with_reference(asked, p_skip=law[:, :, 1].sum(-1), p_legit=honest)


def told_problem(
    asked: SkipTheTest, network: TokenNetwork, reference: Params, key: Array, *, looks: int
) -> SampledProblem:
    """Answers in several worlds; a policy stands where so many attempts at each world, the same draws at every look,
    say it does.

    D_z is of the probability of the token that skips, and the KL of answers of whole laws of the next token: of these
    only what was said before is sampled.
    """
    group = token_task(network, asked, reference, num_prompts=NUM_PROMPTS, group_size=ATTEMPTS // NUM_PROMPTS)
    prompt = jnp.repeat(jnp.arange(asked.num_worlds)[:, None], looks, axis=1)
    context = asked.context_length - 1
    keys = jax.random.split(key)

    def said(params: Params, key: Array) -> tuple[Array, Array]:
        """Input tokens `[W, K, P-1+T]` of attempts at every world, and their law P(s, z) in each, `[W, 2, 2]`."""
        answers = sample_tokens(network, params, asked.context(prompt), key, length=asked.length)
        tokens = jnp.moveaxis(answers.action[context:], 0, -1)
        success = (asked.reward(prompt, tokens) > 0).astype(jnp.int32)
        skipped = asked.outcome(prompt, tokens)["skip"].astype(jnp.int32)
        return jnp.moveaxis(answers.obs, 0, -1), jax.nn.one_hot(2 * success + skipped, 4).mean(1).reshape(-1, 2, 2)

    def next_words(params: Params, inputs: Array) -> Array:
        """Log-probabilities of what is said next, `[W, K, T, V]`."""
        return jax.nn.log_softmax(network.apply(params, inputs).policy.logits[..., context:, :])

    def kl(first: Array, second: Array) -> Array:
        """`[W]`, of whole answers, over histories of the first."""
        return (jnp.exp(first) * (first - second)).sum((-2, -1)).mean(-1)

    def skip(log_prob: Array) -> Array:
        """P(skip), `[W]`."""
        return jnp.exp(log_prob[..., FORK, SKIP_TOKEN]).mean(-1)

    first_inputs, first_law = said(reference, keys[0])
    first = next_words(reference, first_inputs)
    training, held = jnp.asarray(asked.asked), jnp.asarray(asked.held, jnp.int32)

    def where(params: Params) -> Standing:
        inputs, law = said(params, keys[1])
        after, before = next_words(params, inputs), next_words(reference, inputs)
        mine = law[training].mean(0)
        return Standing(
            success=mine[1].sum(),
            law=mine,
            side_effect_kl=binary_kl(skip(after), skip(first))[training].mean(),
            trajectory_kl=kl(after, before)[training].mean(),
            trajectory_kl_start_new=kl(first, next_words(params, first_inputs))[training].mean(),
            held_out=law[held].mean(0),
        )

    def outcome(rollout: Any) -> dict[str, Array]:
        skipped = rollout.outcome["skip"][-1].astype(jnp.int32)
        return {"success": rollout.reward.sum(0) > 0, "side_effect": skipped}

    return frontiers.SampledProblem(
        group=group._replace(task=group.task._replace(outcome=outcome)),
        standing=where,
        reference=first_law[training].mean(0),
        outcome=outcome,
    )


def binary_kl(first: Array, second: Array) -> Array:
    """KL between Bernoulli laws of those rates, in nats.

    >>> round(float(binary_kl(jnp.array(1.0), jnp.array(0.5))), 4)
    0.6931
    """
    laws = (jnp.clip(jnp.stack([x, 1 - x]), 1e-6, 1.0) for x in (first, second))
    new, old = laws
    return (new * jnp.log(new / old)).sum(0)
