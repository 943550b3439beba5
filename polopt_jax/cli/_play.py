"""`polopt play`: what a run has learnt, to be watched."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from polopt_jax import checkpoint, report, runs
from polopt_jax.cli._filming import Film
from polopt_jax.cli._options import Play
from polopt_jax.cli._play_answers import answers_page
from polopt_jax.cli._progress import say
from polopt_jax.cli._text_acting import page_of_texts
from polopt_jax.cli._text_plan import is_of_texts
from polopt_jax.cli._words import CommandError, UsageError, check_new, flag, one_line
from polopt_jax.envs import Bodies, MemoryEnv, Remembered, place_bodies
from polopt_jax.evaluation import Episode, play_episode
from polopt_jax.loading import load
from polopt_jax.policies import Policy, greedy
from polopt_jax.report import Recording, Stage, Track
from polopt_jax.simulators import Simulator, simulate_episode

PAGE = "play.html"
"""The page, in the directory of the run."""
MAX_STEPS = 1000
FRAMES_PER_SECOND = 50
"""At most; an environment of finer steps shows every second or third."""
SLOW = 0.1
"""Seconds for which a step is shown of an environment that has no clock."""
GIF_SECONDS, GIF_FRAMES_PER_SECOND = 12.0, 25
"""Of a GIF, at most: some 300 frames, two or three megabytes."""
WIDEST = 64
"""Observations of which curves are drawn, at most."""


def play(options: Play) -> int:
    """Shows one episode of a run's policy, or answers, on a page, and as a GIF if asked for one; says where it is."""
    _check(options)
    policy = load(options.run, seed=options.seed)
    if is_of_texts(policy.config):
        return _play_texts(options, policy.config)
    _check_suits(options, policy)
    title, learnt = _learnt(options, policy)
    say(f"{title}: {learnt[0].lower()}{learnt[1:]}")
    shown = drawn(options, policy)
    if options.gif is not None and shown.gif is not None:
        _write("--gif", options.gif, options.gif, shown.gif())
    print(shown.said)
    if options.gif is not None:
        print(f"GIF: {options.gif}")
    print(f"Page: {_write('--html', options.html, options.run / PAGE, shown.page)}")
    return 0


def _play_texts(options: Play, config: Mapping[str, Any]) -> int:
    """Completions before and after training."""
    given = {
        "--gif": options.gif is not None,
        "--sampled": options.sampled,
        "--max-steps": options.max_steps is not None,
        "--seed": options.seed is not None,
    }
    if any(given.values()):
        asked = " and ".join(name for name, is_given in given.items() if is_given)
        raise UsageError(f"{asked}: of a run on texts completions are shown; polopt sample has more of them")
    page, said = page_of_texts(options.run, config)
    print(said)
    print(f"Page: {_write('--html', options.html, options.run / PAGE, page)}")
    return 0


def leave_page(directory: Path) -> None:
    """Writes the page of a run that is over into its directory. Where that fails it says why, and all goes on."""
    try:
        options = Play(run=directory)
        runs.write(directory / PAGE, drawn(options, load(directory)).page)
    except (CommandError, checkpoint.CheckpointError, OSError, TypeError, ValueError) as error:
        say(f"no episode is drawn: {one_line(str(error))}")


class Drawn(NamedTuple):
    """A page, and what there is to say of it."""

    said: str
    page: str
    gif: Callable[[], bytes] | None
    """None of what is not drawn."""


def drawn(options: Play, policy: Policy) -> Drawn:
    """The episode, or the answers, of a policy that a run has learnt."""
    title, learnt = _learnt(options, policy)
    if policy.normalizer is None:
        page, said = answers_page(policy, title, learnt, jax.random.key(options.key))
        return Drawn(said, page, None)
    film = None
    if options.gif is not None and isinstance(policy.env, Simulator):
        film = Film(policy.env, seconds=GIF_SECONDS, frames_per_second=GIF_FRAMES_PER_SECOND)
    episode, bodies = record(policy, options, film)
    recording, said = recording_of(episode, bodies), described(episode)
    how = "actions sampled" if options.sampled else "the most probable actions"
    gif = film.gif if film else (lambda: report.player_gif(*beginning(recording))) if bodies else None
    return Drawn(said, report.player_html(title, f"{learnt}, {how}. {said}", recording), gif)


