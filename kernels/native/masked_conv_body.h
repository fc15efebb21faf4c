/* The convolution, once for every instruction set. The including file defines

   VEC, LANES         a vector and how many numbers it holds; a group of 16 is VECS of them
   REGISTERS          how many vectors the processor keeps at hand
   LOAD, STORE, FMA(a, b, c) = a * b + c, MAX, ADD, MUL, SET1
   SPLAT(x, pointer)  x = the number at pointer in every lane, read there and then
   CONV               the name of the function
   SHAPES(X)          X(rows, columns, groups) of each register tile; columns are 16, 8, 4, 2 or 1
   MOST_GROUPS        groups of a tile one row high
   ROWS_AT_4          rows, and GROUPS_AT_4 groups, of a tile where the image is 4 pixels wide or less

   A tile keeps the sums of rows x columns pixels of `groups` output groups in registers and walks over the active
   inputs. Taps outside of the image are left out, left and right at compile time, above and below by a branch: no
   halo around the image and no multiplication by zero. The first tile of an image reads weights that nobody has read
   for long, and from places that the processor cannot foresee: it asks for them ahead. */

#include <math.h>

#include "export.h"
#include "masked_conv.h"

#define VECS (GROUP / LANES)
#define MOST 32
/* So many inputs ahead weights are asked for, into the second cache: the first is full before they are used. */
#define AHEAD 16
/* The compiler would compute one address per pixel ahead and run out of registers. */
#define OPAQUE(pointer) __asm__("" : "+r"(pointer))

typedef struct {
    const Conv *conv;
    const Call *call;
    const float *weights[4], *next[4], *bias[4]; /* Of these groups, and of those that come next. */
    float *output[4], *pooled[4];
    int32_t y, x, top, bottom, first;
} Tile;

/* Each tap's weights stay while all pixels pass by. */
INLINE void by_tap(const int first, const int last, const int C, const int B, const int left, const int right,
                   const int K, const int S, VEC *acc, const float *const *rows, const float *const *weights)
{
#pragma GCC unroll 3
    for (int kx = 0; kx < K; kx++) {
        VEC w[4 * VECS];
#pragma GCC unroll 16
        for (int i = 0; i < B * VECS; i++)
            w[i] = LOAD(weights[i / VECS] + kx * GROUP + i % VECS * LANES);
#pragma GCC unroll 4
        for (int r = first; r < last; r++)
#pragma GCC unroll 24
            for (int c = 0; c < C; c++) {
                if (K == 3 && ((kx == 0 && left && c == 0) || (kx == 2 && right && c == C - 1)))
                    continue;
                VEC x;
                SPLAT(x, rows[r] + (c * S + kx) * GROUP);
#pragma GCC unroll 16
                for (int i = 0; i < B * VECS; i++)
                    acc[(r * C + c) * B * VECS + i] = FMA(x, w[i], acc[(r * C + c) * B * VECS + i]);
            }
    }
}

/* The weights of three taps fit beside the sums: each pixel is read once, not three times. */
INLINE void by_pixel(const int first, const int last, const int C, const int B, const int left, const int right,
                     const int S, VEC *acc, const float *const *rows, const float *const *weights)
{
    VEC w[12 * VECS];
#pragma GCC unroll 3
    for (int kx = 0; kx < 3; kx++)
#pragma GCC unroll 16
        for (int i = 0; i < B * VECS; i++)
            w[kx * B * VECS + i] = LOAD(weights[i / VECS] + kx * GROUP + i % VECS * LANES);
#pragma GCC unroll 4
    for (int r = first; r < last; r++)
#pragma GCC unroll 26
        for (int p = 0; p < (C - 1) * S + 3; p++) {
            if ((left && p == 0) || (right && p == (C - 1) * S + 2))
                continue;
            VEC x;
            SPLAT(x, rows[r] + p * GROUP);
#pragma GCC unroll 3
            for (int kx = 0; kx < 3; kx++) {
                if (p < kx || (p - kx) % S || (p - kx) / S >= C)
                    continue;
                const int at = (r * C + (p - kx) / S) * B * VECS;
#pragma GCC unroll 16
                for (int i = 0; i < B * VECS; i++)
                    acc[at + i] = FMA(x, w[kx * B * VECS + i], acc[at + i]);
            }
        }
}

INLINE void taps_of_row(const int first, const int last, const int R, const int C, const int B, const int left,
                        const int right, const int K, const int S, VEC *acc, const float *input,
                        const float *const *weights, const int64_t row)
{
    const float *rows[4] = {0, 0, 0, 0};
#pragma GCC unroll 4
    for (int r = first; r < last; r++) {
        rows[r] = input + r * row;
        OPAQUE(rows[r]);
    }
    if (K == 3 && (R * C * B + 3 * B) * VECS < REGISTERS)
        by_pixel(first, last, C, B, left, right, S, acc, rows, weights);
    else
        by_tap(first, last, C, B, left, right, K, S, acc, rows, weights);
}

