"""The worlds as `polopt envs` shows them: lists, one drawn in the terminal, all of them on a page."""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from polopt_jax import report, runs
from polopt_jax.cli import _token_worlds
from polopt_jax.cli._words import check_new
from polopt_jax.envs._import import import_callable
from polopt_jax.report import Column, Group, Map, Mark, Section
from polopt_jax.types import Array
from polopt_jax.worlds import (
    TOKEN_WORLDS,
    WORLDS,
    Rules,
    TableWorld,
    TokenWorldEntry,
    WorldEntry,
    expected_hidden,
    expected_reward,
    final_law,
    optimal_policy,
    reachable_states,
    tabulate,
)
from polopt_jax.worlds._colors import FLOOR_COLOR, WALL_COLOR
from polopt_jax.worlds._grid import FLOOR, WALL


class Size(NamedTuple):
    """What tabulating a world finds."""

    states: int
    actions: int
    horizon: int


SIZES = {
    "outcome-table": Size(5, 4, 1),
    "heavy-tail": Size(513, 512, 1),
    "burning-building": Size(64, 6, 16),
    "side-effects-sokoban": Size(60, 4, 100),
    "boat-race": Size(2676, 4, 100),
    "island-navigation": Size(29, 4, 100),
    "whisky-and-gold": Size(35, 4, 100),
    "absent-supervisor": Size(46, 4, 100),
    "tomato-watering": Size(56, 4, 40),
    "fire-exit": Size(38, 5, 20),
    "camera-dropbox": Size(1538, 4, 50),
}
"""By name, so that the list needs no world to be tabulated. A test holds them against the worlds."""

LIST = [
    Column(("", "world"), lambda entry: entry.name),
    Column(("", "success"), lambda entry: entry.success),
    Column(("", "side effect"), lambda entry: entry.side_effect),
    Column(("", "states"), lambda entry: str(SIZES[entry.name].states)),
    Column(("", "actions"), lambda entry: str(SIZES[entry.name].actions)),
    Column(("", "horizon"), lambda entry: str(SIZES[entry.name].horizon)),
]

BEST = "Of several best policies one is shown. They may look at the clock. A map is of the likeliest end."


class Facts(NamedTuple):
    """What is known exactly of a world."""

    table: list[dict[str, Any]]
    """Of each of three policies: its name, what it earns, and the probability of each outcome."""
    maps: list[Map]
    """The first state, and where the two best policies end."""


def world_names() -> tuple[str, ...]:
    """Every world."""
    return tuple(entry.name for entry in (*WORLDS, *TOKEN_WORLDS))


def find_world(name: str) -> Any:
    """The entry of the world called `name`, which is one of `world_names()`."""
    return next(entry for entry in (*WORLDS, *TOKEN_WORLDS) if entry.name == name)


def marks(rules: Rules) -> dict[str, Mark]:
    """What the characters of a world's frames mean, and their colours."""
    ground = {WALL: Mark("", WALL_COLOR), FLOOR: Mark("", FLOOR_COLOR)}
    return ground | {char: Mark(*sign) for char, sign in rules.legend.items()}


def find_facts(rules: Rules) -> Facts:
    """Tabulates the world and solves it: for what is paid, and for what was wanted."""
    world, states = tabulate(rules), reachable_states(rules)
    uniform = jnp.full(world.prob.shape[:2], 1 / world.prob.shape[1])
    policies = {
        "every action alike": uniform,
        "most reward": optimal_policy(world, world.reward),
        "what was wanted": optimal_policy(world, world.hidden),
    }
    table, drawn = [], [Map("start", rules.frame(max(rules.starts, key=lambda start: start[0])[1]))]
    for name, policy in policies.items():
        found, end = _facts_of(world, policy)
        named = {key: round(float(found[key]), 4) for key in ("reward", "hidden", *rules.outcome(states[0]))}
        table.append({"policy": name, **named})
        if policy is not uniform:
            drawn.append(Map(f"{name}, its end", rules.frame(states[int(end)])))
    return Facts(table, drawn)


@jax.jit
def _facts_of(world: TableWorld, policy: Array) -> tuple[dict[str, Array], Array]:
    """What a policy earns and brings about, and its likeliest last state."""
    law = final_law(world, policy)
    outcome = {name: jnp.sum(jnp.where(holds, law, 0)) for name, holds in world.outcome.items()}
    earned = {"reward": expected_reward(world, policy), "hidden": expected_hidden(world, policy)}
    return earned | outcome, law.argmax()


def _columns(facts: Facts) -> list[Column]:
    """Policy, reward and hidden reward, and the outcomes as percentages."""
    names = [name for name in facts.table[0] if name not in ("policy", "reward", "hidden")]
    return [
        Column(("", "policy"), lambda row: row["policy"]),
        Column(("", "reward"), lambda row: report.short(row["reward"]), "What the agent is paid in an episode."),
        Column(("", "hidden"), lambda row: report.short(row["hidden"]), "What the episode was really worth."),
        *(Column(("", name), lambda row, name=name: report.percent(row[name])) for name in names),
    ]


class Shown(NamedTuple):
    """What is shown of a world, whatever its kind."""

    sizes: str
    maps: Sequence[Map]
    marks: Mapping[str, Mark]
    columns: Sequence[Column]
    table: Sequence[Any]
    note: str
    """How the maps and the table are to be read."""
    make: Callable[..., Any]
    """The function of the library that makes the world."""
    call: str
    """How it is called."""


def _shown(entry: WorldEntry | TokenWorldEntry) -> Shown:
    return _shown_tokens(entry) if isinstance(entry, TokenWorldEntry) else _shown_rules(entry)


