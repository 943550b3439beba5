"""The one table behind the contract battery: every public term, divergence, reduction, estimator and distribution.

To enter a new one, add a row. A *reducing* function takes a batch and returns a scalar: `CASES` says how to call it
and what it reads. A function *of arrays* returns arrays: `ARRAY_CASES`. `test_contracts.py` runs over all rows, and
fails for a public name that has none. Names of other kinds are listed in `OTHER_KINDS`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import polopt_jax as po
from polopt_jax import outcomes, surrogates
from polopt_jax.masking import masked_mean
from polopt_jax.objectives import mean_log_prob, mean_log_ratio, summed_log_prob, trajectory_ratio

B, T, A, D, K = 5, 3, 4, 2, 6  # all different, so that no two axes can be taken for each other
LEADING = (B, T)
PAIRS = (2, B, T)

DISTRIBUTIONS = {
    "Categorical": po.Categorical,
    "MultiCategorical": lambda logits: po.MultiCategorical.of_logits(logits, CHOICES),
    "DiagGaussian": po.DiagGaussian,
    "TanhGaussian": po.TanhGaussian,
}
DISCRETE = ("Categorical", "MultiCategorical")
CHOICES = (A - 2, 2)
"""The actions of each choice of a MultiCategorical."""

OTHER_KINDS = {
    # records and aliases
    *(
        "Batch",
        "Distribution",
        "Divergence",
        "Episode",
        "Evaluation",
        "KLPenalty",
        "Model",
        "Objective",
        "Outputs",
        "Policy",
    ),
    *("Rollout", "Step", "Term", "TrainState"),
    # what acts, and what that is worth; test_policies.py, test_play_episode.py
    *("evaluate_policy", "greedy", "load", "play_episode"),
    # solvers
    *("backtrack", "clip_by_global_norm", "conjugate_gradient", "every", "fisher_operator", "natural_gradient"),
    *("npg", "quadratic_form", "scale_to_radius", "trpo", "constrained_trpo"),
    # from an environment to a batch, and the loop
    *(
        "episodes",
        "final_step",
        "first_episodes",
        "epochs",
        "init_state",
        "make_step",
        "monitored",
        "per_episode",
        "raveled",
        "sequential",
        "side_by_side",
        "start",
        "start_from",
        "to_batch",
        "train",
    ),
    "unroll",
    # of a mask, of a batch; test_reward_model.py, test_explained_variance.py
    *("explained_variance", "overlong_penalty"),
    # what holds a divergence near a target; test_adaptive_kl.py
    *("init_kl_penalty", "update_kl_penalty"),
    # what makes objectives of terms and objectives
    *("accumulate_gradients", "couples_rows", "objective"),
    # a distribution whose leaves are not all per decision, and what a term makes of it; test_lazy_categorical.py
    *("LazyCategorical", "gradient_in_forward"),
    # outcomes: records
    *("Estimate", "ForkProfile", "Forecast", "GStatistic", "OutcomeReport", "Price", "Projection", "Shift"),
    "CellsOf",
    # of rows, weights and cells; test_outcome_divergences.py, test_outcome_estimates.py
    *("effective_sample_size", "joint", "log_law"),
    # what reports; test_outcome_estimates.py, test_outcome_report.py
    *("fork_profile", "mmd_estimate", "outcome_estimate", "outcome_report", "sample_estimate", "sample_mmd"),
    # of tables and counts; test_outcome_tables.py
    *("best_of_n", "forecast", "ipf", "pump", "tax", "wilson"),
    # of batches, and what watches; test_outcome_control.py, test_outcome_monitors.py
    *(
        "cusum",
        "g_statistic",
        "init_price",
        "observed_rate",
        "outcome_price",
        "token_statistics",
        "true_rate",
        "update_price",
    ),
}


def public(name: str) -> Any:
    """What a public name stands for, at the top or in `outcomes`."""
    for module in (po, outcomes):
        if hasattr(module, name):
            return getattr(module, name)
    raise AttributeError(f"{name} is public neither in {po.__name__} nor in {outcomes.__name__}")


# --- data ---------------------------------------------------------------------------------------------------------


def ragged_mask(leading, rng):
    """Full, empty and partial rows. The first row before T is full (both rows of the first pair), the next is empty."""
    mask = rng.random(leading) < 0.7
    if len(leading) == 1:
        return np.arange(leading[0]) != 1
    mask[..., 0, :] = True
    mask[(0,) * (len(leading) - 2) + (1,)] = False
    return mask


def policy_leaves(distribution, leading, rng):
    if distribution in DISCRETE:
        return {"logits": rng.normal(size=(*leading, A))}
    return {"mean": rng.normal(size=(*leading, D)), "log_std": 0.3 * rng.normal(size=(*leading, D))}


def example_action(distribution, leading, rng):
    if distribution not in DISCRETE:
        return rng.normal(size=(*leading, D))
    nums, shape = (CHOICES, (*leading, len(CHOICES))) if distribution == "MultiCategorical" else (A, leading)
    return rng.integers(0, nums, shape).astype(np.int32)


def cast(tree, dtype):
    """The float arrays of a tree as jax arrays of `dtype`, everything else as it is."""
    floating = lambda x: jnp.issubdtype(x.dtype, jnp.floating)  # noqa: E731
    return jax.tree.map(lambda x: jnp.asarray(x, dtype if floating(x) else x.dtype), tree)


def example_outputs(distribution, leading, rng):
    policy = DISTRIBUTIONS[distribution](**policy_leaves(distribution, leading, rng))
    return po.Outputs(policy=policy, value=rng.normal(size=leading), value_logits=rng.normal(size=(*leading, K)))


def example_batch(distribution, leading, rng):
    """A batch with every field present; ratios to 1 vary by e^±1, so that some decisions are clipped."""
    action = example_action(distribution, leading, rng)
    typical = -1.4 if distribution in DISCRETE else -2.8
    return po.Batch(
        obs=rng.normal(size=(*leading, A)),
        action=action,
        mask=ragged_mask(leading, rng),
        log_prob=typical + 0.5 * rng.normal(size=leading),
        advantage=rng.normal(size=leading),
        value=rng.normal(size=leading),
        target=rng.normal(size=leading),
        ref_log_prob=typical + 0.5 * rng.normal(size=leading),
        outcome={"score": rng.normal(size=leading[:-1])},
        label=rng.random(leading[:-1]) < 0.6,
        reference_point=0.3 * rng.normal(size=leading[:-1]),
        sampler_log_prob=typical + 0.5 * rng.normal(size=leading),
    )


# --- functions that reduce a batch to a scalar --------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One reducing function: `call(hyper, inputs, batch) -> (scalar, metrics)`."""

    name: str
    """The public name that it stands for."""
    call: Callable[[dict[str, Any], tuple[Any, ...], po.Batch], tuple[jax.Array, dict[str, jax.Array]]]
    inputs: tuple[str, ...] = ("outputs",)
    """What it takes before the batch: `outputs`; `old, new`; or `x`."""
    reads: frozenset[str] = frozenset()
    """Fields of the batch that it reads, besides `mask` and `counts`."""
    policy: bool = True
    """Whether it reads `outputs.policy`."""
    critic: bool = False
    """Whether it reads `outputs.value`."""
    value_logits: bool = False
    """Whether it reads `outputs.value_logits`."""
    hyper: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Hyperparameters, with two values to trace."""
    distribution: str = "Categorical"
    leading: tuple[int, ...] = LEADING
    optional: frozenset[str] = frozenset()
    """Fields of the batch that it reads where they are present."""
    couples: bool = False
    """Whether it couples rows: `[..., G, T]` is not `[..., T]`, and it cannot be evaluated on shares of a batch."""
    held: bool = False
    """Whether a part of its value is held constant, so that its gradient is not the derivative of its value."""
    documented: bool = True
    """Whether the docstring of `name` says what is read and reported (that of a combinator cannot)."""

    @property
    def rows(self) -> int:
        """The axis of exchangeable rows."""
        return 1 if self.leading == PAIRS else 0

    def defaults(self) -> dict[str, float]:
        return {name: values[0] for name, values in self.hyper.items()}

    def example(self, seed=0, leading=None):
        """`(inputs, batch)` of float64 numpy arrays; `cast` makes jax arrays of them."""
        rng, leading = np.random.default_rng(seed), leading or self.leading
        batch = example_batch(self.distribution, leading, rng)
        if "sampler_log_prob" not in self.reads:  # where it is present, some read it *instead of* log_prob
            batch = replace(batch, sampler_log_prob=None)
        make = {"x": lambda: rng.normal(size=leading)}
        inputs = tuple(
            make.get(name, lambda: example_outputs(self.distribution, leading, rng))() for name in self.inputs
        )
        return inputs, batch


def term(name, reads, build=None, **rest):
    build = build or public(name)
    return Case(name, lambda hyper, inputs, batch: build(**hyper)(*inputs, batch), reads=frozenset(reads), **rest)


def divergence(name, build, **rest):
    call = lambda hyper, inputs, batch: (build(**hyper)(*inputs, batch), {})  # noqa: E731
    return Case(name, call, inputs=("old", "new"), **rest)


def reduction(name, build, **rest):
    call = lambda hyper, inputs, batch: (build(**hyper)(*inputs, batch), {})  # noqa: E731
    return Case(name, call, inputs=("x",), policy=False, documented=False, **rest)


def ppo_of_pair(low, high):
    return po.ppo(clip_eps=(low, high))


def corrected(name):
    """PPO, corrected by a function from a term to a term."""
    return lambda **hyper: public(name)(po.ppo(), **hyper)


def reference(params, obs):
    """A reference whose logits are the observations."""
    return po.Outputs(policy=po.Categorical(logits=obs))


def gaussian_reference(params, obs):
    return po.Outputs(policy=po.TanhGaussian(mean=obs[..., :D], log_std=obs[..., D:]))


def ppo_and_entropy(policy_weight, entropy_weight):
    return po.weighted_sum(policy=(policy_weight, po.ppo()), entropy=(entropy_weight, po.entropy_bonus()))


def two_divergences(trajectory_weight, action_weight):
    return po.weighted_divergence(
        trajectory=(trajectory_weight, po.trajectory_kl), action=(action_weight, po.reverse(po.action_kl))
    )


def score_cell(outcome):
    """The example's outcome in two cells."""
    return (outcome["score"] > 0).astype(jnp.int32)


