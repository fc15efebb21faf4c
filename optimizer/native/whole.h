/* A problem of mode worst_case as it is stated, and its answer in its own terms: what the files of the one call share. */

#ifndef EDGEWISE_WHOLE_H
#define EDGEWISE_WHOLE_H

#include "select.h"

typedef struct {
    int32_t queries, arms, costs;
    int32_t any_right;        /* worth holds probabilities; otherwise qualities */
    const double *worth;      /* queries x arms */
    const uint8_t *allowed;   /* queries x arms; NULL: every arm is fast enough for every query */
    const double *weight;     /* queries */
    const double *cost;       /* costs x arms */
    const double *limit;      /* costs */
    const double *order;      /* per arm: which fills what room is left first, the smallest */
    double slack, tolerance, gap; /* as in Instance */
    int64_t node_limit;
    int32_t (*should_stop)(void);
    double known;             /* worth of all arms together of an earlier run, whose units are kept; 0: none */
    /* What comes back. */
    uint8_t *active;          /* arms */
    double objective, bound, price, scale; /* price: worth of one more unit of the first limit */
    int64_t explored;
    int32_t eligibles;        /* 0: no arm can be active, and nothing else is set */
    int32_t optimal;
} Whole;

/* A problem in the solver's units. */
typedef struct {
    int32_t eligibles, bindings;
    int32_t *eligible;        /* room for every arm */
    int32_t *binding;         /* room for every cost */
    double *worth, *share, *weight; /* eligible arms x queries, eligible arms x binding costs, queries (any_right) */
    double scale;
} Intake;

/* intake.c: the caller gives room for everything. */
void take_in(const Whole *given, Intake *to);

#endif
