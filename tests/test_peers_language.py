"""What the papers' names mean here is what they mean in TRL: value and gradient, row by row of docs/peers.md.

Theirs is run as it is installed; where it is not, the comparisons are skipped, and the page is still held to the rows.
"""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import polopt_jax as po
from benchmarks.peers_language import __main__ as page
from benchmarks.peers_language import examples, rows
from benchmarks.peers_language.agreement import SEEDS, Advantage, Loss, distance, lazily

# Everything is in float64, whose unit of rounding is 1e-16; sums have at most some hundred terms. Two rows are in
# float32, which is 1e-7.
TOLERANCE = {np.float64: 1e-12, np.float32: 1e-5}
NAMES = [f"{row.called} == {row.peer}".replace("`", "") for row in rows.ALL]


@pytest.fixture
def trl():
    """The module that speaks with TRL; whoever asks for it is skipped where there is none."""
    pytest.importorskip("trl")
    from benchmarks.peers_language import trl_trainers

    return trl_trainers


@pytest.mark.peers
@pytest.mark.parametrize("row", rows.ALL, ids=NAMES)
@pytest.mark.usefixtures("x64")
def test_ours_is_theirs(row, trl):
    for seed in SEEDS:
        found, bound = distance(row, seed), TOLERANCE[row.dtype]
        assert found.value < bound
        assert found.gradient is None or found.gradient < bound
        assert found.size > 1e-3, "there is something to be compared"


@pytest.mark.peers
@pytest.mark.usefixtures("x64")
def test_a_row_that_is_wrong_by_a_thousandth_is_told(trl):
    loss, advantage = rows.ALL[0], next(row for row in rows.ALL if isinstance(row, Advantage))
    for row in (loss, advantage):
        wrong = replace(row, ours=lambda *args, row=row: 1.001 * row.ours(*args))
        found = distance(wrong, 0)
        np.testing.assert_allclose(found.value, 1e-3, rtol=2e-3)
        if row is loss:
            np.testing.assert_allclose(found.gradient, 1e-3, rtol=2e-3)


# Rows whose example cannot tell theirs apart, and need not: the same loss is there under several options.
ALIKE = [
    {"loss_type='grpo', importance_sampling_level='sequence'"},
    {"loss_type='dapo'", "loss_type='bnpo'"},
]


@pytest.mark.peers
@pytest.mark.usefixtures("x64")
def test_every_option_of_a_row_makes_a_difference_in_its_example(trl):
    """A clip that clips nothing, or a mask that masks nothing, would agree with everything."""
    seen = {}
    for row in rows.ALL:
        if not isinstance(row, Loss) or row.dtype is not np.float64:
            continue
        example = row.example(0)
        _, gradient = trl.value_and_gradient(row.theirs, example, example.at)
        for other, (theirs, their_row) in seen.items():
            same = theirs.shape == gradient.shape and np.abs(theirs - gradient).max() < 1e-9 * np.abs(theirs).max()
            assert not same or _alike(row, their_row), f"{row.called} {row.peer} and {other}"
        seen[f"{row.called} {row.peer}"] = gradient, row


def _alike(row, other):
    options = {row.peer.partition(" ")[2], other.peer.partition(" ")[2]}
    return any(options <= group for group in ALIKE) or {row.called, other.called} & {"simpo(gamma=0.4)"}


@pytest.mark.peers
def test_every_loss_type_of_theirs_over_pairs_has_a_row(trl):
    """Their error message lists them; a new one is told by this test."""
    for call, kind in ((trl.dpo, "DPOTrainer"), (trl.cpo, "CPOTrainer"), (trl.tpo, "TPOTrainer")):
        example = examples.pairs(0)
        with pytest.raises(ValueError, match="Unknown loss type") as raised, trl.float64():
            call(example, trl.floats(example.at), loss_type="none of them")
        theirs = set(str(raised.value).partition("one of")[2].replace("'", '"').split('"')[1::2])
        covered = {name for name in theirs for row in rows.ALL if kind in row.peer and f"'{name}'" in row.peer}
        left = {"TPOTrainer": {"hinge", "ipo"}}.get(kind, set())  # of scores that CPOTrainer's rows have
        assert len(theirs) > 3
        assert theirs == covered | left


def test_the_page_has_every_row_as_it_is_compared():
    text = page.PAGE.read_text()
    table = [line for line in text.splitlines() if line.startswith("| `")]
    assert len(table) == len(rows.ALL)
    for line, row in zip(table, rows.ALL, strict=True):
        cells = line.split(" | ")
        assert line.startswith(page.told(row))
        figures = [float(cell.strip(" |")) for cell in cells[-2:] if cell.strip(" |")]
        assert max(figures) < TOLERANCE[row.dtype]


# --- where ours is bounded and theirs is not --------------------------------------------------------------------------


def far_from(log_ratio, advantage):
    """A batch whose first token of the first row has the given log-ratio to the old policy."""
    found = examples.groups_without_tools(0)
    batch = found.batch
    log_prob = found.outputs(found.at).policy.log_prob(batch.action)
    old = jnp.where(jnp.arange(log_prob.size).reshape(log_prob.shape) == 0, log_prob - log_ratio, log_prob)
    return found, replace(batch, log_prob=old, advantage=jnp.full(log_prob.shape, advantage))


