/* Text to qualities in one pass: bytes are normalised, cut into tokens, hashed, and the rows of the encoder that the
 * hashes name are added up as integers. No feature vector is ever built.
 *
 * optimizer/gate/reference.py says the same in Python. Sums are integers and every floating-point sum runs in one
 * fixed order, so that both agree to the last bit on every machine.
 */

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "export.h"

#define PREFIX 4096
#define MAX_BUCKETS 16384
#define MAX_LATENTS 256
#define COUNTS 14
#define RATIOS 8
#define MARKERS 24
#define STRUCTURE (COUNTS + RATIOS + 1 + MARKERS)
#define BASIS 2166136261u
#define PRIME 16777619u
#define GRAM_BASIS (BASIS ^ 0x5bd1e995u)
#define WEIGHT 64
#define GRAM 4

enum { BYTES, WORDS, DIGITS, UPPER, MATHS, DOLLARS, QUESTIONS, NEWLINES, STOPS, BRACKETS, PAIRS, WIDES, OPTIONS, NUMBERS };

/* Inlined into `read_text`, so that each of its clones gets loops of its own instruction set. */
#define INLINE static inline __attribute__((always_inline))
#define BATCH 128
#define LANES 16

/* What a text adds up to. Sums stay below 2^31: at most 12,300 n-grams of a prefix, each 64 times a row within 1023. */
typedef struct {
    const int16_t *rows; /* none: the stream itself is wanted */
    int64_t latents;     /* a multiple of 2 LANES */
    uint32_t mask;
    int32_t *sum;
    int32_t *stream; /* bucket and weight, interleaved: all of them, or the batch at hand */
    int64_t filled;
    uint8_t seen[MAX_BUCKETS];
} sink_t;

static inline uint32_t mixed(uint32_t h) {
    h ^= h >> 16;
    h *= 0x85ebca6bu;
    h ^= h >> 13;
    h *= 0xc2b2ae35u;
    return h ^ (h >> 16);
}

typedef int16_t row_t __attribute__((vector_size(2 * LANES), aligned(2)));
typedef int32_t lane_t __attribute__((vector_size(4 * LANES), aligned(4)));

/* Adds the rows of a batch: the sums stay in registers while the rows pass by. */
INLINE void flush(sink_t *sink) {
    for (int64_t k = 0; k < sink->latents; k += 2 * LANES) {
        lane_t *sum = (lane_t *)(sink->sum + k), low = sum[0], high = sum[1];
        for (int64_t i = 0; i < sink->filled; i++) {
            const row_t *row = (const row_t *)(sink->rows + (int64_t)sink->stream[2 * i] * sink->latents + k);
            low += sink->stream[2 * i + 1] * __builtin_convertvector(row[0], lane_t);
            high += sink->stream[2 * i + 1] * __builtin_convertvector(row[1], lane_t);
        }
        sum[0] = low;
        sum[1] = high;
    }
    sink->filled = 0;
}

/* The c-th time a bucket is met it weighs 64 / c: together the usual 1 + log of the count, in integers. */
INLINE void add(sink_t *sink, uint32_t hash) {
    uint32_t h = mixed(hash);
    uint32_t bucket = h & sink->mask;
    if (sink->seen[bucket] == WEIGHT) return;
    int32_t weight = WEIGHT / ++sink->seen[bucket];
    sink->stream[2 * sink->filled] = (int32_t)bucket;
    sink->stream[2 * sink->filled + 1] = h >> 31 ? -weight : weight;
    sink->filled++;
    if (!sink->rows) return;
    __builtin_prefetch(sink->rows + (int64_t)bucket * sink->latents);
    if (sink->filled == BATCH) flush(sink);
}

static inline int is_word(uint8_t c) { return (c >= 'a' && c <= 'z') || c == '0'; }

