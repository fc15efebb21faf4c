/* The calls of CUDA's runtime that the worker makes, on the memory of the host.
 *
 * Copies wait in a queue until the stream is waited for or work is launched, so that whoever forgets to wait reads
 * nothing. One stream only.
 */
#include <stdlib.h>
#include <string.h>

enum { QUEUE = 64 };
static struct { void *to; const void *from; size_t bytes; } queue[QUEUE];
static int waiting;

int cudaStreamSynchronize(void *stream)
{
    (void)stream;
    for (int i = 0; i < waiting; i++)
        memcpy(queue[i].to, queue[i].from, queue[i].bytes);
    waiting = 0;
    return 0;
}

int cudaMemcpyAsync(void *to, const void *from, size_t bytes, int kind, void *stream)
{
    (void)kind, (void)stream;
    if (waiting == QUEUE)
        return 700;
    queue[waiting].to = to, queue[waiting].from = from, queue[waiting].bytes = bytes;
    waiting++;
    return 0;
}

int cudaMalloc(void **address, size_t bytes)
{
    *address = bytes < ((size_t)1 << 32) ? malloc(bytes) : NULL;
    return *address ? 0 : 2;
}

int cudaFree(void *address) { free(address); return 0; }

int cudaStreamCreate(void **stream) { *stream = (void *)0x57; return 0; }

int cudaDeviceGetAttribute(int *value, int attribute, int device)
{
    (void)device;
    *value = attribute == 75 ? 8 : 9;
    return getenv("FAKE_GPU_GONE") ? 100 : 0;
}

int cudaDriverGetVersion(int *version)
{
    const char *given = getenv("FAKE_GPU_DRIVER");
    *version = given ? atoi(given) : 13000;
    return 0;
}

const char *cudaGetErrorString(int code)
{
    return code == 2 ? "out of memory" : code == 100 ? "no CUDA-capable device is detected" : "unknown error";
}
