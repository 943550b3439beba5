"""Preferences, learnt by a model of your own, whichever library it is written in: flax NNX, equinox, or none.

    python examples/preferences.py

Texts, terms and loop are the same for all three, and need of a model the function `model(params, tokens) -> po.Outputs`
for any leading axes. A text is a prompt, `up:` or `down:` after some dots, and letters: in the order of the alphabet or
against it, as the prompt says. All have many lengths; the mask says which tokens are learnt, the letters and their end.
"""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import polopt_jax as po
from polopt_jax import language

LETTERS = "abcdefghijkl"
SIGNS = sorted(set(".:updown" + LETTERS))
VOCABULARY, LENGTH, WIDTH = 1 + len(SIGNS), 16, 32


class Tokenizer:
    """What a tokenizer of yours needs here: `encode`, and the token that ends an answer."""

    eos_token_id = 0

    def encode(self, text):
        return [1 + SIGNS.index(sign) for sign in text]


class Attention(nnx.Module):
    def __init__(self, rngs):
        self.token = nnx.Embed(VOCABULARY, WIDTH, rngs=rngs)
        self.place = nnx.Embed(LENGTH, WIDTH, rngs=rngs)
        self.attend = nnx.Linear(WIDTH, 3 * WIDTH, rngs=rngs)
        self.head = nnx.Linear(WIDTH, VOCABULARY, rngs=rngs)

    def __call__(self, tokens):  # [N, T]
        x = self.token(tokens) + self.place(jnp.arange(tokens.shape[-1]))
        query, key, value = (y[..., None, :] for y in jnp.split(self.attend(x), 3, -1))
        return self.head(x + jax.nn.dot_product_attention(query, key, value, is_causal=True)[..., 0, :])


def in_nnx(seed):
    structure, params, rest = nnx.split(Attention(nnx.Rngs(seed)), nnx.Param, ...)

    def model(params, tokens):
        logits = nnx.merge(structure, params, rest)(tokens.reshape(-1, tokens.shape[-1]))
        return po.Outputs(policy=po.Categorical(logits=logits.reshape(*tokens.shape, -1)))

    return model, params


class Recurrent(eqx.Module):
    token: eqx.nn.Embedding
    cell: eqx.nn.GRUCell
    head: eqx.nn.Linear

    def __call__(self, tokens):  # [T]
        step = lambda state, token: (state := self.cell(self.token(token), state), state)  # noqa: E731
        return jax.vmap(self.head)(jax.lax.scan(step, jnp.zeros(WIDTH), tokens)[1])


def in_equinox(seed):
    token, cell, head = jax.random.split(jax.random.key(seed), 3)
    token, cell = eqx.nn.Embedding(VOCABULARY, WIDTH, key=token), eqx.nn.GRUCell(WIDTH, WIDTH, key=cell)
    network = Recurrent(token, cell, eqx.nn.Linear(WIDTH, VOCABULARY, key=head))
    params, static = eqx.partition(network, eqx.is_inexact_array)

    def model(params, tokens):
        logits = jax.vmap(eqx.combine(params, static))(tokens.reshape(-1, tokens.shape[-1]))
        return po.Outputs(policy=po.Categorical(logits=logits.reshape(*tokens.shape, -1)))

    return model, params


def in_no_library(seed):
    shapes = {"token": (VOCABULARY, WIDTH), "think": (2 * WIDTH, 2 * WIDTH), "head": (2 * WIDTH, VOCABULARY)}
    keys = dict(zip(shapes, jax.random.split(jax.random.key(seed), 3), strict=True))
    params = {name: 0.1 * jax.random.normal(keys[name], shape) for name, shape in shapes.items()}

    def model(params, tokens):  # the token, and the mean of all up to it
        x = 10 * params["token"][tokens]
        past = jnp.cumsum(x, axis=-2) / jnp.arange(1, x.shape[-2] + 1)[:, None]
        hidden = jax.nn.gelu(jnp.concatenate([x, past], axis=-1) @ params["think"])
        return po.Outputs(policy=po.Categorical(logits=hidden @ params["head"]))

    return model, params


def record(line, rng):
    """As `language.read_pairs` gives them."""
    prompt = "." * rng.integers(4) + rng.choice(["up:", "down:"])
    up, down = ("".join(sorted(rng.choice([*LETTERS], rng.integers(2, 6), replace=False))) for _ in range(2))
    return language.Pair(prompt, *((up, down[::-1]) if "up" in prompt else (down[::-1], up)), line)


def rows(records):
    return language.pair_rows(records, Tokenizer(), max_length=LENGTH).batch  # [2, N, T]: chosen, rejected


def train(model, params, records, updates):
    """The reference, which has read both answers of every pair, and what DPO and KTO make of it."""
    log_prob = jax.jit(lambda params, batch: model(params, batch.obs).policy.log_prob(batch.action))
    one_by_one = lambda pairs: jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), pairs)  # noqa: E731  # [2N, T]

    def learn(params, term, batch_of):
        step = po.make_step((po.objective(model, term), optax.adam(5e-3)))
        update = lambda state, _: (step.update(*state, batch_of(state[0]), None)[:2], None)  # noqa: E731
        return jax.jit(lambda state: jax.lax.scan(update, state, length=updates)[0][0])((params, step.init(params)))

    texts = rows(records)
    reference = learn(params, po.negative_log_likelihood(), lambda params: texts)
    pairs = replace(texts, ref_log_prob=log_prob(reference, texts))
    labelled = replace(one_by_one(pairs), label=jnp.arange(2 * len(records)) < len(records))

    # KTO measures from an estimate of the KL to the reference: of prompts with the answers to other prompts.
    following = zip(records, records[1:] + records[:1], strict=True)
    mismatched = one_by_one(rows([x._replace(chosen=y.chosen, rejected=y.rejected) for x, y in following]))

    def with_point(params):
        now, at_reference = log_prob(params, mismatched), log_prob(reference, mismatched)
        point = po.kl_reference_point(log_prob=now, ref_log_prob=at_reference, mask=mismatched.mask)
        return replace(labelled, reference_point=point)

    by_pairs = learn(reference, po.dpo(beta=0.3), lambda params: pairs)
    by_labels = learn(reference, po.kto(beta=0.3), with_point)
    return {"reference": reference, "dpo": by_pairs, "kto": by_labels}


def main(updates=40, num_pairs=256, seed=0):
    rng = np.random.default_rng(seed)
    records, others = ([record(line, rng) for line in range(num_pairs)] for _ in range(2))
    found, held_out = {}, rows(others)
    for library, make in {"nnx": in_nnx, "equinox": in_equinox, "no library": in_no_library}.items():
        model, params = make(seed)
        policies = train(model, params, records, updates)
        reference = policies["reference"]
        judge = po.weighted_sum(pair=(1.0, po.dpo(beta=0.3)), kl=(1.0, po.kl_to_reference(model, reference)))
        said = model(reference, held_out.obs).policy.log_prob(held_out.action)
        for name, learnt in policies.items():
            _, metrics = po.objective(model, judge)(learnt, replace(held_out, ref_log_prob=said))
            found[library, name] = [float(metrics[x]) for x in ("pair/accuracy", "pair/margin", "kl/loss")]
            told = "{:4.0%} of held-out pairs in order, margin {:5.2f}, {:.2f} nats a token from the reference"
            print(f"{library:10s} {name:9s}", told.format(*found[library, name]))
    return found


if __name__ == "__main__":
    main()
