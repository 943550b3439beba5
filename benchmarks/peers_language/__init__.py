"""How far TRL's own code and this library are apart on the same batches: value and gradient, in float64.

python -m benchmarks.peers_language        measures every row and writes the table of docs/peers.md

`rows` is what is compared, in chapters: `pairs`, `groups`, `advantages`, `heads`. A row says what ours is, what theirs
is and which exact relation holds between the two; `tests/test_peers_language.py` holds every row to it. `examples`
makes random batches with gaps, `trl_trainers` and `trl_groups` make TRL's trainers say their loss of given logits.
Nothing imports torch or TRL before a row is measured.
"""
