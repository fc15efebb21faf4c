/* What every C file of this room shares: visibility, and one clone of a loop per instruction set. */

#ifndef EDGEWISE_EXPORT_H
#define EDGEWISE_EXPORT_H

#include <features.h>

#define EXPORT __attribute__((visibility("default")))

/* The loader picks the widest clone that the processor has. Elsewhere the base instruction set has to do. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define CLONES
#endif

#endif
