/* The functions of a block of the mini-GPT between its matrix products, and the cross-entropy of
   logits: each reads its operands from memory once, where torch makes a pass for each operation.

   block_library.py compiles and calls these functions; native_block.py has the formulas.  Operands
   are float32 or, where `bf16` is set, bfloat16 (the upper half of a float); arithmetic is float32.
   Sums over a row are added in LANES lanes, always in one order.

   M tokens, D width, H heads, K head width, P = K / 2 rotated pairs, F width of the MLP, V
   vocabulary, T tokens of a sequence. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* A tile of attention has ROWS rows of two vectors: with AVX2, as many as 16 registers hold.  QUERIES
   is a multiple of ROWS.  AT_ONCE numbers of a product are computed at a time: more, so that matrices
   are packed less often, where products are slower than memory. */
#if defined(__AVX512F__)
enum { LANES = 16, ROWS = 4, QUERIES = 64, AT_ONCE = 1 << 20 };
#else
enum { LANES = 8, ROWS = 6, QUERIES = 66, AT_ONCE = 1 << 22 };
#endif
enum { GROUP = 32, ROWS_AT_LEAST = 128 };

static const float LOG_2 = 0.69314718055994530942f, BITS_PER_NAT = 1.44269504088896340736f;

typedef float vf __attribute__((vector_size(4 * LANES)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));
typedef uint32_t vu __attribute__((vector_size(4 * LANES)));
typedef uint16_t vh __attribute__((vector_size(2 * LANES)));

#define INLINE static inline __attribute__((always_inline))

INLINE vf all(float x) { return x - (vf){0}; }

INLINE vf choose(vi where, vf a, vf b) { return (vf)(((vi)a & where) | ((vi)b & ~where)); }

/* The lanes are added, or compared, in halves: a fixed order, and few dependent steps. */
INLINE float sum(vf v) {
  float parts[LANES];
  memcpy(parts, &v, sizeof v);
  for (int half = LANES / 2; half; half /= 2)
    for (int i = 0; i < half; i++) parts[i] += parts[i + half];
  return parts[0];
}

INLINE float highest_of(vf v) {
  float parts[LANES];
  memcpy(parts, &v, sizeof v);
  for (int half = LANES / 2; half; half /= 2)
    for (int i = 0; i < half; i++) parts[i] = parts[i + half] > parts[i] ? parts[i + half] : parts[i];
  return parts[0];
}

INLINE vf load(const float *x) {
  vf v;
  memcpy(&v, x, sizeof v);
  return v;
}

INLINE void store(float *x, vf v) { memcpy(x, &v, sizeof v); }

INLINE vf widened(vh h) { return (vf)(__builtin_convertvector(h, vu) << 16); }

/* To the nearest bfloat16, to even between two; NaN stays NaN. */
INLINE vh narrowed(vf v) {
  const vu bits = (vu)v, up = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const vu is_nan = (vu)(v != v);
  return __builtin_convertvector((up & ~is_nan) | (0x7fc0 & is_nan), vh);
}

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* The elements of an array from i on, at most LANES; beyond n they are 0. */
INLINE vf get(const void *x, int64_t i, int64_t n, int bf16) {
  const int64_t count = least(LANES, n - i);
  if (bf16) {
    vh h = {0};
    if (count == LANES) memcpy(&h, (const uint16_t *)x + i, sizeof h);
    else memcpy(&h, (const uint16_t *)x + i, 2 * (size_t)count);
    return widened(h);
  }
  vf v = {0};
  if (count == LANES) memcpy(&v, (const float *)x + i, sizeof v);
  else memcpy(&v, (const float *)x + i, 4 * (size_t)count);
  return v;
}

INLINE void put(void *x, int64_t i, int64_t n, int bf16, vf v) {
  const int64_t count = least(LANES, n - i);
  if (bf16) {
    const vh h = narrowed(v);
    if (count == LANES) memcpy((uint16_t *)x + i, &h, sizeof h);
    else memcpy((uint16_t *)x + i, &h, 2 * (size_t)count);
  } else {
    if (count == LANES) memcpy((float *)x + i, &v, sizeof v);
    else memcpy((float *)x + i, &v, 4 * (size_t)count);
  }
}

INLINE const void *row_of(const void *x, int64_t offset, int bf16) {
  return (const char *)x + offset * (bf16 ? 2 : 4);
}

INLINE void *own_row(void *x, int64_t offset, int bf16) {
  return (char *)x + offset * (bf16 ? 2 : 4);
}

/* 2^t for t <= 0, or hardly above; 0 below 2^-126.  2^t = 2^n e^(f log 2) with |f| <= 1/2; the error
   of the series of e^x up to x^7 is 5e-9. */
INLINE vf exp2_of(vf t) {
  const vi tiny = t < -126.0f;
  t = choose(tiny, all(-126.0f), t);
  const float magic = 12582912.0f; /* 1.5 × 2^23: adding it rounds to an integer */
  const vf shifted = t + magic, f = (t - (shifted - magic)) * LOG_2;
  const vi n = (vi)shifted - 0x4B400000;
  vf e = all(1.0f / 5040);
  e = e * f + 1.0f / 720;
  e = e * f + 1.0f / 120;
  e = e * f + 1.0f / 24;
  e = e * f + 1.0f / 6;
  e = e * f + 0.5f;
  e = e * f + 1.0f;
  e = e * f + 1.0f;
  return (vf)((vi)((vf)((vi)e + (n << 23))) & ~tiny);
}

