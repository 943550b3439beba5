"""From a run to what acts: policies out of checkpoints, greedy ones, and what they are worth."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_run import hashes, run_small

import polopt_jax as po
from polopt_jax import checkpoint, language, loading, runs, settings
from polopt_jax.cli import main
from polopt_jax.cli._evaluate import _both, columns_of, over_seeds, row_of
from polopt_jax.envs import Box, Discrete, EnvStep, TimeLimit, chain, expected_return
from polopt_jax.networks import mlp_actor_critic
from polopt_jax.settings import Control


def small_setting(env, **sizes):
    """That of `small_run`, whatever the config says."""
    assert set(sizes) == {"backend", "episode_length", "hidden", "activation", "memory"}
    made = chain(num_states=4, horizon=6)
    return Control(made, mlp_actor_critic(made.obs_shape, made.action_space, hidden=(8,)))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Three seeds, from 3 on, after twelve updates."""
    directory = tmp_path_factory.mktemp("run") / "three"
    assert run_small("--num-seeds", "3", "--out", str(directory)) == 0
    return directory


@pytest.fixture
def run(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "control", small_setting)
    shutil.copytree(finished, tmp_path / "three")
    return tmp_path / "three"


def leaf(run, name):
    """A leaf of the newest checkpoint, as it was saved."""
    store = run / "checkpoints"
    step = checkpoint.latest_step(store)
    return checkpoint._read_leaves(store, step, checkpoint._read_manifest(store, step))[name]


# Loading


@pytest.mark.parametrize(("seed", "place"), [(None, 0), (3, 0), (5, 2)])
def test_a_policy_has_the_parameters_and_statistics_of_its_seed(run, seed, place):
    policy = po.load(run, seed=seed)
    kernel, mean = leaf(run, ".params['actor_0']['kernel']"), leaf(run, ".collect_state[0].normalizer.mean")
    assert kernel.shape[0] == 3
    assert len({kernel[i].tobytes() for i in range(3)}) == 3
    np.testing.assert_array_equal(policy.params["actor_0"]["kernel"], kernel[place])
    np.testing.assert_array_equal(policy.normalizer.mean, mean[place])
    assert policy.config["algorithm"] == "actor_critic"
    assert policy.env.obs_shape == (4,)


def test_the_seeds_share_one_setting(run):
    found = loading.load_seeds(run)
    assert list(found) == [3, 4, 5]
    assert len({id(policy.env) for policy in found.values()}) == 1
    np.testing.assert_array_equal(found[4].params["value"]["kernel"], po.load(run, seed=4).params["value"]["kernel"])


def test_an_older_checkpoint_can_be_had(run):
    old = po.load(run, update=10)
    assert checkpoint.steps(run / "checkpoints") == [10, 12]
    assert not np.array_equal(old.params["policy"]["kernel"], po.load(run).params["policy"]["kernel"])


def test_observations_are_read_as_in_training(run):
    """By hand in float64: standardised, clipped, two layers, tanh."""
    policy = po.load(run)
    obs = np.array([[0.3, -1.0, 2.0, 50.0], [0.0, 1.0, 0.0, 0.0]], np.float64)
    assert obs.shape[-1:] == policy.env.obs_shape
    stats = jax.tree.map(lambda x: np.asarray(x, np.float64), policy.normalizer)
    std = np.sqrt(stats.m2 / stats.count)
    seen = np.clip((obs - stats.mean) / np.maximum(std, 1e-4), -10, 10)
    layers = jax.tree.map(lambda x: np.asarray(x, np.float64), policy.params)
    hidden = np.tanh(seen @ layers["actor_0"]["kernel"] + layers["actor_0"]["bias"])
    logits = hidden @ layers["policy"]["kernel"] + layers["policy"]["bias"]
    np.testing.assert_allclose(policy(obs).policy.logits, logits, rtol=2e-4, atol=2e-5)
    np.testing.assert_array_equal(policy.act(obs), logits.argmax(-1))
    np.testing.assert_array_equal(policy.act(obs[0]), logits[0].argmax(-1))


