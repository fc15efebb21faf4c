"""What the optimizer refuses.

::

    OptimizerError
    ├── ProblemError     a planning problem that cannot be meant: shapes, signs, values that are not finite
    ├── EvidenceError    evidence that nothing can be learnt from: shapes, names, values that are not finite
    ├── SolverMissing    the extra `plan` (cvxpy with HiGHS) is not installed, or its solver gave no answer
    └── NativeMissing    the compiled part is not built on this machine

Infeasible is not an error: it is `Status.INFEASIBLE` of a solution and index `None` of a choice.
"""

from __future__ import annotations


class OptimizerError(ValueError):
    """Root of everything that the optimizer raises on purpose."""


class ProblemError(OptimizerError):
    """The planning problem itself is malformed."""


class EvidenceError(OptimizerError):
    """The evidence is malformed or too small to learn from."""


class SolverMissing(OptimizerError):
    """The extra `plan` (cvxpy with HiGHS) is not installed, or its solver gave no answer."""


class NativeMissing(OptimizerError):
    """The compiled part is not built on this machine."""
