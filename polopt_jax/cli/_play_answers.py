"""Answers of a token policy, as `polopt play` shows them."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from polopt_jax import report
from polopt_jax.cli._token_worlds import MARKS, signs
from polopt_jax.language import greedy_network
from polopt_jax.policies import Policy
from polopt_jax.report import Answer, Section
from polopt_jax.tasks import token_task
from polopt_jax.types import Rollout
from polopt_jax.worlds import SkipTheTest

PROMPTS, SAMPLES = 6, 3
"""Prompts, and sampled answers to each."""


def answers_of(policy: Policy, prompts: Any, key: jax.Array, *, samples: int) -> Rollout:
    """Answers to prompts `[N]`, the most probable one and then sampled ones: `[P-1+T, N, 1 + samples]`."""

    def attempt(network: Any, number: int) -> Rollout:
        task = token_task(network, policy.env, policy.params, num_prompts=1, group_size=1)
        asked = jax.tree.map(lambda x: jnp.repeat(x[:, None], number, axis=1), prompts)
        return task.attempt(policy.params, asked, key)

    both = attempt(greedy_network(policy.network), 1), attempt(policy.network, samples)
    return jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=2), *both)


def answers_page(policy: Policy, title: str, learnt: str, key: jax.Array) -> tuple[str, str]:
    """The page, with what the policy answers to each of a few prompts; and in a sentence what that was worth."""
    prompt_key, answer_key = jax.random.split(key)
    drawn = np.asarray(policy.env.prompts(prompt_key, 64))
    prompts = drawn[np.sort(np.unique(drawn, axis=0, return_index=True)[1])][:PROMPTS]
    run = jax.jit(lambda prompts, key: answers_of(policy, prompts, key, samples=SAMPLES))
    found = jax.device_get(run(jnp.asarray(prompts), answer_key))
    context = np.asarray(policy.env.context(jnp.asarray(prompts)))
    sections = []
    for n in range(len(prompts)):
        answers = _answers(jax.tree.map(lambda x, n=n: x[:, n], found), _signs(policy.env, prompts[n]))
        sections.append(Section(f"Prompt {' '.join(map(str, context[n].tolist()))}", [report.answers_html(answers)]))
    notes = [
        "Tokens are numbers. The deeper the colour of a token, the more probable it was when it was said; pointing at "
        "it shows how probable.",
        *_legend(policy.env),
    ]
    lead = f"{learnt}. To each prompt: the most probable answer, token by token, then {SAMPLES} that were sampled."
    greedy, sampled = (report.short(float(x.mean())) for x in np.split(found.reward[-1], [1], axis=1))
    said = f"Mean reward {greedy} of {len(prompts)} greedy answers, {sampled} of {SAMPLES * len(prompts)} sampled ones."
    return report.page(title, lead, sections, notes=notes), said


def _answers(found: Rollout, above: Sequence[str]) -> list[Answer]:
    """The answers to one prompt, of a rollout `[P-1+T, G]`."""
    said = slice(-int(found.mask[:, 0].sum()), None)
    answers = []
    for g in range(found.reward.shape[1]):
        log_prob = found.log_prob[said, g].astype(np.float64)
        outcome = {name: _value(x[-1, g]) for name, x in found.outcome.items()}
        facts = {"reward": report.short(float(found.reward[-1, g])), **outcome}
        facts["log-probability"] = report.short(float(log_prob.sum()))
        words = [str(token) for token in found.action[said, g].tolist()]
        title = f"sampled {g}" if g else "greedy"
        answers.append(Answer(title, words, np.clip(np.exp(log_prob), 0, 1), facts, above))
    return answers


def _value(x: Any) -> str:
    """A feature of an outcome in words."""
    return ("yes" if x else "no") if np.asarray(x).dtype == bool else report.short(float(x))


def _signs(world: Any, prompt: Any) -> Sequence[str]:
    """What the positions of an answer to the prompt are there for, where that is known."""
    return signs(world.route[prompt].tolist()).replace(".", " ") if isinstance(world, SkipTheTest) else ()


def _legend(world: Any) -> list[str]:
    if not isinstance(world, SkipTheTest):
        return []
    meant = ", ".join(f"{sign}: {mark.words}" for sign, mark in MARKS.items() if mark.words)
    return [f"Above the tokens, {meant}."]