def score_third(outcome):
    return (outcome["score"] > 0.5).astype(jnp.int32)


OUTCOMES = {
    "reads": frozenset({"action", "log_prob", "outcome"}),
    "optional": frozenset({"sampler_log_prob"}),
    "couples": True,
}


def of_laws(name):
    return divergence(name, lambda: getattr(outcomes, name)(2, of=score_cell), **OUTCOMES)


def hellinger(log_p, log_q):
    """A divergence of a user's own."""
    return jnp.sum(jnp.square(jnp.exp(log_p / 2) - jnp.exp(log_q / 2)), axis=-1)


def weighted_log_ratios(rng):
    return {name: rng.normal(size=LEADING) for name in ("log_ratio", "log_weight")}


def log_laws(rng):
    return {name: np.log(rng.dirichlet(np.ones(A), B)) for name in ("log_p", "log_q")}


def capped(cap, ratio=None):
    """A gain of a user's own: the ratio truncated from above, as importance sampling often is."""
    gain = lambda log_ratio, advantage: jnp.minimum(jnp.exp(log_ratio), cap) * advantage  # noqa: E731
    return po.ratio_term(gain) if ratio is None else po.ratio_term(gain, ratio=ratio)


def row_ratio(difference, batch):
    """The mean log-ratio of a row, repeated over its decisions (GSPO's)."""
    mean = masked_mean(difference, batch.mask, axis=-1)
    return jnp.broadcast_to(mean[..., None], difference.shape)


