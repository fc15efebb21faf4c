/* A chain of layers on one image, each computing only what its predictor asks for.

   Between two layers lie the image in groups of 16 channels, the list of channels that were computed, and the largest
   value of every channel (0 where it was not computed): all that the next predictor needs. */

#include <math.h>
#include <stddef.h>
#include <string.h>

#include "depthwise.h"
#include "export.h"
#include "maps.h"
#include "masked_conv.h"

/* One layer. `up` maps the shares of the input channels, or the `rank` numbers that `down` makes of them, to a logit
   per group, [input][group padded to 16]; NULL computes every group. `halve` takes 2x2 maxima afterwards.
   `keep` remembers the input; `add` adds, afterwards, every `add`th pixel of what was remembered last, 0 adds nothing.
   `depthwise` runs before all that, over the channels that are there; NULL leaves the image as it is. */
typedef struct {
    Conv conv;
    int32_t halve, keep, add, rank;
    const float *down, *up, *offset;
    const Depthwise *depthwise;
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

/* Filter the channels that are there; the same ones are there afterwards, silent where they were silent. */
static void filter(DepthRun run, const Depthwise *layer, State *state)
{
    int32_t count = 0;
    for (int32_t k = 0; k < state->active_count; k += GROUP)
        state->groups[count++] = state->active[k] / GROUP;
    memset(state->next_pooled, 0, sizeof(float) * (size_t)layer->channels);
    const DepthCall call = {state->front, state->pooled, state->back, state->next_pooled, state->groups, count};
    run(layer, &call);
    swap(&state->front, &state->back);
    swap(&state->pooled, &state->next_pooled);
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

static void classify(const Program *program, const float *image, float *scratch, const uint8_t *given, uint8_t *masks,
                     float *probabilities)
{
    const ConvRun run = edgewise_conv_for(program->isa);
    const DepthRun depth_run = edgewise_depthwise_for(program->isa);
    State state = laid_out(program, scratch);
    take_image(program, image, &state);
    for (int32_t s = 0; s < program->count; s++) {
        const Step *step = &program->steps[s];
        const int32_t groups = step->conv.outputs / GROUP;
        if (step->depthwise)
            filter(depth_run, step->depthwise, &state);
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
    if (!edgewise_conv_for(program->isa))
        return 1;
    const Conv *first = &program->steps[0].conv;
    const int64_t image_size = (int64_t)first->inputs * first->height * first->width;
    int64_t mask_size = 0;
    for (int32_t s = 0; s < program->count; s++)
        mask_size += program->steps[s].conv.outputs / GROUP;
    for (int64_t n = 0; n < images; n++)
        classify(program, image + n * image_size, scratch, given ? given + n * mask_size : NULL,
                 masks + n * mask_size, probabilities + n * program->classes);
    return 0;
}
