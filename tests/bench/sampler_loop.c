/* Reads files ten times a second: what a sampler of these files costs without an interpreter.
   Usage: sampler_loop SECONDS RATE_HZ FILE...   Prints seconds of CPU. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv) {
    double seconds = atof(argv[1]), rate = atof(argv[2]), sum = 0.0;
    int files[64], count = argc - 3;
    for (int i = 0; i < count; i++) files[i] = open(argv[3 + i], O_RDONLY);
    struct timespec next;
    struct rusage before, after;
    clock_gettime(CLOCK_MONOTONIC, &next);
    getrusage(RUSAGE_SELF, &before);
    for (long tick = 0; tick < (long)(seconds * rate); tick++) {
        char text[64];
        for (int i = 0; i < count; i++) {
            ssize_t got = pread(files[i], text, sizeof text - 1, 0);
            text[got > 0 ? got : 0] = 0;
            sum += strtol(text, NULL, 10);
        }
        next.tv_nsec += (long)(1e9 / rate);
        while (next.tv_nsec >= 1000000000L) { next.tv_nsec -= 1000000000L; next.tv_sec++; }
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL);
    }
    getrusage(RUSAGE_SELF, &after);
    double used = (after.ru_utime.tv_sec - before.ru_utime.tv_sec) + (after.ru_stime.tv_sec - before.ru_stime.tv_sec)
        + 1e-6 * ((after.ru_utime.tv_usec - before.ru_utime.tv_usec) + (after.ru_stime.tv_usec - before.ru_stime.tv_usec));
    printf("%.9f %g\n", used, sum);
    return 0;
}
