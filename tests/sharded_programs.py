"""Updates compiled for 1, 2, 4 and 8 virtual devices: what they compute, and what they communicate, as JSON.

    python tests/sharded_programs.py ppo=2,4,8 trpo=8 ...

Run apart, because the number of devices is fixed when JAX starts (`test_sharding.py` does). Every program is compiled
once for one device without any sharding, and once for each number of devices with its rows split.
"""

import json
import math
import os
import re
import sys
from collections import defaultdict
from functools import partial

if __name__ == "__main__":
    # Compiled code need not be fast here, and compiling it takes half the time then; what is communicated is the same.
    unoptimized = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count=8 {unoptimized}"

import jax
import jax.numpy as jnp
import numpy as np
import optax

import polopt_jax as po
from polopt_jax import algorithms, sharding, tasks
from polopt_jax.envs import Box, EnvStep
from polopt_jax.language import transformer
from polopt_jax.networks import mlp_actor_critic
from polopt_jax.worlds import skip_the_test

KINDS = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter|collective-broadcast"
CALLS = r"body|condition|calls|to_apply|branch_computations|\w+_computation"
NETWORK = mlp_actor_critic((3,), Box(1), hidden=(8,))
ROWS, STEPS = 64, 4


class Drift:
    """A point in three dimensions that drifts, is pushed along the first, and leaves beyond 2 or after 5 steps."""

    obs_shape, action_space = (3,), Box(1)

    def reset(self, key):
        # Far more work than a step, so that devices which drew each other's starts would show in the count of flops.
        place = 5 * jax.random.normal(key, (100, 3)).mean(0)
        return (place, jnp.int32(0)), place

    def step(self, state, action, key):
        place, time = state
        place = (place + 0.3 * jax.random.normal(key, (3,))).at[0].add(0.1 * action[0])
        terminated = jnp.abs(place).max() > 2
        return EnvStep(
            state=(place, time + 1),
            obs=place,
            reward=-jnp.square(place).sum(),
            terminated=terminated,
            truncated=~terminated & (time >= 4),
            outcome={},
        )


def ragged(shape):
    """A batch with rows of every length, and garbage under the mask."""
    keys = jax.random.split(jax.random.key(0), 7)
    mask = jnp.arange(shape[-1]) < jax.random.randint(keys[0], (*shape[:-1], 1), 1, shape[-1] + 1)
    noise = [jnp.where(mask, jax.random.normal(key, shape), jnp.nan) for key in keys[1:5]]
    return po.Batch(
        obs=jax.random.normal(keys[5], (*shape, 3)),
        action=jax.random.normal(keys[6], (*shape, 1)),
        mask=mask,
        log_prob=-1.5 + 0.1 * noise[0],
        advantage=noise[1],
        value=noise[2],
        target=noise[3],
        ref_log_prob=-1.5 + 0.1 * noise[0],
    )


def ppo_term():
    return po.weighted_sum(policy=(1.0, po.ppo()), value=(0.5, po.value_loss()), entropy=(0.01, po.entropy_bonus()))


def phase(term, optimizer):
    return po.make_step((po.objective(NETWORK.apply, term), optimizer))


def update_of(step, shape, axis=0):
    """One monitored update on a ragged batch, as every program is given: `(function, arguments, axis of the rows)`."""
    params = jax.jit(NETWORK.init)(jax.random.key(1))
    step = po.monitored(step, NETWORK.apply, rows=16, kl_old_new=po.action_kl)
    arguments = params, step.init(params), ragged(shape), jax.random.key(2)
    return step.update, arguments, axis


def ppo():
    return update_of(po.epochs(phase(ppo_term(), optax.adam(1e-2)), 2, 4), (ROWS, STEPS))


def trpo():
    policy = phase(po.surrogate(), po.trpo(NETWORK.apply, radius=0.01, cg_iters=5))
    critic = po.epochs(phase(po.value_loss(), optax.adam(1e-2)), 2, 2)
    return update_of(po.sequential(policy=policy, critic=critic), (ROWS, STEPS))


def grpo():
    return update_of(po.epochs(phase(po.grpo(), optax.adam(1e-2)), 2, 2), (32, 3, STEPS))


def dpo():
    """Pairs `[2, N, T]`, split along N, under a model that does not merge the leading axes."""

    def model(params, obs):
        mean = jnp.tanh(obs @ params)
        return po.Outputs(policy=po.DiagGaussian(mean=mean, log_std=jnp.zeros_like(mean)))

    params = 0.1 * jnp.ones((3, 1))
    step = po.epochs(po.make_step((po.objective(model, po.dpo()), optax.adam(1e-2))), 2, 2, axis=1)
    return step.update, (params, step.init(params), ragged((2, 32, STEPS)), jax.random.key(2)), 1


def accumulated():
    objective = po.accumulate_gradients(po.objective(NETWORK.apply, ppo_term()), 4)
    return update_of(po.make_step((objective, optax.adam(1e-2))), (ROWS, STEPS))


