"""Which experts may be active: the problem of arXiv 2501.09410 (MoE²), solved exactly, with a certificate.

`problem.Problem` says what is wanted, `solve.solve` answers with a `solution.Solution`, and `certify.certify` checks
the answer without trusting whoever made it.
"""
