/* Boxes that a drift opened are searched again, each from the dual vector of the nearest node above it, and their new
 * subtrees take the place of their leaves. */

#include <stdlib.h>
#include <string.h>

#include "standing.h"

static void search_again(Standing *p, const Open *o) {
    Search *s = &p->s;
    Box *b = frame(s, 1);
    memcpy(p->state, o->state, (size_t)s->arms);
    s->ins = 0;
    for (int32_t i = 0; i < s->arms; i++)
        if (p->state[i] == IN) s->in[s->ins++] = i;
    box_of(p, b);
    const size_t size = (size_t)dual_size(s);
    memcpy(b->dual, s->duals + o->node * (int64_t)size, sizeof(double) * size);
    memcpy(b->best_dual, b->dual, sizeof(double) * size);
    b->best = o->most;
    b->dual_id = o->node;
    explore(s, 1);
    s->ins = 0;
}

static void copy_tokens(Search *s, const int32_t *kind, const int32_t *index, int64_t from, int64_t to) {
    for (int64_t t = from; t < to; t++) say(s, kind[t], index[t]);
}

/* False where that takes too long. */
bool reopen(Standing *p) {
    Search *s = &p->s;
    const int64_t count = s->tokens;
    int32_t *kind = s->kind, *index = s->index;
    int64_t from = 0;
    s->kind = s->index = NULL;
    s->tokens = s->token_room = 0;
    s->closed = p->highest;
    s->may_explore = 8 + s->dual_count / 4;
    for (int32_t m = 0; m < p->opens && !s->abandoned; m++) {
        copy_tokens(s, kind, index, from, p->open[m].at);
        search_again(p, &p->open[m]);
        from = p->open[m].at + 1;
    }
    copy_tokens(s, kind, index, from, count);
    free(kind);
    free(index);
    s->may_explore = 0;
    const bool done = !s->abandoned && !s->overflow;
    s->abandoned = false;
    return done;
}
