/* Every instruction set of a build against three nested loops, as `test_masked_conv.py` and `test_depthwise.py` hold them
   to formulas: odd sizes, 1x1 and 3x3, both strides, both poolings, some, all and no channels. Built for another
   processor, it runs under an emulator. Prints one line per instruction set; exits 1 where one is wrong. With an
   argument it spoils one number of each convolution in between, as a control. */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "depthwise.h"
#include "masked_conv.h"

static const char *const NAMES[ISA_COUNT] = {"plain", "avx2", "avx512", "neon"};
static const int SIZES[][4] = {{1, 16, 1, 1}, {3, 16, 8, 8}, {20, 48, 7, 5}, {33, 80, 9, 13},
                               {64, 64, 4, 4}, {48, 112, 2, 2}, {17, 32, 3, 31}, {16, 96, 5, 1}};

static float any(void) { return (float)rand() / (float)RAND_MAX * 2.0f - 1.0f; }

static float *filled(long count)
{
    float *made = malloc(sizeof(float) * (size_t)count);
    for (long i = 0; i < count; i++)
        made[i] = any();
    return made;
}

static double naive(const Conv *c, const Call *call, int o, int y, int x)
{
    double sum = c->bias[o];
    const int taps = c->kernel * c->kernel, pad = c->kernel / 2;
    for (int i = 0; i < call->in_count; i++)
        for (int t = 0; t < taps; t++) {
            const int n = call->in[i], row = y * c->stride + t / c->kernel - pad, col = x * c->stride + t % c->kernel - pad;
            if (row < 0 || col < 0 || row >= c->height || col >= c->width)
                continue;
            sum += (double)call->input[((n / GROUP * c->height + row) * c->width + col) * GROUP + n % GROUP] *
                   c->weights[((o / GROUP * c->inputs + n) * taps + t) * GROUP + o % GROUP];
        }
    return c->relu && sum < 0 ? 0 : sum;
}

/* Channels that are not asked for hold not-a-number and must not be read; groups that are not keep what was there. */
enum { SOME, FULL, NO_INPUTS, NO_OUTPUTS, KINDS };
#define UNTOUCHED 7.0f

static void choose(int kind, const Conv *c, Call *call, int32_t *in, int32_t *out)
{
    for (int i = 0; i < c->inputs; i++)
        if (kind == FULL || kind == NO_OUTPUTS || (kind == SOME && rand() % 2))
            in[call->in_count++] = i;
    for (int g = 0; g < c->outputs / GROUP; g++)
        if (kind == FULL || kind == NO_INPUTS || (kind == SOME && (g == 0 || rand() % 2)))
            out[call->out_count++] = g;
}

static int listed(const int32_t *list, int count, int wanted)
{
    for (int i = 0; i < count; i++)
        if (list[i] == wanted)
            return 1;
    return 0;
}

static void silence(const Conv *c, const Call *call, float *input)
{
    const int channels = (c->inputs + GROUP - 1) / GROUP * GROUP, pixels = c->height * c->width;
    for (int i = 0; i < channels; i++)
        for (int p = 0; p < pixels && !listed(call->in, call->in_count, i); p++)
            input[(i / GROUP * pixels + p) * GROUP + i % GROUP] = NAN;
}

static int overwritten(const Conv *c, const Call *call)
{
    const int floats = c->out_height * c->out_width * GROUP;
    for (int g = 0; g < c->outputs / GROUP; g++)
        for (int f = 0; f < floats && !listed(call->out, call->out_count, g); f++)
            if (call->output[g * floats + f] != UNTOUCHED)
                return 1;
    return 0;
}

/* Infinite where something is not a number: fmax alone would pass over it. */
static double apart(double found, double expected) { return isfinite(found) ? fabs(found - expected) : INFINITY; }

static double worst_of(const Conv *c, const Call *call)
{
    double worst = 0, largest = 1e-30;
    const int pixels = c->out_height * c->out_width;
    for (int k = 0; k < call->out_count * GROUP; k++) {
        const int o = call->out[k / GROUP] * GROUP + k % GROUP;
        double most = -INFINITY, sum = 0;
        for (int p = 0; p < pixels; p++) {
            const double expected = naive(c, call, o, p / c->out_width, p % c->out_width);
            worst = fmax(worst, apart(call->output[(o / GROUP * pixels + p) * GROUP + o % GROUP], expected));
            largest = fmax(largest, fabs(expected));
            most = fmax(most, expected);
            sum += expected;
        }
        worst = fmax(worst, apart(call->pooled[o], c->pooling == POOL_MAX ? most : sum / pixels));
    }
    return overwritten(c, call) ? INFINITY : worst / largest;
}

