/* A whole problem of mode worst_case in one call: small ones take longer to prepare in Python than to solve. */

#include <stdlib.h>
#include <string.h>

#include "whole.h"

static void *room(int64_t bytes) {
    void *found = malloc((size_t)bytes + 64);
    if (!found) abort();
    return found;
}

static void make_room(const Whole *g, Intake *to) {
    to->eligible = room((int64_t)sizeof(int32_t) * g->arms);
    to->binding = room((int64_t)sizeof(int32_t) * g->costs);
    to->worth = room((int64_t)sizeof(double) * g->arms * g->queries);
    to->share = room((int64_t)sizeof(double) * g->arms * g->costs);
    to->weight = room((int64_t)sizeof(double) * g->queries);
}

static void give_back(Intake *to) {
    free(to->eligible); free(to->binding); free(to->worth); free(to->share); free(to->weight);
}

/* What the solver found, with the arms that still fit, in the problem's terms. */
static void answer(Whole *g, const Intake *in, Search *s) {
    double order[s->arms];
    for (int32_t e = 0; e < s->arms; e++) order[e] = g->order[in->eligible[e]];
    const Worth worth = fill_up(s, s->best, order);
    g->explored = s->explored;
    g->optimal = worth.optimal;
    g->objective = worth.objective * in->scale;
    g->bound = worth.bound * in->scale;
    /* The first limit is that of energy, where there is one. */
    if (in->bindings && in->binding[0] == 0) g->price = s->box[0].best_dual[1] * in->scale / g->limit[0];
    for (int32_t e = 0; e < s->arms; e++) g->active[in->eligible[e]] = s->best[e];
}

static void search(Whole *g, const Intake *in) {
    const Instance instance = {
        .arms = in->eligibles, .queries = g->queries, .costs = in->bindings, .any_right = g->any_right,
        .worth = in->worth, .weight = in->weight, .cost = in->share, .slack = g->slack, .tolerance = g->tolerance,
        .gap = g->gap, .node_limit = g->node_limit, .should_stop = g->should_stop,
    };
    Search s;
    memset(&s, 0, sizeof s);
    set_up(&s, &instance);
    if (in->scale > 0.0) {
        prepare(&s, &instance);
        explore(&s, 0);
    } else {
        /* Nothing is worth anything: any arm will do. */
        frame(&s, 0);
        s.best[0] = 1;
        s.incumbent = s.closed = 0.0;
        s.explored = 1;
    }
    answer(g, in, &s);
    tear_down(&s);
}

/* Solve. Nothing is kept: neither the tree nor the arrays. */
EXPORT void edgewise_solve(Whole *given) {
    Intake in;
    memset(&in, 0, sizeof in);
    make_room(given, &in);
    take_in(given, &in);
    given->eligibles = in.eligibles;
    given->scale = in.scale;
    if (in.eligibles) search(given, &in);
    give_back(&in);
}