/* 1 / (1 + e^-x) */
INLINE vf sigmoid_of(vf x) {
  const vf negative = choose(x < 0, x, -x), e = exp2_of(negative * BITS_PER_NAT);
  return choose(x < 0, e, all(1.0f)) / (e + 1.0f);
}

/* --- normalisation --------------------------------------------------------------------------- */

INLINE void normalise(int64_t M, int64_t D, const float *x, const void *y, float eps, float *total,
                      void *unit, float *inverse, const int bf16) {
  for (int64_t m = 0; m < M; m++) {
    const float *row = x + m * D;
    vf squares = {0};
    if (y) {
      const void *other = row_of(y, m * D, bf16);
      for (int64_t i = 0; i < D; i += LANES) {
        const vf v = get(row, i, D, 0) + get(other, i, D, bf16);
        put(total + m * D, i, D, 0, v);
        squares += v * v;
      }
      row = total + m * D;
    } else {
      for (int64_t i = 0; i < D; i += LANES) {
        const vf v = get(row, i, D, 0);
        squares += v * v;
      }
    }
    const float scale = 1.0f / sqrtf(sum(squares) / (float)D + eps);
    inverse[m] = scale;
    void *out = own_row(unit, m * D, bf16);
    for (int64_t i = 0; i < D; i += LANES) put(out, i, D, bf16, get(row, i, D, 0) * scale);
  }
}

/* total = x + y (only x where y is null), unit = total / rms(total), inverse = 1 / rms(total). */
void kullback_normalise(int64_t M, int64_t D, const float *x, const void *y, float eps,
                        float *total, void *unit, float *inverse, int bf16) {
  if (bf16) normalise(M, D, x, y, eps, total, unit, inverse, 1);
  else normalise(M, D, x, y, eps, total, unit, inverse, 0);
}

INLINE void normalise_backward(int64_t M, int64_t D, const void *grad_unit, const void *unit,
                               const float *inverse, const float *grad, float *out, void *rounded,
                               const int bf16_grad, const int bf16) {
  for (int64_t m = 0; m < M; m++) {
    const void *g = row_of(grad_unit, m * D, bf16_grad), *u = row_of(unit, m * D, bf16);
    vf products = {0};
    for (int64_t i = 0; i < D; i += LANES) products += get(g, i, D, bf16_grad) * get(u, i, D, bf16);
    const float mean = sum(products) / (float)D, scale = inverse[m];
    for (int64_t i = 0; i < D; i += LANES) {
      const vf of_norm = (get(g, i, D, bf16_grad) - get(u, i, D, bf16) * mean) * scale;
      const vf v = get(grad + m * D, i, D, 0) + of_norm;
      put(out + m * D, i, D, 0, v);
      if (bf16 && rounded) put(own_row(rounded, m * D, 1), i, D, 1, v);
    }
  }
}

/* out = grad + (du - u mean(du u)) / rms, and the same in bfloat16 in `rounded`, unless null. */
void kullback_normalise_backward(int64_t M, int64_t D, const void *grad_unit, const void *unit,
                                 const float *inverse, const float *grad, float *out,
                                 void *rounded, int bf16) {
  if (bf16) normalise_backward(M, D, grad_unit, unit, inverse, grad, out, rounded, 1, 1);
  else normalise_backward(M, D, grad_unit, unit, inverse, grad, out, rounded, 0, 0);
}

/* out = x + y, y in bfloat16. */
void kullback_add(int64_t count, const float *x, const void *y, float *out) {
  for (int64_t i = 0; i < count; i += LANES) {
    put(out, i, count, 0, get(x, i, count, 0) + get(y, i, count, 1));
  }
}

/* Each column of a matrix times its weight, and back: the gradients of both. */
void kullback_scale(int64_t C, int64_t D, const float *matrix, const float *weight, void *out,
                    int bf16) {
  for (int64_t c = 0; c < C; c++) {
    void *row = own_row(out, c * D, bf16);
    for (int64_t i = 0; i < D; i += LANES) {
      put(row, i, D, bf16, get(matrix + c * D, i, D, 0) * get(weight, i, D, 0));
    }
  }
}

/* The gradient of the weight is added in groups of rows, whose sums have small errors. */
void kullback_scale_backward(int64_t C, int64_t D, const void *grad_out, const float *matrix,
                             const float *weight, float *grad_matrix, float *grad_weight,
                             int bf16) {
  for (int64_t first = 0; first < C; first += GROUP) {
    const int64_t end = least(first + GROUP, C);
    for (int64_t i = 0; i < D; i += LANES) {
      const vf factor = get(weight, i, D, 0);
      vf total = {0};
      for (int64_t c = first; c < end; c++) {
        const vf v = get(row_of(grad_out, c * D, bf16), i, D, bf16);
        put(grad_matrix + c * D, i, D, 0, v * factor);
        total += v * get(matrix + c * D, i, D, 0);
      }
      put(grad_weight, i, D, 0, get(grad_weight, i, D, 0) + total);
    }
  }
}

/* --- SwiGLU ---------------------------------------------------------------------------------- */

INLINE void swiglu(int64_t M, int64_t F, const void *gate_up, void *out, const int bf16) {
  for (int64_t m = 0; m < M; m++) {
    const void *gate = row_of(gate_up, 2 * m * F, bf16), *up = row_of(gate, F, bf16);
    void *row = own_row(out, m * F, bf16);
    for (int64_t i = 0; i < F; i += LANES) {
      const vf g = get(gate, i, F, bf16);
      put(row, i, F, bf16, g * sigmoid_of(g) * get(up, i, F, bf16));
    }
  }
}

/* silu(gate) × up */
void kullback_swiglu(int64_t M, int64_t F, const void *gate_up, void *out, int bf16) {
  if (bf16) swiglu(M, F, gate_up, out, 1);
  else swiglu(M, F, gate_up, out, 0);
}

