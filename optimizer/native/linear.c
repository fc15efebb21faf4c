/* Linear bounds of the nodes of a tree that is kept: what the drift of one arm changes of them is worked out anew. */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "standing.h"

int64_t linear_size(const Search *s) { return up(s->arms) + (s->any_right ? 2 * (int64_t)s->blocks * LANES : 0); }

static void make_room(Standing *p, int64_t count) {
    Linear *l = &p->linear;
    if (count <= l->room) return;
    l->row = realloc(l->row, sizeof(double) * (size_t)(count * linear_size(&p->s)));
    l->base = realloc(l->base, sizeof(double) * (size_t)count);
    l->known = realloc(l->known, sizeof(bool) * (size_t)count);
    if (!l->row || !l->base || !l->known) abort();
    memset(l->known + l->room, 0, sizeof(bool) * (size_t)(count - l->room));
    l->room = count;
}

void forget_linear(Standing *p) { memset(p->linear.known, 0, sizeof(bool) * (size_t)p->linear.room); }

/* The box of this moment of the walk, without its dual vector. */
void box_of(Standing *p, Box *b) {
    Search *s = &p->s;
    const int32_t ins = s->ins;
    const size_t wide = sizeof(double) * (size_t)(s->blocks * LANES);
    if (s->any_right) memcpy(b->covered, s->weight, wide);
    else memset(b->covered, 0, wide);
    b->got = 0.0;
    b->frees = 0;
    for (int32_t i = 0; i < s->arms; i++)
        if (p->state[i] != OUT) b->free[b->frees++] = i;
    for (int32_t k = 0; k < s->costs; k++) b->left[k] = 1.0 + s->slack;
    s->ins = 0;
    while (s->ins < ins) take(s, b, s->in[s->ins]);
}

/* What held a level up before the drift may be lower now, and the level with it: the multiplier that the search wanted
 * there was smaller still. */
static void lower_levels(Standing *p, const Box *b, double *level) {
    Search *s = &p->s;
    double *old = s->lane[0];
    memset(old, 0, sizeof(double) * (size_t)(s->blocks * LANES));
    for (int32_t m = 0; m < s->ins; m++) {
        const double *v = s->in[m] == p->drifted ? p->before : row(s->worth, s, s->in[m]);
        for (int32_t q = 0; q < s->queries; q++) old[q] = fmax(old[q], v[q]);
    }
    for (int32_t q = 0; q < s->queries; q++)
        if (level[q] <= old[q]) level[q] = b->covered[q];
}

static void work_out(Standing *p, int32_t node) {
    Search *s = &p->s;
    Box *b = frame(s, 0);
    const size_t size = (size_t)dual_size(s), wide = (size_t)(s->blocks * LANES);
    double *dual = s->duals + node * (int64_t)size, *gain = gains(p, node), base;
    box_of(p, b);
    memcpy(b->dual, dual, sizeof(double) * size);
    if (!s->any_right && p->linear.known[node] && p->drifted >= 0) lower_levels(p, b, b->dual + head(s));
    if (s->any_right) gains_any_right(s, b);
    else gains_best_of(s, b);
    base = b->constant;
    memset(gain, 0, sizeof(double) * (size_t)up(s->arms));
    for (int32_t m = 0; m < b->frees; m++) gain[b->free[m]] = b->rho[b->free[m]];
    for (int32_t k = 0; k < s->costs; k++) {
        base += b->dual[1 + k] * b->left[k];
        for (int32_t m = 0; m < b->frees; m++) gain[b->free[m]] -= b->dual[1 + k] * cost_of(s, b->free[m], k);
    }
    memcpy(dual, b->dual, sizeof(double) * size);
    if (s->any_right) {
        memcpy(gain + up(s->arms), s->lane[2], sizeof(double) * wide);
        memcpy(gain + up(s->arms) + wide, s->lane[3], sizeof(double) * wide);
    }
    p->linear.base[node] = base;
    p->linear.known[node] = true;
}

/* The gain of one free arm; with any_right it must be outside the point. */
CLONES static void work_out_one(Standing *p, int32_t node, int32_t arm) {
    Search *s = &p->s;
    const double *dual = s->duals + node * (int64_t)dual_size(s);
    double *gain = gains(p, node);
    const lanes *v = (lanes *)row(s->worth, s, arm);
    lanes sum = {0};
    if (s->any_right) {
        const lanes *steep = (lanes *)row(s->second, s, arm);
        const loose *smooth = (loose *)(gain + up(s->arms)), *cut = smooth + s->blocks;
        for (int32_t t = 0; t < s->blocks; t++) sum += smooth[t] * steep[t] + cut[t] * v[t];
    } else {
        const loose *level = (loose *)(dual + head(s));
        for (int32_t t = 0; t < s->blocks; t++) sum += positive(v[t] - level[t]);
    }
    gain[arm] = total(sum);
    for (int32_t k = 0; k < s->costs; k++) gain[arm] -= dual[1 + k] * cost_of(s, arm, k);
}

CLONES static double sum_of_gains(const double *gain, int32_t blocks) {
    lanes sum = {0};
    for (int32_t t = 0; t < blocks; t++) sum += positive((lanes)((loose *)gain)[t]);
    return total(sum);
}

/* Whether the drift changes more of a node's bound than the gains of the fresh arms. */
static bool outdated(const Standing *p, int32_t node) {
    const Search *s = &p->s;
    if (!p->linear.known[node]) return true;
    if (p->drifted < 0 || p->state[p->drifted] == OUT) return false;
    if (p->state[p->drifted] == IN) return true;
    return s->any_right && s->duals[node * (int64_t)dual_size(s) + head(s) + p->drifted] > 1e-9;
}

void enter_node(Standing *p, int32_t node) {
    make_room(p, p->s.dual_count);
    if (outdated(p, node)) work_out(p, node);
    else
        for (int32_t m = 0; m < p->freshes; m++)
            if (p->state[p->fresh[m]] == FREE) work_out_one(p, node, p->fresh[m]);
    p->node = node;
    p->most = p->linear.base[node] + sum_of_gains(gains(p, node), up(p->s.arms) / LANES);
}
