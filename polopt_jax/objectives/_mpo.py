"""MPO and V-MPO: improve without the network first, with weights, and then imitate the weighted actions."""

from __future__ import annotations

from polopt_jax.combinators import couples_rows
from polopt_jax.masking import masked_mean, masked_sum
from polopt_jax.ranges import Positive, Unit, check_range
from polopt_jax.reading import read, read_log_prob
from polopt_jax.surrogates import improved_weights, temperature_loss, top_entries, weight_kl
from polopt_jax.types import Array, Batch, Metrics, Outputs, Term


def mpo(*, temperature: Positive, epsilon: Positive) -> Term:
    """Maximum a posteriori policy optimization: several actions per state, weighed by what each is worth.

        L(θ, η) = -E_s[ Σ_g w_g log π_θ(a_g|s) ] + E_s[ η ε + η log 1/G Σ_g exp(Q(s, a_g)/η) ],   w ∝ exp(Q/η), constant

    The first part fits the policy to weighted actions of the old one, the second finds the temperature at which the
    weights' KL is ε on average. The M-step has a bound of its own, which `lagrangian` states:

        def loss(params, batch):                     # the duals are parameters, beside those of the model
            eta, alpha = jnp.exp(params["log_temperature"]), jnp.exp(params["log_alpha"])
            kl = po.kl_to_reference(model, old_params, divergence=po.action_kl)
            term = po.weighted_sum(
                policy=(1.0, po.mpo(temperature=eta, epsilon=0.1)),
                kl=(1.0, po.lagrangian(kl, multiplier=alpha, bound=0.01)),
            )
            return po.objective(model, term)(params["model"], batch)

    Args:
      temperature: η, a positive function of a parameter: it is differentiated, and its gradient is that of the second
        part alone. May be traced.
      epsilon: ε, bound on the KL of the weights from uniform, in nats. May be traced.

    Returns:
      A term over group batches `[..., N, G, T]`: G actions, sampled from the old policy at the same state, and with it
      the observation G times. Couples rows. Reads `action, advantage, mask`; `advantage` is Q(s, a). Metrics:
      `policy_loss`, `temperature_loss`, `weight_kl` (mean over states, to be compared with ε), `num_valid`.

    Raises: ValueError if temperature or epsilon is not above 0 (where it is concrete), and at trace time if the mask
    has no group axis, or a field is missing or has another shape; on shares of a batch, by name.

    Differs from the paper: one KL bound for the M-step, not one for the mean and one for the covariance; two
    `lagrangian` parts with divergences of one's own are that.

    Source: Abdolmaleki et al. 2018, "Maximum a posteriori policy optimisation", section 4.

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros((1, 2, 1)), action=jnp.array([[[0], [1]]]), mask=jnp.ones((1, 2, 1), bool),
    ...                  advantage=jnp.log(jnp.array([[[1.0], [3.0]]])))
    >>> outputs = po.Outputs(policy=po.Categorical(logits=jnp.log(jnp.array([[[[0.25, 0.75]]] * 2]))))
    >>> loss, metrics = mpo(temperature=1.0, epsilon=0.1)(outputs, batch)
    >>> round(float(metrics["policy_loss"]), 4), round(float(metrics["temperature_loss"]), 4)
    (0.5623, 0.7931)
    """
    check_range("mpo", Positive, temperature=temperature, epsilon=epsilon)

    def mpo(outputs: Outputs, batch: Batch) -> tuple[Array, Metrics]:
        log_prob = read_log_prob("mpo", outputs, batch)
        if batch.mask.ndim < 3:
            shape = batch.mask.shape
            raise ValueError(f"mpo needs groups of actions, a mask [..., N, G, T]; it has {shape} (v_mpo needs none)")
        value, mask = read("mpo", batch, "advantage"), batch.mask
        weight = improved_weights(value, mask, temperature=temperature, axis=-2)
        dual = temperature_loss(value, mask, temperature=temperature, epsilon=epsilon, axis=-2)
        states = mask.any(-2)
        policy = masked_mean(-masked_sum(weight * log_prob, mask, axis=-2), states)
        temperatures = masked_mean(dual, states)
        return policy + temperatures, {
            "policy_loss": policy,
            "temperature_loss": temperatures,
            "weight_kl": masked_mean(weight_kl(weight, mask, axis=-2), states),
            "num_valid": mask.sum().astype(log_prob.dtype),
        }

    return couples_rows(mpo)


def v_mpo(*, temperature: Positive, epsilon: Positive, top: Unit = 0.5) -> Term:
    """V-MPO: MPO on-policy, with one action per state; the better half of the batch is imitated, the best most.

        L(θ, η) = -Σ_{i in top} w_i log π_θ(a_i|s_i) + η ε + η log mean_{top} exp(A_i/η),    w ∝ exp(A/η) over the top

    The duals are parameters, and the M-step's bound is a `lagrangian` beside it, as `mpo` shows; the critic learns by a
    `value_loss`.

    Args:
      temperature: η, a positive function of a parameter: it is differentiated, and its gradient is that of the last two
        parts alone. May be traced.
      epsilon: ε, bound on the KL of the weights from uniform over the top, in nats. May be traced.
      top: the share of the decisions that is used, those with the largest advantages; ties are. May be traced.

    Returns:
      A term, which couples rows: weights and top are the batch's. Reads `action, advantage, mask`, each of leading
      shape [...]. Metrics: `policy_loss`, `temperature_loss`, `weight_kl` (to be compared with ε), `top_fraction`,
      `num_valid`.

    Raises: ValueError if temperature or epsilon is not above 0, or top outside [0, 1] (where they are concrete), and at
    trace time if a field is missing or has another shape; on shares of a batch, by name.

    Differs from the paper: one KL bound for the M-step, as `mpo`.

    Source: Song et al. 2020, "V-MPO", section 4.1.

    >>> import jax.numpy as jnp, polopt_jax as po
    >>> batch = po.Batch(obs=jnp.zeros(4), action=jnp.array([0, 1, 0, 1]), mask=jnp.ones(4, bool),
    ...                  advantage=jnp.log(jnp.array([1.0, 3.0, 0.5, 0.5])))
    >>> outputs = po.Outputs(policy=po.Categorical(logits=jnp.log(jnp.array([[0.25, 0.75]] * 4))))
    >>> loss, metrics = v_mpo(temperature=1.0, epsilon=0.1)(outputs, batch)
    >>> round(float(metrics["policy_loss"]), 4), round(float(metrics["temperature_loss"]), 4)
    (0.5623, 0.7931)
    """
    check_range("v_mpo", Positive, temperature=temperature, epsilon=epsilon)
    check_range("v_mpo", Unit, top=top)

    def v_mpo(outputs: Outputs, batch: Batch) -> tuple[Array, Metrics]:
        log_prob = read_log_prob("v_mpo", outputs, batch)
        advantage = read("v_mpo", batch, "advantage")
        used = top_entries(advantage, batch.mask, top)
        weight = improved_weights(advantage, used, temperature=temperature)
        policy = -masked_sum(weight * log_prob, used)
        dual = temperature_loss(advantage, used, temperature=temperature, epsilon=epsilon)
        return policy + dual, {
            "policy_loss": policy,
            "temperature_loss": dual,
            "weight_kl": weight_kl(weight, used),
            "top_fraction": masked_mean(used, batch.mask),
            "num_valid": batch.mask.sum().astype(log_prob.dtype),
        }

    return couples_rows(v_mpo)
