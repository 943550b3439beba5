"""brax's own PPO trainer, whose loop is held between its epochs: each is a chunk.

Two things are done to it from outside. `jax.device_put_replicated`, which it calls and newer versions of JAX don't
have, is put back; and what it tells its logger of episodes is counted, where returns are asked for.
"""

import queue
import threading
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from brax import envs
from brax.training import logger
from brax.training.agents.ppo import networks, train
from flax import linen

from benchmarks.entrants import (
    CLIP,
    EPISODE_LENGTH,
    GAMMA,
    HIDDEN,
    LAMBDA,
    LEARNING_RATE,
    MAX_GRAD_NORM,
    NUM_EPOCHS,
    NUM_MINIBATCHES,
    NUM_STEPS,
    VALUE_WEIGHT,
)
from benchmarks.entrants.built import Built, returns

DIFFERS = (
    "rows are shuffled; actions squashed by tanh, their deviation another output of the network; advantages "
    "standardised per minibatch, targets of the critic not those of GAE; rewards not scaled; an episode that ends "
    "begins again where it began; no KL is measured"
)
EPOCHS = 10_000
"""More than are ever asked for."""


class _Counted:
    """In the place of its logger of episodes: returns and ends of every update."""

    told: list[tuple[float, float]] = []

    def __init__(self, **_: Any) -> None:
        pass

    def update_episode_metrics(self, episode: Any, done: Any, _: Any) -> None:
        done = np.asarray(done, bool)
        self.told.append((float(np.asarray(episode["sum_reward"])[done].sum()), float(done.sum())))


class _Held:
    """Its training in a thread of its own, which waits between two epochs until the next is asked for."""

    def __init__(self, seed: int, **options: Any):
        self._asked, self._done = queue.Queue[bool](), queue.Queue[BaseException | None]()
        self._thread = threading.Thread(target=self._train, args=(seed, options), daemon=True)
        self._thread.start()
        self._wait()

    def _train(self, seed: int, options: dict[str, Any]) -> None:
        try:
            train.train(seed=seed, policy_params_fn=lambda *_: self._pause(), **options)
        except BaseException as error:  # it is raised where the epoch was asked for
            self._done.put(error)

    def _pause(self) -> None:
        self._done.put(None)
        self._asked.get()

    def _wait(self) -> None:
        error = self._done.get()
        if error is not None:
            raise error

    def epoch(self) -> None:
        self._asked.put(True)
        self._wait()


def build(*, env: str, backend: str, num_envs: int, updates: int, seeds: int = 1, slices: int = 0) -> Built:
    """Seeds are trained one after the other: its loop is no function that could be mapped over them."""
    _put_back()
    logger.EpisodeMetricsLogger = _Counted  # type: ignore[misc, assignment]
    options = {
        "environment": envs.get_environment(env, backend=backend),
        "num_timesteps": EPOCHS * updates * NUM_STEPS * num_envs,
        "num_evals": EPOCHS + 1,
        "run_evals": False,
        "log_training_metrics": slices > 0,
        "num_envs": num_envs,
        "episode_length": EPISODE_LENGTH,
        "unroll_length": NUM_STEPS,
        "batch_size": num_envs // NUM_MINIBATCHES,
        "num_minibatches": NUM_MINIBATCHES,
        "num_updates_per_batch": NUM_EPOCHS,
        "learning_rate": LEARNING_RATE,
        "discounting": GAMMA,
        "gae_lambda": LAMBDA,
        "clipping_epsilon": CLIP,
        "entropy_cost": 0.0,
        "vf_loss_coefficient": VALUE_WEIGHT,
        "max_grad_norm": MAX_GRAD_NORM,
        "normalize_observations": True,
        "network_factory": _network,
    }
    decisions = seeds * updates * NUM_STEPS * num_envs
    if slices:
        unknown = {"first_seconds": None}  # it compiles as it goes
        return Built(lambda: _learnt(options, updates, seeds, slices), decisions, updates, DIFFERS, unknown)
    if seeds > 1:
        raise ValueError("its speed is of one seed: it trains several one after the other")
    began = time.perf_counter()
    held = _Held(0, **options)
    held.epoch()
    compiled = time.perf_counter() - began
    held.epoch()  # it compiles a second time
    third = time.perf_counter()
    held.epoch()
    epoch = time.perf_counter() - third
    first = {"first_update_seconds": compiled - epoch * (updates - 1) / updates}
    return Built(held.epoch, decisions, updates, DIFFERS, first)


def _learnt(options: dict[str, Any], updates: int, seeds: int, slices: int) -> dict[str, Any]:
    """Returns of several seeds, each of one epoch of all updates."""
    found = []
    for seed in range(seeds):
        _Counted.told.clear()
        _Held(seed, **options).epoch()
        jax.effects_barrier()
        found.append(np.asarray(_Counted.told))
    sums, ended = np.moveaxis(np.stack(found), -1, 0)
    return returns(sums, ended, slices)


def _network(*args: Any, **options: Any) -> Any:
    return networks.make_ppo_networks(
        *args,
        policy_hidden_layer_sizes=HIDDEN,
        value_hidden_layer_sizes=HIDDEN,
        activation=linen.tanh,
        **options,
    )


def _put_back() -> None:
    """The function that newer versions of JAX lack, as far as the trainer uses it."""
    if not hasattr(jax, "device_put_replicated"):
        replicated = lambda x, devices: jax.tree.map(lambda leaf: jnp.stack([leaf] * len(devices)), x)  # noqa: E731
        jax.device_put_replicated = replicated  # type: ignore[attr-defined]
