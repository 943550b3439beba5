"""PPO with a critic on a language model of your own, token by token, with the KL to where it began in the reward.

    python examples/token_ppo.py

A token is an action, its observation the text up to it. Answers end where the model says STOP, so they differ in
length: the mask says which tokens were decided, and an episode terminates at the last of them, wherever that is.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import polopt_jax as po

VOCABULARY, STOP = 8, 0
PROMPT, ANSWER = 2, 6
WIDTH = 32


def init(key):
    keys = jax.random.split(key, 4)
    shapes = {"letter": (VOCABULARY, WIDTH), "memory": (2 * WIDTH, 2 * WIDTH), "head": (WIDTH, VOCABULARY)}
    params = {name: jax.random.normal(k, x) / x[0] ** 0.5 for k, (name, x) in zip(keys, shapes.items(), strict=False)}
    return {**params, "critic": jnp.zeros(WIDTH)}


def model(params, tokens):
    """A small recurrent network: letters [..., T] in, what it says of the next one and what it hopes for, [..., T]."""

    def read(memory, letter):
        gate, new = jnp.split(jnp.concatenate([memory, letter], -1) @ params["memory"], 2, -1)
        memory = memory + jax.nn.sigmoid(gate) * (jnp.tanh(new) - memory)
        return memory, memory

    letters = params["letter"][tokens.reshape(-1, tokens.shape[-1])]
    _, seen = jax.lax.scan(read, jnp.zeros((letters.shape[0], WIDTH)), jnp.moveaxis(letters, 1, 0))
    seen = jnp.moveaxis(seen, 0, 1).reshape(*tokens.shape, WIDTH)
    return po.Outputs(policy=po.Categorical(logits=seen @ params["head"]), value=seen @ params["critic"])


def reward(prompt: list[int], answer: list[int]) -> float:
    """The letters of the prompt in their order, and then no more: 1 for that, less for what is wrong or too much."""
    wanted = [*prompt, STOP]
    right = sum(x == y for x, y in zip(wanted, answer, strict=False))
    return (right - max(0, len(answer) - len(wanted))) / len(wanted)


def said(row, mask):
    """The prompt and what was answered to it, with the token that ended it."""
    return row[:PROMPT].tolist(), row[1:][mask].tolist()


def main(rows=128, updates=100, beta=0.01, seed=0):
    term = po.weighted_sum(policy=(1.0, po.ppo()), value=(0.5, po.value_loss()), entropy=(0.003, po.entropy_bonus()))
    step = po.make_step((po.objective(model, term), optax.adam(3e-3)))
    step = po.epochs(step, 4, 4, stop=lambda metrics: metrics["policy/approx_kl"] > 0.05)  # early, if it goes too far
    asked = jnp.arange(PROMPT + ANSWER - 1) >= PROMPT - 1  # the positions whose next token the model chose

    @jax.jit
    def answer(params, prompt, key):
        """Letters [N, PROMPT + ANSWER], STOP repeated once it was said; and which of them [N, T] were decided."""
        tokens, going, decided = prompt, jnp.ones(prompt.shape[0], bool), []
        for i in range(ANSWER):
            chosen = model(params, tokens).policy.sample(seed=jax.random.fold_in(key, i))[:, -1]
            chosen = jnp.where(going, chosen, STOP)
            tokens, decided = jnp.concatenate([tokens, chosen[:, None]], 1), [*decided, going]
            going &= chosen != STOP
        return tokens, jnp.zeros((prompt.shape[0], asked.size), bool).at[:, PROMPT - 1 :].set(jnp.stack(decided, 1))

    @jax.jit
    def learn(params, opt_state, reference, tokens, mask, scores, key):
        obs, action = tokens[:, :-1], tokens[:, 1:]
        outputs, start = model(params, obs), model(reference, obs)
        log_prob = outputs.policy.log_prob(action)
        last = mask & (jnp.cumsum(mask, 1) == mask.sum(1, keepdims=True))  # the token that an answer ends with
        per_token = po.reward_minus_kl(
            reward=jnp.where(last, scores[:, None], 0.0),
            log_prob=log_prob,
            ref_log_prob=start.policy.log_prob(action),
            mask=mask,
            beta=beta,
        )
        following = jnp.concatenate([outputs.value[:, 1:], jnp.zeros((tokens.shape[0], 1))], 1)
        fields = {"reward": per_token, "value": outputs.value, "next_value": following, "terminated": last}
        fields = {name: x.T for name, x in fields.items()}  # estimators over time have it first, [T, N]
        advantage, target = po.gae(**fields, truncated=jnp.zeros_like(last.T), gamma=1.0, lambda_=0.95)
        batch = po.Batch(
            obs=obs,
            action=action,
            mask=mask,
            log_prob=log_prob,
            advantage=po.standardize(advantage.T, mask),
            value=outputs.value,
            target=target.T,
        )
        return step.update(params, opt_state, batch, key)

    params = reference = init(jax.random.key(seed))
    opt_state, history = step.init(params), []
    for number in range(updates):
        prompt_key, answer_key, step_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), number), 3)
        prompt = jax.random.randint(prompt_key, (rows, PROMPT), 1, VOCABULARY)
        tokens, mask = answer(params, prompt, answer_key)
        texts = [said(*pair) for pair in zip(np.asarray(tokens), np.asarray(mask), strict=True)]
        scores = np.array([reward(*text) for text in texts], np.float32)  # on the host: the reward is Python
        params, opt_state, metrics = learn(params, opt_state, reference, tokens, mask, jnp.asarray(scores), step_key)
        history.append(float(scores.mean()))
        if number % 25 == 24:
            moved = f"{metrics['policy/approx_kl']:.3f} nats a letter away while it learnt"
            print(f"update {number + 1:3}: reward {history[-1]:.2f}, {texts[0][0]} -> {texts[0][1]}, {moved}")
    return history


if __name__ == "__main__":
    main()