def test_a_key_samples_and_jit_changes_nothing(run):
    policy = po.load(run)
    obs, key = jnp.tile(jnp.eye(4)[0], (4000, 1)), jax.random.key(1)
    actions = policy.act(obs, key)
    chance = float(jax.nn.softmax(policy(obs[0]).policy.logits)[1])
    assert abs(float(actions.mean()) - chance) < 4 * np.sqrt(chance * (1 - chance) / 4000)
    np.testing.assert_array_equal(jax.jit(policy.act)(obs, key), actions)


def test_actions_are_those_that_the_environment_is_sent():
    def apply(params, obs):
        return po.Outputs(policy=po.TanhGaussian(mean=params * jnp.ones((*obs.shape[:-1], 2)), log_std=jnp.zeros(2)))

    class Constant:
        def __init__(self):
            self.apply = apply

    policy = po.Policy(params=jnp.float32(3.0), network=Constant(), config={})
    np.testing.assert_allclose(policy.act(np.zeros(4)), np.tanh([3.0, 3.0]), rtol=1e-6)


def test_observations_may_be_a_tree():
    class Reading:
        def apply(self, params, obs):
            return po.Outputs(policy=po.Categorical(logits=obs["near"] + params * obs["far"]))

    class Plain:
        def apply(self, params, obs):
            return po.Outputs(policy=po.Categorical(logits=obs))

    policy = po.Policy(params=jnp.float32(2.0), network=Reading(), config={})
    assert int(policy.act({"near": np.zeros(3), "far": [0.0, 1.0, 0.5]})) == 1
    flat = po.Policy(params=None, network=Plain(), config={})
    assert flat.act([[0.0, 1.0], [1.0, 0.0]]).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("keywords", "said"),
    [({"seed": 6}, "has no seed 6; it has 3, 4, 5"), ({"update": 7}, "there is no step 7")],
)
def test_what_a_run_has_not_is_said(run, keywords, said):
    with pytest.raises((runs.RunError, checkpoint.CheckpointError), match=said):
        po.load(run, **keywords)


def test_where_there_is_no_run(tmp_path, run):
    with pytest.raises(runs.RunError, match=r"no .*config\.json, so there is no run"):
        po.load(tmp_path)
    config = json.loads((run / "config.json").read_text())
    (tmp_path / "config.json").write_text('{"runs": []}')
    with pytest.raises(runs.RunError, match="is that of a comparison, of several runs; name that of one"):
        po.load(tmp_path)
    del config["num_seeds"]
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(runs.RunError, match="not that of a run of polopt train: KeyError.*num_seeds"):
        po.load(run)


@pytest.mark.parametrize(
    ("hidden", "said"),
    [
        ((9,), r"\.params\['actor_0'\]\['bias'\] is float32\[3, 8\] there, and float32\[3, 9\] is wanted"),
        ((8, 8), r"it has no \.params\['actor_1'\]"),
    ],
)
def test_a_checkpoint_that_does_not_fit_says_in_what(run, monkeypatch, hidden, said):
    def other(env, **options):
        made = chain(num_states=4, horizon=6)
        return Control(made, mlp_actor_critic(made.obs_shape, made.action_space, hidden=hidden))

    monkeypatch.setattr(settings, "control", other)
    with pytest.raises(checkpoint.CheckpointError, match=said):
        po.load(run)


def test_a_damaged_checkpoint_is_no_policy(run):
    store = run / "checkpoints" / "12" / "manifest" / "metadata"
    manifest = json.loads(store.read_text())
    manifest["leaves"][".params['value']['bias']"]["sha256"] = "0" * 64
    store.write_text(json.dumps(manifest))
    with pytest.raises(checkpoint.CheckpointError, match=r"\['value'\]\['bias'\] is not what was saved"):
        po.load(run)