INLINE void swiglu_backward(int64_t M, int64_t F, const void *gate_up, const void *grad, void *out,
                            void *grads, const int bf16_grad, const int bf16) {
  for (int64_t m = 0; m < M; m++) {
    const void *gate = row_of(gate_up, 2 * m * F, bf16), *up = row_of(gate, F, bf16);
    const void *upstream = row_of(grad, m * F, bf16_grad);
    void *row = own_row(out, m * F, bf16);
    void *grad_gate = own_row(grads, 2 * m * F, bf16), *grad_up = own_row(grad_gate, F, bf16);
    for (int64_t i = 0; i < F; i += LANES) {
      const vf g = get(gate, i, F, bf16), u = get(up, i, F, bf16);
      const vf d = get(upstream, i, F, bf16_grad);
      const vf s = sigmoid_of(g), silu = s * g;
      put(row, i, F, bf16, silu * u);
      put(grad_up, i, F, bf16, d * silu);
      put(grad_gate, i, F, bf16, d * u * (s + silu * (1.0f - s)));
    }
  }
}

/* The gradients of both halves, and what kullback_swiglu gave. */
void kullback_swiglu_backward(int64_t M, int64_t F, const void *gate_up, const void *grad,
                              void *out, void *grads, int bf16) {
  if (bf16) swiglu_backward(M, F, gate_up, grad, out, grads, 1, 1);
  else swiglu_backward(M, F, gate_up, grad, out, grads, 0, 0);
}

/* --- attention ------------------------------------------------------------------------------- */

/* ROWS rows by VECTORS vectors of c = a b, or added to c; element (r, k) of a is at
   a[r row_a + k inner_a]. */
INLINE void tile(const int vectors, int64_t inner, const float *a, int64_t row_a, int64_t inner_a,
                 const float *b, int64_t row_b, float *c, int64_t row_c, const int add) {
  vf totals[ROWS][2];
  for (int r = 0; r < ROWS; r++)
    for (int v = 0; v < vectors; v++)
      totals[r][v] = add ? load(c + r * row_c + v * LANES) : (vf){0};
  for (int64_t k = 0; k < inner; k++) {
    vf values[2];
    for (int v = 0; v < vectors; v++) values[v] = load(b + k * row_b + v * LANES);
    for (int r = 0; r < ROWS; r++) {
      const vf factor = all(a[r * row_a + k * inner_a]);
      for (int v = 0; v < vectors; v++) totals[r][v] += factor * values[v];
    }
  }
  for (int r = 0; r < ROWS; r++)
    for (int v = 0; v < vectors; v++) store(c + r * row_c + v * LANES, totals[r][v]);
}

/* ROWS rows of c, whose columns are a multiple of LANES. */
static void product(int64_t inner, int64_t columns, const float *a, int64_t row_a, int64_t inner_a,
                    const float *b, int64_t row_b, float *c, int64_t row_c, int add) {
  int64_t i = 0;
  for (; i + 2 * LANES <= columns; i += 2 * LANES) {
    if (add) tile(2, inner, a, row_a, inner_a, b + i, row_b, c + i, row_c, 1);
    else tile(2, inner, a, row_a, inner_a, b + i, row_b, c + i, row_c, 0);
  }
  if (i == columns) return;
  if (add) tile(1, inner, a, row_a, inner_a, b + i, row_b, c + i, row_c, 1);
  else tile(1, inner, a, row_a, inner_a, b + i, row_b, c + i, row_c, 0);
}

INLINE int64_t rounded_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

/* The length of rows of so many columns: not all begin in the same few sets of a cache. */
INLINE int64_t row_for(int64_t columns) { return rounded_up(columns, LANES) + LANES; }

typedef struct {
  int64_t D, H, K, P, padded_K, longest; /* longest: that of a row, with ROWS more than tokens */
  const float *cosine, *sine;            /* of each position and pair */
} Shape;

/* A head of a token, coordinate i turned with coordinate i + P, times a factor; the rest is 0. */
INLINE void rotated(const Shape *s, const void *x, int64_t t, float factor, float *out,
                    const int bf16) {
  const int64_t P = s->P;
  const float *cosine = s->cosine + t * P, *sine = s->sine + t * P;
  for (int64_t i = 0; i < P; i += LANES) {
    const vf a = get(x, i, P, bf16), b = get(row_of(x, P, bf16), i, P, bf16);
    const vf c = get(cosine, i, P, 0) * factor, d = get(sine, i, P, 0) * factor;
    put(out, i, P, 0, a * c - b * d);
    put(out + P, i, P, 0, b * c + a * d);
  }
  for (int64_t i = s->K; i < s->padded_K; i++) out[i] = 0;
}

/* The gradient of what was rotated, from that of what it gave. */
INLINE void turned_back(const Shape *s, const float *grad, int64_t t, float factor, void *out,
                        const int bf16) {
  const int64_t P = s->P;
  const float *cosine = s->cosine + t * P, *sine = s->sine + t * P;
  for (int64_t i = 0; i < P; i += LANES) {
    const vf a = get(grad, i, P, 0), b = get(grad + P, i, P, 0);
    const vf c = get(cosine, i, P, 0) * factor, d = get(sine, i, P, 0) * factor;
    put(out, i, P, bf16, a * c + b * d);
    put(own_row(out, P, bf16), i, P, bf16, b * c - a * d);
  }
}

