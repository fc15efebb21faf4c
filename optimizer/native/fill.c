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

/* The best set with what still fits. Where the search was stopped, that may even add something. */
Worth fill_up(Search *s, uint8_t *set, const double *order) {
    Worth worth = {s->incumbent, s->closed > s->incumbent ? s->closed : s->incumbent, true};
    worth.optimal = worth.bound - worth.objective <= 2.0 * s->tolerance;
    fill_cheapest(s, set, order);
    if (worth.optimal) return worth;
    const double filled = worth_of(s, set);
    if (filled > worth.objective) worth.objective = filled;
    if (filled > worth.bound) worth.bound = filled;
    return worth;
}
