/* What every route promises for one query, from the features on: heads, links, probabilities. */

#include <math.h>
#include <stdint.h>

#include "export.h"

typedef struct {
    const double *weights; /* experts x features */
    const double *bias;
    const double *links; /* rows x experts, times a half: the sigmoid's own factor */
    const double *offset; /* the same, times a half; infinite where a row is certain */
    int64_t features, experts, routes, stages;
    const double *query;
    double *odds; /* room for one entry per expert */
    double *out;  /* routes of quality, then routes x stages of reach */
} Estimate;

/* Four sums side by side: strict order, and yet not one addition waiting for the other. */
static double dot(const double *a, const double *b, int64_t count) {
    double s0 = 0.0, s1 = 0.0, s2 = 0.0, s3 = 0.0;
    int64_t i = 0;
    for (; i + 4 <= count; i += 4) {
        s0 += a[i] * b[i];
        s1 += a[i + 1] * b[i + 1];
        s2 += a[i + 2] * b[i + 2];
        s3 += a[i + 3] * b[i + 3];
    }
    for (; i < count; i++) s0 += a[i] * b[i];
    return (s0 + s1) + (s2 + s3);
}

EXPORT void edgewise_estimate(const Estimate *e) {
    for (int64_t k = 0; k < e->experts; k++)
        e->odds[k] = dot(e->weights + k * e->features, e->query, e->features) + e->bias[k];
    const int64_t rows = e->routes * (1 + e->stages);
    for (int64_t r = 0; r < rows; r++) {
        const double offset = e->offset[r];
        /* Certain rows are most of them: every first stage, and every stage past the last. */
        if (isinf(offset)) e->out[r] = offset > 0.0 ? 1.0 : 0.0;
        else e->out[r] = 0.5 * (1.0 + tanh(dot(e->links + r * e->experts, e->odds, e->experts) + offset));
    }
    for (double *reach = e->out + e->routes; reach < e->out + rows; reach += e->stages)
        for (int64_t s = 1; s < e->stages; s++)
            if (reach[s] > reach[s - 1]) reach[s] = reach[s - 1];
}
