"""What a token world offers: prompts, a context to sample in, a reward, outcome features, a reference language."""

from __future__ import annotations

from typing import Any, Protocol

from polopt_jax.distributions import Categorical
from polopt_jax.types import Array


class World(Protocol):
    """Prompts that are answered with sequences of T tokens. All methods are pure and jit-able.

    A *prompt* is whatever names a question: an array `[...]`, or a tree of arrays of that leading shape. Tokens are
    `[..., T]` integers of 0 .. V-1, with the leading shape of the prompt they answer.
    """

    @property
    def length(self) -> int:
        """T, the tokens of an answer."""
        ...

    @property
    def vocabulary(self) -> int:
        """V, the tokens that may be said."""
        ...

    @property
    def input_vocabulary(self) -> int:
        """The tokens that may be read: V, and those of contexts."""
        ...

    @property
    def context_length(self) -> int:
        """P, the tokens of a context; a network that answers reads rows of P - 1 + T tokens."""
        ...

    def prompts(self, key: Array, num: int) -> Any:
        """Prompts of leading shape `[num]`."""
        ...

    def context(self, prompt: Any) -> Array:
        """The tokens that an answer is sampled after, `[..., P]`: what the prompt is to a reader."""
        ...

    def reward(self, prompt: Any, tokens: Array) -> Array:
        """What the answers earn, `[...]`; not finite where nobody can say."""
        ...

    def outcome(self, prompt: Any, tokens: Array) -> dict[str, Array]:
        """What the answers brought about, by name, `[...]` each."""
        ...

    def reference(self, prompt: Any, tokens: Array) -> Categorical:
        """The reference language: the law of the next token at every position of the answers, `[..., T]`."""
        ...

    def speak(self, prompt: Any, key: Array) -> Array:
        """One answer of the reference language to each prompt, `[..., T]`."""
        ...
