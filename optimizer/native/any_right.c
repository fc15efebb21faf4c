/* Any-right: the chance that at least one of the arms is right.
 *
 * With the arms that are in, query q is missed with weight m_q; adding z (0 or 1 per free arm) gains
 * m_q (1 - prod (1 - p_iq z_i)). Two families of concave functions of z lie above that and meet it at 0/1 points:
 *   smooth:  1 - exp(-sum_i a_iq z_i),  a = -log(1 - p);
 *   cut T:   1 - P_T + P_T sum over i outside T of p_iq z_i,  P_T = prod over T of (1 - p_iq)   (submodularity).
 * Per query the lower one at the point z is taken, with T among the prefixes of the arms ordered by z, and replaced by
 * its tangent there; the sum of the tangents is linear in z and bounds every set of the box. */

#include <float.h>
#include <math.h>

#include "select.h"

/* Where both are as low, the cut has the lower tangent. */
static const double TIE = 1e-12;

static bool before(const double *point, int32_t one, int32_t other) {
    return point[one] > point[other] || (point[one] == point[other] && one < other);
}

/* Free arms with a positive point, largest first, and equals by index: a checker must find the same order. */
static int32_t by_point(const Search *s, const Box *b, int32_t *chosen) {
    const double *point = b->dual + head(s);
    int32_t count = 0;
    for (int32_t m = 0; m < b->frees; m++) {
        if (point[b->free[m]] <= 1e-9) continue;
        int32_t at = count++;
        for (; at > 0 && before(point, b->free[m], chosen[at - 1]); at--) chosen[at] = chosen[at - 1];
        chosen[at] = b->free[m];
    }
    return count;
}

CLONES static void sums_at_point(Search *s, const Box *b, const int32_t *chosen, int32_t count) {
    const double *point = b->dual + head(s);
    lanes *smooth = (lanes *)s->lane[0], *tail = (lanes *)s->lane[1];
    for (int32_t t = 0; t < s->blocks; t++) smooth[t] = tail[t] = (lanes){0};
    for (int32_t m = 0; m < count; m++) {
        const lanes *p = (lanes *)row(s->worth, s, chosen[m]), *a = (lanes *)row(s->second, s, chosen[m]);
        const double z = point[chosen[m]];
        for (int32_t t = 0; t < s->blocks; t++) {
            smooth[t] += z * a[t];
            tail[t] += z * p[t];
        }
    }
}

/* lane 0: value, lane 2: weight of the smooth tangent, lane 3: weight of the cut, lane 4: first rank outside T. */
CLONES static void lowest_cover(Search *s, const Box *b, const int32_t *chosen, int32_t count) {
    const double *point = b->dual + head(s);
    lanes *value = (lanes *)s->lane[0], *tail = (lanes *)s->lane[1], *smooth = (lanes *)s->lane[2];
    lanes *cut = (lanes *)s->lane[3], *first = (lanes *)s->lane[4], *all = (lanes *)s->lane[5];
    lanes *some = (lanes *)s->lane[6];
    for (int32_t t = 0; t < s->blocks; t++) { all[t] = 1.0 - (lanes){0}; some[t] = (lanes){0}; }
    for (int32_t rank = 0; rank <= count; rank++) {
        const lanes here = (double)rank - (lanes){0};
        for (int32_t t = 0; t < s->blocks; t++) {
            const lanes height = some[t] + all[t] * tail[t];
            const masks lower = (masks)(height <= value[t] * (1.0 + TIE));
            value[t] = (lanes)(((masks)height & lower) | ((masks)value[t] & ~lower));
            cut[t] = (lanes)(((masks)all[t] & lower) | ((masks)cut[t] & ~lower));
            first[t] = (lanes)(((masks)here & lower) | ((masks)first[t] & ~lower));
            smooth[t] = (lanes)((masks)smooth[t] & ~lower);
        }
        if (rank == count) break;
        const lanes *p = (lanes *)row(s->worth, s, chosen[rank]);
        const double z = point[chosen[rank]];
        for (int32_t t = 0; t < s->blocks; t++) {
            some[t] += all[t] * p[t];
            all[t] *= 1.0 - p[t];
            tail[t] -= z * p[t];
        }
    }
}

CLONES static void tangents(Search *s, Box *b, const int32_t *chosen, int32_t count) {
    const lanes *smooth = (lanes *)s->lane[2], *cut = (lanes *)s->lane[3], *first = (lanes *)s->lane[4];
    for (int32_t m = 0; m < b->frees; m++) s->ratio[b->free[m]] = (double)count;
    for (int32_t rank = 0; rank < count; rank++) s->ratio[chosen[rank]] = (double)rank;
    for (int32_t m = 0; m < b->frees; m++) {
        const int32_t i = b->free[m];
        const lanes *p = (lanes *)row(s->worth, s, i), *a = (lanes *)row(s->second, s, i);
        const lanes rank = s->ratio[i] - (lanes){0};
        lanes sum = {0};
        for (int32_t t = 0; t < s->blocks; t++)
            sum += smooth[t] * a[t] + (lanes)((masks)(cut[t] * p[t]) & (masks)(first[t] <= rank));
        b->rho[i] = total(sum);
    }
}

void gains_any_right(Search *s, Box *b) {
    int32_t chosen[s->arms];
    const int32_t count = by_point(s, b, chosen);
    const double *point = b->dual + head(s), *missed = b->covered;
    sums_at_point(s, b, chosen, count);
    for (int32_t q = 0; q < s->blocks * LANES; q++) {
        /* One call for both: the slope may be off by an ulp of 1, the height is exact also where it is tiny. A slope
         * above 0 says that the smooth one is taken. */
        const double left = expm1(-s->lane[0][q]);
        s->lane[2][q] = 1.0 + left > 0.0 ? 1.0 + left : DBL_MIN;
        s->lane[0][q] = -left;
        s->lane[3][q] = s->lane[4][q] = 0.0;
    }
    lowest_cover(s, b, chosen, count);
    double constant = b->got, *taken = b->dual + head(s) + up(s->arms);
    for (int32_t q = 0; q < s->blocks * LANES; q++) {
        constant += missed[q] * s->lane[0][q];
        taken[q] = s->lane[2][q] > 0.0 ? -1.0 : s->lane[4][q];
        s->lane[2][q] *= missed[q];
        s->lane[3][q] *= missed[q];
    }
    tangents(s, b, chosen, count);
    for (int32_t rank = 0; rank < count; rank++) constant -= point[chosen[rank]] * b->rho[chosen[rank]];
    b->constant = constant;
}
