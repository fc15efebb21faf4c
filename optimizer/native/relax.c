/* The bound of a box: the linear bound of the utility, maximised over the set costs.
 *
 * One cost is kept as a fractional knapsack, the others carry multipliers. The dual vector then moves along a deflected
 * subgradient with Polyak's step towards the worth of the incumbent (best-of), or the point moves towards the relaxed
 * solution (any-right, Frank-Wolfe). Every vector on the way gives a valid bound; the best is kept. */

#include <math.h>
#include <string.h>

#include "select.h"

/* Gain of an arm after the multipliers of all costs but the main one. */
static double profit(const Search *s, const Box *b, int32_t arm) {
    double gain = b->rho[arm];
    for (int32_t k = 0; k < s->costs; k++)
        if (k != s->main) gain -= b->dual[1 + k] * cost_of(s, arm, k);
    return gain;
}

/* Gain of an arm after every multiplier, with those of `best_dual`; b->rho belongs to it. */
double reduced(const Search *s, const Box *b, int32_t arm) {
    double gain = b->rho[arm];
    for (int32_t k = 0; k < s->costs; k++) gain -= b->best_dual[1 + k] * cost_of(s, arm, k);
    return gain;
}

static void sort_by_ratio(Search *s, Box *b) {
    for (int32_t m = 0; m < b->frees; m++) {
        const int32_t i = b->free[m];
        const double gain = profit(s, b, i), cost = s->costs ? cost_of(s, i, s->main) : 0.0;
        b->z[i] = gain;
        s->ratio[i] = gain <= 0.0 ? -1.0 : cost > 0.0 ? gain / cost : INFINITY;
        int32_t at = m;
        /* Nearly sorted already: the order of the evaluation before. */
        for (; at > 0 && s->ratio[b->free[at - 1]] < s->ratio[i]; at--) b->free[at] = b->free[at - 1];
        b->free[at] = i;
    }
}

static void fill_knapsack(Search *s, Box *b) {
    double room = s->costs ? b->left[s->main] : INFINITY, threshold = 0.0;
    for (int32_t m = 0; m < b->frees; m++) {
        const int32_t i = b->free[m];
        const double gain = b->z[i], cost = s->costs ? cost_of(s, i, s->main) : 0.0;
        if (gain <= 0.0 || (room <= 0.0 && cost > 0.0 && threshold > 0.0)) {
            b->z[i] = 0.0;
            continue;
        }
        b->z[i] = cost <= room ? 1.0 : room > 0.0 ? room / cost : 0.0;
        if (b->z[i] < 1.0) threshold = s->ratio[i];
        b->relaxed += gain * b->z[i];
        room = b->z[i] < 1.0 ? 0.0 : room - cost;
    }
    if (s->costs) b->dual[1 + s->main] = threshold;
}

void relax(Search *s, Box *b) {
    s->evaluated++;
    if (s->any_right) gains_any_right(s, b);
    else gains_best_of(s, b);
    b->relaxed = b->constant;
    for (int32_t k = 0; k < s->costs; k++)
        if (k != s->main) b->relaxed += b->dual[1 + k] * b->left[k];
    sort_by_ratio(s, b);
    fill_knapsack(s, b);
}

/* How far the price and the multipliers move beside a level: they are of the order of 1, levels of 1/queries. */
static double scale(const Search *s) { return s->queries; }

static double slope(Search *s, Box *b) {
    double square = slope_best_of(s, b);
    const double weight = scale(s);
    square += weight * s->gradient[0] * s->gradient[0];
    for (int32_t k = 0; k < s->costs; k++) {
        double left = k == s->main ? 0.0 : b->left[k];
        if (k != s->main)
            for (int32_t m = 0; m < b->frees; m++) left -= b->z[b->free[m]] * cost_of(s, b->free[m], k);
        if (left > 0.0 && b->dual[1 + k] <= 0.0) left = 0.0;
        s->gradient[1 + k] = left;
        square += weight * left * left;
    }
    return square;
}

