/* Exact selection of active arms: what the files of the solver share. The algorithm is described in search.c. */

#ifndef EDGEWISE_SELECT_H
#define EDGEWISE_SELECT_H

#include <stdbool.h>
#include <stdint.h>

#include "export.h"

/* Eight numbers at a time, in the same order on every processor, so that every processor computes the same sums. */
typedef double lanes __attribute__((vector_size(64)));
typedef int64_t masks __attribute__((vector_size(64)));
enum { LANES = 8 };

#define INLINE static inline __attribute__((always_inline))

/* What Python hands over. Limits of the set costs, and of the mean energy, are scaled to 1. */
typedef struct {
    int32_t arms, queries, costs;
    int32_t any_right;        /* worth holds probabilities; otherwise weighted qualities */
    const double *worth;      /* arms x queries */
    const double *joules;     /* arms x queries, weighted; NULL in mode worst_case */
    const double *weight;     /* queries; used with any_right only */
    const double *cost;       /* arms x costs */
    double slack;             /* sums may exceed a limit by this fraction */
    double tolerance;         /* two worths closer than this are equal */
    double gap;               /* boxes within this fraction of the best set are not searched */
    int64_t node_limit;
    int32_t (*should_stop)(void); /* NULL: never */
    int32_t prove;            /* keep the tree */
    int32_t start_count;      /* a set to begin with */
    const int32_t *start;
    const int32_t *old_kind, *old_index; /* tree of a previous run, or old_tokens = 0 */
    const double *old_dual;
    int64_t old_tokens, old_searched;
} Instance;

typedef struct {
    int32_t *active;          /* one entry per arm, 1 where active */
    double *price;            /* 1 + costs entries: the multipliers of the root */
    double objective, bound;
    int64_t explored, evaluated;
    int32_t stopped, dual_size;
    int64_t tokens, duals;    /* size of the tree; -1 where it was not kept or grew too large */
    int32_t *kind, *index;    /* the tree, freed by edgewise_select_free */
    double *dual;
} Outcome;

/* A box of the search: some arms are in, some still free, the rest out. One frame per depth. */
typedef struct {
    int32_t *free;
    int32_t frees;
    double *covered;          /* per query: best worth so far; any_right: weighted chance that all are wrong */
    double got;               /* any_right: worth of what is in; a difference of weights would lose small chances */
    double *spent;            /* routed, per query: joules of the arm that covers it */
    double *dual, *best_dual; /* see `head` and `levels` */
    double *rho, *z;          /* per arm: gain in the relaxation, and its share in the relaxed solution */
    double *mean;             /* per arm: running mean of z */
    double *left;             /* per cost: what is left of the limit */
    double constant;          /* worth of a set in the box <= constant + the sum of rho over what it adds */
    double relaxed, best;     /* bound at `dual`, and the least bound seen */
    int32_t dual_id;
} Box;

typedef struct {
    int32_t arms, queries, blocks, costs, main;
    bool any_right, routed;
    double *worth, *second;   /* rows padded to whole lanes; second: joules (routed) or -log(1 - p) (any_right) */
    double *weight, *cost;
    double slack, tolerance, gap, incumbent, cut, price;
    int32_t *in;              /* stack of the arms that are in */
    int32_t ins;
    uint8_t *best, *trial;    /* the incumbent, and a set in the making */
    Box *box;                 /* by depth */
    double *gradient, *direction, *lane[7], *ratio;
    int64_t explored, evaluated, node_limit;
    int32_t (*should_stop)(void);
    bool stopped, prove, overflow, abandoned;
    int64_t may_explore;      /* while an old tree is walked */
    double closed;            /* largest bound of the boxes that were closed */
    int32_t *kind, *index;
    double *duals;
    int64_t tokens, token_room, dual_count, dual_room;
} Search;

/* A dual vector: price of mean energy, one multiplier per set cost, padding; then one level per query (best-of), or one
 * point per arm, padding, and per query which function was taken there (any-right). */
INLINE int32_t up(int32_t count) { return (count + LANES - 1) / LANES * LANES; }
INLINE int32_t head(const Search *s) { return up(1 + s->costs); }
INLINE int32_t dual_size(const Search *s) { return head(s) + (s->any_right ? up(s->arms) : 0) + s->blocks * LANES; }
INLINE double *row(double *matrix, const Search *s, int32_t arm) { return matrix + (int64_t)arm * s->blocks * LANES; }
INLINE double cost_of(const Search *s, int32_t arm, int32_t k) { return s->cost[(int64_t)arm * s->costs + k]; }
INLINE lanes positive(lanes x) { return (lanes)((masks)x & (masks)(x > 0.0)); }
INLINE lanes larger(lanes x, lanes y) { return y + positive(x - y); }
INLINE double total(lanes x) { return ((x[0] + x[1]) + (x[2] + x[3])) + ((x[4] + x[5]) + (x[6] + x[7])); }

/* relax.c: the bound of a box at its dual vector, and a step towards a lower one. */
void relax(Search *s, Box *b);
void descend(Search *s, Box *b, int32_t rounds, bool root);
double reduced(const Search *s, const Box *b, int32_t arm);
/* best_of.c, any_right.c: the parts that depend on the utility. */
void gains_best_of(Search *s, Box *b);
double slope_best_of(Search *s, Box *b);
void gains_any_right(Search *s, Box *b);
/* boxes.c */
Box *frame(Search *s, int32_t depth);
void copy_box(Search *s, const Box *from, Box *to);
void take(Search *s, Box *b, int32_t arm);
void drop(Box *b, int32_t arm);
bool room_for(const Search *s, const Box *b, int32_t arm);
bool room_for_all(const Search *s, const Box *b);
/* incumbent.c */
double worth_of(Search *s, const uint8_t *set);
void complete(Search *s, const Box *b, bool thorough);
void offer(Search *s, const uint8_t *set);
bool revalue(Search *s, int32_t arm);
void improve(Search *s, int32_t only);
/* fill.c */
typedef struct {
    double objective, bound;
    bool optimal;
} Worth;
void fill_cheapest(const Search *s, uint8_t *set, const double *order);
Worth fill_up(Search *s, uint8_t *set, const double *order);
/* proof.c */
void say(Search *s, int32_t kind, int32_t index);
int32_t keep_dual(Search *s, const double *dual);
/* search.c */
void explore(Search *s, int32_t depth);
bool all_fit(Search *s, Box *b);
/* select.c */
void set_up(Search *s, const Instance *given);
void tear_down(Search *s);
void set_worth(Search *s, int32_t arm, const double *worth);
bool dominates(Search *s, int32_t other, int32_t arm);
Box *root_box(Search *s);
Box *prepare(Search *s, const Instance *given);
void start_dual(Search *s, Box *b);
void hand_out(Search *s, Outcome *out);
/* replay.c */
void replay(Search *s, const Instance *given);

enum { BRANCH = 0, LEAF = 1, FULL = 2, DEAD = 3, NODE = 4, DOMINATED = 5, DOMINATOR = 6 };

#endif