/* A head of a token as it is; the rest is 0. */
INLINE void copied(const Shape *s, const void *x, float *out, const int bf16) {
  for (int64_t i = 0; i < s->K; i += LANES) put(out, i, s->K, 0, get(x, i, s->K, bf16));
  for (int64_t i = s->K; i < s->padded_K; i++) out[i] = 0;
}

INLINE void transpose(int64_t T, int64_t K, const float *x, int64_t row_x, float *out,
                      int64_t row_out) {
  for (int64_t first = 0; first < T; first += LANES) {
    const int64_t count = least(LANES, T - first);
    for (int64_t i = 0; i < K; i++) {
      float *of_row = out + i * row_out + first;
      for (int64_t t = 0; t < count; t++) of_row[t] = x[(first + t) * row_x + i];
      for (int64_t t = count; t < LANES; t++) of_row[t] = 0;
    }
  }
}

/* Which of LANES columns from j on are below a number. */
INLINE vi below(int64_t j, int64_t columns) {
  vi place;
  for (int i = 0; i < LANES; i++) place[i] = i;
  return place < (int32_t)(columns - j) - (vi){0};
}

/* Of the keys that the tile of a query may see, as many columns as are computed. */
INLINE int64_t columns_of(int64_t first, int64_t r, int64_t T) {
  return rounded_up(least(first + r / ROWS * ROWS + ROWS, T), LANES);
}

/* Products of the rows of a block of queries with the keys that they may see. */
INLINE void score(const Shape *s, int64_t first, int64_t rows, int64_t T, const float *q,
                  const float *transposed, int64_t row, float *scores) {
  for (int64_t j = 0; j < first + rows; j += 2 * LANES)
    for (int64_t r = 0; r < rows; r += ROWS) {
      const float *of_rows = q + r * s->padded_K;
      const int64_t columns = columns_of(first, r, T) - j;
      if (columns > LANES)
        tile(2, s->K, of_rows, s->padded_K, 1, transposed + j, row, scores + r * row + j, row, 0);
      else if (columns > 0)
        tile(1, s->K, of_rows, s->padded_K, 1, transposed + j, row, scores + r * row + j, row, 0);
    }
}

/* Sums of the rows of keys or values that the rows of a block of queries may see, times factors;
   QUERIES at a time, which are in the first-level cache for all rows. */
INLINE void mix(const Shape *s, int64_t first, int64_t rows, int64_t T, const float *factors,
                int64_t row, const float *seen, float *sums) {
  const int64_t padded_K = s->padded_K;
  for (int64_t j = 0; j < first + rows; j += QUERIES)
    for (int64_t r = 0; r < rows; r += ROWS) {
      const int64_t inner = least(QUERIES, least(first + r + ROWS, T) - j);
      if (inner > 0)
        product(inner, padded_K, factors + r * row + j, row, 1, seen + j * padded_K, padded_K,
                sums + r * padded_K, padded_K, j > 0);
    }
}

/* Attention of one head of one sequence of T tokens, which begins at the row `start`. */
INLINE void attend(const Shape *s, int64_t start, int64_t T, int64_t h, const void *qkv, void *out,
                   float *normaliser, float *memory, const int bf16) {
  const int64_t K = s->K, row = row_for(T), padded_K = s->padded_K;
  float *q = memory, *keys = q + (QUERIES + ROWS) * padded_K;
  float *values = keys + s->longest * padded_K, *mixed = values + s->longest * padded_K;
  float *scores = mixed + (QUERIES + ROWS) * padded_K;
  const void *of_head = row_of(qkv, start * 3 * s->D + h * K, bf16);
  for (int64_t t = 0; t < T; t++) /* the values come after the keys */
    rotated(s, row_of(of_head, (3 * t + 1) * s->D, bf16), t, 1.0f, values + t * padded_K, bf16);
  transpose(T, K, values, padded_K, keys, row);
  for (int64_t t = 0; t < T; t++)
    copied(s, row_of(of_head, (3 * t + 2) * s->D, bf16), values + t * padded_K, bf16);
  const float scale = BITS_PER_NAT / sqrtf((float)K);
  for (int64_t first = 0; first < T; first += QUERIES) {
    const int64_t rows = least(QUERIES, T - first);
    for (int64_t r = 0; r < rows; r++) {
      const void *of_token = row_of(qkv, (start + first + r) * 3 * s->D + h * K, bf16);
      rotated(s, of_token, first + r, scale, q + r * padded_K, bf16);
    }
    memset(q + rows * padded_K, 0, sizeof(float) * (size_t)(ROWS * padded_K));
    score(s, first, rows, T, q, keys, row, scores);
    for (int64_t r = 0; r < rows; r++) {
      const int64_t seen = first + r + 1, columns = columns_of(first, r, T);
      float *of_row = scores + r * row;
      vf highest = all(-INFINITY);
      for (int64_t j = 0; j < seen; j += LANES) {
        const vf v = choose(below(j, seen), load(of_row + j), all(-INFINITY));
        highest = choose(v > highest, v, highest);
      }
      const float top = highest_of(highest);
      vf totals = {0};
      for (int64_t j = 0; j < columns; j += LANES) {
        const vf e = (vf)((vi)exp2_of(load(of_row + j) - top) & below(j, seen));
        totals += e;
        store(of_row + j, e);
      }
      const float total = sum(totals), inverse = 1.0f / total;
      for (int64_t j = 0; j < columns; j += LANES) store(of_row + j, load(of_row + j) * inverse);
      normaliser[first + r] = top + log2f(total);
    }
    for (int64_t i = rows; i < rounded_up(rows, ROWS); i++) /* rows that are not there */
      memset(scores + i * row, 0, sizeof(float) * (size_t)row);
    mix(s, first, rows, T, scores, row, values, mixed);
    for (int64_t r = 0; r < rows; r++) {
      void *of_token = own_row(out, (start + first + r) * s->D + h * K, bf16);
      for (int64_t i = 0; i < K; i += LANES)
        put(of_token, i, K, bf16, get(mixed + r * padded_K, i, K, 0));
    }
  }
}

