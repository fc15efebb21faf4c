/* Walks the tree of an earlier run over a problem that has changed a little: every box that was searched is bounded once,
 * at the dual vector that it had, and only boxes that this no longer closes are searched again. Where that is many, the
 * old tree is of no use and the search begins anew, from the old root's vector. */

#include <stdlib.h>
#include <string.h>

#include "select.h"

/* `most` is the linear bound of the nearest NODE above in the box of this moment. */
typedef struct {
    const int32_t *kind, *index;
    const double *dual;
    int64_t *other;           /* where a branch's subtree without the arm begins */
    int64_t at;
} Walk;

static bool is_free(const Box *b, int32_t arm) {
    for (int32_t m = 0; m < b->frees; m++)
        if (b->free[m] == arm) return true;
    return false;
}

static double above_zero(double x) { return x > 0.0 ? x : 0.0; }

static bool close_box(Search *s, double bound) {
    if (bound > s->cut) return false;
    if (bound > s->closed) s->closed = bound;
    return true;
}

/* A fresh evaluation at the stored vector; the multiplier of the main cost is worked out anew. */
static void enter_node(Search *s, const Walk *w, Box *b, int32_t dual) {
    const int64_t size = dual_size(s);
    memcpy(b->dual, w->dual + dual * size, sizeof(double) * (size_t)size);
    relax(s, b);
    b->best = b->relaxed;
    memcpy(b->best_dual, b->dual, sizeof(double) * (size_t)size);
    for (int32_t m = 0; m < b->frees; m++) b->mean[b->free[m]] = b->z[b->free[m]];
    b->dual_id = keep_dual(s, b->best_dual);
    say(s, NODE, b->dual_id);
}

static void walk(Search *s, Walk *w, int32_t depth, const Box *node, double most);

/* Both sides of a branch in frames of their own. */
static void walk_sides(Search *s, Walk *w, int32_t depth, int32_t arm, const Box *node, double most) {
    Box *b = &s->box[depth], *child = frame(s, depth + 1);
    const int64_t other = w->other[w->at - 1];
    const double gain = node ? reduced(s, node, arm) : 0.0;
    const int32_t ins = s->ins;
    say(s, BRANCH, arm);
    copy_box(s, b, child);
    if (room_for(s, b, arm)) {
        take(s, child, arm);
        walk(s, w, depth + 1, node, most - above_zero(gain) + gain);
        s->ins = ins;
    } else say(s, DEAD, 0);
    w->at = other;
    copy_box(s, b, child);
    drop(child, arm);
    walk(s, w, depth + 1, node, most - above_zero(gain));
}

/* A branch of which reduced costs closed one side is walked in place; false where it does not close any more. */
static bool walk_fixed(Search *s, Walk *w, Box *b, const Box *node, double *most, int32_t *ins) {
    const int32_t arm = w->index[w->at - 1];
    const int64_t other = w->other[w->at - 1];
    if (w->kind[w->at] == DEAD && !room_for(s, b, arm)) {
        say(s, BRANCH, arm);
        say(s, DEAD, 0);
        if (node) *most -= above_zero(reduced(s, node, arm));
        drop(b, arm);
        w->at = other;
        return true;
    }
    if (!node) return false;
    const double gain = reduced(s, node, arm), without = *most - above_zero(gain);
    if (w->kind[w->at] == LEAF && close_box(s, without + gain)) {
        say(s, BRANCH, arm);
        say(s, LEAF, node->dual_id);
        drop(b, arm);
        *most = without;
        w->at = other;
        return true;
    }
    if (w->kind[other] == LEAF && room_for(s, b, arm) && close_box(s, without)) {
        say(s, BRANCH, arm);
        take(s, b, arm);
        *most = without + gain;
        (*ins)++;
        return true;
    }
    return false;
}

static void finish(Search *s, Walk *w, int32_t depth, int32_t kind, const Box *node, double most) {
    w->at++;
    if (kind == LEAF && node && close_box(s, most)) say(s, LEAF, node->dual_id);
    else if (kind != FULL || !all_fit(s, &s->box[depth])) explore(s, depth);
}

static void walk(Search *s, Walk *w, int32_t depth, const Box *node, double most) {
    Box *b = &s->box[depth];
    int32_t ins = 0, outer = node ? node->dual_id : 0;
    while (!s->abandoned) {
        const int32_t kind = w->kind[w->at], index = w->index[w->at];
        if (kind != NODE && kind != BRANCH) {
            finish(s, w, depth, kind, node, most);
            break;
        }
        w->at++;
        if (kind == NODE) {
            enter_node(s, w, b, index);
            node = b;
            most = b->best;
            outer = b->dual_id;
        } else if (!is_free(b, index)) {
            w->at = w->other[w->at - 1];
        } else if (!walk_fixed(s, w, b, node, &most, &ins)) {
            walk_sides(s, w, depth, index, node, most);
            break;
        }
    }
    /* The closed sides of the arms that went in. */
    s->ins -= ins;
    for (; ins > 0; ins--, w->at++) say(s, LEAF, outer);
}

/* For every branch, where its second subtree begins. */
static int64_t *others(const Instance *given) {
    int64_t *other = calloc((size_t)given->old_tokens + 1, sizeof *other), *open = malloc(sizeof *open * (size_t)(given->old_tokens + 1));
    if (!other || !open) abort();
    int64_t height = 0;
    for (int64_t t = 0; t < given->old_tokens; t++) {
        const int32_t kind = given->old_kind[t];
        if (kind == BRANCH) open[height++] = t;
        if (kind != LEAF && kind != FULL && kind != DEAD) continue;
        /* A subtree ends here, and with it every second subtree that it closes. */
        while (height > 0 && other[open[height - 1]]) height--;
        if (height > 0) other[open[height - 1]] = t + 1;
    }
    free(open);
    return other;
}

void replay(Search *s, const Instance *given) {
    Walk w = {given->old_kind, given->old_index, given->old_dual, others(given), 0};
    while (w.at < given->old_tokens && w.kind[w.at] >= DOMINATED) w.at++;
    s->may_explore = 4 + given->old_searched / 32;
    walk(s, &w, 0, NULL, 0.0);
    free(w.other);
    s->may_explore = 0;
    if (!s->abandoned) return;
    s->abandoned = false;
    s->dual_count = 0;
    s->ins = 0;
    s->closed = -1.0;
    Box *b = root_box(s);
    if (given->old_searched) memcpy(b->dual, given->old_dual, sizeof(double) * (size_t)dual_size(s));
    explore(s, 0);
}
