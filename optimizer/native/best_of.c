/* Best-of: facility location with the assignment relaxed.
 *
 * For levels U_q >= covered_q, every set S of the box is worth at most
 *   sum_q U_q + sum over the arms i it adds of rho_i,   rho_i = sum_q max(0, v_iq - U_q).
 * In mode routed v_iq = worth_iq - price * joules_iq, and price * limit is added. The submodular bound at a set T is the
 * case U_q = max over T of v_iq. */

#include "select.h"

/* What is in covers the queries anew after the price has changed. */
CLONES static void cover_at_price(Search *s, Box *b) {
    const lanes price = b->dual[0] - (lanes){0};
    lanes *covered = (lanes *)b->covered, *spent = (lanes *)b->spent;
    for (int32_t t = 0; t < s->blocks; t++) covered[t] = spent[t] = (lanes){0};
    for (int32_t m = 0; m < s->ins; m++) {
        const lanes *v = (lanes *)row(s->worth, s, s->in[m]), *j = (lanes *)row(s->second, s, s->in[m]);
        for (int32_t t = 0; t < s->blocks; t++) {
            const lanes x = v[t] - price * j[t];
            const masks better = (masks)(x > covered[t]);
            covered[t] = (lanes)(((masks)x & better) | ((masks)covered[t] & ~better));
            spent[t] = (lanes)(((masks)j[t] & better) | ((masks)spent[t] & ~better));
        }
    }
}

CLONES static void excess(Search *s, Box *b, const lanes *u) {
    const lanes price = b->dual[0] - (lanes){0};
    for (int32_t m = 0; m < b->frees; m++) {
        const int32_t i = b->free[m];
        const lanes *v = (lanes *)row(s->worth, s, i);
        lanes sum = {0};
        if (s->routed) {
            const lanes *j = (lanes *)row(s->second, s, i);
            for (int32_t t = 0; t < s->blocks; t++) sum += positive(v[t] - price * j[t] - u[t]);
        } else {
            for (int32_t t = 0; t < s->blocks; t++) sum += positive(v[t] - u[t]);
        }
        b->rho[i] = total(sum);
    }
}

CLONES void gains_best_of(Search *s, Box *b) {
    if (s->routed) cover_at_price(s, b);
    lanes *u = (lanes *)(b->dual + head(s)), sum = {0};
    const lanes *covered = (lanes *)b->covered;
    for (int32_t t = 0; t < s->blocks; t++) sum += (u[t] = larger(u[t], covered[t]));
    b->constant = total(sum) + b->dual[0];
    excess(s, b, u);
}

/* Slope of the bound in every level, and in the price; returns the squared length of the levels' part. */
CLONES double slope_best_of(Search *s, Box *b) {
    const lanes price = b->dual[0] - (lanes){0};
    const lanes *u = (lanes *)(b->dual + head(s)), *covered = (lanes *)b->covered, *spent = (lanes *)b->spent;
    lanes *g = (lanes *)(s->gradient + head(s)), joules = {0}, square = {0};
    for (int32_t t = 0; t < s->blocks; t++) g[t] = 1.0 - (lanes){0};
    for (int32_t m = 0; m < b->frees; m++) {
        const int32_t i = b->free[m];
        if (b->z[i] <= 0.0) continue;
        const lanes *v = (lanes *)row(s->worth, s, i), share = b->z[i] - (lanes){0};
        if (s->routed) {
            const lanes *j = (lanes *)row(s->second, s, i);
            for (int32_t t = 0; t < s->blocks; t++) {
                const masks above = (masks)(v[t] - price * j[t] > u[t]);
                g[t] -= (lanes)((masks)share & above);
                joules += (lanes)((masks)(share * j[t]) & above);
            }
        } else {
            for (int32_t t = 0; t < s->blocks; t++) g[t] -= (lanes)((masks)share & (masks)(v[t] > u[t]));
        }
    }
    for (int32_t t = 0; t < s->blocks; t++) {
        /* A level that what is in holds up cannot fall. */
        const masks held = (masks)(u[t] <= covered[t]);
        if (s->routed) joules += (lanes)((masks)spent[t] & held);
        g[t] = (lanes)((masks)g[t] & ~(held & (masks)(g[t] > 0.0)));
        square += g[t] * g[t];
    }
    s->gradient[0] = s->routed ? 1.0 - total(joules) : 0.0;
    return total(square);
}
