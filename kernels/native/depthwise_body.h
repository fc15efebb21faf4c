/* The depthwise convolution, once for every instruction set: with VEC, LANES, LOAD, STORE, FMA, MAX and SET1 as
   masked_conv_body.h describes them, and DEPTHWISE, the name of the function.

   One vector of channels at a time: its nine weights stay in registers while all pixels pass by, four at once. */

#include <stdint.h>

#include "depthwise.h"
#include "export.h"
#include "masked_conv.h"

#define AT_ONCE 4

/* One vector of channels of one image. */
typedef struct {
    const Depthwise *layer;
    const float *input, *weights;
    float *output;
    VEC bias, alive, most;
} Lane;

/* Of each channel the value itself where it was alive before, else zero; the largest is noted. */
INLINE void put(Lane *lane, VEC sum, float *output)
{
    const VEC value = FMA(MAX(sum, SET1(0.0f)), lane->alive, SET1(0.0f));
    STORE(output, value);
    lane->most = MAX(lane->most, value);
}

/* One pixel whose window may reach over any edge of the image. */
INLINE void pixel(Lane *lane, const float *corner, const int64_t row, const int top, const int bottom, const int32_t x,
                  float *output)
{
    const Depthwise *layer = lane->layer;
    const int32_t first = x == 0, end = x * layer->stride + 1 >= layer->width ? 2 : 3;
    VEC sum = lane->bias;
    for (int ky = top; ky < 3 - bottom; ky++)
        for (int32_t kx = first; kx < end; kx++)
            sum = FMA(LOAD(corner + ky * row + kx * GROUP), LOAD(lane->weights + (ky * 3 + kx) * GROUP), sum);
    put(lane, sum, output);
}

/* Neighbouring pixels whose windows lie inside, left and right. */
INLINE void pixels(Lane *lane, const VEC *w, const float *corner, const int64_t row, const int top, const int bottom,
                   const int S, float *output)
{
    VEC sum[AT_ONCE];
#pragma GCC unroll 4
    for (int c = 0; c < AT_ONCE; c++)
        sum[c] = lane->bias;
#pragma GCC unroll 3
    for (int ky = top; ky < 3 - bottom; ky++)
#pragma GCC unroll 3
        for (int kx = 0; kx < 3; kx++)
#pragma GCC unroll 4
            for (int c = 0; c < AT_ONCE; c++)
                sum[c] = FMA(LOAD(corner + ky * row + (c * S + kx) * GROUP), w[ky * 3 + kx], sum[c]);
#pragma GCC unroll 4
    for (int c = 0; c < AT_ONCE; c++)
        put(lane, sum[c], output + c * GROUP);
}

INLINE void row_of(Lane *lane, const int32_t y, const int top, const int bottom, const int S)
{
    const Depthwise *layer = lane->layer;
    const int64_t row = (int64_t)layer->width * GROUP;
    const float *corner = lane->input + (y * S - 1) * row - GROUP;
    float *output = lane->output + (int64_t)y * layer->out_width * GROUP;
    VEC w[9];
#pragma GCC unroll 9
    for (int t = 0; t < 9; t++)
        w[t] = LOAD(lane->weights + t * GROUP);
    for (int32_t x = 0; x < layer->out_width;) {
        const int inside = x > 0 && (x + AT_ONCE - 1) * S + 1 < layer->width;
        if (inside)
            pixels(lane, w, corner + x * S * GROUP, row, top, bottom, S, output + x * GROUP);
        else
            pixel(lane, corner + x * S * GROUP, row, top, bottom, x, output + x * GROUP);
        x += inside ? AT_ONCE : 1;
    }
}

INLINE void rows_of(Lane *lane, const int S)
{
    const Depthwise *layer = lane->layer;
    for (int32_t y = 0; y < layer->out_height; y++) {
        const int bottom = y * S + 1 >= layer->height;
        if (y == 0 && bottom)
            row_of(lane, y, 1, 1, S);
        else if (y == 0)
            row_of(lane, y, 1, 0, S);
        else if (bottom)
            row_of(lane, y, 0, 1, S);
        else
            row_of(lane, y, 0, 0, S);
    }
}

void DEPTHWISE(const Depthwise *layer, const DepthCall *call)
{
    const int64_t from = (int64_t)layer->height * layer->width * GROUP;
    const int64_t into = (int64_t)layer->out_height * layer->out_width * GROUP;
    for (int32_t k = 0; k < call->count; k++) {
        const int64_t group = call->groups[k];
        float alive[GROUP];
        for (int32_t i = 0; i < GROUP; i++)
            alive[i] = call->before[group * GROUP + i] > 0.0f ? 1.0f : 0.0f;
        for (int32_t i = 0; i < GROUP; i += LANES) {
            Lane lane = {layer, call->input + group * from + i, layer->weights + group * 9 * GROUP + i,
                         call->output + group * into + i, LOAD(layer->bias + group * GROUP + i), LOAD(alive + i),
                         SET1(0.0f)};
            if (layer->stride == 2)
                rows_of(&lane, 2);
            else
                rows_of(&lane, 1);
            STORE(call->pooled + group * GROUP + i, lane.most);
        }
    }
}
