/* Which of the built instruction sets this processor can run. */

#include <stddef.h>

#include "depthwise.h"
#include "export.h"
#include "forked.h"
#include "masked_conv.h"

ConvRun edgewise_conv_for(int32_t isa)
{
    switch (isa) {
    case ISA_PLAIN:
        return edgewise_conv_plain;
#if defined(__x86_64__)
    case ISA_AVX2:
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? edgewise_conv_avx2 : NULL;
    case ISA_AVX512:
        return __builtin_cpu_supports("avx512f") ? edgewise_conv_avx512 : NULL;
#endif
#if defined(__aarch64__)
    case ISA_NEON:
        return edgewise_conv_neon;
#endif
    default:
        return NULL;
    }
}

DepthRun edgewise_depthwise_for(int32_t isa)
{
    static const DepthRun known[ISA_COUNT] = {
        [ISA_PLAIN] = edgewise_depthwise_plain,
#if defined(__x86_64__)
        [ISA_AVX2] = edgewise_depthwise_avx2,
        [ISA_AVX512] = edgewise_depthwise_avx512,
#endif
#if defined(__aarch64__)
        [ISA_NEON] = edgewise_depthwise_neon,
#endif
    };
    return edgewise_conv_for(isa) ? known[isa] : NULL;
}

ForkRun edgewise_fork_for(int32_t isa)
{
    static const ForkRun known[ISA_COUNT] = {
        [ISA_PLAIN] = edgewise_fork_plain,
#if defined(__x86_64__)
        [ISA_AVX2] = edgewise_fork_avx2,
        [ISA_AVX512] = edgewise_fork_avx512,
#endif
#if defined(__aarch64__)
        [ISA_NEON] = edgewise_fork_neon,
#endif
    };
    return edgewise_conv_for(isa) ? known[isa] : NULL;
}

EXPORT int32_t edgewise_isa_runs(int32_t isa) { return edgewise_conv_for(isa) != NULL; }

static int32_t all_below(const int32_t *list, int32_t count, int32_t limit)
{
    for (int32_t i = 0; i < count; i++)
        if (list[i] < 0 || list[i] >= limit)
            return 0;
    return 1;
}

/* One convolution. Returns 0, or 1 where `isa` does not run here, or 2 where a list points outside. */
EXPORT int32_t edgewise_conv(int32_t isa, const Conv *conv, const Call *call)
{
    ConvRun run = edgewise_conv_for(isa);
    if (!run)
        return 1;
    if (!all_below(call->in, call->in_count, conv->inputs) || !all_below(call->out, call->out_count, conv->outputs / GROUP))
        return 2;
    run(conv, call);
    return 0;
}

/* One depthwise convolution; returns as `edgewise_conv` does. */
EXPORT int32_t edgewise_depthwise(int32_t isa, const Depthwise *layer, const DepthCall *call)
{
    DepthRun run = edgewise_depthwise_for(isa);
    if (!run)
        return 1;
    if (!all_below(call->groups, call->count, (layer->channels + GROUP - 1) / GROUP))
        return 2;
    run(layer, call);
    return 0;
}
