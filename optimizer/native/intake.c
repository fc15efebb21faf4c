/* A problem of mode worst_case in the solver's units: which arms can be active at all, which limits can be exceeded, costs
 * as shares of their limits, and worths as shares of what all arms together are worth. */

#include <math.h>

#include "whole.h"

static bool fits_alone(const Whole *g, int32_t arm) {
    for (int32_t k = 0; k < g->costs; k++)
        if (g->cost[(int64_t)k * g->arms + arm] > g->limit[k] * (1.0 + g->slack)) return false;
    if (!g->allowed) return true;
    for (int32_t q = 0; q < g->queries; q++)
        if (g->allowed[(int64_t)q * g->arms + arm]) return true;
    return false;
}

static void find_binding(const Whole *g, Intake *to) {
    to->bindings = 0;
    for (int32_t k = 0; k < g->costs; k++) {
        const double *cost = g->cost + (int64_t)k * g->arms;
        double sum = 0.0;
        for (int32_t e = 0; e < to->eligibles; e++) sum += cost[to->eligible[e]];
        if (g->limit[k] > 0.0 && sum > g->limit[k]) to->binding[to->bindings++] = k;
    }
    for (int32_t e = 0; e < to->eligibles; e++)
        for (int32_t b = 0; b < to->bindings; b++) {
            const int64_t at = (int64_t)to->binding[b] * g->arms + to->eligible[e];
            to->share[(int64_t)e * to->bindings + b] = g->cost[at] / g->limit[to->binding[b]];
        }
}

static void weigh_best_of(const Whole *g, Intake *to) {
    const int64_t count = (int64_t)to->eligibles * g->queries;
    double sum = 0.0;
    for (int32_t q = 0; q < g->queries; q++) {
        double best = 0.0;
        for (int32_t e = 0; e < to->eligibles; e++) {
            double *worth = to->worth + (int64_t)e * g->queries + q;
            *worth *= g->weight[q];
            if (*worth > best) best = *worth;
        }
        sum += best;
    }
    to->scale = g->known > 0.0 ? g->known : sum;
    if (to->scale > 0.0)
        for (int64_t at = 0; at < count; at++) to->worth[at] /= to->scale;
}

static void weigh_any_right(const Whole *g, Intake *to) {
    double sum = 0.0;
    for (int32_t q = 0; q < g->queries; q++) {
        double missed = 0.0;
        for (int32_t e = 0; e < to->eligibles; e++) missed += log1p(-to->worth[(int64_t)e * g->queries + q]);
        sum += g->weight[q] * -expm1(missed);
    }
    to->scale = g->known > 0.0 ? g->known : sum;
    for (int32_t q = 0; q < g->queries; q++) to->weight[q] = g->weight[q] / (to->scale > 0.0 ? to->scale : 1.0);
}

void take_in(const Whole *g, Intake *to) {
    to->eligibles = 0;
    for (int32_t i = 0; i < g->arms; i++)
        if (fits_alone(g, i)) to->eligible[to->eligibles++] = i;
    find_binding(g, to);
    for (int32_t e = 0; e < to->eligibles; e++)
        for (int32_t q = 0; q < g->queries; q++) {
            const int64_t at = (int64_t)q * g->arms + to->eligible[e];
            to->worth[(int64_t)e * g->queries + q] = !g->allowed || g->allowed[at] ? g->worth[at] : 0.0;
        }
    if (g->any_right) weigh_any_right(g, to);
    else weigh_best_of(g, to);
}

/* For callers that keep the arrays. */
EXPORT void edgewise_take_in(const Whole *given, Intake *to) { take_in(given, to); }
