"""Triton where it is installed, and whether anything here can run it.

Raises, on import:
    KernelMissing: PyTorch or Triton is not installed.
"""

from __future__ import annotations

import os

from kernels.errors import KernelMissing

try:
    import torch
    import triton
    import triton.language as tl
except ImportError as error:
    raise KernelMissing("the Triton kernels need PyTorch and Triton: pip install torch triton==3.9.0") from error

__all__ = ["interpreted", "require_usable", "tl", "torch", "triton"]


def interpreted() -> bool:
    """Whether Triton was told to interpret (``TRITON_INTERPRET=1``), which runs on the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def require_usable() -> None:
    """Raise unless something here can run the kernels; there is no slower path that takes over unasked.

    Raises:
        KernelMissing: No GPU, and the interpreter was not asked for.
    """
    if not interpreted() and not torch.cuda.is_available():
        raise KernelMissing("no GPU that Triton can use; TRITON_INTERPRET=1 runs the kernels, slowly, on the CPU")
