/* A chain of layers on one image, each computing only what its predictor asks for.

   Between two layers lie the image in groups of 16 channels, the list of channels that were computed, and the largest
   value of every channel (0 where it was not computed): all that the next predictor needs. */

#include <math.h>
#include <stddef.h>
#include <string.h>

#include "export.h"
#include "masked_conv.h"

/* One layer. `up` maps the shares of the input channels, or the `rank` numbers that `down` makes of them, to a logit
   per group, [input][group padded to 16]; NULL computes every group. `halve` takes 2x2 maxima afterwards.
   `keep` remembers the input; `add` adds, afterwards, every `add`th pixel of what was remembered last, 0 adds nothing. */
typedef struct {
    Conv conv;
    int32_t halve, keep, add, rank;
    const float *down, *up, *offset;
} Step;

/* `scratch` is room for three images of `image_floats`, and for `channels` four times and once more as integers. */
typedef struct {
    const Step *steps;
    int32_t count, isa, classes, channels;
    int64_t image_floats;
    const float *head, *head_bias;
} Program;

typedef struct {
    float *front, *back, *kept;
    const Conv *kept_before; /* The layer whose input was remembered. */
    float *pooled, *next_pooled, *share, *hidden;
    int32_t *active, *groups;
    int32_t active_count;
} State;

INLINE int32_t padded(int32_t count) { return (count + GROUP - 1) / GROUP * GROUP; }

