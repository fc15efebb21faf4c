/* What every compiler and processor has: four numbers at a time, multiplied and then added. */

#include "depthwise.h"
#include "export.h"
#include "forked.h"
#include "masked_conv.h"

typedef float Four __attribute__((vector_size(16), aligned(4)));
typedef int32_t Bits __attribute__((vector_size(16), aligned(4)));

INLINE Four most_of(Four a, Four b)
{
    const Bits more = a > b;
    return (Four)(((Bits)a & more) | ((Bits)b & ~more));
}

#define VEC Four
#define LANES 4
#define REGISTERS 16
#define LOAD(p) (*(const Four *)(p))
#define STORE(p, v) (*(Four *)(p) = (v))
#define FMA(a, b, c) ((a) * (b) + (c))
#define MAX(a, b) most_of(a, b)
#define ADD(a, b) ((a) + (b))
#define SET1(x) ((Four){(x), (x), (x), (x)})
#define SPLAT(x, p) (x = SET1(*(p)))
#define CONV edgewise_conv_plain
#define DEPTHWISE edgewise_depthwise_plain
#define FORK edgewise_fork_plain
#define FORK_TILES(X) X(2) X(1)
#define FORK_GROUPS 2
#define MOST_GROUPS 1
#define ROWS_AT_4 1
#define GROUPS_AT_4 1
#define SHAPES(X) X(1, 2, 1) X(1, 1, 1)

#include "depthwise_body.h"
#include "forked_body.h"
#include "masked_conv_body.h"
