"""The picture of a completion: what it says, what it refuses, and that words stay words."""

import re
from html.parser import HTMLParser

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import polopt_jax as po
from polopt_jax import outcomes, report, worlds
from polopt_jax.worlds._skip_the_test import FORK, SKIP_TOKEN

WORDS = [" look", " skip", " at", " it"]
OUTCOME, NATS = [0.0, 0.2, -0.001, 0.05], [0.1, 0.05, 0.0, 0.4]
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style><b>",
    "&lt;b&gt;",
    "{{ 7 * 7 }}",
    "</span>",
]


class Spans(HTMLParser):
    """The words with their attributes, and the other tags."""

    def __init__(self, html):
        super().__init__()
        self.words, self.tags, self.inside = [], [], False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.inside = tag == "span"
        if self.inside:
            self.words.append([dict(attrs), ""])
        self.tags.append(tag)

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.words[-1][1] += data


def test_every_word_is_there_with_its_numbers():
    found = Spans(report.completion_html(WORDS, OUTCOME, NATS)).words
    assert [text for _, text in found] == WORDS
    assert [attributes["title"] for attributes, _ in found] == [
        "outcome 0, itself 0.1 nats",
        "outcome 0.2, itself 0.05 nats",
        "outcome 0, itself 0 nats",
        "outcome 0.05, itself 0.4 nats",
    ]
    assert [attributes["style"] for attributes, _ in found] == [
        "--outcome:0%;--nats:25%",
        "--outcome:80%;--nats:12%",
        "--outcome:0%;--nats:0%",
        "--outcome:20%;--nats:100%",
    ]


def test_the_legend_says_what_the_marks_mean():
    html = report.completion_html(WORDS, OUTCOME, NATS)
    legend = re.sub(r"<[^>]*>", "", html[html.index("<small>") :])
    assert " ".join(legend.split()) == "moved the outcome, up to 0.2 nats moved itself, up to 0.4 nats"


def test_where_nothing_moved_nothing_is_marked():
    for attributes, _ in Spans(report.completion_html(WORDS, np.zeros(4), -1e-9 * np.ones(4))).words:
        assert attributes["style"] == "--outcome:0%;--nats:0%"


@pytest.mark.parametrize("word", HOSTILE)
def test_words_are_escaped(word):
    html = report.completion_html([word, *WORDS[1:]], OUTCOME, NATS)
    found, plain = Spans(html), Spans(report.completion_html(WORDS, OUTCOME, NATS))
    assert found.tags == plain.tags
    assert found.words[0][1] == word
    assert "://" not in html
    assert not re.search(r"url\(|@import", html)


def test_words_that_cannot_be_seen_are_shown():
    found = Spans(report.completion_html(["\n", "", "\t", "\r"], OUTCOME, NATS)).words
    assert [text for _, text in found] == ["↵\n", "∅", "⇥\t", "␍"]
    labels = report.completion_figure(["\n", "", "\t", "\r"], OUTCOME, NATS).axes[0].get_yticklabels()
    assert [label.get_text() for label in labels] == ["↵", "∅", "⇥", "␍"]


def test_the_figure_has_both_bars_of_every_word():
    figure = report.completion_figure([*WORDS[:3], " $x_1$"], OUTCOME, NATS)
    (axes,) = figure.axes
    broad, thin = (list(container) for container in axes.containers)
    np.testing.assert_allclose([bar.get_width() for bar in broad], np.maximum(OUTCOME, 0))
    np.testing.assert_allclose([bar.get_width() for bar in thin], NATS)
    assert broad[0].get_height() > 2 * thin[0].get_height()
    assert [label.get_text() for label in axes.get_yticklabels()] == [*WORDS[:3], " $x_1$"]
    assert not any(label.get_parse_math() for label in axes.get_yticklabels())
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first word is on top
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["moved the outcome", "moved itself"]


WRONG = [
    (([], [], []), "words must be a list of at least one word"),
    (("look", [0.0] * 4, [0.0] * 4), "words must be a list"),
    ((WORDS, OUTCOME[:3], NATS), r"outcome must have one number for each of 4 words; it has shape \(3,\)"),
    ((WORDS, OUTCOME, [NATS]), r"nats must have one number for each of 4 words; it has shape \(1, 4\)"),
    ((WORDS, [0.0, np.nan, 0.0, 0.0], NATS), r"outcome must be finite; it is not at \[1\]"),
    ((WORDS, OUTCOME, [0.0, 0.0, 0.0, np.inf]), r"nats must be finite; it is not at \[3\]"),
]


@pytest.mark.parametrize("draw", [report.completion_html, report.completion_figure])
@pytest.mark.parametrize(("arguments", "said"), WRONG, ids=[said[:20] for _, said in WRONG])
def test_wrong_arguments_are_named(draw, arguments, said):
    with pytest.raises(ValueError, match=said):
        draw(*arguments)


def test_the_fork_of_skip_the_test_stands_out():
    """The update of the essay: two logits on " skip", and noise on every other token."""
    world = worlds.skip_the_test(jax.random.key(3), num_worlds=1, depths=(4,))

    def model(params, obs):
        return po.Outputs(policy=po.Categorical(logits=jnp.broadcast_to(params, (*obs.shape, 24, 6))))

    old = world.logits[0]
    new = np.array(old) + 0.25 * np.asarray(jax.random.normal(jax.random.key(9), old.shape))
    new[FORK] = old[FORK]
    new[FORK, SKIP_TOKEN] += 2

    @jax.jit
    def measured(old, new):
        prompt = jnp.zeros(4096, int)
        policy = model(old, prompt).policy
        tokens = policy.sample(seed=jax.random.key(1))
        batch = po.Batch(
            obs=prompt,
            action=tokens,
            mask=jnp.ones(tokens.shape, bool),
            log_prob=policy.log_prob(tokens),
            outcome=world.outcome(prompt, tokens),
        )
        return tokens, outcomes.fork_profile(model, old, new, batch, 2, of=lambda o: o["skip"])

    tokens, profile = measured(old, new)
    words = [(" pass", " skip", " the", " a", " run", " look")[token] for token in tokens[0].tolist()]
    found = Spans(report.completion_html(words, profile.outcome.value, profile.action_kl)).words
    depth = [float(re.search(r"--outcome:(\d+)%", attributes["style"])[1]) for attributes, _ in found]
    length = [float(re.search(r"--nats:(\d+)%", attributes["style"])[1]) for attributes, _ in found]
    assert depth[FORK] == 80
    assert max(depth[:FORK] + depth[FORK + 1 :]) < 8
    assert max(length[:FORK] + length[FORK + 1 :]) == 100  # others moved more nats