/* [plane][y][x] to [group][y][x][16]. Lanes beyond the last channel stay as they are: nobody reads them. */
static void take_image(const Program *program, const float *image, State *state)
{
    const Conv *first = &program->steps[0].conv;
    const int64_t pixels = (int64_t)first->height * first->width;
    for (int32_t c = 0; c < first->inputs; c++) {
        const float *plane = image + c * pixels;
        float *into = state->front + c / GROUP * pixels * GROUP + c % GROUP, most = plane[0];
        for (int64_t p = 0; p < pixels; p++) {
            into[p * GROUP] = plane[p];
            most = plane[p] > most ? plane[p] : most;
        }
        state->pooled[c] = most;
        state->active[c] = c;
    }
    state->active_count = first->inputs;
}

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
static void shares(const float *restrict pooled, int32_t count, float *restrict share)
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
static void apply(const float *restrict map, const float *restrict from, int32_t count, int32_t width,
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

/* Which groups the predictor asks for: logits above zero, and in any case the largest. */
static int32_t predict(const Step *step, State *state, uint8_t *mask)
{
    const int32_t groups = step->conv.outputs / GROUP, width = padded(groups);
    float *logits = state->next_pooled; /* Free until the convolution runs. */
    const float *from = state->share;
    int32_t count = step->conv.inputs, best = 0, kept = 0;
    shares(state->pooled, count, state->share);
    if (step->down) {
        memset(state->hidden, 0, sizeof(float) * (size_t)padded(step->rank));
        apply(step->down, state->share, count, padded(step->rank), state->hidden);
        from = state->hidden;
        count = step->rank;
    }
    memcpy(logits, step->offset, sizeof(float) * (size_t)width);
    apply(step->up, from, count, width, logits);
    for (int32_t g = 1; g < groups; g++)
        best = logits[g] > logits[best] ? g : best;
    for (int32_t g = 0; g < groups; g++) {
        mask[g] = logits[g] > 0.0f || g == best;
        kept += mask[g];
    }
    return kept;
}

static int32_t listed(const uint8_t *mask, int32_t groups, int32_t *list)
{
    int32_t count = 0;
    for (int32_t g = 0; g < groups; g++)
        if (mask[g])
            list[count++] = g;
    return count;
}

static void halve(const Conv *conv, const int32_t *groups, int32_t count, const float *from, float *into)
{
    const int32_t height = conv->out_height / 2, width = conv->out_width / 2;
    const int64_t row = (int64_t)conv->out_width * GROUP;
    for (int32_t g = 0; g < count; g++) {
        const float *plane = from + (int64_t)groups[g] * conv->out_height * row;
        float *out = into + (int64_t)groups[g] * height * width * GROUP;
        for (int32_t y = 0; y < height; y++)
            for (int32_t x = 0; x < width; x++, out += GROUP) {
                const float *a = plane + 2 * y * row + 2 * x * GROUP, *b = a + row;
                for (int32_t i = 0; i < GROUP; i++) {
                    const float upper = a[i] > a[GROUP + i] ? a[i] : a[GROUP + i];
                    const float lower = b[i] > b[GROUP + i] ? b[i] : b[GROUP + i];
                    out[i] = upper > lower ? upper : lower;
                }
            }
    }
}

static void swap(float **a, float **b)
{
    float *kept = *a;
    *a = *b;
    *b = kept;
}

/* Remember the image; what was not computed is zero. */
static void keep(const Conv *conv, State *state)
{
    const size_t plane = (size_t)conv->height * (size_t)conv->width * GROUP;
    memset(state->kept, 0, sizeof(float) * plane * (size_t)(padded(conv->inputs) / GROUP));
    for (int32_t k = 0; k < state->active_count; k += GROUP) {
        const size_t at = plane * (size_t)(state->active[k] / GROUP);
        memcpy(state->kept + at, state->front + at, sizeof(float) * plane);
    }
    state->kept_before = conv;
}

/* Add one group of what was remembered to what was computed (`there`) or to zero; the largest sums go to `pooled`. */
static void add_group(const Step *step, const Conv *before, const float *kept, int there, float *image, float *pooled)
{
    const Conv *conv = &step->conv;
    memset(pooled, 0, sizeof(float) * GROUP); /* No sum of what ReLU left is below. */
    for (int32_t y = 0; y < conv->out_height; y++)
        for (int32_t x = 0; x < conv->out_width; x++, image += GROUP) {
            const float *from = kept ? kept + ((int64_t)y * before->width + x) * step->add * GROUP : NULL;
            for (int32_t i = 0; i < GROUP; i++) {
                const float sum = (there ? image[i] : 0.0f) + (from ? from[i] : 0.0f);
                image[i] = sum;
                pooled[i] = sum > pooled[i] ? sum : pooled[i];
            }
        }
}

/* A sum has every channel, whatever was computed: all are active afterwards. */
static void add(const Step *step, State *state, const uint8_t *mask)
{
    const Conv *conv = &step->conv, *before = state->kept_before;
    const int64_t plane = (int64_t)conv->out_height * conv->out_width * GROUP;
    const int64_t kept_plane = (int64_t)before->height * before->width * GROUP;
    for (int32_t g = 0; g < conv->outputs / GROUP; g++) {
        const float *kept = g < before->inputs / GROUP ? state->kept + g * kept_plane : NULL;
        add_group(step, before, kept, mask[g], state->front + g * plane, state->pooled + g * GROUP);
    }
    for (int32_t c = 0; c < conv->outputs; c++)
        state->active[c] = c;
    state->active_count = conv->outputs;
}

static void run_step(ConvRun run, const Step *step, State *state, const uint8_t *mask)
{
    const Conv *conv = &step->conv;
    const int32_t count = listed(mask, conv->outputs / GROUP, state->groups);
    if (step->keep)
        keep(conv, state);
    memset(state->next_pooled, 0, sizeof(float) * (size_t)conv->outputs);
    const Call call = {state->front, state->back, state->next_pooled, state->active, state->groups,
                       state->active_count, count};
    run(conv, &call);
    swap(&state->front, &state->back);
    if (step->halve) {
        halve(conv, state->groups, count, state->front, state->back);
        swap(&state->front, &state->back);
    }
    swap(&state->pooled, &state->next_pooled);
    for (int32_t g = 0; g < count; g++)
        for (int32_t i = 0; i < GROUP; i++)
            state->active[g * GROUP + i] = state->groups[g] * GROUP + i;
    state->active_count = count * GROUP;
    if (step->add)
        add(step, state, mask);
}

/* Mean over pixels, then a linear map [channel][class padded to 16], then softmax. */
static void answer(const Program *program, State *state, float *probabilities)
{
    const Step *last = &program->steps[program->count - 1];
    const int32_t shrink = last->halve ? 2 : 1, width = padded(program->classes);
    const int32_t pixels = last->conv.out_height / shrink * (last->conv.out_width / shrink);
    float *logits = state->hidden, most, sum = 0.0f;
    memcpy(logits, program->head_bias, sizeof(float) * (size_t)width);
    for (int32_t k = 0; k < state->active_count; k++) {
        const int32_t c = state->active[k];
        const float *plane = state->front + (int64_t)(c / GROUP) * pixels * GROUP + c % GROUP;
        float mean = 0.0f;
        for (int32_t p = 0; p < pixels; p++)
            mean += plane[p * GROUP];
        mean /= (float)pixels;
        apply(program->head + (int64_t)c * width, &mean, 1, width, logits);
    }
    most = logits[0];
    for (int32_t k = 1; k < program->classes; k++)
        most = logits[k] > most ? logits[k] : most;
    for (int32_t k = 0; k < program->classes; k++)
        sum += probabilities[k] = expf(logits[k] - most);
    for (int32_t k = 0; k < program->classes; k++)
        probabilities[k] /= sum;
}

static State laid_out(const Program *program, float *scratch)
{
    State state = {.front = scratch, .back = scratch + program->image_floats};
    float *rest = scratch + 3 * program->image_floats;
    state.kept = scratch + 2 * program->image_floats;
    state.pooled = rest;
    state.next_pooled = rest + program->channels;
    state.share = rest + 2 * program->channels;
    state.hidden = rest + 3 * program->channels;
    state.active = (int32_t *)(rest + 4 * program->channels);
    state.groups = state.active + program->channels;
    return state;
}

static void classify(const Program *program, ConvRun run, const float *image, float *scratch, const uint8_t *given,
                     uint8_t *masks, float *probabilities)
{
    State state = laid_out(program, scratch);
    take_image(program, image, &state);
    for (int32_t s = 0; s < program->count; s++) {
        const Step *step = &program->steps[s];
        const int32_t groups = step->conv.outputs / GROUP;
        if (step->up)
            predict(step, &state, masks);
        else
            memset(masks, 1, (size_t)groups);
        if (given) {
            memcpy(masks, given, (size_t)groups);
            given += groups;
        }
        run_step(run, step, &state, masks);
        masks += groups;
    }
    answer(program, &state, probabilities);
}

/* Classify images [plane][y][x], one after the other. `masks` takes the mask of every layer's groups, one after the
   other. With `given` those masks are used instead; the predictors run all the same. Returns 0, or 1 where `isa` does
   not run here. */
EXPORT int32_t edgewise_program_run(const Program *program, int64_t images, const float *image, float *scratch,
                                    const uint8_t *given, uint8_t *masks, float *probabilities)
{
    ConvRun run = edgewise_conv_for(program->isa);
    if (!run)
        return 1;
    const Conv *first = &program->steps[0].conv;
    const int64_t image_size = (int64_t)first->inputs * first->height * first->width;
    int64_t mask_size = 0;
    for (int32_t s = 0; s < program->count; s++)
        mask_size += program->steps[s].conv.outputs / GROUP;
    for (int64_t n = 0; n < images; n++)
        classify(program, run, image + n * image_size, scratch, given ? given + n * mask_size : NULL,
                 masks + n * mask_size, probabilities + n * program->classes);
    return 0;
}
