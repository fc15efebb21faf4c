"""The exact solver against HiGHS, SCIP and CP-SAT: one interleaved run, gap 0, one thread each.

Every solver gets the same instance, one after the other. Correctness first: all that finish must agree on the objective
to 1e-6, re-evaluated by us from the sets that they return. Ours is timed as a user calls it, on a problem that has not
cached anything, the median of five calls; of the others only the time inside the solver counts, not building the model.

Only the fastest of the three matters, per instance. So a peer is stopped when it has taken as long as the fastest that
finished, and no peer gets more than 20 s. Where none finished, the limit counts as the fastest one's time, in the
peers' favour, and `censored` says how often that was.

Which budgets: 5 % ("tight") and 20 % ("loose") of all arms' energies together: a handful of arms, and a dozen or two.
They were fixed on two pilot instances per utility, at 60 arms, by one rule: with the tight one at least one peer
finishes within 20 s, and with the loose one any-right is not yet worth 0.999, where every set would be as good. That
choice was not blind: times of our solver on such pilot instances, at 5, 10 and 30 %, had been seen before.

``--only be`` takes families (b) and (e) alone, any of a to e and x (rows without bars) together; bars of the others
then count as not measured. ``--small`` is ``--only a``. ``--quick`` takes two instances per class and leaves out x,
``--tiny`` one, of the least size of (b). About 25 minutes otherwise. (c), (d) and (e) need no peer.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Sequence

from optimizer.selection.baselines.boxes import solve_by_corners
from optimizer.selection.baselines.greedy import solve_greedily
from optimizer.selection.certify import certify
from optimizer.selection.exact import Search
from optimizer.selection.problem import Problem
from optimizer.selection.solve import solve
from tests.bench import solver_drift
from tests.bench import solver_instances as instances
from tests.bench.harness import Bar, Row, main
from tests.bench.solver_instances import BUDGETS, SIZES, UTILITIES, Case
from tests.bench.solver_process import Peers, peers
from tests.bench.solver_timing import LIMIT_S, Timed, against, class_rows, fresh, shifted_mean, stopwatch

PILOT = (("scip", "lazy"), ("scip", "log"), ("cpsat", "cuts"), ("cpsat", "log"), ("highs", ""))

BARS = (
    Bar("objectives_differ_most", 1e-6, "<="),
    Bar("a_best_of_20_ratio_median", 1 / 50, "<="),
    Bar("a_any_right_20_ratio_median", 1 / 50, "<="),
    Bar("a_best_of_20_ms_median", 0.2, "<="),
    Bar("a_any_right_20_ms_median", 0.2, "<="),
    Bar("b_ratio", 1 / 20, "<="),
    Bar("b_class_ratio_worst", 1.0, "<="),
    Bar("c_gap_percent_worst", 0.05, "<="),
    Bar("c_s_worst", 1.0, "<="),
    Bar("c_certified_fraction", 1.0, ">="),
    Bar("d_gap_percent_worst", 0.5, "<="),
    Bar("d_ms_worst", 100.0, "<="),
    Bar("d_certified_fraction", 1.0, ">="),
    Bar("e_ratio_median", 0.1, "<="),
)


def small(others: Peers, take: slice) -> tuple[list[Row], list[Timed]]:
    """(a)"""
    rows, everything = list[Row](), list[Timed]()
    for utility in UTILITIES:
        timed = [against(case, others) for case in list(instances.small(utility))[take]]
        everything += timed
        name, sizes = f"a_{utility}_20", {"instances": len(timed), "arms": 20, "queries": 15}
        rows += class_rows(name, timed)
        rows.append(Row(f"{name}_ms_median", statistics.median(one.ours_s for one in timed) * 1e3, "ms", dict(sizes)))
        ratio = statistics.median(one.ours_s / one.peer_s for one in timed)
        rows.append(Row(f"{name}_ratio_median", ratio, "fraction", dict(sizes)))
    return rows, everything


def medium(others: Peers, count: int, lengths: Sequence[int] = SIZES) -> tuple[list[Row], list[Timed]]:
    """(b)"""
    rows, everything = list[Row](), list[Timed]()
    for utility in UTILITIES:
        for budget in BUDGETS:
            for arms in lengths:
                timed = [against(case, others) for case in instances.medium(utility, arms, budget, count=count)]
                everything += timed
                rows += class_rows(f"b_{utility}_{budget}_{arms}", timed)
                print(*(f"{row.metric} {row.value:.4g} {row.unit}" for row in rows[-3:]), sep="\n", flush=True)
    ratios = [row.value for row in rows if row.metric.endswith("_ratio")]
    mine, theirs = shifted_mean([t.ours_s for t in everything]), shifted_mean([t.peer_s for t in everything])
    sizes: dict[str, object] = {"instances": len(everything), "queries": instances.QUERIES, "arms": list(lengths)}
    sizes["censored"] = sum(not one.peer for one in everything)
    rows.append(Row("b_ratio", mine / theirs, "fraction", sizes))
    rows.append(Row("b_class_ratio_worst", max(ratios), "fraction", {"classes": len(ratios)}))
    return rows, everything


def anytime(cases: Iterable[Case], gap: float, limit_s: float) -> list[tuple[float, float, bool]]:
    """Seconds, gap in percent and whether it was certified, for each case."""
    found = []
    for case in cases:

        def search() -> Search:
            deadline_s = time.perf_counter() + limit_s
            return Search(gap=gap, prove=True, should_stop=lambda: time.perf_counter() > deadline_s)

        problems = iter([fresh(case.problem) for _ in range(5)])
        seconds, solution = stopwatch(lambda: solve(next(problems), search()))  # noqa: B023
        percent = 100.0 * solution.gap / solution.objective
        found.append((seconds, percent, certify(case.problem, solution).ok))
    return found


def large() -> list[Row]:
    """(c)"""
    cases = [case for utility in UTILITIES for budget in BUDGETS for case in instances.large(utility, budget)]
    found = anytime(cases, 4e-4, 0.9)
    sizes: dict[str, object] = {"instances": len(found), "arms": 500, "queries": 500, "certified": "from its proof"}
    return [
        Row("c_gap_percent_worst", max(percent for _, percent, _ in found), "percent", sizes),
        Row("c_s_worst", max(seconds for seconds, _, _ in found), "s", sizes),
        Row("c_s_median", statistics.median(seconds for seconds, _, _ in found), "s", sizes),
        Row("c_certified_fraction", statistics.fmean(ok for _, _, ok in found), "fraction", sizes),
    ]


def routed() -> list[Row]:
    """(d)"""
    found = anytime(instances.routed(), 4e-3, 0.09)
    sizes: dict[str, object] = {"instances": len(found), "arms": 20, "queries": 2000}
    return [
        Row("d_gap_percent_worst", max(percent for _, percent, _ in found), "percent", sizes),
        Row("d_ms_worst", max(seconds for seconds, _, _ in found) * 1e3, "ms", sizes),
        Row("d_ms_median", statistics.median(seconds for seconds, _, _ in found) * 1e3, "ms", sizes),
        Row("d_certified_fraction", statistics.fmean(ok for _, _, ok in found), "fraction", sizes),
    ]


def extra(others: Peers) -> list[Row]:
    """Without bars: instances without structure, the paper's boxes, greedy."""
    rows = list[Row]()
    for utility in UTILITIES:
        rows += class_rows(f"x_{utility}_iid_40", [against(case, others) for case in instances.structureless(utility)])
        cases = list(instances.small(utility))
        rows += baseline_rows(f"x_{utility}_20", [case.problem for case in cases])
    return rows


