/* Keeps the tree of the search: tokens in preorder, and the dual vectors that they name. */

#include <stdlib.h>
#include <string.h>

#include "select.h"

/* A tree that would take more bytes than this is not kept. */
static const int64_t MOST_BYTES = (int64_t)1 << 29;

static void *grown(Search *s, void *block, int64_t bytes) {
    void *larger_block = bytes > MOST_BYTES ? NULL : realloc(block, (size_t)bytes);
    if (!larger_block) s->overflow = true;
    return larger_block ? larger_block : block;
}

void say(Search *s, int32_t kind, int32_t index) {
    if (!s->prove || s->overflow) return;
    if (s->tokens == s->token_room) {
        const int64_t room = s->token_room ? 2 * s->token_room : 256;
        s->kind = grown(s, s->kind, room * (int64_t)sizeof(int32_t));
        if (!s->overflow) s->index = grown(s, s->index, room * (int64_t)sizeof(int32_t));
        if (s->overflow) return;
        s->token_room = room;
    }
    s->kind[s->tokens] = kind;
    s->index[s->tokens++] = index;
}

int32_t keep_dual(Search *s, const double *dual) {
    if (!s->prove || s->overflow) return 0;
    const int64_t size = dual_size(s);
    if (s->dual_count == s->dual_room) {
        const int64_t room = s->dual_room ? 2 * s->dual_room : 32;
        s->duals = grown(s, s->duals, room * size * (int64_t)sizeof(double));
        if (s->overflow) return 0;
        s->dual_room = room;
    }
    memcpy(s->duals + s->dual_count * size, dual, sizeof(double) * (size_t)size);
    return (int32_t)s->dual_count++;
}