INLINE void finish(const Tile *tile, const int R, const int C, const int B, VEC *acc)
{
    const Conv *conv = tile->conv;
    const int64_t width = conv->out_width;
    const VEC floor = SET1(conv->relu ? 0.0f : -INFINITY);
#pragma GCC unroll 16
    for (int i = 0; i < B * VECS; i++) {
        const int b = i / VECS, lane = i % VECS * LANES;
        const VEC bias = LOAD(tile->bias[b] + lane);
        float *out = tile->output[b] + (tile->y * width + tile->x) * GROUP + lane;
        float *pooled = tile->pooled[b] + lane;
        const int mean = conv->pooling == POOL_MEAN;
        VEC most = LOAD(pooled);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++)
#pragma GCC unroll 24
            for (int c = 0; c < C; c++) {
                VEC *value = &acc[(r * C + c) * B * VECS + i];
                *value = MAX(ADD(*value, bias), floor);
                STORE(out + (r * width + c) * GROUP, *value);
            }
        if (mean)
#pragma GCC unroll 32
            for (int p = 0; p < R * C; p++)
                most = ADD(most, acc[p * B * VECS + i]);
        else
#pragma GCC unroll 32
            for (int p = 0; p < R * C; p++)
                most = MAX(most, acc[p * B * VECS + i]);
        STORE(pooled, most);
    }
}

/* Asks for the weights of the input AHEAD of one, behind the last one for the next groups'. */
INLINE void fetch(const Tile *tile, const int B, const int K, int32_t input)
{
    const Call *call = tile->call;
    const int32_t ahead = input + AHEAD, over = ahead - call->in_count;
    if (over >= call->in_count)
        return;
    const float *const *weights = over < 0 ? tile->weights : tile->next;
    const int64_t at = (int64_t)call->in[over < 0 ? ahead : over] * (K * K * GROUP);
#pragma GCC unroll 4
    for (int b = 0; b < B; b++)
#pragma GCC unroll 9
        for (int tap = 0; tap < K * K; tap++)
            __builtin_prefetch(weights[b] + at + tap * GROUP, 0, 2);
}

INLINE void tile_body(const Tile *tile, const int R, const int C, const int B, const int left, const int right,
                      const int K, const int S)
{
    const Conv *conv = tile->conv;
    const Call *call = tile->call;
    const int64_t plane = (int64_t)conv->height * conv->width * GROUP, row = (int64_t)conv->width * GROUP;
    const float *corner = call->input + (tile->y * S - K / 2) * row + (tile->x * S - K / 2) * GROUP;
    const int top = tile->top, bottom = tile->bottom;
    VEC acc[MOST];
#pragma GCC unroll 32
    for (int i = 0; i < R * C * B * VECS; i++)
        acc[i] = SET1(0.0f);
    for (int32_t i = 0; i < call->in_count; i++) {
        const uint32_t channel = (uint32_t)call->in[i];
        const float *input = corner + channel / GROUP * plane + channel % GROUP;
        const int64_t at = (int64_t)channel * (K * K * GROUP);
        if (tile->first)
            fetch(tile, B, K, i);
        for (int ky = R == 1 && K == 3 ? top : 0; ky < (K == 1 ? 1 : R == 1 ? 3 - bottom : 3); ky++) {
            const float *taps[4] = {0, 0, 0, 0};
#pragma GCC unroll 4
            for (int b = 0; b < B; b++)
                taps[b] = tile->weights[b] + at + ky * (K * GROUP);
            if (R > 1 && K == 3 && ky == 0 && top)
                taps_of_row(1, R, R, C, B, left, right, K, S, acc, input, taps, row * S);
            else if (R > 1 && K == 3 && ky == 2 && bottom)
                taps_of_row(0, R - 1, R, C, B, left, right, K, S, acc, input + 2 * row, taps, row * S);
            else
                taps_of_row(0, R, R, C, B, left, right, K, S, acc, input + ky * row, taps, row * S);
        }
    }
    finish(tile, R, C, B, acc);
}

typedef void (*TileRun)(const Tile *);

#define NAME(R, C, B, L, E, K, S) tile_##R##_##C##_##B##_##L##E##_##K##S
#define DEFINE(R, C, B, L, E, K, S)                                          \
    static __attribute__((noinline)) void NAME(R, C, B, L, E, K, S)(const Tile *tile) \
    {                                                                        \
        tile_body(tile, R, C, B, L, E, K, S);                                \
    }
#define DEFINE_EDGES(R, C, B, S) \
    DEFINE(R, C, B, 0, 0, 3, S) DEFINE(R, C, B, 0, 1, 3, S) DEFINE(R, C, B, 1, 0, 3, S) DEFINE(R, C, B, 1, 1, 3, S)