def baseline_rows(name: str, problems: Sequence[Problem]) -> Iterator[Row]:
    """The paper's boxes (five instances, 2 s each at most) and greedy with the best single arm."""
    boxes, stopped = [], 0
    for problem in problems[:5]:
        deadline_s = time.perf_counter() + 2.0
        start = time.perf_counter()
        found = solve_by_corners(problem, should_stop=lambda: time.perf_counter() > deadline_s)  # noqa: B023
        boxes.append(time.perf_counter() - start)
        stopped += found.gap > 1e-9
    sizes: dict[str, object] = {"instances": len(boxes), "stopped after 2 s": stopped}
    yield Row(f"{name}_corners_ms", shifted_mean(boxes) * 1e3, "ms", sizes)
    greedy = [stopwatch(lambda: solve_greedily(fresh(problem)), repeats=3) for problem in problems]  # noqa: B023
    exact = [solve(problem).objective for problem in problems]
    loss = [100.0 * (1.0 - found.objective / best) for (_, found), best in zip(greedy, exact, strict=True)]
    sizes = {"instances": len(greedy), "optimal": sum(percent < 1e-7 for percent in loss)}
    yield Row(f"{name}_greedy_ms", shifted_mean([seconds for seconds, _ in greedy]) * 1e3, "ms", sizes)
    yield Row(f"{name}_greedy_loss_percent_worst", max(loss), "percent", sizes)