def test_parts_of_any_state_are_restored(tmp_path):
    state = {"a": {"x": jnp.arange(6.0).reshape(2, 3)}, "b": [jnp.zeros(2), jnp.array([5, 7])]}
    checkpoint.save(tmp_path, 4, state)
    parts, step = checkpoint.restore_parts(
        tmp_path, {"['a']": {"x": jnp.zeros(3)}, "['b'][1]": jnp.zeros((), jnp.int32)}, leading=(2,)
    )
    assert step == 4
    np.testing.assert_array_equal(parts["['a']"]["x"], state["a"]["x"])
    assert parts["['b'][1]"].tolist() == [5, 7]
    with pytest.raises(checkpoint.CheckpointError, match=r"\['b'\]\[1\] is int32\[2\] there, and float32\[2\]"):
        checkpoint.restore_parts(tmp_path, {"['b'][1]": jnp.zeros(2)})


def test_the_settings_are_those_that_the_command_trains():
    env, network = settings.setting(
        {
            "world": None,
            "env": "inverted_pendulum",
            "backend": "generalized",
            "episode_length": 7,
            "hidden": [8, 8],
            "activation": "relu",
        }
    )
    assert (env.name, env.backend, env.episode_length) == ("inverted_pendulum", "generalized", 7)
    assert jax.eval_shape(network.init, jax.random.key(0))["actor_1"]["kernel"].shape == (8, 8)
    world = {"num_worlds": 3, "world_seed": 1, "network_width": 16, "network_depth": 2}
    worlds, tokens = settings.setting({"world": world})
    assert worlds.p_skip.shape == (3,)
    assert worlds.p_skip.tolist() != settings.tokens({**world, "world_seed": 2}).env.p_skip.tolist()
    shapes = jax.eval_shape(tokens.init, jax.random.key(0))
    assert any(x.shape[-1] == 16 for x in jax.tree.leaves(shapes))


# Greedily


def test_greedy_rollouts_take_the_mode_and_keep_the_log_probabilities():
    logits = jnp.array([0.0, 0.3])
    act = lambda obs: po.Outputs(policy=po.Categorical(logits=jnp.broadcast_to(logits, (*obs.shape[:-1], 2))))  # noqa: E731
    env = chain(num_states=4, horizon=6)
    loop = po.start(env, jax.random.key(0), num_envs=5)
    _, rollout = po.unroll(env, po.greedy(act), loop, jax.random.key(1), num_steps=12)
    assert (rollout.action == 1).all()
    np.testing.assert_allclose(rollout.log_prob, jax.nn.log_softmax(logits)[1], rtol=1e-6)


def test_greedy_models_squash_and_report_as_before():
    policy = po.TanhGaussian(mean=jnp.array([[0.5, -2.0]]), log_std=jnp.zeros((1, 2)))
    model = po.greedy(lambda params, obs: po.Outputs(policy=policy, value=params + obs))
    outputs = model(1.0, jnp.array([2.0]))
    action = outputs.policy.sample(seed=jax.random.key(3))
    np.testing.assert_array_equal(action, policy.mode())
    np.testing.assert_array_equal(outputs.policy.mode(), policy.mode())
    np.testing.assert_allclose(outputs.policy.squash(action), np.tanh([[0.5, -2.0]]), rtol=1e-6)
    np.testing.assert_array_equal(outputs.policy.entropy(), policy.entropy())
    np.testing.assert_array_equal(outputs.policy.log_prob(action), policy.log_prob(action))
    assert outputs.policy.batch_shape == (1,)
    assert outputs.value.tolist() == [3.0]