CLONES static double deflect(Search *s, double keep) {
    lanes *d = (lanes *)s->direction, square = {0};
    const lanes *g = (lanes *)s->gradient;
    const int32_t blocks = dual_size(s) / LANES, first = head(s) / LANES;
    for (int32_t t = 0; t < blocks; t++) {
        d[t] = g[t] + keep * d[t];
        if (t >= first) square += d[t] * d[t];
    }
    double sum = total(square);
    for (int32_t k = 0; k <= s->costs; k++) sum += scale(s) * s->direction[k] * s->direction[k];
    return sum;
}

CLONES static void move_levels(Search *s, Box *b, double length) {
    lanes *u = (lanes *)(b->dual + head(s));
    const lanes *d = (lanes *)(s->direction + head(s)), *covered = (lanes *)b->covered;
    for (int32_t t = 0; t < s->blocks; t++) u[t] = larger(u[t] - length * d[t], covered[t]);
    for (int32_t k = 0; k <= s->costs; k++) {
        if (k == 1 + s->main || (k == 0 && !s->routed)) continue;
        const double moved = b->dual[k] - scale(s) * length * s->direction[k];
        b->dual[k] = moved > 0.0 ? moved : 0.0;
    }
}

static void move_point(Search *s, Box *b, double share) {
    double *point = b->dual + head(s);
    for (int32_t m = 0; m < b->frees; m++) {
        const int32_t i = b->free[m];
        point[i] += share * (b->z[i] - point[i]);
    }
    for (int32_t k = 0; k < s->costs; k++) {
        if (k == s->main) continue;
        double taken = 0.0;
        for (int32_t m = 0; m < b->frees; m++) taken += b->z[b->free[m]] * cost_of(s, b->free[m], k);
        const double moved = b->dual[1 + k] + share * (taken - b->left[k]) * s->incumbent;
        b->dual[1 + k] = moved > 0.0 ? moved : 0.0;
    }
}

static void average(Box *b, double share) {
    for (int32_t m = 0; m < b->frees; m++) {
        const int32_t i = b->free[m];
        b->mean[i] += share * (b->z[i] - b->mean[i]);
    }
}

/* Lower the bound of the box for at most so many rounds; ends early where the box can be closed or nothing moves.
 * Leaves dual = best_dual, with rho, z and relaxed that belong to it. */
void descend(Search *s, Box *b, int32_t rounds, bool root) {
    const size_t bytes = sizeof(double) * (size_t)dual_size(s);
    double pace = root ? 1.0 : 0.8, last = INFINITY;
    int32_t since = 0;
    b->best = INFINITY;
    memset(s->direction, 0, bytes);
    for (int32_t round = 0; round < rounds; round++) {
        relax(s, b);
        average(b, round ? 0.2 : 1.0);
        if (b->relaxed < b->best) {
            since = b->relaxed < b->best - 1e-3 * (b->best - s->incumbent) ? 0 : since + 1;
            b->best = b->relaxed;
            memcpy(b->best_dual, b->dual, bytes);
        } else since++;
        if (b->best <= s->cut) break;
        if (root && round % 16 == 4) complete(s, b, false);
        if (since >= (root ? 6 : 3)) { pace *= 0.6; since = 0; }
        if (pace < 0.02) break;
        if (!root && round % 6 == 5) {
            /* Not worth the time where a further dozen rounds would not close the box. */
            if (last - b->best < 0.15 * (b->best - s->incumbent)) break;
            last = b->best;
        }
        if (s->any_right) { move_point(s, b, 2.0 / (round + (root ? 3.0 : 6.0))); continue; }
        if (slope(s, b) <= 0.0) break;
        const double square = deflect(s, round ? 0.3 : 0.0);
        if (square <= 0.0) break;
        move_levels(s, b, pace * (b->relaxed - s->incumbent) / square);
    }
    memcpy(b->dual, b->best_dual, bytes);
    relax(s, b);
    b->best = b->relaxed;
    memcpy(b->best_dual, b->dual, bytes);
}
