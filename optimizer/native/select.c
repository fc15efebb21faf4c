/* Entry of the solver: takes an instance in, sets the search up, hands the outcome out. */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "select.h"

static double *table(int64_t count) {
    const size_t bytes = sizeof(double) * (size_t)((count + LANES) / LANES * LANES + LANES);
    double *found = aligned_alloc(64, bytes);
    if (!found) abort();
    memset(found, 0, bytes);
    return found;
}

static void load(Search *s, const Instance *given) {
    const int64_t wide = (int64_t)s->blocks * LANES;
    s->worth = table(s->arms * wide);
    s->second = s->routed || s->any_right ? table(s->arms * wide) : NULL;
    s->weight = table(wide);
    s->cost = table((int64_t)s->arms * s->costs);
    memcpy(s->cost, given->cost, sizeof(double) * (size_t)(s->arms * s->costs));
    if (s->any_right) memcpy(s->weight, given->weight, sizeof(double) * (size_t)s->queries);
    for (int32_t i = 0; i < s->arms; i++) {
        const int64_t from = (int64_t)i * s->queries;
        double *v = row(s->worth, s, i), *second = s->second ? row(s->second, s, i) : NULL;
        memcpy(v, given->worth + from, sizeof(double) * (size_t)s->queries);
        if (s->routed) memcpy(second, given->joules + from, sizeof(double) * (size_t)s->queries);
        if (s->any_right)
            for (int32_t q = 0; q < s->queries; q++) second[q] = v[q] < 1.0 ? fmin(-log1p(-v[q]), 40.0) : 40.0;
    }
}

static void set_up(Search *s, const Instance *given) {
    s->arms = given->arms;
    s->queries = given->queries;
    s->blocks = (given->queries + LANES - 1) / LANES;
    s->costs = given->costs;
    s->any_right = given->any_right;
    s->routed = given->joules != NULL;
    s->slack = given->slack;
    s->tolerance = given->tolerance;
    s->gap = given->gap;
    s->node_limit = given->node_limit;
    s->should_stop = given->should_stop;
    s->prove = given->prove;
    s->incumbent = s->closed = -1.0;
    s->cut = -1.0;
    load(s, given);
    s->in = malloc(sizeof(int32_t) * (size_t)(s->arms + 1));
    s->best = calloc((size_t)s->arms + 1, 1);
    s->trial = calloc((size_t)s->arms + 1, 1);
    s->box = calloc((size_t)s->arms + 2, sizeof(Box));
    if (!s->in || !s->best || !s->trial || !s->box) abort();
    s->gradient = table(dual_size(s));
    s->direction = table(dual_size(s));
    s->ratio = table(s->arms);
    for (int32_t t = 0; t < 7; t++) s->lane[t] = table((int64_t)s->blocks * LANES);
}

static void tear_down(Search *s) {
    for (int32_t depth = 0; depth <= s->arms + 1; depth++) {
        Box *b = &s->box[depth];
        free(b->free); free(b->covered); free(b->spent); free(b->dual); free(b->best_dual);
        free(b->rho); free(b->z); free(b->mean); free(b->left);
    }
    free(s->worth); free(s->second); free(s->weight); free(s->cost); free(s->in); free(s->best); free(s->trial);
    free(s->box); free(s->gradient); free(s->direction); free(s->ratio);
    for (int32_t t = 0; t < 7; t++) free(s->lane[t]);
}

/* Whether `other` can stand in for `arm` in every set: nowhere worth less, nowhere dearer. With any_right no arm can,
 * because a set that holds both is worth more than either. */
static bool dominates(Search *s, int32_t other, int32_t arm) {
    if (s->any_right) return false;
    for (int32_t k = 0; k < s->costs; k++)
        if (cost_of(s, other, k) > cost_of(s, arm, k)) return false;
    const double *mine = row(s->worth, s, arm), *theirs = row(s->worth, s, other);
    for (int32_t q = 0; q < s->queries; q++)
        if (theirs[q] < mine[q]) return false;
    if (!s->routed) return true;
    const double *spend = row(s->second, s, arm), *theirs_spend = row(s->second, s, other);
    for (int32_t q = 0; q < s->queries; q++)
        if (mine[q] > 0.0 && theirs_spend[q] > spend[q]) return false;
    return true;
}

