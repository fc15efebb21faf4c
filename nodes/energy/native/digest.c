/* Which sources this library was built from. */

#ifndef SOURCE_DIGEST
#define SOURCE_DIGEST "unknown"
#endif

__attribute__((visibility("default"))) const char *edgewise_source_digest(void) { return SOURCE_DIGEST; }
