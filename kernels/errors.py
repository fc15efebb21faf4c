"""What the kernels refuse.

::

    KernelError
    ├── ShapeError       arrays that do not fit each other or the kernel
    └── KernelMissing    an implementation that was named, and cannot run on this machine
"""

from __future__ import annotations


class KernelError(ValueError):
    """Root of everything that the kernels raise on purpose."""


class ShapeError(KernelError):
    """Arrays do not fit each other or the kernel."""


class KernelMissing(KernelError):
    """An implementation was named that cannot run on this machine."""
