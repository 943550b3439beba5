"""All rows, in the order of the table."""

from benchmarks.peers_language.advantages import ADVANTAGE_ROWS
from benchmarks.peers_language.agreement import Row
from benchmarks.peers_language.groups import GROUP_ROWS
from benchmarks.peers_language.heads import HEAD_ROWS
from benchmarks.peers_language.pairs import LABELLED_ROWS, PAIR_ROWS

ALL: list[Row] = [*PAIR_ROWS, *LABELLED_ROWS, *GROUP_ROWS, *ADVANTAGE_ROWS, *HEAD_ROWS]
