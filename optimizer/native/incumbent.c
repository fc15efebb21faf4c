/* Feasible sets: the worth of a set, greedy completion of what the relaxation suggests, and swaps. */

#include <math.h>
#include <string.h>

#include "select.h"

/* lane 0 becomes the cover of a set: best worth at the price, or with any_right the weighted chance of a miss, with what
 * was hit in lane 1. */
CLONES static void cover_of(Search *s, const uint8_t *set, int32_t without, double price) {
    lanes *cover = (lanes *)s->lane[0], *hit = (lanes *)s->lane[1];
    const lanes *weight = (lanes *)s->weight;
    for (int32_t t = 0; t < s->blocks; t++) {
        cover[t] = s->any_right ? weight[t] : (lanes){0};
        hit[t] = (lanes){0};
    }
    for (int32_t i = 0; i < s->arms; i++) {
        if (!set[i] || i == without) continue;
        const lanes *v = (lanes *)row(s->worth, s, i);
        const lanes *j = s->routed ? (lanes *)row(s->second, s, i) : v;
        const double rate = s->routed ? price : 0.0;
        if (s->any_right)
            for (int32_t t = 0; t < s->blocks; t++) {
                hit[t] += cover[t] * v[t];
                cover[t] *= 1.0 - v[t];
            }
        else
            for (int32_t t = 0; t < s->blocks; t++) cover[t] = larger(cover[t], v[t] - rate * j[t]);
    }
}

/* What an arm adds to the cover in lane 0. */
CLONES static double gain_of(Search *s, int32_t arm, double price) {
    const lanes *cover = (lanes *)s->lane[0], *v = (lanes *)row(s->worth, s, arm);
    lanes sum = {0};
    if (s->any_right) {
        for (int32_t t = 0; t < s->blocks; t++) sum += cover[t] * v[t];
    } else if (s->routed) {
        const lanes *j = (lanes *)row(s->second, s, arm);
        for (int32_t t = 0; t < s->blocks; t++) sum += positive(v[t] - price * j[t] - cover[t]);
    } else {
        for (int32_t t = 0; t < s->blocks; t++) sum += positive(v[t] - cover[t]);
    }
    return total(sum);
}

CLONES static double cover_worth(Search *s) {
    const lanes *worth = (lanes *)s->lane[s->any_right ? 1 : 0];
    lanes sum = {0};
    for (int32_t t = 0; t < s->blocks; t++) sum += worth[t];
    return total(sum);
}

/* A tangent of the dual function of a fixed set in mode routed: quality and joules of its policy at a price. */
typedef struct {
    double quality, spent;
} Line;

static Line line_at(Search *s, const uint8_t *set, double price, bool free_only) {
    Line line = {0.0, 0.0};
    double *best = s->lane[0], *worth = s->lane[1], *joules = s->lane[2];
    memset(best, 0, sizeof(double) * (size_t)(s->blocks * LANES));
    memset(worth, 0, sizeof(double) * (size_t)(s->blocks * LANES));
    memset(joules, 0, sizeof(double) * (size_t)(s->blocks * LANES));
    for (int32_t i = 0; i < s->arms; i++) {
        if (!set[i]) continue;
        const double *v = row(s->worth, s, i), *j = row(s->second, s, i);
        for (int32_t q = 0; q < s->queries; q++) {
            const double score = free_only ? (j[q] > 0.0 ? -1.0 : v[q]) : v[q] - price * j[q];
            if (score > best[q] || (score == best[q] && score > 0.0 && j[q] < joules[q])) {
                best[q] = score;
                worth[q] = v[q];
                joules[q] = j[q];
            }
        }
    }
    for (int32_t q = 0; q < s->queries; q++) {
        line.quality += worth[q];
        line.spent += joules[q];
    }
    return line;
}

/* The best policy's quality: the least point of the dual function, where tangents from both sides cross on it. */
static double routed_worth(Search *s, const uint8_t *set) {
    Line left = line_at(s, set, 0.0, false);
    s->price = 0.0;
    if (left.spent <= 1.0) return left.quality;
    Line right = line_at(s, set, 0.0, true);
    double least = left.quality;
    for (int32_t round = 0; round < 100; round++) {
        const double price = (left.quality - right.quality) / (left.spent - right.spent);
        const double crossing = left.quality + price * (1.0 - left.spent);
        const Line here = line_at(s, set, price, false);
        const double height = here.quality + price * (1.0 - here.spent);
        if (height < least) { least = height; s->price = price; }
        if (height <= crossing + 1e-14) break;
        if (here.spent > 1.0) left = here;
        else right = here;
    }
    return least;
}

double worth_of(Search *s, const uint8_t *set) {
    if (s->routed) return routed_worth(s, set);
    cover_of(s, set, -1, 0.0);
    return cover_worth(s);
}