def sequence_capped(cap):
    return capped(cap, row_ratio)


def weighted_by_rows(cap):
    return po.truncated_importance_sampling(po.ppo(), cap=cap, ratio=trajectory_ratio)


def soft_hinge(beta):
    return po.preference(lambda chosen, rejected: jax.nn.softplus(1 - chosen + rejected), mean_log_prob, beta=beta)


def square_of_rows(beta, desirable_weight, undesirable_weight):
    """An unpaired objective of a user's own."""
    weights = dict(desirable_weight=desirable_weight, undesirable_weight=undesirable_weight)
    return po.unpaired_preference(lambda score: jnp.square(score - 1), mean_log_prob, beta=beta, **weights)


def alpha_dpo(beta, alpha):
    return po.f_dpo(partial(surrogates.alpha_slope, alpha=alpha), beta=beta)


def chosen_likelihood():
    return po.on_chosen(po.negative_log_likelihood())


def pairs(name, build=None, reads=("ref_log_prob",), *, documented=True, **hyper):
    """An objective over pairs, by default one with DPO's score."""
    hyper = {"beta": (0.1, 0.7)} | hyper
    return term(name, ["action", *reads], build, hyper=hyper, leading=PAIRS, documented=documented)


def on_a_grid(span):
    return po.categorical_value_loss(support=span * jnp.linspace(-1, 1, K))


