/* One pass over a tree that is kept: bounds every leaf in the problem as it is now, and lists those that are open. */

#include <string.h>

#include "standing.h"

static double above_zero(double x) { return x > 0.0 ? x : 0.0; }

static double gain_at(const Standing *p, int32_t node, int32_t arm) { return node < 0 ? 0.0 : gains(p, node)[arm]; }

static void start(Standing *p) {
    Search *s = &p->s;
    memset(p->state, FREE, (size_t)s->arms);
    p->at = 0;
    for (; p->at < s->tokens && s->kind[p->at] >= DOMINATED; p->at++)
        if (s->kind[p->at] == DOMINATED) p->state[s->index[p->at]] = OUT;
    p->depth = p->opens = s->ins = 0;
    p->node = -1;
    p->highest = p->most = -1.0;
    for (int32_t k = 0; k < s->costs; k++) p->left[k] = 1.0 + s->slack;
}

/* The side with the arm. */
static void go_in(Standing *p, int32_t arm) {
    Search *s = &p->s;
    const double gain = gain_at(p, p->node, arm), *left = p->left + (int64_t)s->ins * s->costs;
    double *then = p->left + (int64_t)(s->ins + 1) * s->costs;
    p->side[p->depth++] = (Side){arm, p->node, p->most, false};
    p->most += gain - above_zero(gain);
    p->state[arm] = IN;
    for (int32_t k = 0; k < s->costs; k++) then[k] = left[k] - cost_of(s, arm, k);
    s->in[s->ins++] = arm;
}

/* Out of the leaf, to the side without the arm of the nearest branch that has it still to come. */
static bool go_out(Standing *p) {
    while (p->depth && p->side[p->depth - 1].out) p->state[p->side[--p->depth].arm] = FREE;
    if (!p->depth) return false;
    Side *side = &p->side[p->depth - 1];
    side->out = true;
    p->state[side->arm] = OUT;
    p->s.ins--;
    p->node = side->node;
    p->most = side->most - above_zero(gain_at(p, side->node, side->arm));
    return true;
}

static void note(Standing *p, double bound) {
    if (bound > p->highest) p->highest = bound;
}

static bool close_by_bound(Standing *p, int64_t at, int32_t node, double most) {
    Search *s = &p->s;
    if (node < 0 || most > s->cut) return false;
    s->kind[at] = LEAF;
    s->index[at] = node;
    note(p, most);
    return true;
}

static bool dead(const Standing *p) {
    const double *left = p->left + (int64_t)p->s.ins * p->s.costs;
    for (int32_t k = 0; k < p->s.costs; k++)
        if (left[k] < 0.0) return true;
    return false;
}

/* What is free may fit no more, or be worth more than it was. */
static bool full(Standing *p) {
    Search *s = &p->s;
    bool fits = true;
    for (int32_t k = 0; k < s->costs; k++) {
        double sum = 0.0;
        for (int32_t i = 0; i < s->arms; i++) sum += p->state[i] == FREE ? cost_of(s, i, k) : 0.0;
        fits = fits && sum <= p->left[(int64_t)s->ins * s->costs + k];
    }
    for (int32_t i = 0; i < s->arms; i++) s->trial[i] = p->state[i] != OUT;
    if (fits) offer(s, s->trial);
    const double worth = worth_of(s, s->trial);
    if (worth > s->cut) return false;
    note(p, worth);
    return true;
}

/* False where there is no room to list it. */
static bool list(Standing *p) {
    if (p->opens == MOST_OPEN || p->node < 0) return false;
    Open *o = &p->open[p->opens++];
    o->at = p->at;
    o->node = p->node;
    o->most = p->most;
    memcpy(o->state, p->state, (size_t)p->s.arms);
    return true;
}

static bool leaf(Standing *p, int32_t kind) {
    if (dead(p)) {
        p->s.kind[p->at] = DEAD;
        p->s.index[p->at] = 0;
        return true;
    }
    if (kind == FULL && full(p)) return true;
    return close_by_bound(p, p->at, p->node, p->most) || list(p);
}

/* A better set may have been found after a box was listed. */
static void close_late(Standing *p) {
    int32_t kept = 0;
    for (int32_t m = 0; m < p->opens; m++) {
        if (close_by_bound(p, p->open[m].at, p->open[m].node, p->open[m].most)) continue;
        const Open swapped = p->open[kept];
        p->open[kept++] = p->open[m];
        p->open[m] = swapped;
    }
    p->opens = kept;
}

bool rewalk(Standing *p) {
    Search *s = &p->s;
    start(p);
    do {
        for (; s->kind[p->at] == NODE || s->kind[p->at] == BRANCH; p->at++) {
            if (s->kind[p->at] == NODE) enter_node(p, s->index[p->at]);
            else go_in(p, s->index[p->at]);
        }
        if (!leaf(p, s->kind[p->at])) return false;
        p->at++;
    } while (go_out(p));
    close_late(p);
    return true;
}
