/* Arms that add nothing but still fit: another node to fall back on. */

#include "select.h"

static bool fits(const Search *s, const double *left, int32_t arm) {
    for (int32_t k = 0; k < s->costs; k++)
        if (cost_of(s, arm, k) > left[k]) return false;
    return true;
}

/* Those with the smallest order first; equals by index. */
void fill_cheapest(const Search *s, uint8_t *set, const double *order) {
    double left[s->costs + 1];
    for (int32_t k = 0; k < s->costs; k++) {
        left[k] = 1.0 + s->slack;
        for (int32_t i = 0; i < s->arms; i++) left[k] -= set[i] ? cost_of(s, i, k) : 0.0;
    }
    for (;;) {
        int32_t chosen = -1;
        for (int32_t i = 0; i < s->arms; i++)
            if (!set[i] && (chosen < 0 || order[i] < order[chosen]) && fits(s, left, i)) chosen = i;
        if (chosen < 0) return;
        set[chosen] = 1;
        for (int32_t k = 0; k < s->costs; k++) left[k] -= cost_of(s, chosen, k);
    }
}