CLIP = {"clip_eps": (0.2, 0.35)}
PAIR = {"low": (0.1, 0.2), "high": (0.3, 0.4)}
RATIO = ("action", "log_prob", "advantage")
LABELLED = ("action", "label", "reference_point", "ref_log_prob")
WEIGHED = {"beta": (0.1, 0.7), "desirable_weight": (1.0, 1.4), "undesirable_weight": (1.0, 0.5)}
CORRECTED = ("action", "log_prob", "ref_log_prob")
SAMPLER = {"optional": frozenset({"sampler_log_prob"})}
DUAL = {"temperature": (0.5, 1.0), "epsilon": (0.1, 0.3)}
SOFT = {"clip_eps": (0.2, 0.3), "beta": (0.04, 0.5)}

CASES: dict[str, Case] = {
    "reinforce": term("reinforce", ["action", "advantage"]),
    "actor_critic": term(
        "actor_critic",
        ["action", "advantage", "target"],
        critic=True,
        hyper={"value_weight": (0.5, 2.0), "entropy_weight": (0.01, 0.3)},
    ),
    "surrogate": term("surrogate", RATIO),
    "surrogate-tanh": term("surrogate", RATIO, distribution="TanhGaussian"),
    "ppo": term("ppo", RATIO, hyper=CLIP),
    "ppo-pair": term("ppo", RATIO, ppo_of_pair, hyper=PAIR),
    "ppo-choices": term("ppo", RATIO, hyper=CLIP, distribution="MultiCategorical"),
    "ppo-gaussian": term("ppo", RATIO, hyper=CLIP, distribution="DiagGaussian"),
    "value_loss": term("value_loss", ["target"], policy=False, critic=True),
    "clipped_value_loss": term(
        "clipped_value_loss", ["value", "target"], policy=False, critic=True, hyper={"clip_eps": (0.3, 0.6)}
    ),
    "huber_value_loss": term("huber_value_loss", ["target"], policy=False, critic=True, hyper={"delta": (1.0, 0.5)}),
    "categorical_value_loss": term(
        "categorical_value_loss", ["target"], on_a_grid, policy=False, value_logits=True, hyper={"span": (1.0, 2.0)}
    ),
    "entropy_bonus": term("entropy_bonus", []),
    "entropy_bonus-tanh": term("entropy_bonus", [], distribution="TanhGaussian"),
    "negative_log_likelihood": term("negative_log_likelihood", ["action"]),
    "on_chosen": term("on_chosen", ["action"], chosen_likelihood, leading=PAIRS, documented=False),
    **{name: pairs(name) for name in ("dpo", "ipo", "slic", "nca", "sppo", "apo_zero", "apo_down")},
    "dpo-mean": pairs("dpo", lambda beta: po.dpo(beta=beta, score=mean_log_ratio)),
    "dpo-free": pairs("dpo", lambda beta: po.dpo(beta=beta, score=summed_log_prob), reads=(), documented=False),
    "conservative_dpo": pairs("conservative_dpo", label_smoothing=(0.1, 0.3)),
    "robust_dpo": pairs("robust_dpo", label_smoothing=(0.1, 0.3)),
    "exo": pairs("exo", label_smoothing=(0.1, 0.3)),
    "discopop": pairs("discopop", temperature=(0.05, 2.0)),
    "f_dpo": pairs("f_dpo", lambda beta: po.f_dpo(surrogates.jensen_shannon_slope, beta=beta)),
    "f_dpo-alpha": pairs("f_dpo", alpha_dpo, alpha=(0.5, 1.0)),
    "simpo": pairs("simpo", reads=(), gamma=(1.0, 0.3)),
    "cpo": pairs("cpo", reads=(), likelihood_weight=(1.0, 0.3)),
    "orpo": term("orpo", ["action"], hyper={"odds_weight": (0.1, 1.0)}, leading=PAIRS),
    "aot": term("aot", ["action", "ref_log_prob"], hyper={"beta": (0.1, 0.7)}, leading=PAIRS, couples=True),
    "aot_unpaired": term(
        "aot_unpaired", ["action", "ref_log_prob"], hyper={"beta": (0.1, 0.7)}, leading=PAIRS, couples=True
    ),
    "reward_model_loss": term(
        "reward_model_loss", [], policy=False, critic=True, hyper={"centring_weight": (0.01, 0.3)}, leading=PAIRS
    ),
    "kto": term("kto", LABELLED, hyper=WEIGHED),
    "bco": term("bco", LABELLED, hyper={"beta": (0.1, 0.7)}),
    "unpaired_preference": term(
        "unpaired_preference", ["action", "label", "reference_point"], square_of_rows, hyper=WEIGHED
    ),
    "grpo": term("grpo", [*RATIO, "ref_log_prob"], hyper=SOFT),
    "dual_clip": term("dual_clip", RATIO, hyper=CLIP | {"cap": (1.5, 2.5)}),
    "dr_grpo": term("dr_grpo", RATIO, hyper=CLIP | {"length": (7.0, 3.0)}),
    "dapo": term("dapo", RATIO, hyper=CLIP),
    "gspo": term("gspo", RATIO, hyper=CLIP),
    "gspo_token": term("gspo_token", RATIO, hyper=CLIP, held=True),
    "luspo": term("luspo", RATIO, hyper=CLIP),
    "gmpo": term("gmpo", RATIO, hyper={"log_clip": (0.4, 0.2)}),
    "cispo": term("cispo", RATIO, hyper={"cap": (1.5, 2.5)}, held=True),
    "sapo": term("sapo", RATIO, hyper={"temperature_positive": (1.0, 2.0), "temperature_negative": (1.05, 0.5)}),
    "truncated_importance_sampling": term(
        "truncated_importance_sampling",
        [*RATIO, "sampler_log_prob"],
        corrected("truncated_importance_sampling"),
        hyper={"cap": (1.2, 2.0)},
        documented=False,
    ),
    "truncated_importance_sampling-rows": term(
        "truncated_importance_sampling",
        [*RATIO, "sampler_log_prob"],
        weighted_by_rows,
        hyper={"cap": (1.2, 2.0)},
        documented=False,
    ),
    "mask_off_policy": term(
        "mask_off_policy",
        RATIO,
        corrected("mask_off_policy"),
        hyper={"threshold": (0.1, 1.0)},
        optional=frozenset({"sampler_log_prob"}),
        documented=False,
    ),
    "mask_low_entropy": term(
        "mask_low_entropy",
        RATIO,
        corrected("mask_low_entropy"),
        hyper={"quantile": (0.5, 0.2)},
        couples=True,
        documented=False,
    ),
    "discovered_policy_optimization": term(
        "discovered_policy_optimization", RATIO, hyper={"alpha": (2.0, 0.5), "beta": (0.6, 0.3)}
    ),
    "simple_policy_optimization": term("simple_policy_optimization", RATIO, hyper=CLIP),
    "sampled_kl_to_reference": term("sampled_kl_to_reference", ["action", "ref_log_prob"]),
    "sampled_kl_to_reference-k3": term(
        "sampled_kl_to_reference",
        ["action", "ref_log_prob"],
        lambda: po.sampled_kl_to_reference(estimator=po.k3),
    ),
    "corrected_kl_to_reference": term("corrected_kl_to_reference", CORRECTED, **SAMPLER),
    "corrected_kl_to_reference-k2": term(
        "corrected_kl_to_reference",
        CORRECTED,
        lambda: po.corrected_kl_to_reference(estimator=po.weighted_k2),
        held=True,
        **SAMPLER,
    ),
    "awr": term("awr", ["action", "advantage"], hyper={"beta": (0.5, 1.0), "cap": (2.0, 3.0)}),
    "mpo": term("mpo", ["action", "advantage"], hyper=DUAL, couples=True, leading=(B, 6, T)),
    "v_mpo": term("v_mpo", ["action", "advantage"], hyper=DUAL | {"top": (0.5, 0.8)}, couples=True),
    "ratio_term": term("ratio_term", RATIO, capped, hyper={"cap": (1.2, 2.0)}),
    "ratio_term-sequence": term("ratio_term", RATIO, sequence_capped, hyper={"cap": (0.8, 0.9)}),
    "preference": pairs("preference", soft_hinge, reads=()),
    "kl_to_reference": term("kl_to_reference", ["obs"], lambda: po.kl_to_reference(reference)),
    "kl_to_reference-tanh": term(
        "kl_to_reference",
        ["obs"],
        lambda: po.kl_to_reference(gaussian_reference, divergence=po.action_kl),
        distribution="TanhGaussian",
    ),
    "weighted_sum": term(
        "weighted_sum",
        RATIO,
        ppo_and_entropy,
        hyper={"policy_weight": (1.0, 0.3), "entropy_weight": (0.01, 0.2)},
        documented=False,
    ),
    "standardize_advantage": term(
        "standardize_advantage",
        ["action", "advantage"],
        lambda eps: po.standardize_advantage(po.awr(beta=1.0), eps=eps),
        hyper={"eps": (1e-8, 0.1)},
        couples=True,
        documented=False,
    ),
    "lagrangian": term(
        "lagrangian",
        ["target"],
        lambda multiplier, bound: po.lagrangian(po.value_loss(), multiplier=multiplier, bound=bound),
        policy=False,
        critic=True,
        hyper={"multiplier": (0.5, 2.0), "bound": (0.1, 0.3)},
        held=True,
        documented=False,
    ),
    "action_kl": divergence("action_kl", lambda: po.action_kl),
    "action_kl-choices": divergence("action_kl", lambda: po.action_kl, distribution="MultiCategorical"),
    "action_kl-gaussian": divergence("action_kl", lambda: po.action_kl, distribution="DiagGaussian"),
    "trajectory_kl": divergence("trajectory_kl", lambda: po.trajectory_kl),
    "reverse": divergence("reverse", lambda: po.reverse(po.action_kl), documented=False),
    "weighted_divergence": divergence(
        "weighted_divergence",
        two_divergences,
        hyper={"trajectory_weight": (1.0, 0.2), "action_weight": (0.5, 3.0)},
        documented=False,
    ),
    **{name: of_laws(name) for name in ("outcome_kl", "outcome_tv", "outcome_js", "outcome_chi2")},
    "outcome_kl-gaussian": divergence(
        "outcome_kl", lambda: outcomes.outcome_kl(2, of=score_cell), distribution="DiagGaussian", **OUTCOMES
    ),
    "outcome_kl-prompts": divergence(
        "outcome_kl", lambda: outcomes.outcome_kl(2, of=score_cell), leading=(B, 6, T), **OUTCOMES
    ),
    "outcome_divergence": divergence(
        "outcome_divergence", lambda: outcomes.outcome_divergence(2, of=score_cell, between=hellinger), **OUTCOMES
    ),
    "conditional_outcome_kl": divergence(
        "conditional_outcome_kl",
        lambda: outcomes.conditional_outcome_kl(2, 2, of=score_cell, given=score_third),
        **OUTCOMES,
    ),
    "outcome_mmd": divergence(
        "outcome_mmd",
        lambda bandwidth: outcomes.outcome_mmd(lambda outcome: outcome["score"], bandwidth=bandwidth),
        hyper={"bandwidth": (1.0, 0.3)},
        **OUTCOMES,
    ),
    "outcome_penalty": term(
        "outcome_penalty",
        build=lambda rate: outcomes.outcome_penalty(jnp.stack([1 - rate, rate]), of=score_cell),
        hyper={"rate": (0.3, 0.1)},
        **OUTCOMES,
    ),
    "outcome_mean": term("outcome_mean", build=lambda: outcomes.outcome_mean(of=score_cell), **OUTCOMES),
    "token_mean": reduction("token_mean", lambda: po.token_mean),
    "sequence_mean": reduction("sequence_mean", lambda: po.sequence_mean),
    "sequence_sum": reduction("sequence_sum", lambda: po.sequence_sum),
    "constant_length": reduction("constant_length", po.constant_length, hyper={"length": (7.0, 3.0)}),
}