INLINE void attend_backward(const Shape *s, int64_t start, int64_t T, int64_t h, const void *qkv,
                            const void *out, const float *normaliser, const void *grad,
                            void *grads, float *memory, const int bf16) {
  const int64_t K = s->K, row = row_for(T), padded_K = s->padded_K;
  const int64_t of_sequence = s->longest * padded_K;
  float *q = memory, *upstream = q + (QUERIES + ROWS) * padded_K;
  float *grad_q = upstream + (QUERIES + ROWS) * padded_K;
  float *keys = grad_q + (QUERIES + ROWS) * padded_K, *key_columns = keys + of_sequence;
  float *value_columns = key_columns + of_sequence, *grad_keys = value_columns + of_sequence;
  float *grad_values = grad_keys + of_sequence, *weights = grad_values + of_sequence;
  float *grad_scores = weights + (QUERIES + ROWS) * s->longest;
  for (int64_t t = 0; t < T; t++) {
    const void *of_token = row_of(qkv, (start + t) * 3 * s->D + h * K, bf16);
    rotated(s, row_of(of_token, s->D, bf16), t, 1.0f, keys + t * padded_K, bf16);
    copied(s, row_of(of_token, 2 * s->D, bf16), grad_values + t * padded_K, bf16);
  }
  memset(keys + T * padded_K, 0, sizeof(float) * (size_t)(ROWS * padded_K));
  transpose(T, K, keys, padded_K, key_columns, row);
  transpose(T, K, grad_values, padded_K, value_columns, row);
  memset(grad_keys, 0, sizeof(float) * (size_t)((T + ROWS) * padded_K));
  memset(grad_values, 0, sizeof(float) * (size_t)((T + ROWS) * padded_K));
  const float scale = 1.0f / sqrtf((float)K);
  for (int64_t first = 0; first < T; first += QUERIES) {
    const int64_t rows = least(QUERIES, T - first);
    for (int64_t r = 0; r < rows; r++) {
      const int64_t m = start + first + r;
      rotated(s, row_of(qkv, m * 3 * s->D + h * K, bf16), first + r, scale * BITS_PER_NAT,
              q + r * padded_K, bf16);
      copied(s, row_of(grad, m * s->D + h * K, bf16), upstream + r * padded_K, bf16);
    }
    memset(q + rows * padded_K, 0, sizeof(float) * (size_t)(ROWS * padded_K));
    memset(upstream + rows * padded_K, 0, sizeof(float) * (size_t)(ROWS * padded_K));
    score(s, first, rows, T, q, key_columns, row, weights);
    score(s, first, rows, T, upstream, value_columns, row, grad_scores);
    for (int64_t r = 0; r < rows; r++) {
      const int64_t seen = first + r + 1, columns = columns_of(first, r, T);
      const void *of_out = row_of(out, (start + first + r) * s->D + h * K, bf16);
      float *P = weights + r * row, *dS = grad_scores + r * row;
      vf products = {0};
      for (int64_t i = 0; i < K; i += LANES)
        products += get(of_out, i, K, bf16) * get(upstream + r * padded_K, i, K, 0);
      const float mean = sum(products), total = normaliser[first + r];
      for (int64_t j = 0; j < columns; j += LANES) {
        const vf p = (vf)((vi)exp2_of(load(P + j) - total) & below(j, seen));
        store(P + j, p);
        store(dS + j, p * (load(dS + j) - mean));
      }
    }
    for (int64_t i = rows; i < rounded_up(rows, ROWS); i++) { /* rows that are not there */
      memset(weights + i * row, 0, sizeof(float) * (size_t)row);
      memset(grad_scores + i * row, 0, sizeof(float) * (size_t)row);
    }
    mix(s, first, rows, T, grad_scores, row, keys, grad_q);
    for (int64_t j = 0; j < first + rows; j += ROWS) {
      /* Queries before a key do not see it. */
      const int64_t from = j > first ? j - first : 0, inner = rows - from;
      product(inner, padded_K, weights + from * row + j, 1, row, upstream + from * padded_K,
              padded_K, grad_values + j * padded_K, padded_K, 1);
      product(inner, padded_K, grad_scores + from * row + j, 1, row, q + from * padded_K, padded_K,
              grad_keys + j * padded_K, padded_K, 1);
    }
    for (int64_t r = 0; r < rows; r++)
      turned_back(s, grad_q + r * padded_K, first + r, scale,
                  own_row(grads, (start + first + r) * 3 * s->D + h * K, bf16), bf16);
  }
  for (int64_t t = 0; t < T; t++) {
    void *of_token = own_row(grads, (start + t) * 3 * s->D + h * K, bf16);
    turned_back(s, grad_keys + t * padded_K, t, LOG_2, own_row(of_token, s->D, bf16), bf16);
    void *of_value = own_row(of_token, 2 * s->D, bf16);
    for (int64_t i = 0; i < K; i += LANES)
      put(of_value, i, K, bf16, get(grad_values + t * padded_K, i, K, 0));
  }
}

static Shape shape_of(int64_t N, const int64_t *bounds, int64_t H, int64_t K, const float *cosine,
                      const float *sine) {
  int64_t longest = 0;
  for (int64_t n = 0; n < N; n++) {
    const int64_t T = bounds[n + 1] - bounds[n];
    longest = T > longest ? T : longest;
  }
  return (Shape){H * K, H, K, K / 2, rounded_up(K, LANES), row_for(longest), cosine, sine};
}