def pilot(others: Peers) -> list[Row]:
    """Which encoding of at-least-one-right each peer should use: three instances that are not timed otherwise."""
    rows = []
    for peer, encoding in PILOT:
        problems = [
            instances.worst_case(*instances.experts(30, 30, 1000 + seed), "any_right", share)
            for seed, share in enumerate(BUDGETS.values())
        ]
        replies = [others.solve(problem, peer, encoding=encoding, time_limit_s=LIMIT_S) for problem in problems]
        sizes: dict[str, object] = {"instances": len(replies), "finished": sum(one.finished for one in replies)}
        rows.append(Row(f"pilot_{peer}_{encoding or 'cuts'}_s", shifted_mean([r.seconds for r in replies]), "s", sizes))
    return rows


def agreement(others: Peers, timed: Sequence[Timed]) -> Row:
    """How far apart the objectives of those that finished are, at most."""
    sizes: dict[str, object] = {"instances": len(timed), "versions": others.versions}
    return Row("objectives_differ_most", max(one.differs for one in timed), "quality", sizes)


def families(arguments: Sequence[str]) -> str:
    """Which families were asked for.

    Raises:
        SystemExit: A family that there is not.
    """
    if "--small" in arguments:
        return "a"
    if "--only" not in arguments:
        return "abcde" if {"--quick", "--tiny"} & set(arguments) else "abcdex"
    wanted = "".join(arguments[arguments.index("--only") + 1 :][:1])
    if not wanted or set(wanted) - set("abcdex"):
        raise SystemExit(f"--only {wanted}: name families by letters out of abcdex, for example --only be")
    return wanted


def against_peers(others: Peers, wanted: str, count: int) -> list[Row]:
    """(a), (b) and the rows without bars, as far as they are wanted."""
    rows, timed = list[Row](), list[Timed]()
    if "a" in wanted:
        more, again = small(others, slice(0, count if count < 10 else None))
        rows, timed = rows + more, timed + again
    if "b" in wanted:
        more, again = medium(others, count, SIZES[: 1 if count == 1 else None])
        rows, timed = rows + more, timed + again
    if timed:
        rows.append(agreement(others, timed))
    return rows + (extra(others) if "x" in wanted else [])


def run() -> list[Row]:
    """The families that were asked for."""
    wanted = families(sys.argv)
    count = 1 if "--tiny" in sys.argv else 2 if "--quick" in sys.argv else 10
    rows = list[Row]()
    if "--pilot" in sys.argv or set(wanted) & set("abx"):
        with peers() as others:
            rows = pilot(others) if "--pilot" in sys.argv else against_peers(others, wanted, count)
    if "--pilot" in sys.argv:
        return rows
    rows += large() if "c" in wanted else []
    rows += routed() if "d" in wanted else []
    return rows + (solver_drift.rows(count) if "e" in wanted else [])


if __name__ == "__main__":
    main(stem="solver", run=run, bars=BARS)