TERMS = [label for label, case in CASES.items() if case.inputs == ("outputs",)]
DIVERGENCES = [label for label, case in CASES.items() if case.inputs == ("old", "new")]


# --- functions of arrays ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ArrayCase:
    """One function of arrays: `call(hyper, **arrays) -> array, or a tree of them`."""

    name: str
    call: Callable[..., Any]
    make: Callable[[np.random.Generator], dict[str, np.ndarray]]
    """Valid arguments, float64 or integer or boolean."""
    hyper: dict[str, tuple[float, float]] = field(default_factory=dict)
    constant: bool = False
    """Its results are data: the gradient is exactly 0 with respect to everything."""
    held: bool = False
    """Whether a part of its value is held constant, so that its gradient is not the derivative of its value."""
    rows: int | None = 0
    """An axis of exchangeable rows of all arguments and results."""
    event: tuple[str, ...] = ()
    """Arguments `[..., A]` with an axis after the leading ones."""
    free: tuple[str, ...] = ()
    """Those whose last axis may have any size (the number of actions)."""
    alone: bool = False
    """Any shape is right: there is nothing that it has to fit."""
    random: bool = False
    """The result is a sample: its value differs between dtypes and transforms."""
    exact: bool = True
    """The result is float32 at least, whatever the dtype of the arguments (a container keeps its own)."""

    def defaults(self) -> dict[str, float]:
        return {name: values[0] for name, values in self.hyper.items()}

    def example(self, seed=0):
        return self.make(np.random.default_rng(seed))