static float *memory_of(const Shape *s, int64_t blocks, int64_t sequences, int64_t squares) {
  const int64_t count = blocks * (QUERIES + ROWS) * s->padded_K +
                        sequences * s->longest * s->padded_K +
                        squares * (QUERIES + ROWS) * s->longest;
  return aligned_alloc(64, (size_t)rounded_up(4 * count, 64));
}

/* Causal attention of N sequences, sequence n in the rows from bounds[n] until bounds[n + 1]: out
   M×D of qkv M×3D, and the normaliser of each head and token, H×M, in bits.  1 where there is no
   memory. */
int kullback_attention(int64_t N, const int64_t *bounds, int64_t H, int64_t K, const float *cosine,
                       const float *sine, const void *qkv, void *out, float *normaliser,
                       int bf16) {
  const Shape s = shape_of(N, bounds, H, K, cosine, sine);
  const int64_t M = bounds[N];
  float *memory = memory_of(&s, 2, 2, 1);
  if (!memory) return 1;
  for (int64_t n = 0; n < N; n++) {
    const int64_t start = bounds[n], T = bounds[n + 1] - start;
    for (int64_t h = 0; h < H; h++) {
      float *of_head = normaliser + h * M + start;
      if (bf16) attend(&s, start, T, h, qkv, out, of_head, memory, 1);
      else attend(&s, start, T, h, qkv, out, of_head, memory, 0);
    }
  }
  free(memory);
  return 0;
}

/* The gradient of qkv. */
int kullback_attention_backward(int64_t N, const int64_t *bounds, int64_t H, int64_t K,
                                const float *cosine, const float *sine, const void *qkv,
                                const void *out, const float *normaliser, const void *grad,
                                void *grads, int bf16) {
  const Shape s = shape_of(N, bounds, H, K, cosine, sine);
  const int64_t M = bounds[N];
  float *memory = memory_of(&s, 3, 5, 2);
  if (!memory) return 1;
  for (int64_t n = 0; n < N; n++) {
    const int64_t start = bounds[n], T = bounds[n + 1] - start;
    for (int64_t h = 0; h < H; h++) {
      const float *of_head = normaliser + h * M + start;
      if (bf16) attend_backward(&s, start, T, h, qkv, out, of_head, grad, grads, memory, 1);
      else attend_backward(&s, start, T, h, qkv, out, of_head, grad, grads, memory, 0);
    }
  }
  free(memory);
  return 0;
}

/* --- a block --------------------------------------------------------------------------------- */

/* A product of Fortran's BLAS: of floats, or of bfloat16 numbers with sums and results in float.
   Where it reads integers of 32 bits, these are the first half of those of 64 bits. */
typedef void (*Gemm)(const char *, const char *, const int64_t *, const int64_t *, const int64_t *,
                     const float *, const void *, const int64_t *, const void *, const int64_t *,
                     const float *, float *, const int64_t *);

/* Operands are bfloat16 where `bf16` is set; floats are named so; what is kept for the backward pass
   comes last. */
typedef struct {
  Gemm gemm;
  int64_t bf16, M, D, H, F, N;
  const int64_t *bounds;
  const float *cosine, *sine;
  const float *attention_norm, *q, *k, *v, *o, *mlp_norm, *gate, *up, *down;
  void *unit, *qkv, *mixed, *mlp_unit, *gate_up;    /* rows of tokens */
  float *inverse, *normaliser, *mlp_inverse;        /* of tokens, of heads and tokens */
  void *qkv_matrix, *gate_up_matrix;                /* times the weights of the normalisation */
  void *o_matrix, *down_matrix;                     /* o and down as operands */
} Block;

/* c (R×C) = a b + beta c.  Transposed, b is stored as C×inner, and a as inner×R. */
typedef struct {
  const void *x;
  int64_t row;
  int transposed;
} Factor;

static void multiply(Gemm gemm, int64_t R, int64_t C, int64_t inner, Factor a, Factor b, float beta,
                     float *c) {
  /* Fortran's matrices are by columns: c^T = b^T a^T. */
  const float one = 1;
  gemm(b.transposed ? "T" : "N", a.transposed ? "T" : "N", &C, &R, &inner, &one, b.x, &b.row, a.x,
       &a.row, &beta, c, &C);
}

static void narrow(int64_t count, const float *x, void *out) {
  for (int64_t i = 0; i < count; i += LANES) put(out, i, count, 1, get(x, i, count, 0));
}

/* The gradient of a matrix in place, and its weight's. */
static void scale_gradients(int64_t C, int64_t D, float *grad, const float *matrix, const float *weight,
                     float *grad_weight) {
  kullback_scale_backward(C, D, grad, matrix, weight, grad, grad_weight, 0);
}

/* Rows that are computed at a time, so that what a product gives is still in a cache. */
static int64_t rows_at_once(const Block *b) {
  const int64_t widest = 2 * b->F > 3 * b->D ? 2 * b->F : 3 * b->D;
  const int64_t most = AT_ONCE / widest > ROWS_AT_LEAST ? AT_ONCE / widest : ROWS_AT_LEAST;
  const int64_t parts = b->M > most ? (b->M + most - 1) / most : 1;
  return rounded_up((b->M + parts - 1) / parts, 16);
}

/* SwiGLU of floats, which are kept rounded. */
INLINE void swiglu_rounded(int64_t M, int64_t F, const float *values, void *gate_up, void *out) {
  narrow(2 * M * F, values, gate_up);
  swiglu(M, F, gate_up, out, 1);
}

