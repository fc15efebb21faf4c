/* A small classifier whose layers behind the first exist twice, everybody's and one user's own, and the gate between.

   One call runs the first layer, decides by what that answers which layers go on, and runs those. */

#include <math.h>
#include <stddef.h>
#include <string.h>

#include "export.h"
#include "forked.h"

/* `hidden` is 0 where nobody asks: then everybody's layers answer. `first` lies as [number seen][hidden unit]. */
typedef struct {
    int32_t cells, hidden;
    float threshold;
    const float *first, *bias, *second;
} Gate;

/* A picture of `channels` planes of `side` x `side` pixels, enlarged `upsample` times: coordinate k of the large one lies
   `share[k]` of the way from `low[k]` to the pixel behind it.
   Layer k reads the picture at `at[k]` of the scratch, `margin[k]` pixels of zeros around it; its line has `line[k]`
   numbers. Everybody's weights are `weights[0]`, the user's `weights[1]`; the first layer's are `weights[0]` for both.
   `lines` is where the lines to be pooled lie. */
typedef struct {
    const ForkLayer *layers;
    const ForkWeights *weights[2];
    const int64_t *at;
    const int32_t *margin, *line, *low;
    const float *share;
    int32_t count, isa, side, channels, upsample, classes;
    int64_t lines;
    Gate gate;
} Fork;

INLINE int32_t behind(int32_t low, int32_t side) { return low + 1 < side ? low + 1 : low; }

static void take_plane(const Fork *fork, const float *plane, float *into)
{
    const int32_t side = fork->side, large = side * fork->upsample, step = fork->channels, line = fork->line[0];
    if (fork->upsample == 1) {
        for (int32_t y = 0; y < side; y++)
            for (int32_t x = 0; x < side; x++)
                into[y * line + x * step] = plane[y * side + x];
        return;
    }
    for (int32_t y = 0; y < large; y++) {
        const float *upper = plane + fork->low[y] * side, *lower = plane + behind(fork->low[y], side) * side;
        const float down = fork->share[y];
        for (int32_t x = 0; x < large; x++) {
            const int32_t a = fork->low[x], b = behind(a, side);
            const float left = upper[a] + (lower[a] - upper[a]) * down, right = upper[b] + (lower[b] - upper[b]) * down;
            into[y * line + x * step] = left + (right - left) * fork->share[x];
        }
    }
}

/* Adds what one number says to the hidden units. */
INLINE void say(const Gate *gate, int32_t number, float value, float *hidden)
{
    for (int32_t h = 0; h < gate->hidden; h++)
        hidden[h] += value * gate->first[number * gate->hidden + h];
}

/* sums[k] and squares[k] over `lines` lines of `width` numbers, `line` apart. */
static void add_up(const float *restrict stem, int32_t lines, int32_t line, int32_t width, float *restrict sums,
                   float *restrict squares)
{
    memset(sums, 0, sizeof(float) * (size_t)width);
    for (int32_t y = 0; y < lines; y++, stem += line)
        for (int32_t k = 0; k < width; k++) {
            sums[k] += stem[k];
            squares[k] += stem[k] * stem[k];
        }
}

/* Whether the user's layers go on: from the first layer's means over `cells` x `cells` cells and its length per channel.
   `room` takes the hidden units and two lines of the stem. */
static int local_answers(const Fork *fork, const float *stem, float *room)
{
    const Gate *gate = &fork->gate;
    const int32_t channels = fork->layers[0].outputs, side = fork->layers[0].side, cells = gate->cells;
    const int32_t cell = side / cells, all = cells * cells, width = side * channels, line = fork->line[1];
    float *hidden = room, *squares = hidden + gate->hidden, *sums = squares + width, score = gate->threshold;
    memcpy(hidden, gate->bias, sizeof(float) * (size_t)gate->hidden);
    memset(squares, 0, sizeof(float) * (size_t)width);
    for (int32_t row = 0; row < cells; row++, stem += cell * line) {
        add_up(stem, cell, line, width, sums, squares);
        for (int32_t column = 0; column < cells; column++)
            for (int32_t c = 0; c < channels; c++) {
                float sum = 0.0f;
                for (int32_t x = column * cell; x < (column + 1) * cell; x++)
                    sum += sums[x * channels + c];
                say(gate, c * all + row * cells + column, sum / (float)(cell * cell), hidden);
            }
    }
    add_up(stem, side - cells * cell, line, width, sums, squares);
    for (int32_t c = 0; c < channels; c++) {
        float square = 0.0f;
        for (int32_t x = 0; x < side; x++)
            square += squares[x * channels + c];
        say(gate, channels * all + c, sqrtf(square), hidden);
    }
    for (int32_t h = 0; h < gate->hidden; h++)
        score += hidden[h] > 0.0f ? hidden[h] * gate->second[h] : 0.0f;
    return score > 0.0f;
}

static void softmax(float *values, int32_t count)
{
    float most = values[0], sum = 0.0f;
    for (int32_t k = 1; k < count; k++)
        most = values[k] > most ? values[k] : most;
    for (int32_t k = 0; k < count; k++)
        sum += values[k] = expf(values[k] - most);
    for (int32_t k = 0; k < count; k++)
        values[k] /= sum;
}

static int classify(const Fork *fork, const float *image, float *scratch, float *probabilities)
{
    const ForkRun run = edgewise_fork_for(fork->isa);
    const int64_t plane = (int64_t)fork->side * fork->side;
    float *lines = scratch + fork->lines;
    int local = 0;
    for (int32_t c = 0; c < fork->channels; c++)
        take_plane(fork, image + c * plane, scratch + fork->at[0] + fork->margin[0] * (fork->line[0] + fork->channels) + c);
    for (int32_t k = 0; k < fork->count; k++) {
        const ForkLayer *layer = &fork->layers[k];
        ForkCall call = {scratch + fork->at[k], lines, probabilities, 0, 0};
        if (k + 1 < fork->count) {
            call.into_step = layer->outputs;
            call.into_line = fork->line[k + 1];
            call.into = scratch + fork->at[k + 1] + fork->margin[k + 1] * (call.into_line + call.into_step);
        }
        run(layer, &fork->weights[k > 0 && local][k], &call);
        if (!k && fork->gate.hidden)
            local = local_answers(fork, call.into, lines);
    }
    softmax(probabilities, fork->classes);
    return local;
}

/* Classify images [plane][y][x], one after the other; `local` takes 1 where the user's layers answered, else 0.
   The margins of the scratch must be zero and stay so. Returns 0, or 1 where `isa` does not run here. */
EXPORT int32_t edgewise_fork_run(const Fork *fork, int64_t images, const float *image, float *scratch, uint8_t *local,
                                 float *probabilities)
{
    if (!edgewise_fork_for(fork->isa))
        return 1;
    for (int64_t n = 0; n < images; n++)
        local[n] = (uint8_t)classify(fork, image + n * fork->channels * fork->side * fork->side, scratch,
                                     probabilities + n * fork->classes);
    return 0;
}