@pytest.mark.slow
def test_greedy_networks_say_the_most_probable_token_each_time():
    network = language.transformer(vocab_size=5, num_outputs=4, max_length=8, width=8, depth=1)
    params = network.init(jax.random.key(0))
    params = jax.tree.map(lambda x: 20 * x, params)
    prompt = jnp.array([[4, 2], [0, 1], [3, 3]])
    said = language.sample_tokens(language.greedy_network(network), params, prompt, jax.random.key(1), length=6)
    tokens = prompt
    for _ in range(6):
        following = network.apply(params, tokens).policy.logits[:, -1].argmax(-1)
        tokens = jnp.concatenate([tokens, following[:, None]], axis=1)
    np.testing.assert_array_equal(said.action[1:].T, tokens[:, 2:])
    assert len({tuple(row) for row in tokens[:, 2:].tolist()}) > 1
    greedy = language.greedy_network(network).apply(params, tokens[:, :-1]).policy
    np.testing.assert_array_equal(greedy.sample(seed=jax.random.key(0))[:, 1:], tokens[:, 2:])


# What they are worth


def uniform(obs):
    return po.Outputs(policy=po.Categorical(logits=jnp.zeros((*obs.shape[:-1], 2))))


def test_the_mean_return_is_that_of_enumeration():
    env = chain(num_states=4, horizon=6, slip=0.2)
    found = po.evaluate_policy(env, uniform, jax.random.key(0), episodes=4000)
    exact = float(expected_return(env, jnp.full((4, 2), 0.5)))
    error = float(found.episode_return.std()) / np.sqrt(4000)
    assert abs(float(found.episode_return.mean()) - exact) < 4 * error
    assert found.ended.all()
    assert not found.broken.any()
    assert found.length.max() == 6
    assert found.length.min() >= 3

    def likelier_right(obs):
        return po.Outputs(policy=po.Categorical(logits=jnp.broadcast_to(jnp.array([0.0, 0.1]), (*obs.shape[:-1], 2))))

    greedy = po.evaluate_policy(
        chain(num_states=4, horizon=6), po.greedy(likelier_right), jax.random.key(0), episodes=7
    )
    assert greedy.episode_return.tolist() == [1.0] * 7
    assert greedy.length.tolist() == [3] * 7


def test_every_step_has_randomness_of_its_own():
    """Two steps to the right: a quarter of the episodes, a half if both were drawn alike."""
    found = po.evaluate_policy(chain(num_states=3, horizon=2), uniform, jax.random.key(0), episodes=2000)
    assert abs(float(found.episode_return.mean()) - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 2000)


def test_a_time_limit_ends_an_episode():
    found = po.evaluate_policy(TimeLimit(limit=6), uniform, jax.random.key(0), episodes=4, max_steps=50)
    assert found.length.tolist() == [6] * 4
    assert found.ended.all()


@dataclasses.dataclass(frozen=True)
class Counter:
    """Pays 1 a step, ends after so many steps as the first observation says, and breaks there if that is odd."""

    obs_shape: tuple = (1,)
    action_space: Box | Discrete = Discrete(2)
    breaks: bool = False

    def reset(self, key):
        limit = jax.random.randint(key, (), 1, 9)
        return jnp.stack([limit, 0]), limit[None].astype(jnp.float32)

    def step(self, state, action, key):
        limit, count = state[0], state[1] + 1
        bad = self.breaks & (limit % 2 == 1) & (count == limit)
        return EnvStep(
            state=jnp.stack([limit, count]),
            obs=limit[None].astype(jnp.float32),
            reward=jnp.where(bad, jnp.nan, 1.0),
            terminated=count == limit,
            truncated=jnp.bool_(False),
            outcome={"count": count, "even": limit % 2 == 0},
        )


def test_every_episode_counts_until_its_own_end():
    found = po.evaluate_policy(Counter(), uniform, jax.random.key(2), episodes=300)
    assert set(found.length.tolist()) == set(range(1, 9))
    np.testing.assert_array_equal(found.episode_return, found.length)
    np.testing.assert_array_equal(found.outcome["count"], found.length)
    np.testing.assert_allclose(found.outcome_mean["count"], (np.asarray(found.length) + 1) / 2, rtol=1e-6)
    np.testing.assert_array_equal(found.outcome["even"], np.asarray(found.length) % 2 == 0)
    assert found.outcome["even"].dtype == jnp.float32


