"""Ray as one way to place and supervise agents: an actor per agent, restarted by Ray, with the agent as its child.

Nothing here is needed without the extra `ray`, and `ray` is imported only when a cluster is spoken to. The data plane
stays the agents' own stream to the gateway; Ray never sees a query.

- `spec`: the file that lists agents and what each needs.
- `guard`, `listeners`, `head`: no cluster without token authentication, none that listens further than was said.
- `order`, `keeper`, `tether`: what runs on a Ray node: the supervisor, and the agent that cannot outlive it.
- `contract`, `placement`: what is asked of a cluster, and Ray behind it.
- `cli`, `control`: `python -m nodes ray …`, which `edgewise ray` and `--workers ray` start.
"""
