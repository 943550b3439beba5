"""What there is to show, shown: tables (terminal and HTML), figures (PNG and inline SVG), pages, numbers.

Nothing here knows an algorithm, a plan or a run. What is shown comes as columns and rows, panels and curves, sections;
everything that becomes HTML is escaped on the way, and a page needs nothing from outside. matplotlib, rich and jinja2
are imported when they are needed.
"""

from polopt_jax.report._animations import animation_gif, animation_html
from polopt_jax.report._answers import Answer, answers_html
from polopt_jax.report._completions import completion_figure, completion_html
from polopt_jax.report._contrasts import Contrast, contrasts_html
from polopt_jax.report._dots import dots
from polopt_jax.report._figures import Curve, Panel, Strip, png, svg
from polopt_jax.report._films import film_gif
from polopt_jax.report._maps import Map, Mark, maps, terminal_maps
from polopt_jax.report._numbers import NONE, estimate, mean_or_extent, percent, seconds, short, si
from polopt_jax.report._pages import Section, code, definitions, figure, listing, page, prose, settings, table
from polopt_jax.report._players import Recording, Track, player_gif, player_html
from polopt_jax.report._stages import Stage
from polopt_jax.report._styles import Style, style
from polopt_jax.report._tables import Column, Group, full_name, informative, meanings, terminal

__all__ = [
    "NONE",
    "Answer",
    "Column",
    "Contrast",
    "Curve",
    "Group",
    "Map",
    "Mark",
    "Panel",
    "Recording",
    "Section",
    "Stage",
    "Strip",
    "Style",
    "Track",
    "animation_gif",
    "animation_html",
    "answers_html",
    "code",
    "completion_figure",
    "completion_html",
    "contrasts_html",
    "definitions",
    "dots",
    "estimate",
    "figure",
    "full_name",
    "informative",
    "listing",
    "maps",
    "mean_or_extent",
    "meanings",
    "page",
    "percent",
    "film_gif",
    "player_gif",
    "player_html",
    "png",
    "prose",
    "seconds",
    "settings",
    "short",
    "si",
    "style",
    "svg",
    "table",
    "terminal",
    "terminal_maps",
]
