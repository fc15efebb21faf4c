/* Which arms stand in for which, after one of them has drifted. */

#include <string.h>

#include "standing.h"

/* Another arm that is still there and stands in for `arm`; -1 where there is none. */
static int32_t stand_in(Search *s, const uint8_t *gone, int32_t arm) {
    for (int32_t j = 0; j < s->arms; j++)
        if (j != arm && !gone[j] && dominates(s, j, arm)) return j;
    return -1;
}

/* Pairs that no longer hold find another stand-in, or leave the tree: the arm is free again in every box. */
void keep_dominated(Standing *p) {
    Search *s = &p->s;
    int64_t kept = 0, pairs = 0;
    memset(p->filled, 0, (size_t)s->arms);
    for (; pairs < s->tokens && s->kind[pairs] == DOMINATED; pairs += 2) {
        const int32_t arm = s->index[pairs];
        int32_t other = s->index[pairs + 1];
        const bool touched = arm == p->drifted || other == p->drifted;
        if (touched && !dominates(s, other, arm)) other = stand_in(s, p->filled, arm);
        if (other < 0) {
            if (arm != p->drifted) p->fresh[p->freshes++] = arm;
            continue;
        }
        p->filled[arm] = 1;
        s->index[kept] = arm;
        s->index[kept + 1] = other;
        kept += 2;
    }
    if (kept == pairs) return;
    const size_t rest = sizeof(int32_t) * (size_t)(s->tokens - pairs);
    memmove(s->kind + kept, s->kind + pairs, rest);
    memmove(s->index + kept, s->index + pairs, rest);
    s->tokens -= pairs - kept;
}
