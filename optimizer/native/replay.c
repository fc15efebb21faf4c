/* Walks the tree of an earlier run over a problem that has changed a little: every box is bounded once, at the dual
 * vector that it had, and only boxes that this no longer closes are searched. */

#include <string.h>

#include "select.h"

typedef struct {
    const Instance *given;
    int64_t at;
} Walk;

/* The linear bound of the nearest NODE above, in this box. */
static double bound_above(const Search *s, const Box *node, int32_t node_ins, const Box *b) {
    double bound = node->constant + 0.0;
    for (int32_t k = 0; k < s->costs; k++) bound += node->best_dual[1 + k] * node->left[k];
    for (int32_t m = node_ins; m < s->ins; m++) bound += reduced(s, node, s->in[m]);
    for (int32_t m = 0; m < b->frees; m++) {
        const double gain = reduced(s, node, b->free[m]);
        if (gain > 0.0) bound += gain;
    }
    return bound;
}

static void skip(Walk *w) {
    int64_t open = 1;
    while (open > 0) {
        const int32_t kind = w->given->old_kind[w->at++];
        if (kind == BRANCH) open++;
        else if (kind == LEAF || kind == FULL || kind == DEAD) open--;
    }
}

static bool is_free(const Box *b, int32_t arm) {
    for (int32_t m = 0; m < b->frees; m++)
        if (b->free[m] == arm) return true;
    return false;
}

static void walk(Search *s, Walk *w, int32_t depth, const Box *node, int32_t node_ins);

static void walk_branch(Search *s, Walk *w, int32_t depth, int32_t arm, const Box *node, int32_t node_ins) {
    Box *b = &s->box[depth];
    if (!is_free(b, arm)) {
        skip(w);
        walk(s, w, depth, node, node_ins);
        return;
    }
    const int32_t ins = s->ins;
    Box *child = frame(s, depth + 1);
    say(s, BRANCH, arm);
    copy_box(s, b, child);
    if (room_for(s, b, arm)) {
        take(s, child, arm);
        walk(s, w, depth + 1, node, node_ins);
        s->ins = ins;
    } else {
        say(s, DEAD, 0);
        skip(w);
    }
    copy_box(s, b, child);
    drop(child, arm);
    walk(s, w, depth + 1, node, node_ins);
}

/* A fresh evaluation at the stored vector; the multiplier of the main cost is worked out anew. */
static void enter_node(Search *s, Walk *w, Box *b, int32_t dual) {
    const int64_t size = dual_size(s);
    memcpy(b->dual, w->given->old_dual + dual * size, sizeof(double) * (size_t)size);
    relax(s, b);
    b->best = b->relaxed;
    memcpy(b->best_dual, b->dual, sizeof(double) * (size_t)size);
    for (int32_t m = 0; m < b->frees; m++) b->mean[b->free[m]] = b->z[b->free[m]];
}

static void walk(Search *s, Walk *w, int32_t depth, const Box *node, int32_t node_ins) {
    Box *b = &s->box[depth];
    const int32_t kind = w->given->old_kind[w->at], index = w->given->old_index[w->at];
    w->at++;
    if (kind == BRANCH) {
        walk_branch(s, w, depth, index, node, node_ins);
        return;
    }
    if (kind == NODE) {
        enter_node(s, w, b, index);
        complete(s, b, false);
        b->dual_id = keep_dual(s, b->best_dual);
        say(s, NODE, b->dual_id);
        if (b->best <= s->cut) {
            if (b->best > s->closed) s->closed = b->best;
            say(s, LEAF, b->dual_id);
            skip(w);
            return;
        }
        /* Its children copy it; what they need of it later stays in this frame. */
        walk(s, w, depth, b, s->ins);
        return;
    }
    if (kind == LEAF && node) {
        const double bound = bound_above(s, node, node_ins, b);
        if (bound <= s->cut) {
            if (bound > s->closed) s->closed = bound;
            say(s, LEAF, node->dual_id);
            return;
        }
    }
    explore(s, depth);
}

void replay(Search *s, const Instance *given) {
    Walk w = {given, 0};
    while (w.at < given->old_tokens && given->old_kind[w.at] >= DOMINATED) w.at++;
    walk(s, &w, 0, NULL, 0);
}