@pytest.mark.peers
@pytest.mark.usefixtures("x64")
def test_a_ratio_of_e25_is_theirs_and_e20_without_a_gradient_is_ours(trl):
    """A < 0, where no clip bounds the loss: the first token's part of it is ρ|A| over the number of tokens."""
    from benchmarks.peers_language import trl_groups

    found, batch = far_from(25.0, -1.0)

    def loss(x):
        return po.ppo(reduce=po.token_mean)(found.outputs(x), batch)[0]

    def theirs(example, logits):
        trainer = trl_groups.over_groups(trl_groups.GRPOTrainer, example, logits, loss_type="bnpo")
        inputs = trl_groups.inputs_of(example, trainer)
        old = trl.floats(np.asarray(batch.log_prob).reshape(examples.ROWS, -1))
        advantages = trl.floats(-np.ones(examples.ROWS))
        return trainer._compute_loss(trainer.model, inputs | {"old_per_token_logps": old, "advantages": advantages})

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(found.at))
    their_value, their_gradient = trl.value_and_gradient(theirs, found, found.at)
    number = int(batch.mask.sum())
    np.testing.assert_allclose(their_value - value, (np.exp(25.0) - np.exp(20.0)) / number, rtol=1e-12)
    first, rest = np.s_[0, examples.PROMPT - 1], np.s_[1:]
    assert not np.any(gradient[first])
    score = jax.grad(lambda x: found.outputs(x).policy.log_prob(batch.action)[0, 0, 0])(jnp.asarray(found.at))
    np.testing.assert_allclose(their_gradient[first], np.exp(25.0) / number * score[first], rtol=1e-12)
    np.testing.assert_allclose(gradient[rest], their_gradient[rest], atol=1e-15)


@pytest.mark.peers
@pytest.mark.usefixtures("x64")
def test_a_penalty_beyond_20_nats_goes_on_along_its_tangent_here_and_not_there(trl):
    """A token 25 nats below the reference: k3 is e^25 - 26 there, and e^20 (1 + 5) - 26 here, of slope -e^20 + 1."""
    from benchmarks.peers_language import trl_groups

    found = examples.groups_without_tools(1)
    log_prob = found.outputs(found.at).policy.log_prob(found.batch.action)
    ref = jnp.where(jnp.arange(log_prob.size).reshape(log_prob.shape) == 0, log_prob + 25.0, log_prob)
    batch = replace(found.batch, ref_log_prob=ref, advantage=jnp.zeros(log_prob.shape))

    def theirs(example, logits):
        options = dict(loss_type="bnpo", beta=1.0, use_bias_correction_kl=False)
        trainer = trl_groups.over_groups(trl_groups.GRPOTrainer, example, logits, **options)
        inputs = trl_groups.inputs_of(example, trainer)
        said = trl.floats(np.asarray(ref).reshape(examples.ROWS, -1))
        nothing = trl.floats(np.zeros(examples.ROWS))
        return trainer._compute_loss(trainer.model, inputs | {"ref_per_token_logps": said, "advantages": nothing})

    ours = jax.value_and_grad(lambda x: po.grpo(beta=1.0, reduce=po.token_mean)(found.outputs(x), batch)[0])
    value, gradient = ours(jnp.asarray(found.at))
    their_value, their_gradient = trl.value_and_gradient(theirs, found, found.at)
    number = int(batch.mask.sum())
    np.testing.assert_allclose(value * number, 6 * np.exp(20.0) - 26, rtol=1e-12)
    np.testing.assert_allclose(their_value * number, np.exp(25.0) - 26, rtol=1e-12)
    first = np.s_[0, examples.PROMPT - 1]
    slope = (1 - np.exp(20.0)) / (1 - np.exp(25.0))
    np.testing.assert_allclose(gradient[first], slope * their_gradient[first], rtol=1e-10)


# --- two decisions that TRL made otherwise, and what a user of both has to know ---------------------------------------


@pytest.mark.peers
@pytest.mark.usefixtures("x64")
def test_the_penalty_that_trl_has_by_default_is_the_corrected_one(trl):
    """`GRPOTrainer(beta=)` alone is not `po.grpo(beta=)` any more."""
    example = examples.groups(0)
    options = dict(epsilon=0.2, epsilon_high=0.2, loss_type="grpo", beta=0.1)
    theirs = lazily("trl_groups", "grpo", **options)
    _, gradient = trl.value_and_gradient(theirs, example, example.at)
    corrected = po.weighted_sum(
        policy=(1.0, po.ppo(reduce=po.sequence_mean)),
        kl=(0.1, po.corrected_kl_to_reference(reduce=po.sequence_mean)),
    )

    def ours(term, x):
        return term(example.outputs(x), example.batch)[0]

    same, other = (jax.grad(partial(ours, term))(jnp.asarray(example.at)) for term in (corrected, po.grpo(beta=0.1)))
    np.testing.assert_allclose(same, gradient, atol=1e-14)
    assert np.abs(other - gradient).max() > 0.1 * np.abs(gradient).max()


@pytest.mark.peers
def test_trl_refuses_an_alpha_divergence_in_float64(trl):
    """Why one row is in float32. When this fails, that row can be in float64."""
    example = examples.pairs(0)
    with pytest.raises(KeyError), trl.float64():
        trl.dpo(example, trl.floats(example.at), f_divergence_type="alpha_divergence", f_alpha_divergence_coef=0.6)
