/* What every C file of this room shares: visibility, and code for one instruction set in a library for all. */

#ifndef EDGEWISE_KERNELS_EXPORT_H
#define EDGEWISE_KERNELS_EXPORT_H

#define EXPORT __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))

#define PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define BEGIN_TARGET(isa) PRAGMA(clang attribute push(__attribute__((target(isa))), apply_to = function))
#define END_TARGET _Pragma("clang attribute pop")
#else
#define BEGIN_TARGET(isa) _Pragma("GCC push_options") PRAGMA(GCC target(isa))
#define END_TARGET _Pragma("GCC pop_options")
#endif

#endif
