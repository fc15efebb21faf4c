/* A layer of forked.h on every instruction set of a build against plain loops, at odd sizes. Built for another processor,
   it runs under an emulator. With "spoil" one number is changed in between. Prints one line per instruction set; exits 1
   where one is wrong. */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "forked.h"

static const char *const NAMES[ISA_COUNT] = {"plain", "avx2", "avx512", "neon"};
/* inputs, outputs, side, kernel, stride, pool, averaged, last; kernel 0 is a linear layer. */
static const int SIZES[][8] = {{1, 6, 32, 5, 1, 2, 0, 0},  {6, 16, 14, 5, 1, 2, 0, 0}, {3, 33, 11, 3, 2, 1, 0, 0},
                               {5, 70, 9, 2, 1, 3, 1, 0},  {16, 20, 4, 4, 1, 1, 1, 0}, {16, 120, 5, 0, 1, 1, 0, 0},
                               {84, 10, 1, 0, 1, 1, 0, 1}, {7, 130, 3, 0, 1, 1, 0, 0}};

static float any(void) { return (float)rand() / (float)RAND_MAX * 2.0f - 1.0f; }

static float *filled(long count)
{
    float *made = malloc(sizeof(float) * (size_t)count);
    for (long i = 0; i < count; i++)
        made[i] = any();
    return made;
}

/* What one output says at one place, before pooling. */
static double answer(const ForkLayer *l, const ForkWeights *own, const float *picture, int o, int y, int x)
{
    double sum = own->bias[o];
    for (int row = 0; row < l->rows; row++)
        for (int j = 0; j < l->run; j++)
            sum += (double)picture[y * l->down + row * l->line + x * l->step + j] *
                   own->weights[((o / GROUP * l->rows + row) * (long)l->run + j) * GROUP + o % GROUP];
    return l->last || sum > 0 ? sum : 0;
}

static double pooled(const ForkLayer *l, const ForkWeights *own, const float *picture, int o, int y, int x)
{
    double most = -INFINITY;
    for (int p = 0; p < l->pool * l->pool; p++)
        most = fmax(most, answer(l, own, picture, o, y * l->pool + p / l->pool, x * l->pool + p % l->pool));
    return most;
}

static double worst_of(const ForkLayer *l, const ForkWeights *own, const ForkCall *call)
{
    double worst = 0;
    for (int o = 0; o < l->outputs; o++) {
        double sum = 0;
        for (int y = 0; y < l->side; y++)
            for (int x = 0; x < l->side; x++) {
                const double expected = pooled(l, own, call->picture, o, y, x);
                sum += expected;
                if (!l->averaged)
                    worst = fmax(worst, fabs(call->into[y * call->into_line + x * call->into_step + o] - expected));
            }
        if (l->averaged)
            worst = fmax(worst, fabs(call->into[o] - sum / (l->side * l->side)));
    }
    return worst;
}

static double check(ForkRun run, const int *s, int spoil)
{
    const int linear = !s[3], answered = linear ? 1 : (s[2] - s[3]) / s[4] + 1;
    const ForkLayer l = {.outputs = s[1], .rows = linear ? 1 : s[3], .run = linear ? s[0] * s[2] * s[2] : s[0] * s[3],
                         .line = s[2] * s[0], .step = s[4] * s[0], .down = s[4] * s[2] * s[0],
                         .side = answered / s[5], .pool = s[5], .averaged = s[6], .last = s[7]};
    const long groups = (l.outputs + GROUP - 1) / GROUP, width = (long)l.side * l.pool;
    const ForkWeights own = {filled(groups * l.rows * l.run * GROUP), filled(groups * GROUP)};
    const ForkCall call = {filled((long)s[0] * s[2] * s[2]), filled(l.pool * width * GROUP),
                           filled((long)l.side * l.side * l.outputs), l.outputs, l.side * l.outputs};
    run(&l, &own, &call);
    if (spoil)
        call.into[0] += 0.01f;
    const double worst = worst_of(&l, &own, &call);
    const void *const made[] = {own.weights, own.bias, call.picture, call.lines, call.into};
    for (int i = 0; i < 5; i++)
        free((void *)made[i]);
    return worst;
}

int main(int count, char **given)
{
    int wrong = 0;
    for (int isa = 0; isa < ISA_COUNT; isa++) {
        ForkRun run = edgewise_fork_for(isa);
        double worst = 0;
        if (!run)
            continue;
        for (size_t i = 0; i < sizeof SIZES / sizeof *SIZES; i++)
            worst = fmax(worst, check(run, SIZES[i], count > 1 && !strcmp(given[1], "spoil")));
        printf("%s %g\n", NAMES[isa], worst);
        wrong |= !(worst <= 1e-4);
    }
    return wrong;
}
