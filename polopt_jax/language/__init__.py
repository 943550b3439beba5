"""Token policies, and a person's own texts.

A transformer, its sampler, imitation of a reference language; a model that was recorded elsewhere. Texts from files
(`read_pairs`, ...) through a tokenizer into batches (`pair_rows`, ...) that every loss takes, with any model.
"""

from polopt_jax.language._greedy import greedy_network
from polopt_jax.language._host_rewards import (
    Failure,
    Score,
    Scores,
    import_reward,
    reward_workers,
    score_texts,
)
from polopt_jax.language._imitation import imitate
from polopt_jax.language._recorded import recorded
from polopt_jax.language._records import (
    Labelled,
    Pair,
    Problem,
    Prompt,
    Records,
    Text,
    chat_text,
    read_labelled,
    read_pairs,
    read_prompts,
    read_texts,
)
from polopt_jax.language._rows import Rows, labelled_rows, pair_rows, text_rows
from polopt_jax.language._sampler import sample_tokens
from polopt_jax.language._token_table import token_table
from polopt_jax.language._tokenizer import ByteTokenizer, Tokenizer
from polopt_jax.language._transformer import TokenNetwork, transformer

__all__ = [
    "ByteTokenizer",
    "Failure",
    "Labelled",
    "Pair",
    "Problem",
    "Prompt",
    "Records",
    "Rows",
    "Score",
    "Scores",
    "Text",
    "TokenNetwork",
    "Tokenizer",
    "chat_text",
    "greedy_network",
    "imitate",
    "import_reward",
    "labelled_rows",
    "pair_rows",
    "read_labelled",
    "read_pairs",
    "read_prompts",
    "read_texts",
    "recorded",
    "reward_workers",
    "sample_tokens",
    "score_texts",
    "text_rows",
    "token_table",
    "transformer",
]
