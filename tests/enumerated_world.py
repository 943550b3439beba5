"""A world of three states whose every episode can be written down, and its figures from the list of them, in NumPy."""

import numpy as np

from polopt_jax.worlds import Move, Rules, tabulate

ENDS = {"lost": (0, 0), "hurt": (0, 1), "won": (1, 0), "won_hurt": (1, 1)}
AFTER = {
    ("start", "go"): [(0.8, "fork", 0.0), (0.2, "dark", 0.0)],
    ("start", "pull"): [(0.7, "won_hurt", 1.5), (0.3, "hurt", 0.0)],
    ("fork", "go"): [(0.6, "won", 1.0), (0.1, "won_hurt", 1.0), (0.3, "lost", -0.25)],
    ("dark", "go"): [(0.5, "fork", 0.0), (0.5, "lost", 0.0)],
    ("dark", "pull"): [(1.0, "lost", 0.0)],
}


def small_world():
    """Start and dark look alike; the fork does not."""
    return tabulate(
        Rules(
            starts=((0.7, "start"), (0.3, "fork")),
            actions=("go", "pull", "wait"),
            moves=lambda state, action: [
                Move(prob, after, pay, 0.0) for prob, after, pay in AFTER.get((state, action), [(1.0, state, 0.0)])
            ],
            ended=lambda state: state in ENDS,
            outcome=lambda state: dict(zip(("success", "hurt"), map(bool, ENDS.get(state, (0, 0))), strict=True)),
            frame=lambda state: (state,),
            legend={},
            horizon=3,
            observe=lambda state: (float(state == "fork"),),
        )
    )


class Enumerated:
    """Every episode of a small problem: decisions (state, action), payment, outcome, and what chance does to it."""

    def __init__(self, problem):
        world = problem.world
        self.group, self.cell = np.asarray(problem.group), np.asarray(problem.cell)
        self.cells = 2 * problem.num_side_effects
        self.successor, self.prob, self.pay = (np.asarray(x) for x in (world.successor, world.prob, world.reward))
        self.terminal, self.horizon = np.asarray(world.terminal), world.horizon
        self.episodes = []
        for state, chance in enumerate(np.asarray(world.initial)):
            if chance > 0:
                self._follow(state, float(chance), [], 0.0)

    def _follow(self, state, chance, decisions, paid):
        if self.terminal[state] or len(decisions) == self.horizon:
            self.episodes.append((chance, decisions, paid, self.cell[state]))
            return
        for action, k in np.ndindex(self.prob.shape[1:]):
            if self.prob[state, action, k] > 0:
                after = self.successor[state, action, k]
                chance_after = chance * self.prob[state, action, k]
                pay = paid + self.pay[state, action, k]
                self._follow(after, chance_after, [*decisions, (state, action)], pay)

    def policy(self, logits):
        probs = np.exp(np.asarray(logits, np.float64))
        return probs / probs.sum(-1, keepdims=True)

    def law(self, logits):
        """Probability of every episode, `[N]`."""
        pi = self.policy(logits)
        return np.array([c * np.prod([pi[self.group[s], a] for s, a in d]) for c, d, _, _ in self.episodes])

    def scores(self, logits):
        """Gradient of the logarithm of every episode's probability, `[N, G A]`."""
        pi, rows = self.policy(logits), []
        for _, decided, _, _ in self.episodes:
            score = np.zeros_like(pi)
            for state, action in decided:
                score[self.group[state]] -= pi[self.group[state]]
                score[self.group[state], action] += 1
            rows.append(score.reshape(-1))
        return np.array(rows)

    @property
    def payments(self):
        return np.array([paid for _, _, paid, _ in self.episodes])

    @property
    def outcomes(self):
        return np.array([cell for *_, cell in self.episodes])

    def table(self, logits):
        return np.bincount(self.outcomes, self.law(logits), self.cells).reshape(2, -1)

    def reward(self, logits):
        return self.law(logits) @ self.payments

    def gradient(self, logits, of=None):
        """∇ E[of(episode)], `[G, A]`; of the reward if not given."""
        values = self.payments if of is None else of
        return ((self.law(logits) * values) @ self.scores(logits)).reshape(logits.shape)

    def kl(self, first, second):
        p, q = self.law(first), self.law(second)
        return (p * np.log(p / q)).sum()

    def trajectory_fisher(self, logits):
        scores = self.scores(logits)
        return scores.T @ (self.law(logits)[:, None] * scores)

    def partition_fisher(self, logits, parts):
        """Σ P(part) E[S | part] E[S | part]ᵀ, by Fisher's identity the Fisher matrix of a feature of the episode."""
        law, scores = self.law(logits), self.scores(logits)
        total = np.zeros((logits.size, logits.size))
        for part in np.unique(parts):
            here = parts == part
            mean = law[here] @ scores[here] / law[here].sum()
            total += law[here].sum() * np.outer(mean, mean)
        return total
