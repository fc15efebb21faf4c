/* Convolution of one image that computes only the active groups of output channels from the active input channels.

   Images lie as [group][y][x][16]: a pixel's 16 channels of a group are neighbours. Weights lie as
   [output group][input channel][tap][16 output channels], so that whatever is active is read in one piece. */

#ifndef EDGEWISE_KERNELS_MASKED_CONV_H
#define EDGEWISE_KERNELS_MASKED_CONV_H

#include <stdint.h>

#define GROUP 16

/* Kernel 3 is padded by 1, kernel 1 by 0. `height` and `width` are the input's. */
typedef struct {
    int32_t inputs, outputs, height, width, out_height, out_width;
    int32_t kernel, stride, relu, pooling;
    const float *weights, *bias;
} Conv;

/* What is active in one call, and where it goes. `pooled` takes one number per output channel of the active groups:
   its maximum (pooling 1) or mean (pooling 2) over the image; the others are left as they are. */
typedef struct {
    const float *input;
    float *output, *pooled;
    const int32_t *in, *out;
    int32_t in_count, out_count;
} Call;

typedef void (*ConvRun)(const Conv *, const Call *);

enum { POOL_NONE = 0, POOL_MAX = 1, POOL_MEAN = 2 };
enum { ISA_PLAIN = 0, ISA_AVX2 = 1, ISA_AVX512 = 2, ISA_NEON = 3, ISA_COUNT = 4 };

/* NULL where this build has no such code or this processor cannot run it. */
ConvRun edgewise_conv_for(int32_t isa);

void edgewise_conv_plain(const Conv *, const Call *);
void edgewise_conv_avx2(const Conv *, const Call *);
void edgewise_conv_avx512(const Conv *, const Call *);
void edgewise_conv_neon(const Conv *, const Call *);

#endif