def _learnt(options: Play, policy: Policy) -> tuple[str, str]:
    """What was learnt, and by whom so far."""
    update = checkpoint.latest_step(options.run / runs.CHECKPOINTS)
    seed = policy.config["seed"] if options.seed is None else options.seed
    return f"{policy.config['algorithm']} on {policy.config['env']}", f"Seed {seed} after {update} updates"


def _check_suits(options: Play, policy: Policy) -> None:
    """Raises UsageError for what the environment of a run is not there for."""
    env = policy.config["env"]
    if options.gif is not None and isinstance(policy.env, Simulator):
        try:
            policy.env.filmed()
        except ValueError as error:
            raise UsageError(f"--gif: {error}") from error
    elif options.gif is not None and not has_bodies(within(policy.env)):
        raise UsageError(f"--gif draws bodies, and {env} has none")
    given = {"--sampled": options.sampled, "--max-steps": options.max_steps is not None}
    if policy.normalizer is None and any(given.values()):
        asked = " and ".join(name for name, is_given in given.items() if is_given)
        raise UsageError(f"{asked}: of {env} whole answers are shown, greedy and sampled")


def _check(options: Play) -> None:
    """Raises UsageError for what cannot be, before anything is read."""
    for name, value, least, most in (
        ("key", options.key, 0, 10**9),
        ("max_steps", MAX_STEPS if options.max_steps is None else options.max_steps, 1, 10_000),
    ):
        if not least <= value <= most:
            raise UsageError(f"{flag(name)} must be from {least} to {most:,}; it is {value}")
    for option, path in (("--html", options.html), ("--gif", options.gif)):
        if path is not None:
            check_new(option, path)
    if options.html is not None and options.html == options.gif:
        raise UsageError(f"--html and --gif both name {options.html}")


def _write(option: str, named: Path | None, path: Path, content: str | bytes) -> Path:
    """Writes a file where the user named one, if that is still new, or else to `path`."""
    if named is not None:
        check_new(option, named)
    runs.write(named or path, content)
    return named or path


# The episode


def has_bodies(env: Any) -> bool:
    """Whether an environment says what its bodies look like and where they are, as Brax's do."""
    return all(hasattr(env, name) for name in ("bodies", "posed", "poses"))


def record(policy: Policy, options: Play, film: Film | None = None) -> tuple[Episode, Bodies | None]:
    """One episode, and the bodies of the environment if it has any; then what is shown of a state is their poses.

    Of a simulator there are none, and `film`, if there is one, looks at it.
    """
    max_steps = MAX_STEPS if options.max_steps is None else options.max_steps
    act, key = policy if options.sampled else greedy(policy), jax.random.key(options.key)
    if isinstance(policy.env, Simulator):
        if film is None:
            return simulate_episode(policy.env, act, key, max_steps=max_steps), None
        return simulate_episode(policy.env.filmed(), act, key, max_steps=max_steps, show=film.look), None
    shown = within(policy.env)
    if not has_bodies(shown):
        run = jax.jit(lambda key: play_episode(policy.env, act, key, max_steps=max_steps))
        return jax.device_get(run(key)), None
    posed = shown.posed()
    env = replace(policy.env, env=posed) if isinstance(policy.env, MemoryEnv) else posed
    run = jax.jit(lambda key: play_episode(env, act, key, max_steps=max_steps, show=posed.poses))
    return jax.device_get(run(key)), posed.bodies()


def within(env: Any) -> Any:
    """The environment itself, where it is one that keeps a memory."""
    return env.env if isinstance(env, MemoryEnv) else env