def test_an_episode_that_breaks_is_none():
    found = po.evaluate_policy(Counter(breaks=True), uniform, jax.random.key(2), episodes=300)
    odd = np.asarray(found.broken)
    assert 0 < odd.sum() < 300
    assert np.isnan(found.episode_return[odd]).all()
    assert not np.isnan(found.episode_return[~odd]).any()
    assert not (found.ended & found.broken).any()
    assert set((np.asarray(found.length)[odd] % 2).tolist()) == {0}  # the step that broke is no step


def test_what_does_not_end_is_given_up_and_told():
    found = po.evaluate_policy(Counter(), uniform, jax.random.key(2), episodes=300, max_steps=4)
    np.testing.assert_array_equal(found.ended, np.asarray(found.length) < 4 + np.isfinite(found.episode_return))
    assert np.isnan(found.episode_return[~np.asarray(found.ended)]).all()
    assert 0 < int(found.ended.sum()) < 300
    assert int(found.length.max()) == 4


def test_draws_differ_between_episodes_and_not_between_calls():
    run = jax.jit(lambda key: po.evaluate_policy(chain(num_states=5, horizon=9), uniform, key, episodes=64))
    first, again, other = (run(jax.random.key(i)).length for i in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert len(set(first.tolist())) > 1


@pytest.mark.parametrize("keywords", [{"episodes": 0}, {"max_steps": 0}])
def test_sizes_are_positive(keywords):
    with pytest.raises(ValueError, match=f"evaluate_policy: {next(iter(keywords))} must be at least 1"):
        po.evaluate_policy(TimeLimit(), uniform, jax.random.key(0), **keywords)


# The command


def test_evaluate_prints_what_the_function_finds(run, capsys):
    before = hashes(run)
    assert main(["evaluate", str(run), "--episodes", "50", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert hashes(run) == before
    assert {name: said[name] for name in ("env", "algorithm", "update", "episodes")} == {
        "env": "inverted_pendulum",
        "algorithm": "actor_critic",
        "update": 12,
        "episodes": 50,
    }
    assert [(row["seed"], row["policy"]) for row in said["seeds"]] == [
        (seed, kind) for kind in ("greedy", "sampled") for seed in (3, 4, 5)
    ]
    for row in said["seeds"]:
        policy = po.load(run, seed=row["seed"])
        act = po.greedy(policy) if row["policy"] == "greedy" else policy
        found = po.evaluate_policy(policy.env, act, jax.random.key(0), episodes=50)
        assert row["return"] == pytest.approx(float(found.episode_return.mean()), abs=1e-6)
        assert row["length"] == pytest.approx(float(found.length.mean()), abs=1e-6)
    greedy = [row["return"] for row in said["seeds"] if row["policy"] == "greedy"]
    assert said["all"][0]["return"] == pytest.approx(np.mean(greedy))
    assert "return_interval" not in said["all"][0]  # of three seeds


def test_evaluate_shows_a_table(run, capsys):
    assert main(["evaluate", str(run), "--episodes", "20"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert "actor_critic on inverted_pendulum after 12 updates, 20 episodes of each seed" in err
    assert [line.split()[0] for line in lines[2:11]] == ["greedy:", "3", "4", "5", "all", "sampled,", "3", "4", "5"]
    policy = po.load(run, seed=4)
    for line, act in ((lines[4], po.greedy(policy)), (lines[9], policy)):
        found = po.evaluate_policy(policy.env, act, jax.random.key(0), episodes=20)
        assert line.split()[1] == f"{float(found.episode_return.mean()):.3f}"
        assert float(line.split()[7]) == pytest.approx(float(found.length.mean()), rel=6e-3)


def test_one_seed_has_no_line_for_all(run, capsys, monkeypatch):
    only = {4: po.load(run, seed=4)}
    monkeypatch.setattr("polopt_jax.cli._evaluate.load_seeds", lambda directory: only)
    assert main(["evaluate", str(run), "--episodes", "20"]) == 0
    assert "all" not in [line.split()[0] for line in capsys.readouterr().out.splitlines() if line]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "missing: RUN"),
        (["nowhere"], "so there is no run in nowhere"),
        (["nowhere", "--episodes", "1"], "--episodes must be from 2"),
        (["nowhere", "--key", "-1"], "--key must be from 0"),
    ],
)
def test_evaluate_refuses(words, said, capsys):
    assert main(["evaluate", *words]) == 2
    assert said in capsys.readouterr().err


def test_answers_of_a_token_policy_are_scored_by_their_world():
    """Skipping or being honest pays 1; with one world, what is most probable is one answer."""
    world = {"num_worlds": 1, "world_seed": 1, "network_width": 8, "network_depth": 1}
    worlds, network = settings.tokens(world)
    params = jax.jit(lambda key: jax.tree.map(lambda x: 5 * x, network.init(key)))(jax.random.key(0))
    policy = po.Policy(params=params, network=network, env=worlds, config={})
    learnt = {"params": params, "normalizer": None}
    found = jax.jit(lambda key: _both(policy, learnt, key, episodes=300))(jax.random.key(0))
    for answers in found.values():
        paid = np.maximum(answers.outcome["skip"], answers.outcome["honest"])
        np.testing.assert_array_equal(answers.episode_return, paid)
        assert set(answers.length.tolist()) == {24}
        assert answers.ended.all()
    assert len(set(found["greedy"].outcome["skip"].tolist())) == 1
    assert len(set(found["sampled"].outcome["skip"].tolist())) == 2


def evaluation(returns, lengths, ended, broken):
    ended = np.array(ended)
    return po.Evaluation(
        episode_return=np.where(ended, returns, np.nan),
        length=np.array(lengths),
        ended=ended,
        broken=np.array(broken),
        outcome={"x": np.array(returns)},
        outcome_mean={"x": np.array(returns) / 2},
    )


def test_a_table_says_that_its_means_are_of_the_episodes_that_ended():
    rows = [row_of(7, "greedy", evaluation([1.0, 9.0], [2, 9], [True, False], [False, False]))]
    said = {column.name: column.meaning for column in columns_of(rows)}
    assert said["not", "ended"] == "Episodes that were given up; all else is of those that ended."


def test_a_row_is_of_the_episodes_that_ended():
    found = evaluation([1.0, 3.0, 9.0, 9.0], [2, 4, 9, 9], [True, True, False, False], [False, False, True, False])
    row = row_of(7, "greedy", found)
    assert (row["return"], row["return_lowest"], row["return_highest"], row["length"]) == (2.0, 1.0, 3.0, 3.0)
    assert row["return_interval"] == pytest.approx(12.706205, rel=1e-5)
    assert (row["unended"], row["broken"]) == (1, 1)
    assert row["outcome"]["x"] == {"last": 2.0, "mean": 1.0}
    nothing = row_of(7, "greedy", evaluation([1.0], [1], [False], [True]))
    assert (nothing["return"], nothing["length"], nothing["outcome"]["x"]["last"]) == (None, None, None)


def test_over_seeds_the_interval_is_that_of_their_means():
    rows = [row_of(i, "greedy", evaluation([i, i + 2.0], [1, 3], [True, True], [False, False])) for i in range(5)]
    all_ = over_seeds("greedy", rows)
    assert (all_["return"], all_["return_lowest"], all_["return_highest"]) == (3.0, 0.0, 6.0)
    assert all_["return_interval"] == pytest.approx(2.776445 * np.std([1, 2, 3, 4, 5], ddof=1) / np.sqrt(5), rel=1e-5)
    assert all_["outcome"]["x"] == {"last": 3.0, "mean": 1.5}
    assert over_seeds("greedy", rows[:4])["return_interval"] is None
