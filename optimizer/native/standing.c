/* The solver that stays: opens an instance, shows its tree, is closed. Drifts are followed in drift.c. */

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

/* The answer as the search leaves it, in the instance's units. The tree stays ours. */
EXPORT void edgewise_standing_show(Standing *p, Outcome *out) {
    Search *s = &p->s;
    hand_out(s, out);
    memcpy(p->filled, s->best, (size_t)s->arms);
    fill_cheapest(s, p->filled, p->order);
    for (int32_t i = 0; i < s->arms; i++) out->active[i] = p->filled[i];
    for (int32_t k = 0; k <= s->costs; k++) out->price[k] = s->dual_count ? s->duals[k] : 0.0;
}

EXPORT Standing *edgewise_standing_open(const Instance *given, const double *order) {
    Standing *p = make(given, order);
    prepare(&p->s, given);
    explore(&p->s, 0);
    p->tokens = p->s.tokens;
    /* The bounds of its nodes are worked out now, not at the first drift. */
    if (!p->s.overflow) rewalk(p);
    return p;
}
