/* AVX-512: 32 registers of 16 numbers. */

#include "depthwise.h"
#include "export.h"
#include "forked.h"
#include "masked_conv.h"

#if defined(__x86_64__)

BEGIN_TARGET("avx512f,fma")
#include <immintrin.h>

#define VEC __m512
#define LANES 16
#define REGISTERS 32
#define LOAD(p) _mm512_loadu_ps(p)
#define STORE(p, v) _mm512_storeu_ps(p, v)
#define FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define MAX(a, b) _mm512_max_ps(a, b)
#define ADD(a, b) _mm512_add_ps(a, b)
#define SET1(x) _mm512_set1_ps(x)
#define SPLAT(x, p) __asm__ volatile("vbroadcastss %1, %0" : "=v"(x) : "m"(*(p)))
#define CONV edgewise_conv_avx512
#define DEPTHWISE edgewise_depthwise_avx512
#define FORK edgewise_fork_avx512
#define FORK_TILES(X) X(14) X(7) X(5) X(3) X(2) X(1)
#define FORK_GROUPS 4
#define MOST_GROUPS 3
#define ROWS_AT_4 2
#define GROUPS_AT_4 2
#define SHAPES(X)                                                                                           \
    X(1, 16, 1) X(1, 8, 3) X(1, 8, 2) X(1, 8, 1) X(1, 4, 3) X(1, 4, 2) X(1, 4, 1) X(1, 2, 3) X(1, 2, 2) X(1, 2, 1) X(1, 1, 3) \
    X(1, 1, 2) X(1, 1, 1) X(2, 4, 2) X(2, 4, 1) X(2, 2, 2) X(2, 2, 1) X(2, 1, 2) X(2, 1, 1)

#include "depthwise_body.h"
#include "forked_body.h"
#include "masked_conv_body.h"

END_TARGET

#endif