def episode_arrays(*values):
    def make(rng):
        terminated = rng.random((T, B)) < 0.3
        floats = {name: rng.normal(size=(T, B)) for name in ("reward", *values)}
        return floats | {"terminated": terminated, "truncated": (rng.random((T, B)) < 0.3) & ~terminated}

    return make


def rows_of_log_probs(rng):
    """Of a policy that prefers these rows to the reference, so that the KL is not clamped at 0."""
    ref = rng.normal(size=LEADING)
    return {"log_prob": ref + 0.5 + rng.normal(size=LEADING), "ref_log_prob": ref, "mask": ragged_mask(LEADING, rng)}


def group_arrays(rng):
    return {"reward": rng.normal(size=(B, A))}


def batch_arrays(rng):
    return {"reward": rng.normal(size=(B, A))}


def greedy_arrays(rng):
    return {"reward": rng.normal(size=(B, A)), "greedy": rng.normal(size=B)}


def several_arrays(rng):
    return {"rewards": rng.normal(size=(B, 2, A))}


def decoupled(hyper, rewards):
    """Two rewards, of which the second has a weight of `weight`."""
    weight = jnp.stack([jnp.ones_like(hyper["weight"]), jnp.asarray(hyper["weight"])])
    return po.decoupled_relative(jnp.swapaxes(rewards, 0, 1), weight, eps=hyper["eps"])


