"""What people plug in wrongly is told by name, where it is first called, with what was expected."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import polopt_jax as po
from polopt_jax import algorithms, boundaries, driver, envs, language, networks
from polopt_jax.solvers import quadratic_form

BATCH = po.Batch(
    obs=jnp.ones((3, 2, 4)),
    action=jnp.zeros((3, 2), int),
    mask=jnp.ones((3, 2), bool),
    log_prob=jnp.full((3, 2), -0.7),
    advantage=jnp.ones((3, 2)),
    target=jnp.zeros((3, 2)),
)
PARAMS = jnp.zeros((4, 2))


def model(params, obs):
    return po.Outputs(policy=po.Categorical(logits=obs @ params), value=obs.sum(-1))


def one(only):
    return only


def evaluated(model, term):
    """Traced and nothing more: what is told needs no value."""
    return jax.eval_shape(po.objective(model, term), PARAMS, BATCH)


def reduced(outputs, batch):
    return po.token_mean(outputs.value, batch), {}


# Terms


@pytest.mark.parametrize(
    ("term", "error", "said"),
    [
        (lambda outputs, batch: jnp.zeros(()), TypeError, r"must return \(loss, metrics\).*it returned float32\[\]"),
        (lambda outputs, batch: 1.0, TypeError, "it returned a float"),
        (lambda outputs, batch: None, TypeError, "it returned None"),
        (lambda outputs, batch: (1.0, {}, {}), TypeError, "it returned a tuple of 3"),
        (lambda outputs, batch: ({}, jnp.zeros(())), TypeError, r"\(loss, metrics\); its loss is a dict: are the two"),
        (lambda outputs, batch: (jnp.zeros(()), 3.0), TypeError, "metrics a dict; they are a float"),
        (lambda outputs, batch: (outputs.value, {}), ValueError, r"must be a scalar; it is float32\[3, 2\]: reduce it"),
    ],
)
def test_what_a_term_returns(term, error, said):
    with pytest.raises(error, match=said):
        evaluated(model, term)
    with pytest.raises(error, match=f"weighted_sum: mine.*{said}" if error is TypeError else "weighted_sum: mine: the"):
        evaluated(model, po.weighted_sum(mine=(1.0, term)))


def test_an_unreduced_term_does_not_broadcast_into_the_others():
    term = po.weighted_sum(policy=(1.0, po.ppo()), mine=(0.5, lambda outputs, batch: (outputs.value**2, {})))
    with pytest.raises(ValueError, match=r"weighted_sum: mine: the loss must be a scalar; it is float32\[3, 2\]"):
        evaluated(model, term)


@pytest.mark.parametrize("bind", [lambda term: po.objective(model, term), lambda term: po.weighted_sum(a=(1.0, term))])
def test_a_term_that_was_not_called(bind):
    with pytest.raises(TypeError, match=r"\(outputs, batch\), and ppo\(\*, clip_eps.*call it: ppo\(\.\.\.\)"):
        bind(po.ppo)
    with pytest.raises(TypeError, match=r"function of \(outputs, batch\); it is a float"):
        bind(3.0)
    with pytest.raises(TypeError, match=r"function of \(outputs, batch\), and one\(only\) is not$"):
        bind(one)


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (po.ppo(), r"policy must be a pair \(weight, term\); it is the function"),
        ((1.0, po.ppo(), 2), r"policy must be a pair \(weight, term\); it is a tuple of 3"),
        ((po.ppo(), 1.0), "its weight is the function .*: they are swapped"),
        ((optax.constant_schedule(0.1), po.ppo()), "its weight is .*: a schedule must be called"),
    ],
)
def test_parts_of_a_sum(part, said):
    with pytest.raises(TypeError, match=said):
        po.weighted_sum(policy=part)


def test_a_weight_is_a_scalar():
    with pytest.raises(ValueError, match=r"the weight of policy must be a scalar; it is float32\[2\]"):
        evaluated(model, po.weighted_sum(policy=(jnp.ones(2), po.ppo())))
    sums = jax.vmap(lambda w: po.objective(model, po.weighted_sum(policy=(w, po.ppo())))(PARAMS, BATCH)[0])
    assert sums(jnp.ones(2)).shape == (2,)


def test_terms_may_be_partial_callable_objects_or_take_more_by_name():
    class Term:
        def __call__(self, outputs, batch, *, scale=1.0):
            return scale * po.token_mean(outputs.value, batch), {}

    for term in (Term(), functools.partial(Term(), scale=2.0), reduced, lambda *both: reduced(*both)):
        loss, _ = po.objective(model, po.weighted_sum(a=(1.0, term)))(PARAMS, BATCH)
        assert float(loss) == (8.0 if isinstance(term, functools.partial) else 4.0)
    assert float(po.objective(model, lambda outputs, batch: (2.0, {}))(PARAMS, BATCH)[0]) == 2.0


# Models


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (lambda logits: logits, r"it returned float32\[3, 2, 2\]"),
        (lambda logits: (logits, logits[..., 0]), "it returned a tuple of 2"),
        (lambda logits: po.Categorical(logits=logits), "it returned a Categorical"),
        (lambda logits: None, "it returned None"),
    ],
)
def test_what_a_model_returns(returned, said):
    wrong = lambda params, obs: returned(obs @ params)  # noqa: E731
    with pytest.raises(TypeError, match=r"objective: a model must return po\.Outputs\(policy.*" + said):
        evaluated(wrong, po.ppo())
    with pytest.raises(TypeError, match=r"a solver: a model must return po\.Outputs.*" + said):
        jax.eval_shape(lambda v: po.fisher_operator(wrong, po.action_kl, PARAMS, BATCH)(v), PARAMS)


def test_logits_in_place_of_a_policy():
    with pytest.raises(TypeError, match=r"policy must be a distribution, po\.Categorical.*; it is float32\[3, 2, 2\]"):
        evaluated(lambda params, obs: po.Outputs(policy=obs @ params), po.ppo())


def test_a_model_takes_params_and_obs():
    with pytest.raises(TypeError, match=r"objective: model must be a function of \(params, obs\), and one\(only\) is"):
        po.objective(one, po.ppo())


# Phases


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda loss, adam: po.make_step(loss, adam), r"make_step\(\(objective, optimizer\)\), with parentheses"),
        (lambda loss, adam: po.make_step(loss), r"the phase must be a pair \(objective, optimizer\)"),
        (lambda loss, adam: po.make_step((adam, loss)), "the phase .* its optimizer is the function bound"),
        (lambda loss, adam: po.make_step(policy=(loss, 3e-4)), r"policy must be a pair .* its optimizer is a float"),
        (lambda loss, adam: po.make_step(policy=(loss, optax.adam)), "its optimizer is the function adam"),
        (lambda loss, adam: po.make_step((po.ppo, adam)), r"the objective of the phase must be a function of \(params"),
    ],
)
def test_phases_are_pairs(make, said):
    with pytest.raises(TypeError, match=said):
        make(po.objective(model, po.ppo()), optax.adam(1e-3))


def traced_step(objective):
    step = po.make_step((objective, optax.sgd(0.1)))
    jax.eval_shape(lambda params: step.update(params, step.init(params), BATCH, None), PARAMS)


def test_a_term_that_was_not_bound_to_a_model():
    with pytest.raises(TypeError, match=r"ppo: outputs must be a model's po\.Outputs; it is float32.*objective"):
        traced_step(po.ppo())
    with pytest.raises(TypeError, match=r"value_loss: outputs must be a model's po\.Outputs; it is float32\[4, 2\]"):
        traced_step(po.value_loss())


@pytest.mark.parametrize(
    ("objective", "error", "said"),
    [
        (lambda params, batch: params.sum(), TypeError, r"an objective must return \(loss, metrics\)"),
        (lambda params, batch: (params, {}), ValueError, r"the loss must be a scalar; it is float32\[4, 2\]"),
    ],
)
def test_what_an_objective_returns(objective, error, said):
    with pytest.raises(error, match=said):
        traced_step(objective)


# Divergences


def test_a_divergence_is_a_scalar():
    unreduced = lambda old, new, batch: old.policy.kl_divergence(new.policy)  # noqa: E731
    for solve in (
        lambda v: po.fisher_operator(model, unreduced, PARAMS, BATCH)(v),
        lambda v: quadratic_form(model, unreduced, PARAMS, BATCH, v),
    ):
        with pytest.raises(ValueError, match=r"a divergence must be a scalar; it is float32\[3, 2\]: reduce it"):
            jax.eval_shape(solve, PARAMS)


def test_what_is_right_costs_nothing():
    """The program of an objective is the same, to the last operation, as without any look."""
    term = po.weighted_sum(policy=(1.0, po.ppo()), value=(0.5, po.value_loss()))
    ppo, value = po.ppo(), po.value_loss()

    def plain(params, batch):
        outputs = model(params, batch.obs)
        first, its = ppo(outputs, batch)
        total = 1.0 * first
        second, others = value(outputs, batch)
        metrics = {"policy/loss": first, **{f"policy/{k}": x for k, x in its.items()}, "value/loss": second}
        return total + 0.5 * second, {**metrics, **{f"value/{k}": x for k, x in others.items()}}

    assert str(jax.make_jaxpr(po.objective(model, term))(PARAMS, BATCH)) == str(jax.make_jaxpr(plain)(PARAMS, BATCH))


def test_functions_without_a_signature_pass():
    boundaries.check_takes("here", "part", print, "a", "b")
    boundaries.check_takes("here", "part", max, "a", "b")


@pytest.mark.parametrize("make", [po.ppo, po.dapo, po.gspo, po.gspo_token, po.luspo, po.dual_clip])
@pytest.mark.parametrize("clip_eps", [[0.2, 0.28], (0.1, 0.2, 0.3), (0.1,)])
def test_a_clip_is_a_number_or_a_pair(make, clip_eps):
    with pytest.raises(
        ValueError, match=rf"{make.__name__}: clip_eps must be a number or a pair \(low, high\), a tuple"
    ):
        make(clip_eps=clip_eps)


def test_there_must_be_something_to_learn():
    step = po.make_step((lambda params, batch: (jnp.zeros(()), {}), optax.sgd(1.0)))
    batch = po.Batch(obs=None, action=None, mask=jnp.ones(2, bool))
    with pytest.raises(ValueError, match="make_step: params must have an array to learn; they are a dict"):
        step.update({}, step.init({}), batch, None)


# Batches, numbers, divergences


def rollout():
    shape = (2, 3)
    no, zero = jnp.zeros(shape, bool), jnp.zeros(shape)
    return po.Rollout(
        obs=jnp.ones((*shape, 4)), action=jnp.zeros(shape, int), log_prob=zero, reward=zero, terminated=no,
        truncated=no, next_obs=jnp.ones((*shape, 4)), mask=~no, value=zero, next_value=zero,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        (PARAMS, r"batch must be a po\.Batch; it is float32\[4, 2\]$"),
        ({"obs": 1}, r"batch must be a po\.Batch; it is a dict$"),
        (rollout(), r"batch must be a po\.Batch; it is a Rollout; po\.to_batch makes one of it$"),
    ],
)
def test_an_objective_takes_a_batch(batch, said):
    with pytest.raises(TypeError, match=said):
        po.objective(model, po.reinforce())(PARAMS, batch)


def test_an_estimate_is_made_of_a_rollout():
    for estimate in (po.gae, po.discounted_returns, po.n_step_returns):
        with pytest.raises(TypeError, match=f"{estimate.__name__} takes a Rollout, or .* it was given a Batch"):
            estimate(BATCH)
    with pytest.raises(TypeError, match=r"to_batch: rollout must be a po\.Rollout; it is a Batch"):
        po.to_batch(BATCH)
    for mask, said in ((jnp.ones((2, 3)), r"float32\[2, 3\]"), (None, "None")):
        with pytest.raises(TypeError, match=f"to_batch: rollout.mask must be boolean; it is {said}"):
            po.to_batch(replace(rollout(), mask=mask))


MANY = jnp.array([0.1, 0.2])


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: po.ppo(clip_eps=MANY), "ppo: clip_eps"),
        (lambda: po.ppo(clip_eps=(0.1, MANY)), "ppo: clip_eps"),
        (lambda: po.awr(beta=MANY), "awr: beta"),
        (lambda: po.dpo(beta=MANY), "dpo: beta"),
        (lambda: po.clipped_value_loss(clip_eps=MANY), "clipped_value_loss: clip_eps"),
        (lambda: po.huber_value_loss(delta=MANY), "huber_value_loss: delta"),
        (lambda: po.trpo(model, radius=MANY), "radius"),
    ],
)
def test_a_hyperparameter_is_one_number(make, name):
    with pytest.raises(ValueError, match=rf"{name} must be one number \(each agent of a jax\.vmap has"):
        make()


def test_each_agent_of_a_vmap_has_a_number_of_its_own():
    loss = lambda clip_eps: po.objective(model, po.ppo(clip_eps=clip_eps))(PARAMS, BATCH)[0]  # noqa: E731
    assert jax.vmap(loss)(MANY).shape == (2,)


def test_a_number_is_no_text():
    with pytest.raises(TypeError, match="ppo: clip_eps must be a number; it is a str, '0.2'"):
        po.ppo(clip_eps="0.2")


@pytest.mark.parametrize(
    "make",
    [
        lambda divergence: po.kl_to_reference(model, PARAMS, divergence=divergence),
        lambda divergence: po.fisher_operator(model, divergence, PARAMS, BATCH),
    ],
)
def test_a_divergence_takes_two_policies_and_a_batch(make):
    with pytest.raises(TypeError, match=r"divergence must be a function of \(old, new, batch\), and <lambda>"):
        make(lambda old, new: 0.0)


def test_a_reference_is_a_model():
    with pytest.raises(TypeError, match=r"kl_to_reference: ref must be a function of \(params, obs\); it is a Outputs"):
        po.kl_to_reference(model(PARAMS, BATCH.obs))
    term = po.kl_to_reference(lambda params, obs: obs)
    with pytest.raises(TypeError, match=r"kl_to_reference: a model must return po\.Outputs"):
        evaluated(model, term)


class Plain:
    """A policy that is no pytree."""

    def __init__(self, params):
        self.params, self.batch_shape = params, (3, 2)

    def where(self, mask):
        return self

    def kl_divergence(self, other):
        return jnp.zeros((3, 2))


def test_a_solver_needs_a_policy_that_is_a_tree():
    plain = lambda params, obs: po.Outputs(policy=Plain(params))  # noqa: E731
    with pytest.raises(TypeError, match="a solver differentiates the policy, which must be a pytree; it is a Plain"):
        po.fisher_operator(plain, po.action_kl, PARAMS, BATCH)


@pytest.mark.parametrize("solver", [po.npg(model), po.trpo(model)], ids=["npg", "trpo"])
def test_a_solver_needs_all_parameters(solver):
    both = {"policy": PARAMS, "critic": jnp.zeros(4)}
    labels = {"policy": "solver", "critic": "adam"}
    step = po.make_step(
        (
            po.objective(lambda params, obs: model(params["policy"], obs), po.surrogate()),
            optax.multi_transform({"solver": solver, "adam": optax.adam(0.1)}, labels),
        )
    )
    with pytest.raises(TypeError, match="takes all of params: it cannot stand within optax.masked or multi_transform"):
        step.update(both, step.init(both), BATCH, None)


# What is held below a bound


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: po.backtrack(model, [(0.01, po.action_kl)]), r"backtrack: constraints\[0\] must be \(divergence, rad"),
        (lambda: po.backtrack(model, [(0.01, po.action_kl)]), "its first is a float: they are swapped"),
        (lambda: po.trpo(model, constraints=[(0.01, po.action_kl)]), r"trpo: constraints\[0\] .* swapped"),
        (lambda: po.trpo(model, constraints=po.action_kl), "trpo: constraints must be a list of pairs"),
        (lambda: po.backtrack(model, [(0.1, 0.2)]), r"its first is a float$"),
        (lambda: po.backtrack(model, [(po.action_kl, lambda u: u)]), "its second is the function <lambda>$"),
        (
            lambda: po.backtrack(model, [po.action_kl]),
            r"constraints\[0\] must be a pair .* the function action_kl",
        ),
        (lambda: po.constrained_trpo(model, costs=[(0.1, reduced)]), r"costs\[0\] must be \(term, limit\).* swapped"),
        (lambda: po.constrained_trpo(model, costs=reduced), "costs must be a list of pairs"),
        (
            lambda: po.constrained_trpo(model, costs=[(reduced, 0.1)], constraints=[(0.01, po.action_kl)]),
            r"constrained_trpo: constraints\[0\] .* swapped",
        ),
    ],
)
def test_what_is_held_is_a_function_and_its_bound(make, said):
    with pytest.raises(TypeError, match=said):
        make()


# What acts


ENV = envs.ActionReward()
NETWORK = networks.mlp_actor_critic(ENV.obs_shape, ENV.action_space, hidden=(4,))


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (NETWORK, r"it is a Network; bind its parameters: lambda obs: network\.apply\(params, obs\)"),
        (NETWORK.apply, r"is not; bind its parameters: lambda obs: model\(params, obs\)"),
        (po.greedy(NETWORK.apply), "is not; bind its parameters"),
        (3.0, "it is a float$"),
    ],
)
@pytest.mark.parametrize("caller", ["unroll", "evaluate_policy", "play_episode"])
def test_what_acts_takes_observations(act, said, caller):
    key = jax.random.key(0)
    calls = {
        "unroll": lambda: po.unroll(ENV, act, po.start(ENV, key, num_envs=2), key, num_steps=2),
        "evaluate_policy": lambda: po.evaluate_policy(ENV, act, key, episodes=2),
        "play_episode": lambda: po.play_episode(ENV, act, key),
    }
    with pytest.raises(TypeError, match=f"{caller}: act must be a function of .*{said}"):
        calls[caller]()


def test_a_loop_is_what_start_returns():
    act = lambda obs: NETWORK.apply(NETWORK.init(jax.random.key(0)), obs)  # noqa: E731
    with pytest.raises(TypeError, match=r"unroll: loop must be what po.start returns; it is float32\[2\]"):
        po.unroll(ENV, act, jnp.zeros(2), jax.random.key(1), num_steps=2)


def test_what_is_trained_is_a_state():
    step = po.make_step((po.objective(model, po.surrogate()), optax.sgd(0.1)))
    with pytest.raises(TypeError, match="train: state must be a po.TrainState, as po.init_state makes it; it is None"):
        po.train(lambda *arguments: arguments, step, None, updates=2)


# Arrays that are none


@pytest.mark.parametrize("name", ["action", "mask", "log_prob", "advantage", "value", "target", "ref_log_prob"])
def test_a_list_is_no_array(name):
    with pytest.raises(TypeError, match=f"objective: batch.{name} must be an array; it is a list"):
        po.objective(model, po.surrogate())(PARAMS, replace(BATCH, **{name: [1, 2, 3]}))


@pytest.mark.parametrize(
    ("leaf", "said"), [(jnp.int32(3), r"int32\[\]"), ("text", "a str"), (jax.random.key(0), r"key<fry>\[\]")]
)
def test_what_is_learnt_is_floats(leaf, said):
    step = po.make_step((po.objective(lambda params, obs: model(params["a"], obs), po.surrogate()), optax.sgd(0.1)))
    with pytest.raises(TypeError, match=rf"make_step: params\['n'\] must be an array of floats.*it is {said}"):
        step.update({"a": PARAMS, "n": leaf}, (), BATCH, None)


def test_a_kl_is_between_laws_of_one_kind():
    mean = jnp.zeros((3, 2, 2))
    laws = {
        "Categorical": po.Categorical(logits=mean),
        "MultiCategorical": po.MultiCategorical.of_logits(mean, (2,)),
        "DiagGaussian": po.DiagGaussian(mean=mean, log_std=mean),
        "TanhGaussian": po.TanhGaussian(mean=mean, log_std=mean),
    }
    for name, law in laws.items():
        assert (law.kl_divergence(law) == 0).all()
        for other in laws.keys() - {name}:
            with pytest.raises(TypeError, match=f"kl_divergence: other must be a {name}; it is a {other}"):
                law.kl_divergence(laws[other])
    lazy = po.LazyCategorical(hidden=mean, unembedding=(jnp.zeros((2, 2)), jnp.zeros(2)))
    with pytest.raises(TypeError, match="other must be a LazyCategorical or Categorical; it is a DiagGaussian"):
        lazy.kl_divergence(laws["DiagGaussian"])


@pytest.mark.parametrize("estimate", [po.weighted_k2, po.weighted_k3])
def test_weights_are_not_broadcast(estimate):
    with pytest.raises(ValueError, match=r"log_weight must have shape \(3, 1\), that of log_ratio; it has \(3, 4\)"):
        estimate(jnp.ones((3, 1)), jnp.ones((3, 4)))


@pytest.mark.parametrize("stop", [-1, 5, 99])
def test_a_stop_is_a_token_that_is_read(stop):
    network = language.transformer(vocab_size=5, num_outputs=5, max_length=6, width=8, depth=1)
    prompt, key = jnp.zeros((2, 1), int), jax.random.key(0)
    for sample in (language.sample_tokens, functools.partial(language.sample_groups, group_size=2)):
        with pytest.raises(ValueError, match=f"stop must be a token.* below network.vocab_size = 5; it is {stop}"):
            sample(network, network.init(key), prompt, key, length=2, stop=stop)


def test_gradients_are_accumulated_of_an_objective():
    step = po.make_step((po.objective(model, po.surrogate()), optax.sgd(0.1)))
    with pytest.raises(TypeError, match=r"accumulate_gradients: objective must be a function of \(params, batch\)"):
        po.accumulate_gradients(step, 2)


def test_a_number_of_parts_is_told_by_its_names():
    step = po.epochs(po.make_step((po.objective(model, po.surrogate()), optax.sgd(0.1))), 1, 2)
    with pytest.raises(ValueError, match="2 parts do not divide axis 0 .* of size 3; parts are the num_minibatches"):
        step.update(PARAMS, step.init(PARAMS), BATCH, jax.random.key(0))


def test_grpo_without_a_reference_has_another_name():
    with pytest.raises(ValueError, match=r"grpo needs batch\.ref_log_prob, which is None; without a reference GRPO is"):
        po.objective(model, po.grpo())(PARAMS, BATCH)


def test_what_decides_on_a_program_is_a_whole_number_of_python():
    env, key = envs.TimeLimit(limit=3), jax.random.key(0)
    with pytest.raises(TypeError, match="start: num_envs must be an int; it is a float, 3.0"):
        po.start(env, key, num_envs=3.0)
    with pytest.raises(ValueError, match="unroll: num_steps must be a whole number; it is 2.5"):
        po.unroll(env, lambda obs: None, po.start(env, key, num_envs=np.int64(2)), key, num_steps=2.5)
    step = po.make_step((po.objective(model, po.surrogate()), optax.sgd(0.1)))
    with pytest.raises(TypeError, match="epochs: num_epochs must be an int, as it decides .* it is traced"):
        jax.vmap(lambda number: po.epochs(step, number, 1).init(PARAMS))(jnp.arange(1, 3))
    state = po.init_state(step, PARAMS, key)
    collect = lambda params, state, key: (state, BATCH, {})  # noqa: E731
    with pytest.raises(ValueError, match="train: updates must be at least 1; it is 0"):
        po.train(collect, step, state, updates=0)
    with pytest.raises(TypeError, match=r"train: collect must be a function of \(params, state, key\); it is a Step"):
        po.train(step, collect, state, updates=1)
    with pytest.raises(TypeError, match="train: step must be a Step, as make_step makes it; it is the function"):
        po.train(collect, collect, state, updates=1)


@pytest.mark.parametrize(
    "keys", [0, jax.random.key(0), jax.random.PRNGKey(0), jnp.zeros(3), jnp.zeros(3, jnp.uint32)], ids=range(5)
)
def test_seeds_have_keys(keys):
    with pytest.raises(TypeError, match=r"prepare: keys must be one for each seed, \[R\]: jax.random.split"):
        driver.prepare(None, keys, chunk_updates=1)


def test_what_acts_is_said_of_an_algorithm():
    algorithm = algorithms.Algorithm(init=None, collect=None, step=None)
    with pytest.raises(TypeError, match=r"act must be a function of \(obs\).*algorithm.act\(state\) is one"):
        po.evaluate_policy(envs.TimeLimit(limit=3), algorithm, jax.random.key(0))
    with pytest.raises(TypeError, match="greedy: act must be a function of observations"):
        po.greedy(algorithm)
