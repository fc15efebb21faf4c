/* Reads a few sysfs files at a steady rate on a thread of its own and keeps the numbers until they are asked for.

   Waking an interpreter ten times a second costs several times what the reading does: its code is cold by then. This
   thread needs neither the interpreter nor its lock. One reader may take what was gathered while the thread goes on;
   when the ring is full the oldest sample goes. */

#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define MOST_FILES 32
#define NANO 1000000000LL

typedef struct {
    pthread_t thread;
    pthread_mutex_t lock;
    int files[MOST_FILES];
    int count, capacity, stored, next, stopping;
    int64_t period_ns, failed;
    double *time_s;   /* ring of `capacity` */
    int64_t *values;  /* ring of `capacity` rows of `count` */
} Sampler;

/* The whole number at the start of a file; 0 where there is none. */
static int read_number(int file, int64_t *value) {
    char text[64], *end;
    ssize_t got = pread(file, text, sizeof text - 1, 0);
    if (got <= 0) return 0;
    text[got] = 0;
    *value = strtoll(text, &end, 10);
    return end != text;
}

static void keep(Sampler *s, double time_s, const int64_t *row) {
    pthread_mutex_lock(&s->lock);
    s->time_s[s->next] = time_s;
    for (int i = 0; i < s->count; i++) s->values[(int64_t)s->next * s->count + i] = row[i];
    s->next = (s->next + 1) % s->capacity;
    if (s->stored < s->capacity) s->stored++;
    pthread_mutex_unlock(&s->lock);
}

/* One sample; returns the nanosecond at which it was made. */
static int64_t sample(Sampler *s) {
    int64_t row[MOST_FILES];
    struct timespec now;
    int readable = 1;
    for (int i = 0; i < s->count; i++) {
        readable &= read_number(s->files[i], &row[i]);
    }
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (readable) keep(s, (double)now.tv_sec + 1e-9 * (double)now.tv_nsec, row);
    else __atomic_add_fetch(&s->failed, 1, __ATOMIC_RELAXED);
    return now.tv_sec * NANO + now.tv_nsec;
}

static void *run(void *given) {
    Sampler *s = given;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    int64_t next_ns = now.tv_sec * NANO + now.tv_nsec;
    while (!__atomic_load_n(&s->stopping, __ATOMIC_RELAXED)) {
        int64_t now_ns = sample(s);
        next_ns += s->period_ns;
        /* After a pause of the whole machine the missed ticks are not made up for. */
        if (next_ns < now_ns) next_ns = now_ns;
        struct timespec until = {next_ns / NANO, next_ns % NANO};
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
    }
    return NULL;
}

static void release(Sampler *s) {
    for (int i = 0; i < s->count; i++) close(s->files[i]);
    free(s->time_s);
    free(s->values);
    free(s);
}

/* Start to sample; NULL where a file cannot be opened, there are too many, or no thread can be had. */
EXPORT Sampler *edgewise_sampler_start(const char **paths, int count, double rate_hz, int capacity) {
    if (count < 1 || count > MOST_FILES || rate_hz <= 0 || capacity < 1) return NULL;
    Sampler *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    s->period_ns = (int64_t)(1e9 / rate_hz);
    s->capacity = capacity;
    s->time_s = calloc((size_t)capacity, sizeof *s->time_s);
    s->values = calloc((size_t)capacity * (size_t)count, sizeof *s->values);
    for (; s->count < count; s->count++) {
        s->files[s->count] = open(paths[s->count], O_RDONLY | O_CLOEXEC);
        if (s->files[s->count] < 0) break;
    }
    pthread_mutex_init(&s->lock, NULL);
    if (s->count < count || !s->time_s || !s->values || pthread_create(&s->thread, NULL, run, s)) {
        release(s);
        return NULL;
    }
    return s;
}

/* Move up to `most` of the oldest samples to the caller's arrays; returns how many. */
EXPORT int edgewise_sampler_take(Sampler *s, double *time_s, int64_t *values, int most) {
    pthread_mutex_lock(&s->lock);
    int taken = s->stored < most ? s->stored : most;
    int first = (s->next - s->stored + s->capacity) % s->capacity;
    for (int k = 0; k < taken; k++) {
        int at = (first + k) % s->capacity;
        time_s[k] = s->time_s[at];
        for (int i = 0; i < s->count; i++) values[(int64_t)k * s->count + i] = s->values[(int64_t)at * s->count + i];
    }
    s->stored -= taken;
    pthread_mutex_unlock(&s->lock);
    return taken;
}

/* Processor seconds that the thread has taken so far. */
EXPORT double edgewise_sampler_cpu_s(Sampler *s) {
    clockid_t clock;
    struct timespec used;
    if (pthread_getcpuclockid(s->thread, &clock) || clock_gettime(clock, &used)) return 0.0;
    return (double)used.tv_sec + 1e-9 * (double)used.tv_nsec;
}

/* Ticks at which a file could not be read. */
EXPORT int64_t edgewise_sampler_failed(Sampler *s) { return __atomic_load_n(&s->failed, __ATOMIC_RELAXED); }

/* End the thread, within one period, and forget everything. */
EXPORT void edgewise_sampler_stop(Sampler *s) {
    __atomic_store_n(&s->stopping, 1, __ATOMIC_RELAXED);
    pthread_join(s->thread, NULL);
    release(s);
}
