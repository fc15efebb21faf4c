/* A layer of `forked.h`, once for every instruction set. Beside what `masked_conv_body.h` needs, the including file defines

   FORK                the name of the function
   FORK_TILES(X)       X(pixels) of each register tile of a convolution, the widest first, the last of 1
   FORK_GROUPS         groups of 16 outputs that a linear layer computes at once */

#include <math.h>

#include "export.h"
#include "forked.h"

#define FORK_VECS (GROUP / LANES)
#define FORK_MOST 64
#ifndef OPAQUE
#define OPAQUE(pointer) __asm__("" : "+r"(pointer))
#endif

/* Sums of `pixels` neighbours and `groups` neighbouring groups, in registers. Every fourth pixel has a pointer, the three
   behind it lie at one, two and three steps from that: one pointer per pixel would be more than there are registers. */
INLINE void fork_sums(const ForkLayer *layer, const int pixels, const int groups, const float *weights,
                      const float *picture, VEC *acc)
{
    const int64_t group = (int64_t)layer->rows * layer->run * GROUP, step = layer->step, steps = 3 * step;
#pragma GCC unroll 64
    for (int i = 0; i < pixels * groups * FORK_VECS; i++)
        acc[i] = SET1(0.0f);
    for (int32_t row = 0; row < layer->rows; row++, picture += layer->line) {
        const float *fourth[4] = {picture, picture + 4 * step, picture + 8 * step, picture + 12 * step};
        for (int32_t j = 0; j < layer->run; j++, weights += GROUP) {
            VEC w[FORK_MOST];
#pragma GCC unroll 64
            for (int i = 0; i < groups * FORK_VECS; i++)
                w[i] = LOAD(weights + i / FORK_VECS * group + i % FORK_VECS * LANES);
#pragma GCC unroll 64
            for (int p = 0; p < pixels; p++) {
                const VEC x = SET1(fourth[p / 4][p % 4 == 3 ? steps : p % 4 * step]);
#pragma GCC unroll 64
                for (int i = 0; i < groups * FORK_VECS; i++)
                    acc[p * groups * FORK_VECS + i] = FMA(x, w[i], acc[p * groups * FORK_VECS + i]);
            }
#pragma GCC unroll 4
            for (int q = 0; q < (pixels + 3) / 4; q++) {
                fourth[q]++;
                OPAQUE(fourth[q]);
            }
        }
    }
}

/* A group's 16 numbers, of which `count` are outputs. */
INLINE void fork_put(const VEC *found, int32_t count, float *into, int add)
{
    float all[GROUP];
#pragma GCC unroll 16
    for (int i = 0; i < FORK_VECS; i++)
        STORE(all + i * LANES, found[i]);
    for (int32_t o = 0; o < (count < GROUP ? count : GROUP); o++)
        into[o] = add ? into[o] + all[o] : all[o];
}

INLINE void fork_tile(const ForkLayer *layer, const int pixels, const float *weights, const float *picture, float *line)
{
    VEC acc[FORK_MOST];
    fork_sums(layer, pixels, 1, weights, picture, acc);
#pragma GCC unroll 64
    for (int i = 0; i < pixels * FORK_VECS; i++)
        STORE(line + i * LANES, acc[i]);
}

#define FORK_NAME_(function, pixels) function##_##pixels
#define FORK_NAME(function, pixels) FORK_NAME_(function, pixels)
#define FORK_DEFINE(pixels)                                                                                     \
    static __attribute__((noinline)) void FORK_NAME(FORK, pixels)(const ForkLayer *layer, const float *weights, \
                                                                  const float *picture, float *line)            \
    {                                                                                                           \
        fork_tile(layer, pixels, weights, picture, line);                                                       \
    }

FORK_TILES(FORK_DEFINE)

