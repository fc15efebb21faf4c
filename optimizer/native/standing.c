/* Entry of the solver that stays: opens an instance, follows the drift of one arm after another, is closed.
 *
 * A drift leaves most of the tree true. Every node keeps its dual vector, which bounds the box in the new problem too,
 * so that only what the drifted arm adds to each bound is worked out anew; boxes that this no longer closes are searched
 * again, and where those are many the search begins anew, from the root's vector. */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "standing.h"

static void *room(size_t bytes) {
    void *found = calloc(1, bytes + 64);
    if (!found) abort();
    return found;
}

static Standing *make(const Instance *given, const double *order) {
    Standing *p = aligned_alloc(64, (sizeof *p + 63) / 64 * 64);
    if (!p) abort();
    memset(p, 0, sizeof *p);
    set_up(&p->s, given);
    const size_t arms = (size_t)given->arms;
    p->s.prove = true;
    p->drifted = -1;
    p->fresh = room(sizeof(int32_t) * arms);
    p->before = room(sizeof(double) * (size_t)given->queries);
    p->order = room(sizeof(double) * arms);
    memcpy(p->order, order, sizeof(double) * arms);
    p->state = room(arms);
    p->filled = room(arms);
    p->side = room(sizeof(Side) * arms);
    p->left = room(sizeof(double) * (arms + 1) * (size_t)given->costs);
    for (int32_t m = 0; m < MOST_OPEN; m++) p->open[m].state = room(arms);
    return p;
}

EXPORT void edgewise_standing_close(Standing *p) {
    for (int32_t m = 0; m < MOST_OPEN; m++) free(p->open[m].state);
    free(p->linear.row); free(p->linear.base); free(p->linear.known);
    free(p->fresh); free(p->before); free(p->order); free(p->state); free(p->filled); free(p->side); free(p->left);
    free(p->s.kind); free(p->s.index); free(p->s.duals);
    tear_down(&p->s);
    free(p);
}

/* The tree stays ours. */
static void show(Standing *p, Outcome *out) {
    Search *s = &p->s;
    hand_out(s, out);
    memcpy(p->filled, s->best, (size_t)s->arms);
    fill_cheapest(s, p->filled, p->order);
    for (int32_t i = 0; i < s->arms; i++) out->active[i] = p->filled[i];
    for (int32_t k = 0; k <= s->costs; k++) out->price[k] = s->dual_count ? s->duals[k] : 0.0;
}

EXPORT Standing *edgewise_standing_open(const Instance *given, const double *order, Outcome *out) {
    Standing *p = make(given, order);
    prepare(&p->s, given);
    explore(&p->s, 0);
    p->tokens = p->s.tokens;
    /* The bounds of its nodes are worked out now, not at the first drift. */
    if (!p->s.overflow) rewalk(p);
    show(p, out);
    return p;
}

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

static void change(Standing *p, int32_t arm, const double *worth, const double *cost) {
    Search *s = &p->s;
    double *v = row(s->worth, s, arm);
    memcpy(p->before, v, sizeof(double) * (size_t)s->queries);
    if (worth) set_worth(s, arm, worth);
    if (cost) memcpy(s->cost + (int64_t)arm * s->costs, cost, sizeof(double) * (size_t)s->costs);
    p->drifted = arm;
    p->fresh[0] = arm;
    p->freshes = 1;
}

/* False where the tree has to be built anew. */
static bool follow(Standing *p) {
    /* Subtrees that take the place of leaves make the tree larger, drift by drift, than a new one would be. */
    if (p->s.overflow || p->s.tokens > 4 * p->tokens + 512) return false;
    keep_dominated(p);
    if (!rewalk(p)) return false;
    p->s.closed = p->highest;
    return p->opens == 0 || reopen(p);
}

/* Follow the drift of one arm. `worth` and `cost` are its new rows, NULL where they have not changed. Returns the worth of
 * all arms together, from which the caller sees whether the instance's scale still suits it. */
EXPORT double edgewise_standing_drift(Standing *p, int32_t arm, const double *worth, const double *cost, double order, Outcome *out) {
    Search *s = &p->s;
    change(p, arm, worth, cost);
    p->order[arm] = order;
    s->explored = s->evaluated = 0;
    s->stopped = false;
    revalue(s, arm);
    if (!follow(p)) search_anew(p);
    p->drifted = -1;
    show(p, out);
    memset(s->trial, 1, (size_t)s->arms);
    return worth_of(s, s->trial);
}