def priced_rewards(rng):
    floats = {name: rng.normal(size=LEADING) for name in ("reward", "log_prob", "ref_log_prob")}
    return floats | {"mask": ragged_mask(LEADING, rng)}


def model_rewards(rng):
    """Every row has a real decision: without one there is no reward, but NaN (test_reward_model.py)."""
    mask = ragged_mask(LEADING, rng)
    return {"value": rng.normal(size=LEADING), "mask": mask | (np.arange(T) == 1) & ~mask.any(-1, keepdims=True)}


def modelled(hyper, value, mask):
    return po.modelled_reward(po.Outputs(policy=None, value=value), mask)


def masked_arrays(rng):
    return {"x": rng.normal(size=LEADING), "mask": ragged_mask(LEADING, rng)}


def weighed_arrays(rng):
    return {"advantage": rng.normal(size=LEADING), "mask": ragged_mask(LEADING, rng)}


def values_and_grid(rng):
    return {"target": rng.normal(size=LEADING)}


def grid_logits(rng):
    return {"logits": rng.normal(size=(*LEADING, K))}


GRID = np.array([-2.0, -1.0, -0.5, 0.0, 1.0, 3.0])


def log_ratios(rng):
    return {"log_ratio": rng.normal(size=LEADING)}


def plain(name, make, **rest):
    return ArrayCase(name, lambda hyper, **arrays: public(name)(**arrays, **hyper), make, **rest)


DISCOUNT = {"gamma": (0.99, 0.5)}

ARRAY_CASES: dict[str, ArrayCase] = {
    "gae": plain(
        "gae",
        episode_arrays("value", "next_value"),
        hyper=DISCOUNT | {"lambda_": (0.95, 0.3)},
        constant=True,
        rows=1,
    ),
    "discounted_returns": plain(
        "discounted_returns", episode_arrays("next_value"), hyper=DISCOUNT, constant=True, rows=1
    ),
    "lambda_returns": plain(
        "lambda_returns",
        episode_arrays("next_value"),
        hyper=DISCOUNT | {"lambda_": (0.95, 0.3)},
        constant=True,
        rows=1,
    ),
    "n_step_returns": plain(
        "n_step_returns", episode_arrays("next_value"), hyper=DISCOUNT | {"n": (3, 1)}, constant=True, rows=1
    ),
    "v_trace": plain(
        "v_trace",
        episode_arrays("value", "next_value", "log_prob", "new_log_prob"),
        hyper=DISCOUNT | {"lambda_": (1.0, 0.3), "rho_bar": (1.0, 0.5), "c_bar": (1.0, 0.5)},
        constant=True,
        rows=1,
    ),
    "reward_minus_kl": plain("reward_minus_kl", priced_rewards, hyper={"beta": (0.1, 0.7)}, constant=True),
    "modelled_reward": ArrayCase("modelled_reward", modelled, model_rewards, constant=True),
    "group_relative": plain("group_relative", group_arrays, hyper={"eps": (1e-6, 0.1)}, constant=True, alone=True),
    "group_centred": plain("group_centred", group_arrays, constant=True, alone=True),
    "leave_one_out": plain("leave_one_out", group_arrays, constant=True, alone=True),
    "kl_reference_point": plain("kl_reference_point", rows_of_log_probs, constant=True),
    "mean_reference_point": plain(
        "mean_reference_point",
        lambda rng: rows_of_log_probs(rng) | {"label": rng.random(B) < 0.6},
        constant=True,
    ),
    "batch_relative": plain("batch_relative", batch_arrays, hyper={"eps": (1e-6, 0.1)}, constant=True, alone=True),
    "greedy_centred": plain("greedy_centred", greedy_arrays, constant=True, event=("reward",), free=("reward",)),
    "decoupled_relative": ArrayCase(
        "decoupled_relative",
        decoupled,
        several_arrays,
        hyper={"eps": (1e-6, 0.1), "weight": (0.5, 2.0)},
        constant=True,
        alone=True,
    ),
    "improved_weights": plain(
        "improved_weights",
        weighed_arrays,
        hyper={"temperature": (0.5, 1.0)},
        constant=True,
        rows=0,
    ),
    "temperature_loss": ArrayCase(
        "temperature_loss",
        lambda hyper, advantage, mask: po.temperature_loss(advantage, mask, **hyper, axis=-1),
        weighed_arrays,
        hyper=DUAL,
        constant=True,
    ),
    "two_hot": ArrayCase(
        "two_hot",
        lambda hyper, target: po.two_hot(target, hyper["span"] * jnp.asarray(GRID)),
        values_and_grid,
        hyper={"span": (1.0, 2.0)},
        alone=True,
    ),
    "expected_value": ArrayCase(
        "expected_value",
        lambda hyper, logits: po.expected_value(logits, hyper["span"] * jnp.asarray(GRID)),
        grid_logits,
        hyper={"span": (1.0, 2.0)},
        alone=True,
    ),
    "standardize": plain("standardize", masked_arrays, hyper={"eps": (1e-8, 0.1)}),
    **{name: plain(name, log_ratios, alone=True) for name in ("k1", "k2", "k3")},
    "weighted_k2": plain("weighted_k2", weighted_log_ratios, alone=True, held=True),
    "weighted_k3": plain("weighted_k3", weighted_log_ratios, alone=True),
    **{
        name: plain(name, log_laws, event=("log_p", "log_q"))
        for name in ("kl", "total_variation", "jensen_shannon", "chi_square")
    },
}


