"""Other ways to solve the same problem, behind the same contract: oracles for the tests, peers for the benchmarks.

`exhaustive` looks at every set, `milp` asks another solver, `greedy` is what one would try first, and `boxes` is the
branch-reduce-bound of arXiv 2501.09410, with the paper's bound or with better ones. All take a `problem.Problem` and
return a `solution.Solution`.
"""
