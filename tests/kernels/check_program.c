/* A whole program on every instruction set against plain C, which the formulas hold on the builder's machine: predictors,
   shortcuts, depthwise filters and halving, on the same random weights. Built for another processor, it runs under an
   emulator. Prints one line per instruction set; exits 1 where one differs, or where masks are all alike. With an
   argument it spoils the first layer in between, as a control. */

#include <stdio.h>
#include <stdlib.h>

#include "program.c"

#define IMAGES 8
#define STEPS 6
#define CHANNELS 96

static const char *const NAMES[ISA_COUNT] = {"plain", "avx2", "avx512", "neon"};

static float any(void) { return (float)rand() / (float)RAND_MAX * 2.0f - 1.0f; }

static float *filled(int64_t count, float scale)
{
    float *made = malloc(sizeof(float) * (size_t)count);
    for (int64_t i = 0; i < count; i++)
        made[i] = any() * scale;
    return made;
}

static Conv conv(int32_t inputs, int32_t outputs, int32_t side, int32_t kernel, int32_t stride)
{
    const int32_t out = (side - 1) / stride + 1, taps = kernel * kernel;
    const Conv made = {inputs, outputs, side, side, out, out, kernel, stride, 1, POOL_MAX,
                       filled((int64_t)outputs * inputs * taps, 2.4f / sqrtf((float)(inputs * taps))),
                       filled(outputs, 0.1f)};
    return made;
}

static Step gated(Conv of, int32_t rank)
{
    const int32_t width = padded(of.outputs / GROUP), from = rank ? rank : of.inputs;
    const Step made = {.conv = of,
                       .rank = rank,
                       .down = rank ? filled((int64_t)of.inputs * padded(rank), 0.3f) : NULL,
                       .up = filled((int64_t)from * width, 0.3f),
                       .offset = filled(width, 0.3f)};
    return made;
}

static Depthwise filters(int32_t channels, int32_t side, int32_t stride)
{
    const int32_t out = (side - 1) / stride + 1;
    const Depthwise made = {channels, side, side, out, out, stride, filled((int64_t)channels * 9, 0.6f),
                            filled(channels, 0.1f)};
    return made;
}

static void answers(const Program *program, int32_t isa, const float *images, float *probabilities, uint8_t *masks)
{
    Program told = *program;
    float *scratch = filled(3 * program->image_floats + 6 * program->channels, 1e6f); /* Whoever reads it will show. */
    told.isa = isa;
    if (edgewise_program_run(&told, IMAGES, images, scratch, NULL, masks, probabilities))
        exit(2);
    free(scratch);
}

int main(int count, char **spoil)
{
    const Depthwise first = filters(48, 7, 1), second = filters(64, 7, 2);
    Step steps[STEPS] = {{.conv = conv(3, 32, 14, 3, 1)}, gated(conv(32, 32, 14, 3, 1), 0),
                         gated(conv(32, 32, 14, 3, 1), 5), gated(conv(32, 48, 14, 3, 1), 0),
                         gated(conv(48, 64, 7, 1, 1), 0), gated(conv(64, 96, 4, 1, 1), 0)};
    steps[1].keep = 1;
    steps[2].add = 1;
    steps[3].halve = 1;
    steps[4].depthwise = &first;
    steps[5].depthwise = &second;
    const Program program = {steps, STEPS, ISA_PLAIN, 10, CHANNELS, 48 * 14 * 14, filled(CHANNELS * GROUP, 0.3f),
                             filled(GROUP, 0.1f)};
    enum { GROUPS = 2 + 2 + 2 + 3 + 4 + 6 };
    float *images = filled(IMAGES * 3 * 14 * 14, 1.0f), expected[IMAGES * 10], found[IMAGES * 10];
    uint8_t asked[IMAGES * GROUPS], used[IMAGES * GROUPS];
    answers(&program, ISA_PLAIN, images, expected, asked);
    if (count > 1 && spoil[1])
        memset((void *)steps[0].conv.weights, 0, sizeof(float) * 32 * 27);
    int wrong = !memcmp(asked, asked + GROUPS, GROUPS) && !memcmp(asked, asked + (IMAGES - 1) * GROUPS, GROUPS);
    for (int32_t isa = 0; isa < ISA_COUNT; isa++) {
        if (!edgewise_conv_for(isa))
            continue;
        float worst = 0.0f;
        answers(&program, isa, images, found, used);
        for (int i = 0; i < IMAGES * 10; i++)
            worst = fmaxf(worst, fabsf(found[i] - expected[i]));
        const int other = memcmp(used, asked, sizeof used) != 0;
        printf("%s %.3g\n", NAMES[isa], other ? 1.0 : (double)worst);
        wrong |= other || !(worst <= 1e-5f);
    }
    return wrong;
}