def _shown_rules(entry: WorldEntry) -> Shown:
    rules = entry.rules()
    facts = find_facts(rules)
    states = SIZES[entry.name].states if entry.name in SIZES else len(reachable_states(rules))
    return Shown(
        sizes=f"States {states}, actions {len(rules.actions)}, horizon {rules.horizon}.",
        maps=facts.maps,
        marks=marks(rules),
        columns=_columns(facts),
        table=facts.table,
        note=BEST,
        make=entry.rules,
        call=f"worlds.tabulate({_home(entry.rules)}.{entry.rules.__name__}())",
    )


def _home(make: Callable[..., Any]) -> str:
    """Where a function that makes a world is imported from."""
    return "worlds" if make.__module__.startswith("polopt_jax.worlds") else make.__module__


def own_rules(name: str) -> WorldEntry | None:
    """A world of one's own, `package.module:factory`, as an entry of the list; None if that makes no rules."""
    make = import_callable(name, what="a world", called="factory", needed="what makes a world when it is called")
    rules = make()
    if not isinstance(rules, Rules):
        return None
    outcomes = [outcome for outcome in rules.outcome(rules.starts[0][1]) if outcome != "success"]
    return WorldEntry(name, make, "success", ", ".join(outcomes) or "none")


def _shown_tokens(entry: TokenWorldEntry) -> Shown:
    size = _token_worlds.SIZES[entry.name]
    facts = _token_worlds.find_facts(entry.draw(jax.random.key(0)))
    return Shown(
        sizes=f"Prompts {size.prompts}, held out {size.held_out}, tokens {size.tokens}, vocabulary {size.vocabulary}.",
        maps=facts.maps,
        marks=_token_worlds.MARKS,
        columns=_token_worlds.COLUMNS,
        table=facts.table,
        note=_token_worlds.REFERENCE,
        make=entry.draw,
        call=f"worlds.{entry.draw.__name__}(jax.random.key(0))",
    )


# The terminal


def print_worlds(console: Any) -> None:
    """The lists."""
    _print_table(console, LIST, WORLDS, words=3)
    console.print()
    _print_table(console, _token_worlds.LIST, TOKEN_WORLDS, words=3)


def _print_table(console: Any, columns: Sequence[Column], rows: Sequence[Any], *, words: int) -> None:
    """The first `words` columns to the left, and all but the first of them may wrap; the others to the right."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    for i, column in enumerate(columns):
        side = "left" if i < words else "right"
        style = "" if i else "cyan"
        table.add_column(report.full_name(column), no_wrap=not 0 < i < words, justify=side, style=style)
    for row in rows:
        table.add_row(*(column.cell(row) for column in columns))
    console.print(table)


def print_world(name: str, console: Any) -> None:
    """A world's maps, legend and exact facts."""
    print_entry(find_world(name), console)


def print_entry(entry: WorldEntry | TokenWorldEntry, console: Any) -> None:
    """The same of a world that is in no list."""
    shown = _shown(entry)
    console.print(headline(shown.make), style="bold", markup=False)
    console.print(f"Success: {entry.success}. Side effect: {entry.side_effect}.", markup=False)
    console.print(f"{shown.sizes}\n")
    console.print(report.terminal_maps(shown.maps, shown.marks, width=console.width))
    console.print()
    _print_table(console, shown.columns, shown.table, words=1)
    console.print(f"\n{shown.note}\nIn Python: {shown.call}", style="dim", markup=False)


# Words


def headline(make: Callable[..., Any]) -> str:
    """What the world is, in a line: the beginning of its module's docstring, or of its own, or its name."""
    said = (*_paragraphs(_module_words(make)), *_paragraphs(inspect.getdoc(make) or ""), make.__name__)
    return " ".join(said[0].split())


def about(make: Callable[..., Any]) -> list[str]:
    """What the world is, paragraph by paragraph: what its docstring says of it, and where it is from."""
    words = re.split(r"^(?:Raises:|Args:|>>>)", inspect.getdoc(make) or "", flags=re.MULTILINE)[0]
    return [*_paragraphs(words), *_paragraphs(_module_words(make))[1:]]


def _module_words(make: Callable[..., Any]) -> str:
    return inspect.getdoc(inspect.getmodule(make)) or ""


def _paragraphs(text: str) -> list[str]:
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n", text) if part.strip()]


# The page


def write_worlds(path: Path, names: Sequence[str]) -> None:
    """Writes the page of the worlds called `names`. Raises UsageError if there is such a file or no such directory."""
    check_new("--html", path)
    page = render([find_world(name) for name in names])
    check_new("--html", path)
    runs.write(path, page)


def render(entries: Sequence[Any]) -> str:
    """The page: the lists, then each world with its maps, facts and words."""
    lead = "Worlds in which success can come about in more than one way, and everything can be computed."
    of_tokens = [entry for entry in entries if isinstance(entry, TokenWorldEntry)]
    exact = [entry for entry in entries if entry not in of_tokens]
    lists = [(exact, LIST, BEST), (of_tokens, _token_worlds.LIST, _token_worlds.REFERENCE)]
    return report.page(
        "Outcome worlds",
        lead,
        [
            Section("The worlds", [report.listing(columns, [Group("", some)]) for some, columns, _ in lists if some]),
            *map(_section, entries),
        ],
        notes=[note for some, _, note in lists if some],
    )


def _section(entry: WorldEntry | TokenWorldEntry) -> Section:
    shown = _shown(entry)
    pieces = [
        report.maps(shown.maps, shown.marks),
        report.table(shown.columns, [Group("", shown.table)]),
        report.prose(headline(shown.make), about(shown.make)),
        report.code(shown.call),
    ]
    return Section(entry.name, pieces)
