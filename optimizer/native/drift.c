/* The drift of one arm, in the problem's terms and in one call.
 *
 * A drift leaves most of the tree true. Every node keeps its dual vector, which bounds the box in the new problem too,
 * so that only what the drifted arm adds to each bound is worked out anew; boxes that this no longer closes are searched
 * again, and where those are many the search begins anew, from the root's vector. */

#include <float.h>
#include <string.h>

#include "standing.h"

/* Worths are compared in units of what all arms together were worth; beyond these factors the units are chosen anew. */
static const double LEAST_WORTH = 0.25, MOST_WORTH = 4.0;

static void search_anew(Standing *p) {
    Search *s = &p->s;
    const size_t bytes = sizeof(double) * (size_t)dual_size(s);
    Box *b = frame(s, 0);
    memset(b->dual, 0, bytes);
    if (s->dual_count) memcpy(b->dual, s->duals, bytes);
    else start_dual(s, b);
    s->dual_count = 0;
    s->ins = 0;
    s->closed = -1.0;
    s->overflow = false;
    forget_linear(p);
    root_box(s);
    explore(s, 0);
    p->tokens = s->tokens;
}

/* False where the tree has to be built anew. The best set is made better first, where the tree does not show at once that
 * it still is the best; only where that succeeds can another walk close more. */
static bool follow(Standing *p) {
    Search *s = &p->s;
    const bool was_in = s->best[p->drifted];
    /* Subtrees that take the place of leaves make the tree larger, drift by drift, than a new one would be. */
    const bool kept = !s->overflow && s->tokens <= 4 * p->tokens + 512;
    const bool fits = revalue(s, p->drifted);
    if (kept) keep_dominated(p);
    bool walked = kept && fits && rewalk(p);
    if (!walked || p->opens) {
        const double before = s->incumbent;
        /* Where the arm was not in the set, only the arm can have become better than one that is. */
        improve(s, was_in ? -1 : p->drifted);
        if (kept && (!fits || s->incumbent > before)) walked = rewalk(p);
    }
    if (!walked) return false;
    s->closed = p->highest;
    return p->opens == 0 || reopen(p);
}

/* Written so that what is not a number fails too. */
static bool sound(const Search *s, const double *worth) {
    const double most = s->any_right ? 1.0 : DBL_MAX;
    bool all = true;
    for (int32_t q = 0; q < s->queries; q++) all &= worth[q] >= 0.0 && worth[q] <= most;
    return all;
}

/* Note the arm's joules; false where they change which arms can be active, or which limits can be exceeded. */
static bool take_energy(Standing *p, const Drift *g) {
    Search *s = &p->s;
    p->order[g->arm] = g->energy_j;
    if (g->limit_j < 0.0) return true;
    if (g->energy_j > g->limit_j * (1.0 + s->slack)) return false;
    if (g->binds) {
        s->cost[(int64_t)g->arm * s->costs] = g->energy_j / g->limit_j;
        return true;
    }
    double sum = 0.0;
    for (int32_t i = 0; i < s->arms; i++) sum += p->order[i];
    return sum <= g->limit_j;
}

/* By the same operations as in intake.c, so that ties stay ties. */
static void take_worth(Standing *p, const Drift *g) {
    Search *s = &p->s;
    double *worth = s->lane[0];
    for (int32_t q = 0; q < s->queries; q++) {
        worth[q] = !g->allowed || g->allowed[(int64_t)g->arm * s->queries + q] ? g->worth[q] : 0.0;
        if (g->weight) worth[q] = worth[q] * g->weight[q] / g->scale;
    }
    set_worth(s, g->arm, worth);
}

/* The answer to the instance as it is now, with the arms that still fit. */
EXPORT void edgewise_standing_answer(Standing *p, Drift *g) {
    Search *s = &p->s;
    memcpy(p->filled, s->best, (size_t)s->arms);
    const Worth worth = fill_up(s, p->filled, p->order);
    g->objective = worth.objective * g->scale;
    g->bound = worth.bound * g->scale;
    g->optimal = worth.optimal;
    /* Energy is the first of the costs, where it binds. */
    g->price = g->binds && s->dual_count ? s->duals[1] * g->scale / g->limit_j : 0.0;
    g->explored = s->explored;
    g->actives = 0;
    for (int32_t i = 0; i < s->arms; i++)
        if (p->filled[i]) g->active[g->actives++] = g->eligible[i];
}

/* Whether the units still suit the instance. */
static bool in_scale(Standing *p) {
    Search *s = &p->s;
    memset(s->trial, 1, (size_t)s->arms);
    const double all = worth_of(s, s->trial);
    return all > LEAST_WORTH && all < MOST_WORTH;
}

/* Follow the drift of one arm, and answer. */
EXPORT int32_t edgewise_standing_drift(Standing *p, Drift *g) {
    Search *s = &p->s;
    if (g->worth && !sound(s, g->worth)) return REFUSED;
    if (g->energy_j >= 0.0 && !take_energy(p, g)) return ANEW;
    memcpy(p->before, row(s->worth, s, g->arm), sizeof(double) * (size_t)s->queries);
    if (g->worth) take_worth(p, g);
    p->drifted = p->fresh[0] = g->arm;
    p->freshes = 1;
    s->explored = s->evaluated = 0;
    s->stopped = false;
    if (!follow(p)) search_anew(p);
    p->drifted = -1;
    if (!in_scale(p)) return ANEW;
    edgewise_standing_answer(p, g);
    return FOLLOWED;
}
