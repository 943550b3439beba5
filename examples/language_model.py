"""GRPO on a language model of your own (here a small one in flax NNX), with a reward that is Python on strings.

    python examples/language_model.py

A token is an action: a batch of groups is `[N, G, T]`, N prompts, G answers to each, T positions. The observation at a
position is the text up to it, the action the next token, and the mask says which of them the model was asked for.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import polopt_jax as po

LETTERS = "abcdef"
PROMPT, ANSWER = 3, 3


class Model(nnx.Module):
    """Letters in, logits of the next letter out, at every position: one layer of attention."""

    def __init__(self, rngs, width=48):
        self.letter = nnx.Embed(len(LETTERS), width, rngs=rngs)
        self.place = nnx.Embed(PROMPT + ANSWER, width, rngs=rngs)
        self.attend = nnx.Linear(width, 3 * width, rngs=rngs)
        self.think = nnx.Linear(width, 2 * width, rngs=rngs)
        self.head = nnx.Linear(2 * width, len(LETTERS), rngs=rngs)

    def __call__(self, tokens):
        x = self.letter(tokens) + self.place(jnp.arange(tokens.shape[-1]))
        query, key, value = (y[..., None, :] for y in jnp.split(self.attend(x), 3, -1))  # one head
        x = x + jax.nn.dot_product_attention(query, key, value, is_causal=True)[..., 0, :]
        return self.head(nnx.gelu(self.think(x)))


def reward(prompt: str, answer: str) -> float:
    """The answer is to be the prompt backwards: the share of letters that are right."""
    return sum(x == y for x, y in zip(prompt[::-1], answer, strict=True)) / len(answer)


def text(tokens) -> str:
    return "".join(LETTERS[token] for token in tokens)


def main(prompts=16, group=16, updates=100, seed=0):
    structure, params, rest = nnx.split(Model(nnx.Rngs(seed)), nnx.Param, ...)  # rest: what is not learnt

    # The model, as the library wants it: a function (params, obs) -> po.Outputs, for any leading axes.
    def model(params, tokens):
        rows = tokens.reshape(-1, tokens.shape[-1])
        logits = nnx.merge(structure, params, rest)(rows)
        return po.Outputs(policy=po.Categorical(logits=logits.reshape(*tokens.shape, -1)))

    step = po.make_step(
        (po.objective(model, po.grpo(clip_eps=0.2, beta=0.02)), optax.adam(3e-3))
    )  # at 1e-2 it learns, and then forgets
    step = po.epochs(step, 2, 2)  # whole groups are shuffled, never answers of one group apart
    asked = jnp.arange(PROMPT + ANSWER - 1) >= PROMPT - 1  # the positions whose next token the model chose

    @jax.jit
    def answer(params, tokens, key):
        """Appends ANSWER letters to prompts [N, G, PROMPT], by plain sampling: a key-value cache is yours to write."""
        for i in range(ANSWER):
            law = model(params, tokens).policy
            chosen = law.sample(seed=jax.random.fold_in(key, i))[..., -1:]
            tokens = jnp.concatenate([tokens, chosen], -1)
        return tokens

    @jax.jit
    def learn(params, opt_state, reference, tokens, rewards, key):
        obs, action = tokens[..., :-1], tokens[..., 1:]
        advantage = po.group_relative(rewards)[..., None]  # compared within each group; NaN where there is no reward
        advantage = jnp.broadcast_to(advantage, action.shape)
        batch = po.Batch(
            obs=obs,
            action=action,
            mask=asked & jnp.isfinite(advantage),
            log_prob=model(params, obs).policy.log_prob(action),
            ref_log_prob=model(reference, obs).policy.log_prob(action),
            advantage=advantage,
        )
        return step.update(params, opt_state, batch, key)

    reference, opt_state, key = params, step.init(params), jax.random.key(seed)
    history = []
    for number in range(updates):
        prompt_key, answer_key, step_key = jax.random.split(jax.random.fold_in(key, number), 3)
        prompt = jax.random.randint(prompt_key, (prompts, 1, PROMPT), 0, len(LETTERS))
        tokens = answer(params, jnp.broadcast_to(prompt, (prompts, group, PROMPT)), answer_key)
        said = np.asarray(tokens).reshape(-1, PROMPT + ANSWER)  # to the host: the reward is Python
        scores = np.array([reward(text(row[:PROMPT]), text(row[PROMPT:])) for row in said])
        rewards = jnp.asarray(scores.reshape(prompts, group), jnp.float32)
        params, opt_state, metrics = learn(params, opt_state, reference, tokens, rewards, step_key)
        history.append(float(scores.mean()))
        if number % 25 == 24:
            example = f"{text(said[0][:PROMPT])} -> {text(said[0][PROMPT:])}"
            away = f"{metrics['ref_kl']:.2f} nats a letter away from the start"
            print(f"update {number + 1:3}: reward {history[-1]:.2f}, {example}, {away}")
    return history


if __name__ == "__main__":
    main()
