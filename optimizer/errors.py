"""What the optimizer refuses.

::

    OptimizerError
    ├── ProblemError     a planning problem that cannot be meant: shapes, signs, values that are not finite
    ├── EvidenceError    evidence that nothing can be learnt from: shapes, names, values that are not finite
    ├── NativeMissing    the compiled part is not built on this machine
    ├── SolverMissing    a solver of somebody else's that is not installed
    └── SolverFailed     a solver of somebody else's that gave no answer

Infeasible is not an error: it is `Status.INFEASIBLE` of a solution and index `None` of a choice.
"""

from __future__ import annotations


class OptimizerError(ValueError):
    """Root of everything that the optimizer raises on purpose."""


class ProblemError(OptimizerError):
    """The planning problem itself is malformed."""


class EvidenceError(OptimizerError):
    """The evidence is malformed or too small to learn from."""


class NativeMissing(OptimizerError):
    """The compiled part is not built on this machine."""


class SolverMissing(OptimizerError):
    """A solver of somebody else's is asked for and not installed."""


class SolverFailed(OptimizerError):
    """A solver of somebody else's gave no answer to a problem that has one."""
