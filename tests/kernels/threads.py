"""Three threads in one kernel at once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from kernels.masked_conv.layout import Floats


def assert_undisturbed(network: Callable[[Floats], tuple[Any, ...]], images: Floats) -> None:
    """Three threads get what one gets alone, to the bit."""
    alone = network(images)[0]
    with ThreadPoolExecutor(3) as threads:
        for found, *_ in threads.map(network, [images] * 3):
            np.testing.assert_array_equal(found, alone)
