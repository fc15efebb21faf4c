/* Every instruction set of a build against three nested loops, at odd sizes and under random masks. Built for another
   processor, it runs under an emulator. Prints one line per instruction set; exits 1 where one is wrong. */

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

static double worst_of(const Conv *c, const Call *call)
{
    double worst = 0, largest = 1e-30;
    for (int k = 0; k < call->out_count * GROUP; k++) {
        const int o = call->out[k / GROUP] * GROUP + k % GROUP;
        for (int p = 0; p < c->out_height * c->out_width; p++) {
            const double expected = naive(c, call, o, p / c->out_width, p % c->out_width);
            const double found = call->output[(o / GROUP * c->out_height * c->out_width + p) * GROUP + o % GROUP];
            worst = fmax(worst, fabs(found - expected));
            largest = fmax(largest, fabs(expected));
        }
    }
    return worst / largest;
}

static double check(ConvRun run, const int *size, int kernel, int stride)
{
    Conv c = {size[0], size[1], size[2], size[3], (size[2] - 1) / stride + 1, (size[3] - 1) / stride + 1,
              kernel, stride, 1, POOL_MAX, NULL, NULL};
    const int groups = c.outputs / GROUP, in_groups = (c.inputs + GROUP - 1) / GROUP;
    int32_t in[128], out[16];
    Call call = {.in = in, .out = out};
    for (int i = 0; i < c.inputs; i++)
        if (rand() % 2)
            in[call.in_count++] = i;
    for (int g = 0; g < groups; g++)
        if (g == 0 || rand() % 2)
            out[call.out_count++] = g;
    c.weights = filled((long)c.outputs * c.inputs * kernel * kernel);
    c.bias = filled(c.outputs);
    call.input = filled((long)in_groups * GROUP * c.height * c.width);
    call.output = filled((long)c.outputs * c.out_height * c.out_width);
    call.pooled = filled(c.outputs);
    run(&c, &call);
    const double worst = worst_of(&c, &call);
    free((void *)c.weights);
    free((void *)c.bias);
    free((void *)call.input);
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

int main(void)
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
            for (int kind = 0; kind < 4; kind++)
                worst = fmax(worst, check(run, SIZES[s], kind / 2 ? 3 : 1, kind % 2 + 1));
        printf("%s %.3g\n", NAMES[isa], worst);
        wrong |= !(worst <= 1e-4);
    }
    return wrong;
}
