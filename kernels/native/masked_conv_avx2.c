/* AVX2 with FMA: 16 registers of 8 numbers. */

#include "depthwise.h"
#include "export.h"
#include "forked.h"
#include "masked_conv.h"

#if defined(__x86_64__)

BEGIN_TARGET("avx2,fma")
#include <immintrin.h>

#define VEC __m256
#define LANES 8
#define REGISTERS 16
#define LOAD(p) _mm256_loadu_ps(p)
#define STORE(p, v) _mm256_storeu_ps(p, v)
#define FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#define MAX(a, b) _mm256_max_ps(a, b)
#define ADD(a, b) _mm256_add_ps(a, b)
#define SET1(x) _mm256_set1_ps(x)
#define SPLAT(x, p) __asm__ volatile("vbroadcastss %1, %0" : "=x"(x) : "m"(*(p)))
#define CONV edgewise_conv_avx2
#define DEPTHWISE edgewise_depthwise_avx2
#define FORK edgewise_fork_avx2
#define FORK_TILES(X) X(5) X(4) X(2) X(1)
#define FORK_GROUPS 4
#define MOST_GROUPS 1
#define ROWS_AT_4 1
#define GROUPS_AT_4 1
#define SHAPES(X) X(1, 4, 1) X(1, 2, 1) X(1, 1, 1)

#include "depthwise_body.h"
#include "forked_body.h"
#include "masked_conv_body.h"

END_TARGET

#endif
