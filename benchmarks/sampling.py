"""Sampling answers: with a key-value cache and without, with a prompt that is read once for a group and without.

python -m benchmarks.sampling [--prompts 8] [--group 8] [--prompt 128] [--length 64] [--width 128] [--depth 4]

Answers of `length` tokens to prompts of `prompt` tokens, `group` to each. *recomputed* reads the whole row again for
every token, as a loop does that has no cache, and samples the same way. Times are ratios taken in turns.
"""

import argparse
from collections.abc import Callable

import jax
import jax.numpy as jnp

from benchmarks.record import interleaved, median_ratio, save
from polopt_jax import language

VOCABULARY = 258


def recomputed(network: language.TokenNetwork, params: object, prompt: jax.Array, key: jax.Array, length: int):
    """Plain sampling from a fixed row, of which a token more is filled in at every step."""
    size = prompt.shape[-1]
    row = jnp.concatenate([prompt, jnp.zeros((*prompt.shape[:-1], length), prompt.dtype)], axis=-1)

    def decide(row, inputs):
        place, seed = inputs
        policy = network.apply(params, row).policy
        logits = jax.lax.dynamic_index_in_dim(policy.logits, place, axis=-2, keepdims=False)
        chosen = jax.random.categorical(seed, logits)
        return jax.lax.dynamic_update_index_in_dim(row, chosen, place + 1, axis=-1), None

    places = size - 1 + jnp.arange(length), jax.random.split(key, length)
    return jax.lax.scan(decide, row, places)[0][..., size:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    for name, size in dict(prompts=8, group=8, prompt=128, length=64, width=128, depth=4, repeats=7).items():
        parser.add_argument(f"--{name}", type=int, default=size)
    a = parser.parse_args()
    network = language.transformer(
        vocab_size=VOCABULARY,
        num_outputs=VOCABULARY,
        max_length=a.prompt + a.length,
        width=a.width,
        depth=a.depth,
        heads=4,
        positions=language.rotary_positions(),
    )
    params = jax.jit(network.init)(jax.random.key(0))
    prompt = jax.random.randint(jax.random.key(1), (a.prompts, a.prompt), 0, 256)
    apart = jnp.repeat(prompt[:, None], a.group, axis=1)
    key = jax.random.key(2)
    sizes = dict(length=a.length)
    variants: dict[str, Callable[[], jax.Array]] = {
        "shared": jax.jit(
            lambda p, k: language.sample_groups(network, p, prompt, k, group_size=a.group, **sizes).action
        ),
        "cached": jax.jit(lambda p, k: language.sample_tokens(network, p, apart, k, **sizes).action),
        "recomputed": jax.jit(lambda p, k: recomputed(network, p, apart, k, a.length)),
        "shared_prompt_alone": jax.jit(
            lambda p, k: language.sample_groups(network, p, prompt, k, group_size=a.group, length=1).action
        ),
        "cached_prompt_alone": jax.jit(lambda p, k: language.sample_tokens(network, p, apart, k, length=1).action),
    }
    runs = {name: (lambda f=f: f(params, key)) for name, f in variants.items()}
    times = interleaved(runs, repeats=a.repeats)
    tokens = a.prompts * a.group * a.length
    figures = {
        "sizes": vars(a),
        "recomputed_over_cached": median_ratio(times["recomputed"], times["cached"]),
        "cached_over_shared": median_ratio(times["cached"], times["shared"]),
        "prompt_apart_over_shared": median_ratio(times["cached_prompt_alone"], times["shared_prompt_alone"]),
        "shared_tokens_per_second": round(tokens / sorted(times["shared"])[a.repeats // 2]),
    }
    save("sampling", figures)


if __name__ == "__main__":
    main()