static double check(ConvRun run, const int *size, int kernel, int stride, int kind, int pooling, int spoil)
{
    Conv c = {size[0], size[1], size[2], size[3], (size[2] - 1) / stride + 1, (size[3] - 1) / stride + 1,
              kernel, stride, kind != FULL, pooling, NULL, NULL};
    const int in_groups = (c.inputs + GROUP - 1) / GROUP;
    const long out_floats = (long)c.outputs * c.out_height * c.out_width;
    int32_t in[128], out[16];
    Call call = {.in = in, .out = out};
    choose(kind, &c, &call, in, out);
    c.weights = filled((long)c.outputs * c.inputs * kernel * kernel);
    c.bias = filled(c.outputs);
    float *input = filled((long)in_groups * GROUP * c.height * c.width);
    silence(&c, &call, input);
    call.input = input;
    call.output = filled(out_floats);
    for (long f = 0; f < out_floats; f++)
        call.output[f] = UNTOUCHED;
    call.pooled = filled(c.outputs);
    run(&c, &call);
    if (spoil && call.out_count)
        call.output[call.out[0] * GROUP * c.out_height * c.out_width] += 1;
    const double worst = worst_of(&c, &call);
    free((void *)c.weights);
    free((void *)c.bias);
    free(input);
    free(call.output);
    free(call.pooled);
    return worst;
}

static double naive_depthwise(const Depthwise *d, const DepthCall *call, int c, int y, int x)
{
    double sum = d->bias[c];
    for (int t = 0; t < 9; t++) {
        const int row = y * d->stride + t / 3 - 1, col = x * d->stride + t % 3 - 1;
        if (row >= 0 && col >= 0 && row < d->height && col < d->width)
            sum += (double)call->input[((c / GROUP * d->height + row) * d->width + col) * GROUP + c % GROUP] *
                   d->weights[(c / GROUP * 9 + t) * GROUP + c % GROUP];
    }
    return sum > 0 && call->before[c] > 0 ? sum : 0;
}

/* `before` is drawn apart from the image: some channels count as silent whatever they hold. */
static double check_depthwise(DepthRun run, const int *size, int stride)
{
    const Depthwise d = {size[1], size[2], size[3], (size[2] - 1) / stride + 1, (size[3] - 1) / stride + 1, stride,
                         filled((long)size[1] * 9), filled(size[1])};
    int32_t groups[16], count = 0;
    for (int g = 0; g < d.channels / GROUP; g++)
        if (g == 0 || rand() % 2)
            groups[count++] = g;
    const int pixels = d.out_height * d.out_width;
    const DepthCall call = {filled((long)d.channels * d.height * d.width), filled(d.channels),
                            filled((long)d.channels * pixels), filled(d.channels), groups, count};
    double worst = 0;
    run(&d, &call);
    for (int k = 0; k < count * GROUP; k++) {
        const int c = groups[k / GROUP] * GROUP + k % GROUP;
        double most = 0;
        for (int p = 0; p < pixels; p++) {
            const double expected = naive_depthwise(&d, &call, c, p / d.out_width, p % d.out_width);
            worst = fmax(worst, fabs(call.output[(c / GROUP * pixels + p) * GROUP + c % GROUP] - expected));
            most = fmax(most, expected);
        }
        worst = fmax(worst, fabs(call.pooled[c] - most));
    }
    const void *const made[] = {d.weights, d.bias, call.input, call.before, call.output, call.pooled};
    for (int i = 0; i < 6; i++)
        free((void *)made[i]);
    return worst;
}

int main(int count, char **spoil)
{
    int wrong = 0;
    for (int isa = 0; isa < ISA_COUNT; isa++) {
        ConvRun run = edgewise_conv_for(isa);
        if (!run)
            continue;
        double worst = 0;
        for (size_t s = 0; s < sizeof SIZES / sizeof *SIZES; s++)
            for (int stride = 1; stride < 3; stride++)
                worst = fmax(worst, check_depthwise(edgewise_depthwise_for(isa), SIZES[s], stride));
        for (size_t s = 0; s < sizeof SIZES / sizeof *SIZES; s++)
            for (int k = 0; k < 4 * KINDS; k++)
                for (int mean = 0; mean < 2; mean++)
                    worst = fmax(worst, check(run, SIZES[s], k / 2 % 2 ? 3 : 1, k % 2 + 1, k / 4,
                                              mean ? POOL_MEAN : POOL_MAX, count > 1 && spoil[1]));
        printf("%s %.3g\n", NAMES[isa], worst);
        wrong |= !(worst <= 1e-4);
    }
    return wrong;
}
