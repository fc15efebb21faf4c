"""Which arm has read which beginning of a conversation, so that what need not be read again is neither paid for nor
waited for twice. Pure but for the secret.

A conversation is cut into blocks of bytes, and a block is known by a hash of everything up to its end; texts are not
kept. The hashes begin with a scope, a keyed hash of tenant and user: what one of them has sent tells nothing to
another, neither here nor on the node, which shares what it keeps within a scope only.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache

from orchestrator.text_request import Message

# Some 30 tokens: less is not worth a node's while.
BLOCK_BYTES = 128
# What is looked at of one conversation, and kept of one arm.
MAX_BLOCKS = 512
KEPT_BLOCKS = 4096
# Of the tokens that an arm should have kept, before it has told any: enough to prefer it to its equals.
UNTOLD_FRACTION = 0.01
SMOOTHING = 0.3
# Of a process: no other can tell whose scope one is, and after a restart all are new.
_SECRET = secrets.token_bytes(32)

Chain = tuple[bytes, ...]


@lru_cache(maxsize=1024)
def scope_of(tenant: str, user: str) -> str:
    """What stands for a tenant's user on the wire."""
    named = len(tenant).to_bytes(4, "big") + tenant.encode() + user.encode()
    return hashlib.blake2b(named, key=_SECRET, digest_size=16).hexdigest()


class Conversation:
    """What an arm reads of a query; `size_bytes` of all its contents."""

    __slots__ = ("_chain", "_rest", "messages", "scope", "size_bytes")

    def __init__(self, scope: str, messages: tuple[Message, ...]) -> None:
        self.scope, self.messages = scope, messages
        size = 0
        for message in messages:
            size += len(message.content.encode())
        self.size_bytes = size
        self._chain: Chain | None = None
        # What was said after the last whole block.
        self._rest = b""

    def chain(self, answer: str = "") -> Chain:
        """Hashes of the beginning up to the end of every whole block, with an answer behind it where there is one.

        Those of the messages are worked out once.
        """
        if not self.scope:
            return ()
        if self._chain is None:
            said = [f"{message.role}\0{message.content}\0{message.extra_json}\1" for message in self.messages]
            self._chain, self._rest = self._grown((), "".join(said).encode())
        return self._grown(self._chain, self._rest + f"assistant\0{answer}".encode())[0] if answer else self._chain

    def _grown(self, known: Chain, data: bytes) -> tuple[Chain, bytes]:
        """A chain with the whole blocks of what comes behind it, and the beginning of what is left of that."""
        if len(data) < BLOCK_BYTES:
            return known, data
        end = min(len(data) // BLOCK_BYTES, MAX_BLOCKS - len(known)) * BLOCK_BYTES
        last, found = known[-1] if known else self.scope.encode(), [*known]
        for start in range(0, end, BLOCK_BYTES):
            last = hashlib.blake2b(last + data[start : start + BLOCK_BYTES], digest_size=8).digest()
            found.append(last)
        return tuple(found), data[end : end + BLOCK_BYTES]


class Prefixes:
    """What one arm has read, and how much of it turned out to be kept there."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self._fraction: float | None = None

    @property
    def fraction(self) -> float:
        """Share of what was read that is still there when it comes again."""
        return UNTOLD_FRACTION if self._fraction is None else self._fraction

    def known_bytes(self, chain: Chain) -> int:
        """How much of a beginning the arm has read."""
        blocks = 0
        if self._known:
            for block in chain:
                if block not in self._known:
                    break
                blocks += 1
        return blocks * BLOCK_BYTES

    def expected_tokens(self, chain: Chain, *, tokens_per_byte: float, prompt_tokens: float) -> float:
        """Tokens of a prompt that need not be read again, typically."""
        known_bytes = self.known_bytes(chain)
        return min(known_bytes * tokens_per_byte, max(0.0, prompt_tokens - 1.0)) * self.fraction if known_bytes else 0.0

    def told(self, chain: Chain, cached_tokens: int, *, tokens_per_byte: float) -> None:
        """The arm says how many tokens of a prompt it had kept; before `read` of the same."""
        if self._fraction is None:
            self._fraction = 1.0
        expected = self.known_bytes(chain) * tokens_per_byte
        if expected > 0.0:
            self._fraction += SMOOTHING * (min(1.0, cached_tokens / expected) - self._fraction)

    def read(self, chain: Sequence[bytes]) -> None:
        """The arm has read this; the longest unused leaves for it, ends before beginnings."""
        for block in reversed(chain):
            self._known[block] = None
            self._known.move_to_end(block)
        while len(self._known) > KEPT_BLOCKS:
            self._known.popitem(last=False)