INLINE int forward(const Block *b, const float *x, float eps, float *out, const int bf16) {
  const int64_t M = b->M, D = b->D, F = b->F, tokens = b->bounds[b->N], rows = rows_at_once(b);
  const int64_t widest = 2 * F > 3 * D ? 2 * F : 3 * D;
  float *products = aligned_alloc(64, (size_t)rounded_up(4 * rows * (widest + F), 64));
  if (!products) return 1;
  void *activated = products + rows * widest;
  kullback_scale(D, D, b->q, b->attention_norm, b->qkv_matrix, bf16);
  kullback_scale(D, D, b->k, b->attention_norm, own_row(b->qkv_matrix, D * D, bf16), bf16);
  kullback_scale(D, D, b->v, b->attention_norm, own_row(b->qkv_matrix, 2 * D * D, bf16), bf16);
  kullback_scale(F, D, b->gate, b->mlp_norm, b->gate_up_matrix, bf16);
  kullback_scale(F, D, b->up, b->mlp_norm, own_row(b->gate_up_matrix, F * D, bf16), bf16);
  if (bf16) {
    narrow(D * D, b->o, b->o_matrix);
    narrow(D * F, b->down, b->down_matrix);
  }
  normalise(M, D, x, NULL, eps, NULL, b->unit, b->inverse, bf16);
  const Factor qkv_matrix = {b->qkv_matrix, D, 1};
  for (int64_t m = 0; m < M; m += rows) {
    const int64_t R = least(rows, M - m);
    const Factor unit = {row_of(b->unit, m * D, bf16), D, 0};
    void *qkv = own_row(b->qkv, m * 3 * D, bf16);
    multiply(b->gemm, R, 3 * D, D, unit, qkv_matrix, 0, bf16 ? products : qkv);
    if (bf16) narrow(R * 3 * D, products, qkv);
  }
  if (kullback_attention(b->N, b->bounds, b->H, D / b->H, b->cosine, b->sine, b->qkv, b->mixed,
                         b->normaliser, bf16)) {
    free(products);
    return 1;
  }
  memset(own_row(b->mixed, tokens * D, bf16), 0, (size_t)((M - tokens) * D * (bf16 ? 2 : 4)));
  memcpy(out, x, sizeof(float) * (size_t)(M * D));
  multiply(b->gemm, M, D, D, (Factor){b->mixed, D, 0}, (Factor){b->o_matrix, D, 1}, 1, out);
  const Factor gate_up_matrix = {b->gate_up_matrix, D, 1}, down = {b->down_matrix, F, 1};
  for (int64_t m = 0; m < M; m += rows) {
    const int64_t R = least(rows, M - m);
    void *unit = own_row(b->mlp_unit, m * D, bf16), *gate_up = own_row(b->gate_up, 2 * m * F, bf16);
    normalise(R, D, out + m * D, NULL, eps, NULL, unit, b->mlp_inverse + m, bf16);
    const Factor units = {unit, D, 0};
    multiply(b->gemm, R, 2 * F, D, units, gate_up_matrix, 0, bf16 ? products : gate_up);
    if (bf16) swiglu_rounded(R, F, products, gate_up, activated);
    else swiglu(R, F, gate_up, activated, 0);
    multiply(b->gemm, R, D, F, (Factor){activated, F, 0}, down, 1, out + m * D);
  }
  free(products);
  return 0;
}

/* out = x (M×D), after attention and the MLP.  1 where there is no memory. */
int kullback_block(const Block *b, const float *x, float eps, float *out) {
  return b->bf16 ? forward(b, x, eps, out, 1) : forward(b, x, eps, out, 0);
}

/* The gradients of a block: of what went in, of the weights of both normalisations, and of the
   matrices, those of queries, keys and values in turn, and of gate and up. */
typedef struct {
  float *x, *attention_norm, *qkv, *o, *mlp_norm, *gate_up, *down;
} Gradients;

/* The next `count` numbers of a memory, of which `bytes` are taken. */
static void *taken(char *memory, int64_t *bytes, int64_t count, int bf16) {
  void *begin = memory + *bytes;
  *bytes += rounded_up(count * (bf16 ? 2 : 4), 64);
  return begin;
}

