/* What predictors and the head compute: a softmax over channels, and linear maps. */

#ifndef EDGEWISE_KERNELS_MAPS_H
#define EDGEWISE_KERNELS_MAPS_H

#include <stdint.h>
#include <string.h>

#include "export.h"
#include "masked_conv.h"

typedef float Four __attribute__((vector_size(16), aligned(4)));
typedef int32_t Bits __attribute__((vector_size(16), aligned(4)));

/* e^x for x from -87 to 0, to 2e-7 of its value; the library's, one at a time, takes longer than the predictors' maps.
   Source of the method: Cody and Waite, Software Manual for the Elementary Functions, 1980, section 6. */
INLINE Four exponential(Four x)
{
    const Four floor = {-87.0f, -87.0f, -87.0f, -87.0f};
    const Bits low = x < floor;
    x = (Four)(((Bits)floor & low) | ((Bits)x & ~low));
    /* Truncates towards zero, and x is not above zero. */
    const Bits whole = __builtin_convertvector(x * 1.44269504f - 0.5f, Bits);
    const Four turns = __builtin_convertvector(whole, Four);
    const Four rest = (x - turns * 0.693359375f) + turns * 2.12194440e-4f;
    const Four tail = ((((1.9875691500e-4f * rest + 1.3981999507e-3f) * rest + 8.3334519073e-3f) * rest +
                        4.1665795894e-2f) * rest + 1.6666665459e-1f) * rest + 5.0000001201e-1f;
    return (tail * rest * rest + rest + 1.0f) * (Four)((whole + 127) << 23);
}

/* Softmax over channels, times their number. Lane by lane, because one running sum would wait for itself; `count` is a
   multiple of 16 wherever a predictor reads what a layer wrote. */
INLINE void shares(const float *restrict pooled, int32_t count, float *restrict share)
{
    float most[GROUP], sum[GROUP] = {0}, top, all = 0.0f;
    memcpy(most, pooled, sizeof most);
    for (int32_t c = GROUP; c < count; c += GROUP)
        for (int32_t i = 0; i < GROUP; i++)
            most[i] = pooled[c + i] > most[i] ? pooled[c + i] : most[i];
    top = most[0];
    for (int32_t i = 1; i < GROUP; i++)
        top = most[i] > top ? most[i] : top;
    for (int32_t c = 0; c < count; c += 4)
        *(Four *)(share + c) = exponential(*(const Four *)(pooled + c) - top);
    for (int32_t c = 0; c < count; c += GROUP)
        for (int32_t i = 0; i < GROUP; i++)
            sum[i] += share[c + i];
    for (int32_t i = 0; i < GROUP; i++)
        all += sum[i];
    const float scale = (float)count / all;
    for (int32_t c = 0; c < count; c++)
        share[c] *= scale;
}

/* into[o] += sum over i of from[i] * map[i][o]; `width` is a multiple of 16. Even and odd inputs are summed apart. */
INLINE void apply(const float *restrict map, const float *restrict from, int32_t count, int32_t width,
                  float *restrict into)
{
    for (int32_t first = 0; first < width; first += GROUP) {
        float even[GROUP], odd[GROUP] = {0};
        const float *row = map + first;
        int32_t i = 0;
        memcpy(even, into + first, sizeof even);
        for (; i + 1 < count; i += 2, row += 2 * width)
            for (int32_t o = 0; o < GROUP; o++) {
                even[o] += from[i] * row[o];
                odd[o] += from[i + 1] * row[width + o];
            }
        for (int32_t o = 0; o < GROUP; o++)
            into[first + o] = even[o] + odd[o] + (i < count ? from[i] * row[o] : 0.0f);
    }
}

#endif
