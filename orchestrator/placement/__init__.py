"""Agents that a Ray cluster runs, from the operator's side: what is wanted, what is there, one step after the other.

The cluster itself is spoken to by `python -m nodes ray control`, a child process (`control`). Which steps lead from
what is there to what is wanted is a pure function (`steps`); `rollout` takes them and asks the gateway after each.
"""
