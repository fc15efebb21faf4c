"""The gate for text: a shared encoder and one calibrated quality head per expert.

Public: `TextGate`, `fit_gate` (`gate`), `Encoder`, `fit_encoder` (`encoder`), `Head`, `fit_head` (`head`). What the
compiled code computes is said in Python in `reference`.
"""
