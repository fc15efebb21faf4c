/* Which sources this library was built from. */

#include "export.h"

#ifndef SOURCE_DIGEST
#define SOURCE_DIGEST "unknown"
#endif

EXPORT const char *edgewise_source_digest(void) { return SOURCE_DIGEST; }