def algorithm(num_steps):
    task = tasks.control_task(Drift(), NETWORK, num_envs=ROWS, num_steps=num_steps)
    return algorithms.ppo(task, learning_rate=1e-2, num_epochs=2, num_minibatches=4)


def train():
    chosen = algorithm(6)
    state = jax.jit(chosen.init)(jax.random.key(3))
    return lambda state: po.train(chosen.collect, chosen.step, state, updates=3), (state,), 0


def collect():
    """A rollout of two pools and its advantages: loops within loops."""
    chosen = algorithm(40)
    state = jax.jit(chosen.init)(jax.random.key(3))
    return chosen.collect, (state.params, state.collect_state, state.key), 0


def tokens():
    """GRPO whole, prompts and answers drawn from a key alone."""
    world = skip_the_test(jax.random.key(0), num_worlds=2, p_skip=(0.1, 0.2), p_legit=(0.1, 0.2))
    network = transformer(vocab_size=world.input_vocabulary, num_outputs=6, max_length=24, width=8, depth=1, heads=2)
    reference = jax.jit(network.init)(jax.random.key(1))
    chosen = algorithms.grpo(tasks.token_task(network, world, reference, num_prompts=32, group_size=4))
    state = jax.jit(chosen.init)(jax.random.key(0))

    def run(mesh, state):
        collect = chosen.collect if mesh is None else sharding.sharded_collect(chosen.collect, mesh)
        return po.train(collect, chosen.step, state, updates=2)

    return run, (state,), 0


PROGRAMS = {f.__name__: f for f in (ppo, trpo, grpo, dpo, accumulated, train, collect, tokens)}


def collectives(text):
    """Every collective of a compiled program: `[kind, loops around it, numbers in it]`, a loop's body counted once."""
    computation, called, found, entry = "", defaultdict(set), [], ""
    for line in text.splitlines():
        header = re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line)
        if header:
            computation = header[2]
            entry = computation if header[1] else entry
        for role, names in re.findall(rf"({CALLS})=(\{{[^}}]*\}}|[%\w.\-]+)", line):
            called[computation] |= {(name, role == "body") for name in re.findall(r"[\w.\-]+", names)}
        operation = re.search(rf"= (.*?) ({KINDS})(-start)?\(", line)
        if operation:
            shapes = re.findall(r"\[([\d,]*)\]", operation[1])
            size = sum(math.prod(int(n) for n in shape.split(",") if n) for shape in shapes)
            found.append((operation[2], computation, size))
    depth, waiting = {entry: 0}, [entry]
    while waiting:
        outer = waiting.pop()
        for inner, is_body in called[outer]:
            if depth.get(inner, -1) < depth[outer] + is_body:
                depth[inner] = depth[outer] + is_body
                waiting.append(inner)
    return [(kind, depth[computation], size) for kind, computation, size in found]


def flops(compiled):
    costs = compiled.cost_analysis()
    return float((costs[0] if isinstance(costs, list) else costs)["flops"])


def numbers(tree):
    """All floats and integers of a tree, in one array; keys by their data."""
    tree = jax.tree.map(lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x, tree)
    return np.concatenate([np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(tree)])


def difference(tree, reference):
    """Largest |a - b| / (1 + |b|) over a tree; NaNs must be in the same places."""
    a, b = numbers(tree), numbers(reference)
    if (np.isnan(a) != np.isnan(b)).any():
        return float("inf")
    return float(np.nan_to_num(np.abs(a - b) / (1 + np.abs(b))).max())


def measure(name, meshes):
    program, arguments, axis = PROGRAMS[name]()

    def within(mesh):
        return partial(program, mesh) if name == "tokens" else program

    function = within(None)
    single = jax.jit(function).lower(*arguments).compile()
    reference = single(*arguments)
    params = jax.jit(NETWORK.init)(jax.random.key(1))
    actor = {layer: x for layer, x in params.items() if layer != "value" and not layer.startswith("critic")}
    sizes = {"parameters": numbers(params).size, "actor": numbers(actor).size}
    found = {**sizes, "flops": flops(single), "devices": {}}
    for devices in meshes:
        mesh = sharding.row_mesh(devices)
        placed = jax.device_put(arguments, sharding.by_rows(mesh, arguments, axis=axis))
        result = sharding.by_rows(mesh, jax.eval_shape(function, *arguments), axis=axis)
        compiled = jax.jit(within(mesh), out_shardings=result).lower(*placed).compile()
        found["devices"][devices] = {
            "difference": difference(compiled(*placed), reference),
            "collectives": collectives(compiled.as_text()),
            "flops": flops(compiled),
        }
    return found


def refusals():
    """What `by_rows` says of rows that the devices do not divide."""
    found = []
    for shape, devices, axis in (((6, 2), 4, 0), ((2, 6, 2), 8, 1)):
        try:
            sharding.by_rows(sharding.row_mesh(devices), ragged(shape), axis=axis)
        except ValueError as error:
            found.append(str(error))
    return found


def main(requests):
    assert jax.device_count() == 8
    found = {"refusals": refusals()}
    for request in requests:
        name, meshes = request.split("=")
        found[name] = measure(name, [int(n) for n in meshes.split(",")])
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
