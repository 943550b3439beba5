"""From text to tokens and back: a tokenizer of bytes, and what one of somebody else's must have."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol


class Tokenizer(Protocol):
    """What the functions of this package need of a tokenizer; those of Hugging Face have it.

    `bos_token_id` and `eos_token_id` are looked up if they are there: the token that a row begins with, and the one
    that ends a completion. Where one is missing or None it is left out.
    """

    def encode(self, text: str) -> Sequence[int]:
        """The tokens of a text."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens."""
        ...


class ByteTokenizer:
    """Every byte of the UTF-8 text is a token, 0 .. 255; 256 begins a row and 257 ends a completion.

    Nothing is looked up and nothing is unknown: every text has exactly one row of tokens, and `decode(encode(text)) ==
    text`. A sample need not be valid UTF-8; what is not is decoded to U+FFFD, and the two special tokens to nothing.

    >>> tokenizer = ByteTokenizer()
    >>> tokenizer.encode("né"), tokenizer.decode([256, 110, 195, 169, 257])
    ([110, 195, 169], 'né')
    """

    bos_token_id = 256
    eos_token_id = 257
    vocab_size = 258

    def encode(self, text: str) -> list[int]:
        """The bytes of the text."""
        return list(text.encode())

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of the bytes among the tokens."""
        return bytes(token for token in tokens if 0 <= token < 256).decode(errors="replace")


def plain_tokens(tokenizer: Tokenizer, text: str) -> list[int]:
    """The tokens of a text without any that the tokenizer would put around it."""
    try:
        tokens = tokenizer.encode(text, add_special_tokens=False)  # type: ignore[call-arg]
    except TypeError:
        tokens = tokenizer.encode(text)
    return [int(token) for token in tokens]
