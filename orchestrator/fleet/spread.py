"""How far apart nodes that lose their gateway are to come back. Pure.

Taking a node in takes the gateway a few milliseconds of processor time, and the node several times that. A fleet that
loses its gateway, or its switch, would come back in a second, beside the requests of those that are there. So each node
is told over how many seconds to spread; a small fleet comes back as fast as it can.
"""

from __future__ import annotations

# 50 nodes come in a second: a tenth of a core.
S_PER_NODE = 0.02
# With what a node waits beyond that, and with what the gateway takes to start, all are back within 15 s.
MOST_S = 10.0
# A node is told anew where what it knows is less than this part of what holds, or more than this multiple.
LEAST_FRACTION, MOST_FRACTION = 0.8, 4.0


def spread_s(nodes: int) -> float:
    """Seconds over which so many nodes are to come back."""
    return min(MOST_S, S_PER_NODE * nodes)


def is_stale(told_s: float, now_s: float) -> bool:
    """Whether a node that was told of so many seconds should be told of those of now."""
    return not LEAST_FRACTION * now_s <= told_s <= MOST_FRACTION * now_s
