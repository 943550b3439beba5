"""What `help` and a notebook's tooltip show: short signatures, records with their fields, what a policy must have."""

import inspect
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import polopt_jax as po
from polopt_jax import advantages, algorithms, driver, envs, language, outcomes, tasks
from polopt_jax.types import record

MODULES = (po, advantages, algorithms, envs, language, outcomes, tasks)
NAMES = {f"{module.__name__}.{name}": getattr(module, name) for module in MODULES for name in module.__all__}
FUNCTIONS = {name: x for name, x in NAMES.items() if inspect.isfunction(x)}
RECORDS = (
    *(po.Batch, po.Rollout, po.Outputs, po.Step, po.TrainState, po.Episode, po.Evaluation, po.Policy),
    *(tasks.Task, tasks.GroupTask, algorithms.Algorithm, envs.EnvStep, driver.Chunk),
    *(outcomes.OutcomeReport, outcomes.Estimate, outcomes.Price),
)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_signature_is_short_and_says_what_a_type_is_called(name):
    said = str(inspect.signature(FUNCTIONS[name]))
    parameters = inspect.signature(FUNCTIONS[name]).parameters
    assert len(said) < 120 + 45 * len(parameters), said
    assert not {"typing.", "collections.abc", "jaxlib", "Interval("} & set(said.replace("(", "( ").split())
    assert "collections.abc" not in said


@pytest.mark.parametrize("kind", RECORDS)
def test_a_record_shows_its_fields(kind):
    lines = inspect.getdoc(kind).splitlines()
    shown = lines[lines.index("Fields:") + 1 :]
    fields = [name for name in typing.get_type_hints(kind) if not name.startswith("_")]
    assert [line.strip().split(":")[0] for line in shown] == fields
    assert all(len(line.strip().split(": ", 1)[1]) > 1 for line in shown)


@record
class Recorded:
    """What another engine says of the tokens that were taken: their log-probabilities, and nothing else."""

    taken: jax.Array

    @property
    def batch_shape(self):
        return self.taken.shape

    def log_prob(self, action):
        del action
        return self.taken

    def where(self, mask):
        return Recorded(taken=jnp.where(mask, self.taken, 0))


@pytest.mark.parametrize("name", ["reinforce", "surrogate", "ppo", "grpo", "dpo"])
def test_a_policy_that_knows_log_probabilities_alone_serves_the_token_objectives(name):
    """Its loss and gradient are those of a Categorical with the same log-probabilities."""
    term = getattr(po, name)()
    rng, shape = np.random.default_rng(0), (2, 3, 4)
    logits = jnp.asarray(rng.normal(size=(*shape, 5)), jnp.float32)
    batch = po.Batch(
        obs=jnp.zeros(shape),
        action=jnp.asarray(rng.integers(5, size=shape)),
        mask=jnp.asarray(rng.random(shape) < 0.8),
        **{
            field: jnp.asarray(rng.normal(size=shape), jnp.float32) - 2
            for field in ("log_prob", "ref_log_prob", "advantage")
        },
    )

    def loss_of(make):
        return jax.value_and_grad(lambda logits: term(po.Outputs(policy=make(logits)), batch)[0])(logits)

    def known(logits):
        taken = jax.nn.log_softmax(logits)
        return Recorded(taken=jnp.take_along_axis(taken, batch.action[..., None], -1)[..., 0])

    ours, theirs = loss_of(known), loss_of(lambda logits: po.Categorical(logits=logits))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-6), ours, theirs)


def test_what_distribution_asks_for_is_what_ours_have():
    methods = [name for name in vars(po.Distribution) if not name.startswith("_")]
    assert len(methods) == 8
    for kind in (po.Categorical, po.DiagGaussian, po.TanhGaussian):
        assert all(hasattr(kind, name) for name in methods)
    assert all(name in po.Distribution.__doc__ for name in methods)


@pytest.mark.parametrize("parts", [2, 4])
def test_a_preference_batch_that_is_split_the_wrong_way_is_told_the_axis(parts):
    model = lambda params, obs: po.Outputs(policy=po.Categorical(logits=obs @ params))  # noqa: E731
    batch = po.Batch(
        obs=jnp.ones((2, 4, 3, 2)),
        action=jnp.zeros((2, 4, 3), int),
        mask=jnp.ones((2, 4, 3), bool),
        ref_log_prob=jnp.zeros((2, 4, 3)),
    )
    loss, params = po.objective(model, po.dpo()), jnp.zeros((2, 2))
    optimizer = algorithms.adam(1e-3, 1.0)
    wrong = po.epochs(po.make_step((loss, optimizer)), 1, parts)
    with pytest.raises(ValueError, match="axis=1"):
        wrong.update(params, optimizer.init(params), batch, jax.random.key(0))
    with pytest.raises(ValueError, match="axis=1"):
        po.accumulate_gradients(loss, parts)(params, batch)
    right = po.epochs(po.make_step((loss, optimizer)), 1, parts, axis=1)
    right.update(params, optimizer.init(params), batch, jax.random.key(0))
