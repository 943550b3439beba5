"""Figures of a study that was never run: side effects as told, for what reads them."""

import numpy as np

from polopt_jax import study

STARTS = ("random", "competent", "careful")
SETTINGS = (0.001, 0.003, 0.01)


def law(success, side_effect, size=2):
    """P(s, z) `[..., 2, Z]` of independent success and side effect, all of the latter in the last cell."""
    z = np.zeros((*np.shape(side_effect), size))
    z[..., 0], z[..., -1] = 1 - np.asarray(side_effect), side_effect
    s = np.stack([1 - np.asarray(success), np.asarray(success)], -1)
    return s[..., :, None] * z[..., None, :]


def figures(rate, *, size=2, held_out=None, forecast=None, setting=2):
    """What `measure` returns, where P(z) at every success is `rate` `[I, R]` at the setting that the rule chooses, 0.77
    at the others; NaN in `rate` is a run that never got there, at any."""
    rate = np.asarray(rate, float)
    starts, seeds = rate.shape
    shape = (starts, len(SETTINGS), seeds, len(study.LEVELS))
    rates = np.broadcast_to(np.where(np.isfinite(rate), 0.77, np.nan)[:, None, :, None], shape).copy()
    rates[:, setting] = rate[..., None]
    held = rates if held_out is None else np.broadcast_to(np.asarray(held_out, float)[:, None, :, None], shape)
    # what is above the chosen setting is coarse, what is below it is fine but small
    jump = np.broadcast_to(np.where(np.arange(3) > setting, 0.4, 0.05)[None, :, None, None], shape)
    nan = np.where(np.isfinite(rates), 1.0, np.nan)
    success = np.broadcast_to(np.asarray(study.LEVELS), shape)
    field = {name: nan * (i + 1.0) for i, name in enumerate(KL)}
    final = {f"final_{name}": value[..., -1] for name, value in field.items()}
    return {
        "setting": "learning rate",
        "settings": list(SETTINGS),
        "starts": list(STARTS[:starts]),
        "reached": np.isfinite(rates),
        "updates": nan * 12.0 * np.arange(1, 4),
        "jump": jump,
        "success": nan * success,
        "law": law(success, rates, size) * nan[..., None, None],
        "held_out": law(success, held, size) * nan[..., None, None],
        **field,
        **final,
        "final_success": np.ones(shape[:-1]),
        "final_law": law(np.ones(shape[:-1]), rates[..., -1], size),
        "final_held_out": law(np.ones(shape[:-1]), held[..., -1], size),
        "begin_kl": np.zeros((starts, seeds)),
        "begin_law": law(np.full((starts, seeds), 0.5), np.full((starts, seeds), 0.25), size),
        "forecast": np.zeros((starts, seeds)) if forecast is None else np.asarray(forecast, float),
        "seconds": 1.0,
    }


KL = ("side_effect_kl", "trajectory_kl", "trajectory_kl_start_new")


def world(rate, *, scales=("8", "table"), objectives=study.OBJECTIVES, seeds=4, side_effects=("skip",), **options):
    """A world of a result file; `rate(scale, objective, start, seed)` is P(z) of a run."""

    def table(function, scale, objective):
        starts = [[function(scale, objective, start, seed) for seed in range(seeds)] for start in STARTS]
        return np.array(starts, float)

    return {
        "about": "it is done; it is skipped",
        "side_effects": list(side_effects),
        "starts": list(STARTS),
        "seeds": seeds,
        "scales": {
            scale: {
                objective: figures(
                    table(rate, scale, objective),
                    size=2 ** len(side_effects),
                    **{name: table(function, scale, objective) for name, function in options.items()},
                )
                for objective in objectives
            }
            for scale in scales
        },
    }
