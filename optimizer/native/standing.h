/* A solved instance that stays in memory, so that the drift of one arm costs little: what its files share. */

#ifndef EDGEWISE_STANDING_H
#define EDGEWISE_STANDING_H

#include "select.h"

/* As `lanes`, from where rows need not start at whole lanes. */
typedef double loose __attribute__((vector_size(64), aligned(8)));

enum { FREE = 0, IN = 1, OUT = 2 };
/* More boxes than this are not reopened one by one. */
enum { MOST_OPEN = 8 };

/* A branch whose second side is still to come, or is being walked (`out`). */
typedef struct {
    int32_t arm, node;
    double most;              /* linear bound of the branch before either side */
    bool out;
} Side;

/* A box that its linear bound no longer closes. */
typedef struct {
    int64_t at;               /* its token */
    int32_t node;
    double most;
    uint8_t *state;           /* per arm */
} Open;

/* The linear bound of each NODE, by dual vector: base + the sum over the arms it adds of their gains, where gains are
 * after every multiplier, and 0 for arms that are not free there. Rows of `row` doubles: gains by arm; then with
 * any_right, per query, what the gain of an arm outside the point is made of (weights of its two tangents). */
typedef struct {
    double *row, *base;
    bool *known;
    int64_t room;
} Linear;

typedef struct {
    Search s;
    Linear linear;
    int32_t *fresh, freshes;  /* arms whose gains are to be worked out anew */
    int32_t drifted;
    double *before;           /* the drifted arm's worth before */
    double *order;            /* per arm: which fills what room is left first, the smallest */
    uint8_t *state, *filled;
    Side *side;
    int32_t depth, node;
    int64_t at, tokens;       /* token of this moment; size of the tree when it was last built anew */
    double most, highest;     /* linear bound of the box of this moment; largest bound of a closed box */
    double *left;             /* (arms + 1) x costs: what is left of the limits, by number of arms that are in */
    Open open[MOST_OPEN];
    int32_t opens;
} Standing;

/* The drift of one arm in the problem's terms, and the answer to it. */
typedef struct {
    /* As long as the instance stays. */
    const int32_t *eligible;  /* per arm of the instance: which one it is */
    const uint8_t *allowed;   /* arms of the instance x queries; NULL: every arm is fast enough for every query */
    const double *weight;     /* queries; NULL with any_right */
    double scale, limit_j;    /* limit of energy; below 0: none */
    int32_t binds;            /* energy is the first of the instance's costs */
    /* The drift. */
    int32_t arm;              /* of the instance */
    const double *worth;      /* its new column; NULL: as before */
    double energy_j;          /* below 0: as before */
    /* The answer. */
    int32_t *active;          /* room for every arm */
    int32_t actives, optimal;
    double objective, bound, price; /* price: worth of one more joule */
    int64_t explored;
} Drift;

enum { FOLLOWED = 0, ANEW = 1, REFUSED = 2 };

/* linear.c */
int64_t linear_size(const Search *s);
void forget_linear(Standing *p);
void enter_node(Standing *p, int32_t node);
void box_of(Standing *p, Box *b);
INLINE double *gains(const Standing *p, int32_t node) { return p->linear.row + node * linear_size(&p->s); }
/* rewalk.c: false where too much of the tree no longer holds. */
bool rewalk(Standing *p);
/* reopen.c */
bool reopen(Standing *p);
/* dominance.c */
void keep_dominated(Standing *p);

#endif
