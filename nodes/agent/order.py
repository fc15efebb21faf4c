"""Which messages of the other side still count. Pure."""

from __future__ import annotations


class IncomingOrder:
    """Accepts each message of one session once and in order.

    Args:
        epoch: The session's epoch, as the gateway gave it.
        sequence: The last sequence seen.
    """

    def __init__(self, epoch: int, sequence: int) -> None:
        self.epoch = epoch
        self.sequence = sequence

    def accept(self, epoch: int, sequence: int) -> bool:
        """Whether a message belongs to this stream and is newer than all before it."""
        if epoch != self.epoch or sequence <= self.sequence:
            return False
        self.sequence = sequence
        return True
