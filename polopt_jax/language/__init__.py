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
from polopt_jax.language._positions import Positions, learned_positions, rotary_positions
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
from polopt_jax.language._reward_columns import RewardColumns, reward_columns
from polopt_jax.language._rows import (
    Prompts,
    Rows,
    labelled_rows,
    packed_rows,
    pair_rows,
    prompt_rows,
    text_rows,
)
from polopt_jax.language._sampler import sample_groups, sample_tokens
from polopt_jax.language._tempered import tempered_network
from polopt_jax.language._token_table import token_table
from polopt_jax.language._tokenizer import ByteTokenizer, Tokenizer
from polopt_jax.language._tokens import Tokens, padded_tokens
from polopt_jax.language._transformer import Head, TokenNetwork, lazy_logits, stored_logits, transformer

__all__ = [
    "ByteTokenizer",
    "Failure",
    "Head",
    "Labelled",
    "Pair",
    "Positions",
    "Problem",
    "Prompt",
    "Prompts",
    "Records",
    "RewardColumns",
    "Rows",
    "Score",
    "Scores",
    "Text",
    "TokenNetwork",
    "Tokenizer",
    "Tokens",
    "chat_text",
    "greedy_network",
    "imitate",
    "import_reward",
    "labelled_rows",
    "lazy_logits",
    "learned_positions",
    "packed_rows",
    "padded_tokens",
    "pair_rows",
    "prompt_rows",
    "read_labelled",
    "read_pairs",
    "read_prompts",
    "read_texts",
    "recorded",
    "reward_columns",
    "reward_workers",
    "rotary_positions",
    "sample_groups",
    "sample_tokens",
    "score_texts",
    "stored_logits",
    "tempered_network",
    "text_rows",
    "token_table",
    "transformer",
]