static void drop_dominated(Search *s, Box *b) {
    for (int32_t m = b->frees - 1; m >= 0; m--) {
        const int32_t i = b->free[m];
        for (int32_t l = 0; l < b->frees; l++) {
            const int32_t j = b->free[l];
            if (j == i || !dominates(s, j, i)) continue;
            say(s, DOMINATED, i);
            say(s, DOMINATOR, j);
            drop(b, i);
            break;
        }
    }
}

Box *root_box(Search *s) {
    Box *b = frame(s, 0);
    s->tokens = 0;
    for (int32_t i = 0; i < s->arms; i++) b->free[i] = i;
    b->frees = s->arms;
    b->got = 0.0;
    const size_t wide = sizeof(double) * (size_t)(s->blocks * LANES);
    if (s->any_right) memcpy(b->covered, s->weight, wide);
    else memset(b->covered, 0, wide);
    for (int32_t k = 0; k < s->costs; k++) b->left[k] = 1.0 + s->slack;
    b->best = INFINITY;
    drop_dominated(s, b);
    return b;
}

/* The cost that binds most by itself is kept as a knapsack. */
static void choose_main(Search *s, Box *b) {
    double least = INFINITY;
    int32_t chosen = 0;
    for (int32_t k = 0; k < s->costs; k++) {
        s->main = k;
        memset(b->dual, 0, sizeof(double) * (size_t)dual_size(s));
        relax(s, b);
        if (b->relaxed < least) { least = b->relaxed; chosen = k; }
    }
    s->main = chosen;
    memset(b->dual, 0, sizeof(double) * (size_t)dual_size(s));
}

/* The levels start from the cover of a good set, the point from the set itself. */
static void start_dual(Search *s, Box *b) {
    double *start = b->dual + head(s);
    if (s->any_right) {
        for (int32_t i = 0; i < s->arms; i++) start[i] = s->best[i];
        return;
    }
    for (int32_t i = 0; i < s->arms; i++) {
        if (!s->best[i]) continue;
        const double *v = row(s->worth, s, i), *j = s->routed ? row(s->second, s, i) : NULL;
        for (int32_t q = 0; q < s->queries; q++) start[q] = fmax(start[q], v[q] - (j ? b->dual[0] * j[q] : 0.0));
    }
}

static void begin(Search *s, const Instance *given, Box *b) {
    if (s->routed) {
        /* The price at which all arms together would meet the limit. */
        memset(s->trial, 1, (size_t)s->arms);
        worth_of(s, s->trial);
        b->dual[0] = s->price;
    }
    memset(s->trial, 0, (size_t)s->arms);
    for (int32_t m = 0; m < given->start_count; m++) s->trial[given->start[m]] = 1;
    if (given->start_count) offer(s, s->trial);
    relax(s, b);
    for (int32_t m = 0; m < b->frees; m++) b->z[b->free[m]] = 0.0;
    /* Whatever happens next, there is something to return. */
    complete(s, b, true);
    start_dual(s, b);
}

static void hand_out(Search *s, Outcome *out) {
    for (int32_t i = 0; i < s->arms; i++) out->active[i] = s->best[i];
    for (int32_t k = 0; k <= s->costs; k++) out->price[k] = s->box[0].best_dual[k];
    if (s->routed) {
        /* The price at which the best set's policy meets the limit; a root that was closed at once has none. */
        worth_of(s, s->best);
        out->price[0] = s->price;
    }
    out->objective = s->incumbent;
    out->bound = s->closed > s->incumbent ? s->closed : s->incumbent;
    out->explored = s->explored;
    out->evaluated = s->evaluated;
    out->stopped = s->stopped;
    out->dual_size = dual_size(s);
    const bool kept = s->prove && !s->overflow;
    out->tokens = kept ? s->tokens : -1;
    out->duals = kept ? s->dual_count : -1;
    out->kind = s->kind;
    out->index = s->index;
    out->dual = s->duals;
}

/* Solve. Returns 0. The instance must have at least one arm, and each of its arms must fit by itself. */
EXPORT int32_t edgewise_select(const Instance *given, Outcome *out) {
    Search s;
    memset(&s, 0, sizeof s);
    set_up(&s, given);
    Box *b = root_box(&s);
    choose_main(&s, b);
    begin(&s, given, b);
    if (given->old_tokens > 0) replay(&s, given);
    else explore(&s, 0);
    hand_out(&s, out);
    tear_down(&s);
    return 0;
}

EXPORT void edgewise_select_free(Outcome *out) {
    free(out->kind);
    free(out->index);
    free(out->dual);
    out->kind = out->index = NULL;
    out->dual = NULL;
}
