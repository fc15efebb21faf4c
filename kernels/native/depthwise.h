/* A 3x3 convolution of each channel by itself, padded by 1, with ReLU, over the groups of 16 channels that are there.

   A channel that was silent in all pixels before stays silent: its offset does not revive it. Images lie as in
   masked_conv.h, weights as [group][tap][16]. */

#ifndef EDGEWISE_KERNELS_DEPTHWISE_H
#define EDGEWISE_KERNELS_DEPTHWISE_H

#include <stdint.h>

typedef struct {
    int32_t channels, height, width, out_height, out_width, stride;
    const float *weights, *bias;
} Depthwise;

/* `before` holds the largest value of each channel of the input, `pooled` takes those of the output; of groups that are
   not listed nothing is read or written. */
typedef struct {
    const float *input, *before;
    float *output, *pooled;
    const int32_t *groups;
    int32_t count;
} DepthCall;

typedef void (*DepthRun)(const Depthwise *, const DepthCall *);

/* NULL where this build has no such code or this processor cannot run it. */
DepthRun edgewise_depthwise_for(int32_t isa);

void edgewise_depthwise_plain(const Depthwise *, const DepthCall *);
void edgewise_depthwise_avx2(const Depthwise *, const DepthCall *);
void edgewise_depthwise_avx512(const Depthwise *, const DepthCall *);
void edgewise_depthwise_neon(const Depthwise *, const DepthCall *);

#endif