def described(episode: Episode) -> str:
    """How the episode went, in a sentence."""
    length, total = int(episode.length), float(episode.reward.sum(dtype=np.float64))
    end = "went on beyond what is shown"
    if episode.broken:
        end = "broke: what came next was not finite"
    elif episode.terminated.any():
        end = "was terminated"
    elif episode.truncated.any():
        end = "reached its time limit"
    return f"Return {report.short(total)} in {length:,} step{'s' * (length != 1)}; the episode {end}."


# What is shown of it


def recording_of(episode: Episode, bodies: Bodies | None) -> Recording:
    """An episode as frames: every step, or fewer where there are more than can be seen; the last one always."""
    seconds = SLOW if bodies is None else bodies.seconds_per_step
    length = int(episode.length)
    every = max(1, math.ceil(1 / (FRAMES_PER_SECOND * seconds) - 1e-6))
    steps = np.unique(np.append(np.arange(0, length, every), length))
    seen, memory = (episode.obs.seen, episode.obs.memory) if isinstance(episode.obs, Remembered) else (episode.obs, ())
    action, obs = (np.asarray(_flat(x), np.float64) for x in (episode.action[:length], seen))
    curves = {
        "reward": _from_step_one(episode.reward[:length], np.nan),
        "return": _from_step_one(episode.reward[:length].cumsum(dtype=np.float64), 0.0),
        **{name: _from_step_one(x[:length], np.nan) for name, x in episode.outcome.items()},
        _counted(action, "action"): np.concatenate([action, np.full((1, action.shape[1]), np.nan)]),
        _counted(obs, "observation"): obs,
    }
    if jax.tree.leaves(memory):
        remembered = np.asarray(_flat(memory), np.float64)
        curves[_counted(remembered, "remembered number")] = remembered
    tracks = [Track(name, curve[steps, :WIDEST]) for name, curve in curves.items()]
    stage = None
    if bodies is not None:
        position, rotation = (np.asarray(x, np.float64)[steps] for x in episode.shown)
        stage = Stage(place_bodies(bodies, position, rotation), bodies.radius, bodies.limb, bodies.ground)
    return Recording(steps, seconds, bodies is not None, tracks, stage)


def _from_step_one(x: Any, before: float) -> np.ndarray:
    """What steps brought about `[T]`, as a curve `[T+1, 1]` over the states that they led to."""
    return np.concatenate([[before], np.asarray(x, np.float64)])[:, None]


def _flat(x: Any) -> np.ndarray:
    """The numbers of each step, `[T, K]`, of a tree of arrays `[T, ...]`."""
    return np.concatenate([np.reshape(leaf, (len(leaf), -1)) for leaf in jax.tree.leaves(x)], axis=1)


def _counted(curve: np.ndarray, name: str) -> str:
    """The title of so many curves.

    >>> _counted(np.zeros((3, 2)), "action"), _counted(np.zeros((3, 99)), "observation")
    ('2 actions', 'the first 64 of 99 observations')
    """
    number = curve.shape[1]
    shown = f"{number}" if number <= WIDEST else f"the first {WIDEST} of {number}"
    return f"{shown} {name}s" if number > 1 else name


def beginning(recording: Recording) -> tuple[Recording, list[str]]:
    """What a GIF has room for, with a line of words for each frame."""
    seconds, steps = recording.seconds_per_step, np.asarray(recording.steps)
    fit = steps[steps * seconds <= GIF_SECONDS + 1e-9]
    gap = 1 / GIF_FRAMES_PER_SECOND - 1e-9
    kept: list[int] = []
    shown = -math.inf
    for frame, step in enumerate(fit):
        if step * seconds - shown >= gap:
            kept.append(frame)
            shown = step * seconds
    tracks = [track._replace(values=track.values[kept]) for track in recording.tracks]
    stage = recording.stage and recording.stage._replace(ends=recording.stage.ends[kept])
    earned = tracks[1].values[:, 0]
    captions = [
        f"{step * seconds:.2f} s    return {report.short(float(so_far))}"
        for step, so_far in zip(steps[kept], earned, strict=True)
    ]
    return recording._replace(steps=steps[kept], tracks=tracks, stage=stage), captions