def leaf_names(distribution):
    return ("logits",) if distribution in DISCRETE else ("mean", "log_std")


def method(distribution, label, call, extra=None, event=(), **rest):
    """A row for one method: `call(policy, **extra arrays)`; the leaves of the policy are arguments as well."""
    names = leaf_names(distribution)

    def make(rng):
        return policy_leaves(distribution, LEADING, rng) | (extra(rng) if extra else {})

    def run(hyper, **arrays):
        return call(DISTRIBUTIONS[distribution](**{name: arrays.pop(name) for name in names}), **arrays)

    free = () if label in ("kl_divergence", "only") else tuple(name for name in names if name == "logits")
    rest = {"alone": extra is None and len(names) == 1, "free": free} | rest
    ARRAY_CASES[f"{distribution}.{label}"] = ArrayCase(distribution, run, make, event=(*names, *event), **rest)


def methods(distribution):
    """The protocol of `types.Distribution`, one row per method."""
    cls, names = DISTRIBUTIONS[distribution], leaf_names(distribution)

    def action(rng):
        return {"action": example_action(distribution, LEADING, rng)}

    def mask(rng):
        return {"mask": ragged_mask(LEADING, rng)}

    def other(rng):
        return {f"other_{name}": x for name, x in policy_leaves(distribution, LEADING, rng).items()}

    def kl(policy, **other):
        return policy.kl_divergence(cls(**{name.removeprefix("other_"): x for name, x in other.items()}))

    acting = () if distribution == "Categorical" else ("action",)
    method(distribution, "log_prob", lambda policy, action: policy.log_prob(action), action, acting)
    method(distribution, "entropy", lambda policy: policy.entropy())
    method(distribution, "kl_divergence", kl, other, tuple(f"other_{name}" for name in names))
    method(distribution, "sample", lambda policy: policy.sample(seed=jax.random.key(0)), random=True)
    method(distribution, "mode", lambda policy: policy.mode())
    method(
        distribution, "squash", lambda policy, action: policy.squash(action), action, acting, exact=False, alone=True
    )
    method(distribution, "where", lambda policy, mask: policy.where(mask), mask, exact=False)


for _distribution in DISTRIBUTIONS:
    methods(_distribution)

method(
    "Categorical",
    "only",
    lambda policy, legal: policy.only(legal),
    lambda rng: {"legal": np.arange(A) != rng.integers(0, A, (*LEADING, 1))},
    ("legal",),
    exact=False,
)


def registered() -> set[str]:
    """Public names that have a row."""
    return {case.name for case in [*CASES.values(), *ARRAY_CASES.values()]}
