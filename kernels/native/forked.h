/* One layer of a small classifier, for pictures that lie as [y][x][channel] with a margin of zeros as wide as the
   layer's padding. What a row of the kernel covers is then one piece of memory, and a linear layer is a kernel of one
   row over the whole picture. Weights lie as [group of 16 outputs][number that the kernel covers][16 outputs]. */

#ifndef EDGEWISE_KERNELS_FORKED_H
#define EDGEWISE_KERNELS_FORKED_H

#include <stdint.h>

#include "masked_conv.h"

/* ReLU and then the largest of `pool` x `pool` are behind the layer, or neither where it is the `last`. The kernel covers
   `rows` pieces of `run` numbers, `line` apart; it moves by `step` numbers from pixel to pixel and by `down` from line
   to line. `side` is what is left of the answer after pooling; where that is `averaged`, its mean. */
typedef struct {
    int32_t outputs, rows, run, line, step, down, side, pool, averaged, last;
} ForkLayer;

typedef struct {
    const float *weights, *bias;
} ForkWeights;

/* `into` is the answer's first pixel, and how many numbers away the next pixel and line are; `lines` is room for `pool`
   lines of one group before they are pooled. */
typedef struct {
    const float *picture;
    float *lines, *into;
    int32_t into_step, into_line;
} ForkCall;

typedef void (*ForkRun)(const ForkLayer *, const ForkWeights *, const ForkCall *);

/* NULL where this build has no such code or this processor cannot run it. */
ForkRun edgewise_fork_for(int32_t isa);

void edgewise_fork_plain(const ForkLayer *, const ForkWeights *, const ForkCall *);
void edgewise_fork_avx2(const ForkLayer *, const ForkWeights *, const ForkCall *);
void edgewise_fork_avx512(const ForkLayer *, const ForkWeights *, const ForkCall *);
void edgewise_fork_neon(const ForkLayer *, const ForkWeights *, const ForkCall *);

#endif