void offer(Search *s, const uint8_t *set) {
    const double worth = worth_of(s, set);
    if (worth <= s->incumbent) return;
    s->incumbent = worth;
    s->cut = worth + s->tolerance + s->gap * worth;
    memcpy(s->best, set, (size_t)s->arms);
}

static bool fits_beside(const Search *s, const double *left, int32_t arm) {
    for (int32_t k = 0; k < s->costs; k++)
        if (cost_of(s, arm, k) > left[k]) return false;
    return true;
}

static void put(const Search *s, uint8_t *set, double *left, int32_t arm, bool in) {
    set[arm] = in;
    for (int32_t k = 0; k < s->costs; k++) left[k] -= in ? cost_of(s, arm, k) : -cost_of(s, arm, k);
}

/* Add arms by gain per cost while one fits; lane 0 holds the cover of the set. */
static void fill_greedily(Search *s, uint8_t *set, double *left, double price) {
    for (;;) {
        int32_t chosen = -1;
        double steepest = 0.0;
        cover_of(s, set, -1, price);
        for (int32_t i = 0; i < s->arms; i++) {
            if (set[i] || !fits_beside(s, left, i)) continue;
            const double cost = s->costs ? cost_of(s, i, s->main) : 0.0;
            const double steep = gain_of(s, i, price) / (cost > 1e-12 ? cost : 1e-12);
            if (steep > steepest) { steepest = steep; chosen = i; }
        }
        if (chosen < 0) return;
        put(s, set, left, chosen, true);
    }
}

/* One arm for another wherever that gains: for any other, or for `only` where that is an arm. */
static bool swap_once(Search *s, uint8_t *set, double *left, double price, int32_t only) {
    cover_of(s, set, -1, price);
    const double now = cover_worth(s);
    for (int32_t out = 0; out < s->arms; out++) {
        if (!set[out]) continue;
        put(s, set, left, out, false);
        cover_of(s, set, out, price);
        const double without = cover_worth(s);
        int32_t chosen = -1;
        double most = now + 1e-12 - without;
        for (int32_t i = only < 0 ? 0 : only; i < (only < 0 ? s->arms : only + 1); i++) {
            if (set[i] || i == out || !fits_beside(s, left, i)) continue;
            const double gain = gain_of(s, i, price);
            if (gain > most) { most = gain; chosen = i; }
        }
        put(s, set, left, chosen < 0 ? out : chosen, true);
        if (chosen >= 0) return true;
    }
    return false;
}

/* What room is left over is filled, before swaps and after each. */
static void polish(Search *s, uint8_t *set, double *left, double price, int32_t only) {
    fill_greedily(s, set, left, price);
    for (int32_t round = 0; round < 4 * s->arms && swap_once(s, set, left, price, only); round++)
        fill_greedily(s, set, left, price);
    offer(s, set);
}

/* Complete what is in and what the relaxation takes whole to a set that nothing can be added to, and offer it. */
void complete(Search *s, const Box *b, bool thorough) {
    uint8_t *set = s->trial;
    double left[s->costs + 1];
    memset(set, 0, (size_t)s->arms);
    for (int32_t k = 0; k < s->costs; k++) left[k] = b->left[k];
    for (int32_t m = 0; m < s->ins; m++) set[s->in[m]] = 1;
    /* b->free is ordered by gain per cost. */
    for (int32_t m = 0; m < b->frees; m++) {
        const int32_t i = b->free[m];
        if (b->z[i] >= 0.999 && fits_beside(s, left, i)) put(s, set, left, i, true);
    }
    if (!thorough) {
        for (int32_t m = 0; m < b->frees; m++) {
            const int32_t i = b->free[m];
            if (!set[i] && b->rho[i] > 0.0 && fits_beside(s, left, i)) put(s, set, left, i, true);
        }
        offer(s, set);
        return;
    }
    polish(s, set, left, b->dual[0], -1);
}

static bool left_of(const Search *s, const uint8_t *set, double *left) {
    bool fits = true;
    for (int32_t k = 0; k < s->costs; k++) {
        left[k] = 1.0 + s->slack;
        for (int32_t i = 0; i < s->arms; i++) left[k] -= set[i] ? cost_of(s, i, k) : 0.0;
        fits = fits && left[k] >= 0.0;
    }
    return fits;
}

/* The incumbent after one arm has changed: its worth anew. False where it no longer fits, and goes without the arm. */
bool revalue(Search *s, int32_t arm) {
    double left[s->costs + 1];
    memcpy(s->trial, s->best, (size_t)s->arms);
    const bool fits = left_of(s, s->trial, left);
    if (!fits) s->trial[arm] = 0;
    s->incumbent = -1.0;
    offer(s, s->trial);
    return fits;
}

/* Fill and swap the incumbent; the arm that comes in is any, or `only` where that is an arm. */
void improve(Search *s, int32_t only) {
    double left[s->costs + 1];
    memcpy(s->trial, s->best, (size_t)s->arms);
    left_of(s, s->trial, left);
    polish(s, s->trial, left, 0.0, only);
}
