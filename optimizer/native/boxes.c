/* Boxes: frames that are made when a depth is first reached, and arms that go in or out. */

#include <stdlib.h>
#include <string.h>

#include "select.h"

static double *zeros(int32_t count) {
    double *found = aligned_alloc(64, sizeof(double) * (size_t)(up(count) + LANES));
    if (!found) abort();
    memset(found, 0, sizeof(double) * (size_t)(up(count) + LANES));
    return found;
}

Box *frame(Search *s, int32_t depth) {
    Box *b = &s->box[depth];
    if (b->free) return b;
    b->free = malloc(sizeof(int32_t) * (size_t)(s->arms + 1));
    if (!b->free) abort();
    b->covered = zeros(s->blocks * LANES);
    b->spent = s->routed ? zeros(s->blocks * LANES) : NULL;
    b->dual = zeros(dual_size(s));
    b->best_dual = zeros(dual_size(s));
    b->rho = zeros(s->arms);
    b->z = zeros(s->arms);
    b->mean = zeros(s->arms);
    b->left = zeros(s->costs);
    return b;
}

void copy_box(Search *s, const Box *from, Box *to) {
    const size_t wide = sizeof(double) * (size_t)(s->blocks * LANES);
    memcpy(to->free, from->free, sizeof(int32_t) * (size_t)from->frees);
    to->frees = from->frees;
    memcpy(to->covered, from->covered, wide);
    memcpy(to->dual, from->best_dual, sizeof(double) * (size_t)dual_size(s));
    memcpy(to->left, from->left, sizeof(double) * (size_t)s->costs);
    to->got = from->got;
    to->best = from->best;
    to->dual_id = from->dual_id;
}

void drop(Box *b, int32_t arm) {
    int32_t at = 0;
    while (b->free[at] != arm) at++;
    memmove(b->free + at, b->free + at + 1, sizeof(int32_t) * (size_t)(b->frees - at - 1));
    b->frees--;
}

CLONES static void cover(Search *s, Box *b, int32_t arm) {
    lanes got = {0};
    lanes *covered = (lanes *)b->covered;
    const lanes *v = (lanes *)row(s->worth, s, arm);
    /* In mode routed what covers depends on the price and is worked out with it. */
    if (s->routed) return;
    if (s->any_right)
        for (int32_t t = 0; t < s->blocks; t++) {
            got += covered[t] * v[t];
            covered[t] *= 1.0 - v[t];
        }
    else
        for (int32_t t = 0; t < s->blocks; t++) covered[t] = larger(covered[t], v[t]);
    b->got += total(got);
}

/* The caller takes the arm off the stack s->in again. */
void take(Search *s, Box *b, int32_t arm) {
    drop(b, arm);
    cover(s, b, arm);
    s->in[s->ins++] = arm;
    for (int32_t k = 0; k < s->costs; k++) b->left[k] -= cost_of(s, arm, k);
}

bool room_for(const Search *s, const Box *b, int32_t arm) {
    for (int32_t k = 0; k < s->costs; k++)
        if (cost_of(s, arm, k) > b->left[k]) return false;
    return true;
}

bool room_for_all(const Search *s, const Box *b) {
    for (int32_t k = 0; k < s->costs; k++) {
        double sum = 0.0;
        for (int32_t m = 0; m < b->frees; m++) sum += cost_of(s, b->free[m], k);
        if (sum > b->left[k]) return false;
    }
    return true;
}
