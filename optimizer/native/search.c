/* Exact selection of active arms: depth-first search over boxes with relaxations, and a proof on request.
 *
 * A box (in, free) stands for every set between `in` and `in + free`. Its bound comes from relax.c. A box whose bound does
 * not beat the incumbent is closed. Otherwise reduced costs fix arms: an arm that would, if it were in (or out), take the
 * bound below the incumbent must be out (or in). Then one arm is branched on, first in, then out, each child starting from
 * its parent's dual vector. arXiv 2501.09410 searches boxes by the worth of their top corner alone; the bounds here are
 * Lagrangian, which contains the submodular and the linear-programming bound as special dual vectors. */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "select.h"

enum { ROOT_ROUNDS = 400, ROUNDS = 40 };

static bool close_box(Search *s, double bound) {
    if (bound > s->cut) return false;
    if (bound > s->closed) s->closed = bound;
    return true;
}

/* Arms that no longer fit are out for good. */
static void drop_unfit(Search *s, Box *b) {
    for (int32_t m = b->frees - 1; m >= 0; m--) {
        const int32_t i = b->free[m];
        if (room_for(s, b, i)) continue;
        say(s, BRANCH, i);
        say(s, DEAD, 0);
        drop(b, i);
    }
}

/* Where everything that is free fits, nothing else has to be looked at. */
bool all_fit(Search *s, Box *b) {
    if (b->frees && !room_for_all(s, b)) return false;
    memset(s->trial, 0, (size_t)s->arms);
    for (int32_t m = 0; m < s->ins; m++) s->trial[s->in[m]] = 1;
    for (int32_t m = 0; m < b->frees; m++) s->trial[b->free[m]] = 1;
    offer(s, s->trial);
    if (s->incumbent > s->closed) s->closed = s->incumbent;
    say(s, FULL, 0);
    return true;
}

/* Reduced costs close the other side of many branches; returns how many arms went in, whose other side the caller says. */
static int32_t fix(Search *s, Box *b) {
    int32_t ins = 0, frees = b->frees, listed[frees > 0 ? frees : 1];
    memcpy(listed, b->free, sizeof(int32_t) * (size_t)frees);
    for (int32_t m = 0; m < frees; m++) {
        const int32_t i = listed[m];
        const double gain = reduced(s, b, i);
        if (gain <= 0.0) {
            if (!close_box(s, b->best + gain)) continue;
            say(s, BRANCH, i);
            say(s, LEAF, b->dual_id);
            drop(b, i);
        } else if (room_for(s, b, i) && close_box(s, b->best - gain)) {
            say(s, BRANCH, i);
            take(s, b, i);
            ins++;
        }
    }
    return ins;
}

/* The arm that the relaxation is least sure of. */
static int32_t undecided(const Search *s, const Box *b) {
    int32_t chosen = b->free[0];
    double least = INFINITY;
    for (int32_t m = 0; m < b->frees; m++) {
        const int32_t i = b->free[m];
        const double mean = b->mean[i], sure = fabs(mean - 0.5) - 1e-6 * b->rho[i] / (s->incumbent + 1e-300);
        if (sure < least) { least = sure; chosen = i; }
    }
    return chosen;
}

static void branch(Search *s, int32_t depth, const Box *b) {
    const int32_t arm = undecided(s, b), ins = s->ins;
    Box *child = frame(s, depth + 1);
    say(s, BRANCH, arm);
    copy_box(s, b, child);
    take(s, child, arm);
    explore(s, depth + 1);
    s->ins = ins;
    copy_box(s, b, child);
    drop(child, arm);
    explore(s, depth + 1);
}

static bool must_stop(Search *s) {
    if (!s->stopped && s->explored > 0) {
        if (s->explored >= s->node_limit) s->stopped = true;
        else if (s->should_stop && s->should_stop()) s->stopped = true;
    }
    return s->stopped;
}

/* A box that will not be looked at keeps the bound of its parent. */
static void leave_open(Search *s, const Box *b) {
    if (b->best > s->closed) s->closed = b->best;
    say(s, LEAF, b->dual_id);
}

void explore(Search *s, int32_t depth) {
    Box *b = &s->box[depth];
    if (s->may_explore && s->explored >= s->may_explore) s->abandoned = true;
    if (s->abandoned) return;
    if (must_stop(s)) { leave_open(s, b); return; }
    s->explored++;
    drop_unfit(s, b);
    if (all_fit(s, b)) return;
    for (int32_t m = 0; m < b->frees; m++) b->mean[b->free[m]] = 0.0;
    descend(s, b, depth ? ROUNDS : ROOT_ROUNDS, depth == 0);
    complete(s, b, depth == 0);
    b->dual_id = keep_dual(s, b->best_dual);
    say(s, NODE, b->dual_id);
    if (close_box(s, b->best)) { say(s, LEAF, b->dual_id); return; }
    const int32_t ins = fix(s, b), dual_id = b->dual_id;
    drop_unfit(s, b);
    if (!all_fit(s, b)) branch(s, depth, b);
    s->ins -= ins;
    /* The sides without the arms that were fixed in. */
    for (int32_t m = 0; m < ins; m++) say(s, LEAF, dual_id);
}