#define DEFINE_ALL(R, C, B) \
    DEFINE(R, C, B, 0, 0, 1, 1) DEFINE(R, C, B, 0, 0, 1, 2) DEFINE_EDGES(R, C, B, 1) DEFINE_EDGES(R, C, B, 2)

SHAPES(DEFINE_ALL)

/* Index of 16, 8, 4, 2 and 1 columns. */
#define STEP_16 0
#define STEP_8 1
#define STEP_4 2
#define STEP_2 3
#define STEP_1 4
#define EDGES(R, C, B, S) \
    {{NAME(R, C, B, 0, 0, 3, S), NAME(R, C, B, 0, 1, 3, S)}, {NAME(R, C, B, 1, 0, 3, S), NAME(R, C, B, 1, 1, 3, S)}}
#define POINTS(R, C, B, S) {{NAME(R, C, B, 0, 0, 1, S), NAME(R, C, B, 0, 0, 1, S)}, \
                            {NAME(R, C, B, 0, 0, 1, S), NAME(R, C, B, 0, 0, 1, S)}}
#define ENTER(R, C, B) \
    [R - 1][STEP_##C][B - 1] = {{POINTS(R, C, B, 1), POINTS(R, C, B, 2)}, {EDGES(R, C, B, 1), EDGES(R, C, B, 2)}},

/* By rows, columns, groups, kernel, stride, left edge and right edge. */
static const TileRun TILES[2][5][3][2][2][2][2] = {SHAPES(ENTER)};

static void row_of_tiles(Tile *tile, int32_t rows, int32_t groups)
{
    const Conv *conv = tile->conv;
    const int32_t k = conv->kernel == 3, s = conv->stride == 2;
    tile->top = tile->y == 0;
    tile->bottom = (tile->y + rows - 1) * conv->stride + 1 >= conv->height;
    for (tile->x = 0; tile->x < conv->out_width;) {
        const int32_t left = conv->out_width - tile->x;
        int32_t step = STEP_16;
        while (16 >> step > left || !TILES[rows - 1][step][groups - 1][k][s][0][0])
            step++;
        const int32_t columns = 16 >> step;
        const int32_t ends = (tile->x + columns - 1) * conv->stride + 1 >= conv->width;
        tile->first = !tile->y && !tile->x;
        TILES[rows - 1][step][groups - 1][k][s][tile->x == 0][ends](tile);
        tile->x += columns;
    }
}

/* The next `count` groups of `left`; more of them may be left than that. */
static void aim(Tile *tile, const int32_t *groups, int32_t count, int32_t left, float *spare)
{
    const Conv *conv = tile->conv;
    const int64_t weights = (int64_t)conv->inputs * conv->kernel * conv->kernel * GROUP;
    const int64_t plane = (int64_t)conv->out_height * conv->out_width * GROUP;
    const float start = conv->pooling == POOL_MAX && !conv->relu ? -INFINITY : 0.0f;
    for (int32_t b = 0; b < count; b++) {
        tile->weights[b] = conv->weights + groups[b] * weights;
        tile->next[b] = conv->weights + groups[b + count < left ? b + count : b] * weights;
        tile->bias[b] = conv->bias + groups[b] * GROUP;
        tile->output[b] = tile->call->output + groups[b] * plane;
        tile->pooled[b] = conv->pooling == POOL_NONE ? spare : tile->call->pooled + groups[b] * GROUP;
        for (int32_t i = 0; i < GROUP; i++)
            tile->pooled[b][i] = start;
    }
}

void CONV(const Conv *given, const Call *call)
{
    Conv conv = *given;
    if (conv.kernel == 1 && conv.stride == 1) { /* Pixels do not know their neighbours: one long row. */
        conv.out_width = conv.width *= conv.height;
        conv.out_height = conv.height = 1;
    }
    const int32_t narrow = conv.out_width <= 4 && conv.out_height > 1;
    const int32_t most_rows = narrow ? ROWS_AT_4 : 1, most_groups = narrow ? GROUPS_AT_4 : MOST_GROUPS;
    float spare[GROUP];
    Tile tile = {.conv = &conv, .call = call};
    for (int32_t done = 0; done < call->out_count;) {
        const int32_t left = call->out_count - done, groups = left < most_groups ? left : most_groups;
        aim(&tile, call->out + done, groups, left, spare);
        for (tile.y = 0; tile.y < conv.out_height;) {
            const int32_t below = conv.out_height - tile.y, rows = below < most_rows ? below : most_rows;
            row_of_tiles(&tile, rows, groups);
            tile.y += rows;
        }
        if (conv.pooling == POOL_MEAN)
            for (int32_t i = 0; i < groups * GROUP; i++)
                tile.pooled[i / GROUP][i % GROUP] /= (float)(conv.out_height * conv.out_width);
        done += groups;
    }
}