/* One line of one group before bias, ReLU and pooling. */
INLINE void fork_line(const ForkLayer *layer, const float *weights, const float *picture, float *line)
{
    const int32_t width = layer->side * layer->pool;
    int32_t x = 0;
#define FORK_WALK(pixels)                                                                             \
    for (; x + pixels <= width; x += pixels)                                                          \
        FORK_NAME(FORK, pixels)(layer, weights, picture + (int64_t)x * layer->step, line + x * GROUP);
    FORK_TILES(FORK_WALK)
#undef FORK_WALK
}

/* `pool` lines to one, and where it belongs. */
INLINE void fork_pool(const ForkLayer *layer, const float *bias, const float *lines, int32_t count, const ForkCall *call,
                      float *into)
{
    const VEC floor = SET1(layer->last ? -INFINITY : 0.0f);
    const int32_t pool = layer->pool, width = layer->side * pool;
    for (int32_t x = 0; x < layer->side; x++) {
        VEC most[FORK_VECS];
#pragma GCC unroll 16
        for (int i = 0; i < FORK_VECS; i++) {
            const float *at = lines + (int64_t)x * pool * GROUP + i * LANES;
            most[i] = LOAD(at);
            for (int32_t p = 1; p < pool * pool; p++)
                most[i] = MAX(most[i], LOAD(at + ((int64_t)(p / pool) * width + p % pool) * GROUP));
            most[i] = MAX(ADD(most[i], LOAD(bias + i * LANES)), floor);
        }
        fork_put(most, count, into, layer->averaged);
        into += layer->averaged ? 0 : call->into_step;
    }
}

static void fork_conv(const ForkLayer *layer, const ForkWeights *own, const ForkCall *call)
{
    const int64_t group = (int64_t)layer->rows * layer->run * GROUP, width = (int64_t)layer->side * layer->pool;
    for (int32_t g = 0; g * GROUP < layer->outputs; g++) {
        const int32_t count = layer->outputs - g * GROUP;
        const float *picture = call->picture;
        float *into = call->into + g * GROUP;
        for (int32_t o = 0; layer->averaged && o < (count < GROUP ? count : GROUP); o++)
            into[o] = 0.0f;
        for (int32_t y = 0; y < layer->side; y++) {
            for (int32_t p = 0; p < layer->pool; p++, picture += layer->down)
                fork_line(layer, own->weights + g * group, picture, call->lines + p * width * GROUP);
            fork_pool(layer, own->bias + g * GROUP, call->lines, count, call, into);
            into += layer->averaged ? 0 : call->into_line;
        }
    }
    for (int32_t o = 0; layer->averaged && o < layer->outputs; o++)
        call->into[o] /= (float)(layer->side * layer->side);
}

INLINE void fork_linear(const ForkLayer *layer, const int groups, int32_t first, const ForkWeights *own,
                        const ForkCall *call)
{
    const VEC floor = SET1(layer->last ? -INFINITY : 0.0f);
    VEC acc[FORK_MOST];
    fork_sums(layer, 1, groups, own->weights + (int64_t)first * layer->run * GROUP, call->picture, acc);
#pragma GCC unroll 64
    for (int i = 0; i < groups * FORK_VECS; i++)
        acc[i] = MAX(ADD(acc[i], LOAD(own->bias + first * GROUP + i * LANES)), floor);
#pragma GCC unroll 64
    for (int g = 0; g < groups; g++)
        fork_put(acc + g * FORK_VECS, layer->outputs - (first + g) * GROUP, call->into + (first + g) * GROUP, 0);
}

void FORK(const ForkLayer *layer, const ForkWeights *own, const ForkCall *call)
{
    if (layer->rows > 1 || layer->side * layer->pool > 1 || layer->averaged) {
        fork_conv(layer, own, call);
        return;
    }
    const int32_t groups = (layer->outputs + GROUP - 1) / GROUP;
    int32_t g = 0;
    for (; g + FORK_GROUPS <= groups; g += FORK_GROUPS)
        fork_linear(layer, FORK_GROUPS, g, own, call);
    for (; g < groups; g++)
        fork_linear(layer, 1, g, own, call);
}