INLINE int backward(const Block *b, const float *grad, const Gradients *g, const int bf16) {
  const int64_t M = b->M, D = b->D, F = b->F, tokens = b->bounds[b->N], rows = rows_at_once(b);
  const int64_t widest = 2 * F > 3 * D ? 2 * F : 3 * D, either = F > D ? F : D;
  int64_t bytes = 0;
  const int64_t of_rounded = bf16 ? M * D : 0;
  const int64_t sizes[] = {of_rounded, of_rounded, M * either, M * widest};
  for (int i = 0; i < 4; i++) bytes += rounded_up(sizes[i] * (bf16 ? 2 : 4), 64);
  const int64_t of_products = rounded_up(4 * rows * either, 64);
  char *memory = aligned_alloc(64, (size_t)(bytes + 2 * of_products));
  if (!memory) return 1;
  float *products = (float *)memory, *others = (float *)(memory + of_products);
  bytes = 2 * of_products;
  const void *rounded = grad, *inner_rounded = g->x;
  if (bf16) {
    rounded = taken(memory, &bytes, M * D, 1), inner_rounded = taken(memory, &bytes, M * D, 1);
    narrow(M * D, grad, (void *)rounded);
  }
  void *activated = taken(memory, &bytes, M * either, bf16);
  void *grads = taken(memory, &bytes, M * widest, bf16);
  for (int64_t m = 0; m < M; m += rows) {
    const int64_t R = least(rows, M - m);
    const Factor upstream = {row_of(rounded, m * D, bf16), D, 0};
    void *of_gate_up = own_row(grads, 2 * m * F, bf16);
    multiply(b->gemm, R, F, D, upstream, (Factor){b->down_matrix, F, 0}, 0, products);
    swiglu_backward(R, F, row_of(b->gate_up, 2 * m * F, bf16), products,
                    own_row(activated, m * F, bf16), of_gate_up, 0, bf16);
    multiply(b->gemm, R, D, 2 * F, (Factor){of_gate_up, 2 * F, 0}, (Factor){b->gate_up_matrix, D, 0},
             0, others);
    normalise_backward(R, D, others, row_of(b->mlp_unit, m * D, bf16), b->mlp_inverse + m,
                       grad + m * D, g->x + m * D,
                       bf16 ? own_row((void *)inner_rounded, m * D, 1) : NULL, 0, bf16);
  }
  multiply(b->gemm, D, F, M, (Factor){rounded, D, 1}, (Factor){activated, F, 0}, 0, g->down);
  multiply(b->gemm, 2 * F, D, M, (Factor){grads, 2 * F, 1}, (Factor){b->mlp_unit, D, 0}, 0,
           g->gate_up);
  memset(g->mlp_norm, 0, sizeof(float) * (size_t)D);
  scale_gradients(F, D, g->gate_up, b->gate, b->mlp_norm, g->mlp_norm);
  scale_gradients(F, D, g->gate_up + F * D, b->up, b->mlp_norm, g->mlp_norm);
  multiply(b->gemm, D, D, M, (Factor){inner_rounded, D, 1}, (Factor){b->mixed, D, 0}, 0, g->o);
  for (int64_t m = 0; m < M; m += rows) {
    const int64_t R = least(rows, M - m);
    const Factor upstream = {row_of(inner_rounded, m * D, bf16), D, 0};
    void *of_mixed = own_row(activated, m * D, bf16);
    multiply(b->gemm, R, D, D, upstream, (Factor){b->o_matrix, D, 0}, 0, bf16 ? products : of_mixed);
    if (bf16) narrow(R * D, products, of_mixed);
  }
  const int failed =
      kullback_attention_backward(b->N, b->bounds, b->H, D / b->H, b->cosine, b->sine, b->qkv,
                                  b->mixed, b->normaliser, activated, grads, bf16);
  if (failed) {
    free(memory);
    return 1;
  }
  memset(own_row(grads, 3 * tokens * D, bf16), 0,
         (size_t)(3 * (M - tokens) * D * (bf16 ? 2 : 4)));
  for (int64_t m = 0; m < M; m += rows) {
    const int64_t R = least(rows, M - m);
    const Factor of_qkv = {row_of(grads, 3 * m * D, bf16), 3 * D, 0};
    multiply(b->gemm, R, D, 3 * D, of_qkv, (Factor){b->qkv_matrix, D, 0}, 0, products);
    normalise_backward(R, D, products, row_of(b->unit, m * D, bf16), b->inverse + m, g->x + m * D,
                       g->x + m * D, NULL, 0, bf16);
  }
  multiply(b->gemm, 3 * D, D, M, (Factor){grads, 3 * D, 1}, (Factor){b->unit, D, 0}, 0, g->qkv);
  memset(g->attention_norm, 0, sizeof(float) * (size_t)D);
  scale_gradients(D, D, g->qkv, b->q, b->attention_norm, g->attention_norm);
  scale_gradients(D, D, g->qkv + D * D, b->k, b->attention_norm, g->attention_norm);
  scale_gradients(D, D, g->qkv + 2 * D * D, b->v, b->attention_norm, g->attention_norm);
  free(memory);
  return 0;
}

/* The gradients, from that of what kullback_block gave.  1 where there is no memory. */
int kullback_block_backward(const Block *b, const float *grad, const Gradients *gradients) {
  return b->bf16 ? backward(b, grad, gradients, 1) : backward(b, grad, gradients, 0);
}

/* --- cross-entropy --------------------------------------------------------------------------- */

/* nll = logsumexp(row) - row[target] of B rows of logits; these become weight (q - onehot) unless
   weight is null, in bfloat16 in `rounded` unless that is null. */
void kullback_cross_entropy(int64_t B, int64_t V, float *logits, const int64_t *target,
                            const float *weight, float *nll, void *rounded) {
  for (int64_t b = 0; b < B; b++) {
    float *row = logits + b * V;
    vf highest = all(-INFINITY);
    for (int64_t i = 0; i < V; i += LANES) {
      const vf v = choose(below(i, V), get(row, i, V, 0), all(-INFINITY));
      highest = choose(v > highest, v, highest);
    }
    const float top = highest_of(highest);
    const float of_target = row[target[b]] - top;
    vf totals = {0};
    for (int64_t i = 0; i < V; i += LANES) {
      const vf e = exp2_of((get(row, i, V, 0) - top) * BITS_PER_NAT);
      totals += (vf)((vi)e & below(i, V));
      if (weight) put(row, i, V, 0, e);
    }
    const float total = sum(totals);
    nll[b] = logf(total) - of_target;
    if (!weight) continue;
    const float factor = weight[b] / total;
    row[target[b]] -= total; /* weight times it is subtracted */
    for (int64_t i = 0; i < V; i += LANES) {
      const vf v = get(row, i, V, 0) * factor;
      if (rounded) put(own_row(rounded, b * V, 1), i, V, 1, v);
      else put(row, i, V, 0, v);
    }
  }
}
