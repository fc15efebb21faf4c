/* NEON, which every 64-bit ARM has: 32 registers of 4 numbers. */

#include "depthwise.h"
#include "export.h"
#include "forked.h"
#include "masked_conv.h"

#if defined(__aarch64__)

#include <arm_neon.h>

#define VEC float32x4_t
#define LANES 4
#define REGISTERS 32
#define LOAD(p) vld1q_f32(p)
#define STORE(p, v) vst1q_f32(p, v)
#define FMA(a, b, c) vfmaq_f32(c, a, b)
#define MAX(a, b) vmaxq_f32(a, b)
#define ADD(a, b) vaddq_f32(a, b)
#define SET1(x) vdupq_n_f32(x)
#define SPLAT(x, p) (x = vld1q_dup_f32(p))
#define CONV edgewise_conv_neon
#define DEPTHWISE edgewise_depthwise_neon
#define FORK edgewise_fork_neon
#define FORK_TILES(X) X(5) X(4) X(2) X(1)
#define FORK_GROUPS 4
#define MOST_GROUPS 1
#define ROWS_AT_4 1
#define GROUPS_AT_4 1
#define SHAPES(X) X(1, 4, 1) X(1, 2, 1) X(1, 1, 1)

#include "depthwise_body.h"
#include "forked_body.h"
#include "masked_conv_body.h"

#endif