static inline int is_alnum(uint8_t c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

static inline int is_tail(uint8_t c) { return (c & 0xc0) == 0x80; }

/* Length of the UTF-8 sequence that starts here; 1 where it is none, so that any bytes can be read. */
static inline int64_t sequence(const uint8_t *text, int64_t at, int64_t size) {
    uint8_t c = text[at];
    int64_t length = c >= 0xf0 && c <= 0xf4 ? 4 : c >= 0xe0 && c <= 0xef ? 3 : c >= 0xc2 && c <= 0xdf ? 2 : 1;
    if (at + length > size) return 1;
    for (int64_t i = 1; i < length; i++)
        if (!is_tail(text[at + i])) return 1;
    return length;
}

static void count_byte(const uint8_t *text, int64_t at, int64_t size, int32_t *count) {
    uint8_t c = text[at], before = at ? text[at - 1] : ' ', after = at + 1 < size ? text[at + 1] : ' ';
    if (c >= '0' && c <= '9') {
        count[DIGITS]++;
        count[NUMBERS] += !(before >= '0' && before <= '9');
    } else if (c >= 'A' && c <= 'Z') {
        count[UPPER]++;
        count[OPTIONS] += c <= 'J' && !is_alnum(before) && (after == ')' || after == '.' || after == ':');
    } else if (c == '$') {
        count[DOLLARS]++;
    } else if (c == '?') {
        count[QUESTIONS]++;
    } else if (c == '\n') {
        count[NEWLINES]++;
    } else if (c && strchr("+-*/=^<>\\_|~%", c)) {
        count[MATHS]++;
    } else if (c && strchr(".,;:!'\"", c)) {
        count[STOPS]++;
    } else if (c && strchr("()[]{}", c)) {
        count[BRACKETS]++;
    }
}

/* Lower case, every digit 0, every run of blanks one blank, one blank at either end. Returns the new size. */
static int64_t normalise(const uint8_t *text, int64_t size, uint8_t *out, int32_t *count) {
    int64_t n = 0;
    out[n++] = ' ';
    for (int64_t i = 0; i < size; i++) {
        uint8_t c = text[i];
        count_byte(text, i, size, count);
        if (c <= 0x20 || c == 0x7f) {
            if (out[n - 1] != ' ') out[n++] = ' ';
        } else if (c >= '0' && c <= '9') {
            out[n++] = '0';
        } else {
            out[n++] = c >= 'A' && c <= 'Z' ? c + 32 : c;
        }
    }
    if (out[n - 1] != ' ') out[n++] = ' ';
    return n;
}

INLINE void add_token(sink_t *sink, uint32_t hash, uint32_t *previous) {
    add(sink, hash);
    if (*previous) add(sink, (*previous * 0x9e3779b1u) ^ hash);
    *previous = hash;
}

/* Words are runs of letters, digits and two-byte sequences; every other sign, and every wider one, is a token. */
INLINE void add_tokens(sink_t *sink, const uint8_t *text, int64_t size, int32_t *count, const uint32_t *marker,
                       int32_t *flag) {
    uint32_t previous = 0;
    for (int64_t i = 0; i < size;) {
        if (text[i] == ' ') {
            i++;
            continue;
        }
        uint32_t h = BASIS;
        int64_t start = i, length = sequence(text, i, size);
        count[PAIRS] += length == 2;
        count[WIDES] += length > 2;
        int word = is_word(text[i]) || length == 2;
        for (; length; length--) h = (h ^ text[i++]) * PRIME;
        while (word && i < size && (is_word(text[i]) || sequence(text, i, size) == 2)) {
            length = sequence(text, i, size);
            count[PAIRS] += length == 2;
            for (; length; length--) h = (h ^ text[i++]) * PRIME;
        }
        count[WORDS] += word;
        for (int m = 0; word && i - start < 12 && m < MARKERS; m++) flag[m] |= marker[m] == h;
        add_token(sink, h, &previous);
    }
}

INLINE void add_grams(sink_t *sink, const uint8_t *text, int64_t size) {
    for (int64_t i = 0; i + GRAM <= size; i++) {
        uint32_t h = GRAM_BASIS;
        for (int64_t j = 0; j < GRAM; j++) h = (h ^ text[i + j]) * PRIME;
        add(sink, h);
    }
}

static void describe(const int32_t *count, const int32_t *flag, int64_t prefix, double *out) {
    static const int of[RATIOS] = {DIGITS, UPPER, MATHS, NEWLINES, STOPS, BRACKETS, PAIRS, WIDES};
    for (int i = 0; i < COUNTS; i++) out[i] = log1p((double)count[i]);
    for (int i = 0; i < RATIOS; i++) out[COUNTS + i] = (double)count[of[i]] / (double)(prefix + 1);
    out[COUNTS + RATIOS] = (double)prefix / (double)(count[WORDS] + 1) / 16.0;
    for (int i = 0; i < MARKERS; i++) out[COUNTS + RATIOS + 1 + i] = (double)flag[i];
}

CLONES static void read_text(sink_t *sink, const uint8_t *text, int64_t size, const uint32_t *marker, double *structure) {
    uint8_t normal[PREFIX + 2];
    int32_t count[COUNTS] = {0}, flag[MARKERS] = {0};
    int64_t prefix = size < PREFIX ? size : PREFIX;
    count[BYTES] = size < INT32_MAX ? (int32_t)size : INT32_MAX;
    memset(sink->seen, 0, sink->mask + 1);
    int64_t n = normalise(text, prefix, normal, count);
    add_tokens(sink, normal, n, count, marker, flag);
    add_grams(sink, normal, n);
    if (sink->rows) flush(sink);
    describe(count, flag, prefix, structure);
}

/* The direction of the sum: scaled per latent, then of length 1; nothing stays nothing. */
static void finish(const int32_t *sum, const double *scale, int64_t latents, double *out) {
    double square = 0.0;
    for (int64_t k = 0; k < latents; k++) {
        out[k] = (double)sum[k] * scale[k];
        square += out[k] * out[k];
    }
    double length = square > 0.0 ? sqrt(square) : 1.0;
    for (int64_t k = 0; k < latents; k++) out[k] /= length;
}

/* Bucket and weight of every n-gram in order, interleaved; returns how many. Room for 3 per byte and 8 more. */
EXPORT int64_t edgewise_text_stream(const uint8_t *text, int64_t size, uint32_t mask, const uint32_t *marker,
                                    int32_t *stream) {
    sink_t sink = {.mask = mask, .stream = stream};
    double structure[STRUCTURE];
    read_text(&sink, text, size, marker, structure);
    return sink.filled;
}

typedef struct {
    const int16_t *rows;
    const double *scale;
    const uint32_t *marker;
    int64_t latents;
    int64_t mask;
} encoder_t;

/* Latents, then structure. */
static void encode(const encoder_t *encoder, const uint8_t *text, int64_t size, double *out) {
    int32_t sum[MAX_LATENTS] = {0}, batch[2 * BATCH];
    sink_t sink;
    sink.rows = encoder->rows;
    sink.latents = encoder->latents;
    sink.mask = (uint32_t)encoder->mask;
    sink.sum = sum;
    sink.stream = batch;
    sink.filled = 0;
    read_text(&sink, text, size, encoder->marker, out + encoder->latents);
    finish(sum, encoder->scale, encoder->latents, out);
}

EXPORT void edgewise_text_encode(const encoder_t *encoder, const uint8_t *blob, const int64_t *start, int64_t texts,
                                 double *out) {
    int64_t width = encoder->latents + STRUCTURE;
    for (int64_t q = 0; q < texts; q++) encode(encoder, blob + start[q], start[q + 1] - start[q], out + q * width);
}

typedef struct {
    encoder_t encoder;
    const double *weights; /* (task, feature, expert) */
    const double *bias;    /* (task, expert) */
    int64_t experts;
    const double *pull;       /* (topic, feature); a text is of the topic that pulls most */
    const double *pull_bias;  /* (topic) */
    const int64_t *topic_row; /* (topic): its task */
    int64_t topics;           /* none: 0 */
} gate_t;

static int64_t row_of_topic(const gate_t *gate, const double *feature, int64_t features) {
    int64_t best = 0;
    double most = -INFINITY;
    for (int64_t k = 0; k < gate->topics; k++) {
        double pull = gate->pull_bias[k];
        for (int64_t f = 0; f < features; f++) pull += feature[f] * gate->pull[k * features + f];
        if (pull > most) most = pull, best = k;
    }
    return gate->topic_row[best];
}

CLONES static void score(const double *feature, const double *weights, int64_t features, int64_t experts, double *out) {
    for (int64_t f = 0; f < features; f++)
        for (int64_t e = 0; e < experts; e++) out[e] += feature[f] * weights[f * experts + e];
}

/* Quality of every expert for one text, within 0 and 1; where the task is not told (0), that of the text's topic. */
EXPORT void edgewise_text_quality(const gate_t *gate, const uint8_t *text, int64_t size, int64_t task, double *out) {
    double feature[MAX_LATENTS + STRUCTURE];
    int64_t features = gate->encoder.latents + STRUCTURE;
    encode(&gate->encoder, text, size, feature);
    if (task == 0 && gate->topics) task = row_of_topic(gate, feature, features);
    memcpy(out, gate->bias + task * gate->experts, sizeof(double) * (size_t)gate->experts);
    score(feature, gate->weights + task * features * gate->experts, features, gate->experts, out);
    for (int64_t e = 0; e < gate->experts; e++) out[e] = out[e] < 0.0 ? 0.0 : out[e] > 1.0 ? 1.0 : out[e];
}

/* y = X b and, transposed, y = X' b, for a sparse X in rows and a dense b of `width` columns: to train encoders. */
CLONES EXPORT void edgewise_sparse_times(const int64_t *start, const int32_t *column, const float *value, int64_t rows,
                                         const float *b, int64_t width, float *y) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = start[r]; i < start[r + 1]; i++)
            for (int64_t k = 0; k < width; k++) y[r * width + k] += value[i] * b[column[i] * width + k];
}

CLONES EXPORT void edgewise_sparse_transposed_times(const int64_t *start, const int32_t *column, const float *value,
                                                    int64_t rows, const float *b, int64_t width, float *y) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = start[r]; i < start[r + 1]; i++)
            for (int64_t k = 0; k < width; k++) y[column[i] * width + k] += value[i] * b[r * width + k];
}
