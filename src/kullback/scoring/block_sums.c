/* Sums over each row of a block of logits: those of block_sums.py and log_ratio_sums.py.

   Arithmetic and names are those of the two Python modules.  A row of a block (4 kB) stays in the
   level-1 cache for all passes over it, and a block is read once, where torch reads it fifty times.
   compiled.py compiles and calls these functions, and says when.

   LANES neighbouring columns at a time are added in float, the lanes in double; the numbers of a
   whole row (normalisers, offsets) are double.  No compiler flag that reorders arithmetic is used.

   B rows, W columns of a block (columns of the vocabulary), at most MOST_COLUMNS. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
enum { LANES = 16 };
#else
enum { LANES = 8 };
#endif
enum { MOST_COLUMNS = 1024, SUMS = 5, MOMENTS = 9, FAR = 10, EXCLUDED = 4 };
/* As in variation_sums.py. */
enum { BINS = 256, LISTED = 256 };

/* As in divergence_terms.py and log_ratio_sums.py. */
static const float NEAR = 0.5f, FARTHEST = 80.0f;
static const float BITS_PER_NAT = 1.44269504088896340736f, LOG_2 = 0.69314718055994530942f;

typedef float vf __attribute__((vector_size(4 * LANES)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));
typedef double vd __attribute__((vector_size(8 * LANES)));
typedef float v4 __attribute__((vector_size(16)));

static inline vf load(const float *x) {
  vf v;
  memcpy(&v, x, sizeof v);
  return v;
}

static inline void store(float *x, vf v) { memcpy(x, &v, sizeof v); }

static inline vf all(float x) { return x - (vf){0}; }

static inline vf select(vi where, vf a, vf b) {
  return (vf)(((vi)a & where) | ((vi)b & ~where));
}

static inline vf keep(vi where, vf a) { return (vf)((vi)a & where); }

static inline int any(vi where) {
  int64_t parts[LANES / 2], bits = 0;
  memcpy(parts, &where, sizeof where);
  for (int i = 0; i < LANES / 2; i++) bits |= parts[i];
  return bits != 0;
}

static inline double sum(vf v) {
  double total = 0;
  for (int i = 0; i < LANES; i++) total += v[i];
  return total;
}

/* 2^t for t <= 0; 0 below 2^-126.  2^t = 2^n e^(f log 2) with |f| <= 1/2; the error of the series
   of e^x up to x^7 is 5e-9. */
static inline vf exp2_of(vf t) {
  const vi tiny = t < -126.0f;
  t = select(tiny, all(-126.0f), t);
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
  return keep(~tiny, (vf)((vi)e + (n << 23)));
}

/* log(1 + w) = 2 atanh(w / (2 + w)) for w in [0, 0.61]; the error of the series up to u^11 is
   1e-9. */
static inline vf log1p_of(vf w) {
  const vf u = w / (w + 2.0f), u2 = u * u;
  vf s = all(1.0f / 11);
  s = s * u2 + 1.0f / 9;
  s = s * u2 + 1.0f / 7;
  s = s * u2 + 1.0f / 5;
  s = s * u2 + 1.0f / 3;
  s = s * u2 + 1.0f;
  return 2.0f * u * s;
}

/* 1 - e^-d by its series up to d^8, whose error is 6e-9 of it; |d| <= 1/2. */
static inline vf surplus_of(vf d) {
  vf g = all(-1.0f / 40320);
  g = g * d + 1.0f / 5040;
  g = g * d - 1.0f / 720;
  g = g * d + 1.0f / 120;
  g = g * d - 1.0f / 24;
  g = g * d + 1.0f / 6;
  g = g * d - 0.5f;
  return (g * d + 1.0f) * d;
}

/* j(d) by the series of divergence_terms.py; |d| <= 1/2. */
static inline vf jensen_shannon_of(vf d) {
  vf j = all(1.0f / 92160);
  j = j * d - 1.0f / 11520;
  j = j * d + 1.0f / 2304;
  j = j * d - 1.0f / 384;
  j = j * d + 1.0f / 64;
  j = j * d - 1.0f / 16;
  j = j * d + 1.0f / 8;
  return j * d * d;
}

/* w = e^-|d|, s(|d|) = log 2 - log(1 + w) and s(-|d|), which is lower by |d|. */
typedef struct {
  vf w, upper, lower;
} far_logs;

static inline far_logs far_logs_of(vi is_positive, vf d) {
  vf size = select(is_positive, d, -d);
  size = select(size > FARTHEST, all(FARTHEST), size);
  far_logs s;
  s.w = exp2_of(size * -BITS_PER_NAT);
  s.upper = LOG_2 - log1p_of(s.w);
  s.lower = s.upper - size;
  return s;
}

/* One model: m, Σ e^(x-m), Σ (x-m) e^(x-m) with x-m in bits, √Σ e^(2(x-m)), and the number of
   tokens with a larger logit than the target; e^(x-m) is written to e.  The row has been padded
   with -inf to a multiple of LANES. */
static void row_sums(const float *x, int width, float target, float *e, double *out) {
  vf largest_v = all(-INFINITY);
  vi is_nan = {0}, above = {0};
  for (int i = 0; i < width; i += LANES) {
    const vf v = load(x + i);
    largest_v = select(v > largest_v, v, largest_v);
    is_nan |= v != v;
    above -= v > target;
  }
  float largest = largest_v[0];
  int64_t n_above = 0;
  for (int i = 0; i < LANES; i++) {
    if (largest_v[i] > largest) largest = largest_v[i];
    n_above += above[i];
  }
  if (any(is_nan)) largest = NAN;
  /* Where no logit is finite, any finite shift serves. */
  const float shift = largest == -INFINITY ? -3.4028234664e38f : largest;
  vf z = {0}, s = {0}, c = {0};
  for (int i = 0; i < width; i += LANES) {
    vf t = (load(x + i) - shift) * BITS_PER_NAT;
    /* A token of probability 0 adds nothing: 0 × -126 instead of 0 × -inf, which is NaN. */
    t = select(t < -126.0f, all(-126.0f), t);
    const vf e_v = keep(t > -126.0f, exp2_of(t));
    store(e + i, e_v);
    z += e_v;
    s += t * e_v;
    c += e_v * e_v;
  }
  out[0] = largest;
  out[1] = sum(z);
  out[2] = sum(s);
  out[3] = sqrt(sum(c));
  out[4] = (double)n_above;
}

/* The k largest logits of a row so far, in descending order, and their tokens; of equal logits the
   first in the vocabulary precedes. */
static void update_top(const float *x, int width, int64_t first_column, float largest,
                       float *logits, int64_t *tokens, int k) {
  if (!(largest > logits[k - 1])) return;
  for (int i = 0; i < width; i += LANES) {
    if (!any(load(x + i) > logits[k - 1])) continue;
    for (int j = i; j < i + LANES; j++) {
      if (!(x[j] > logits[k - 1])) continue;
      int place = k - 1;
      for (; place > 0 && x[j] > logits[place - 1]; place--) {
        logits[place] = logits[place - 1];
        tokens[place] = tokens[place - 1];
      }
      logits[place] = x[j];
      tokens[place] = first_column + j;
    }
  }
}

/* The row in a multiple of LANES numbers: itself, or a copy that is padded with -inf. */
static const float *padded(const float *row, int columns, float *copy) {
  if (columns % LANES == 0) return row;
  memcpy(copy, row, sizeof(float) * columns);
  for (int i = columns; i % LANES; i++) copy[i] = -INFINITY;
  return copy;
}

static int padded_width(int columns) { return (columns + LANES - 1) / LANES * LANES; }

/* sums is SUMS × B; top_logits and top_tokens are B × k. */
void kullback_block_sums(const float *logits, int64_t stride, int64_t rows, int columns,
                         int64_t first_column, const float *targets, double *sums,
                         float *top_logits, int64_t *top_tokens, int k) {
  float copy[MOST_COLUMNS + LANES], e[MOST_COLUMNS + LANES];
  for (int64_t b = 0; b < rows; b++) {
    double out[SUMS];
    const float *x = padded(logits + b * stride, columns, copy);
    row_sums(x, padded_width(columns), targets[b], e, out);
    update_top(x, padded_width(columns), first_column, (float)out[0], top_logits + b * k,
               top_tokens + b * k, k);
    for (int i = 0; i < SUMS; i++) sums[i * rows + b] = out[i];
  }
}

/* m and Z of the columns so far, updated with those of a block. */
static void normalise(double *m, double *z, const double *block) {
  const double before = *m;
  if (block[0] > *m) *m = block[0];
  *z = *z * exp(before - *m) + block[1] * exp(block[0] - *m);
}

/* d = (x - mx) - (y - my) - offset, exact in double, however large the logits are, and rounded. */
static inline vf difference(const float *x, double mx, const float *y, double my, double offset) {
  const vd below_x = __builtin_convertvector(load(x), vd) - mx;
  const vd below_y = __builtin_convertvector(load(y), vd) - my;
  return __builtin_convertvector(below_x - below_y - offset, vf);
}

/* Sums over tokens that one of the models excludes, whose p, q and d are then set to 0. */
static void set_aside(const float *x, const float *y, int width, float *p, float *q, float *d,
                      float *out, int64_t stride) {
  double only_p = 0, only_q = 0;
  int without_q = 0, without_p = 0;
  for (int i = 0; i < width; i++) {
    const int no_x = x[i] == -INFINITY, no_y = y[i] == -INFINITY;
    if (!no_x && !no_y) continue;
    if (!no_x) only_p += p[i], without_q = 1;
    if (!no_y) only_q += q[i], without_p = 1;
    p[i] = q[i] = d[i] = 0;
  }
  out[0] = (float)only_p;
  out[stride] = (float)only_q;
  out[2 * stride] = (float)without_q;
  out[3 * stride] = (float)without_p;
}

/* Σ p d^k over near tokens; returns whether there are far ones. */
static int near_sums(const float *p, const float *d, int width, float *out, int64_t stride) {
  vf m[MOMENTS] = {{0}};
  vi far = {0};
  for (int i = 0; i < width; i += LANES) {
    const vf d_v = load(d + i);
    const vi is_near = (d_v >= -NEAR) & (d_v <= NEAR);
    far |= ~is_near;
    const vf p0 = keep(is_near, load(p + i)), d1 = keep(is_near, d_v);
    const vf d2 = d1 * d1, d3 = d2 * d1, d4 = d2 * d2, p4 = p0 * d4;
    m[0] += p0;
    m[1] += p0 * d1;
    m[2] += p0 * d2;
    m[3] += p0 * d3;
    m[4] += p4;
    m[5] += p4 * d1;
    m[6] += p4 * d2;
    m[7] += p4 * d3;
    m[8] += p4 * d4;
  }
  for (int k = 0; k < MOMENTS; k++) out[k * stride] = (float)sum(m[k]);
  return any(far);
}

/* Σ p, Σ q, Σ p d, Σ q d, Σ p s(d), Σ q s(-d), and Σ q v^k for k up to 4, over far tokens, with
   s(d) = log(2 / (1 + e^-d)) and v = 1 / (1 + e^d). */
static void far_sums(const float *p, const float *q, const float *d, int width, float *out,
                     int64_t stride) {
  vf m[FAR] = {{0}};
  for (int i = 0; i < width; i += LANES) {
    const vf d_v = load(d + i);
    const vi is_far = (d_v < -NEAR) | (d_v > NEAR);
    if (!any(is_far)) continue;
    const vf p_v = keep(is_far, load(p + i)), q_v = keep(is_far, load(q + i));
    const vi is_positive = d_v > 0.0f;
    const far_logs s = far_logs_of(is_positive, d_v);
    const vf part = 1.0f / (s.w + 1.0f), v = select(is_positive, s.w * part, part);
    const vf qv = q_v * v, qv2 = qv * v, qv3 = qv2 * v;
    m[0] += p_v;
    m[1] += q_v;
    m[2] += p_v * d_v;
    m[3] += q_v * d_v;
    m[4] += p_v * select(is_positive, s.upper, s.lower);
    m[5] += q_v * select(is_positive, s.lower, s.upper);
    m[6] += qv;
    m[7] += qv2;
    m[8] += qv3;
    m[9] += qv3 * v;
  }
  for (int k = 0; k < FAR; k++) out[k * stride] = (float)sum(m[k]);
}

/* What the sums of a row for total variation begin with: p' = e^(x - x_origin),
   q' = e^(y - y_origin), d' = log p' - log q', and 1 / the mean |d'| of the first block, 0 before
   it; the number of listed tokens, and their least share of Σ p' or Σ q' so far; 1 where a number of
   this scale overflows. */
typedef struct {
  double x_origin, y_origin, per_width, listed, share, overflows;
} frame;

static const double LEAST_SHARE = 1.0 / 8192;

/* Bins of d': BINS / 2 on either side of 0, 32 to an octave of 1 + 2 |d'| / width. */
static inline vi bin_of(vf d, float per_width) {
  vf u = d * (2 * per_width);
  u = select(u < 0.0f, -u, u) + 1.0f;
  u = select(u < 1e30f, u, all(1e30f)); /* NaN too */
  vi i = ((vi)u - 0x3F800000) >> 18;
  i = (i & (i < BINS / 2)) | ((BINS / 2 - 1) & ~(i < BINS / 2));
  return BINS / 2 + (i ^ (d < 0.0f)); /* ~i = -1 - i */
}

/* The second form is that of GCC before 12. */
#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (v4i){__VA_ARGS__})
typedef int32_t v4i __attribute__((vector_size(16)));
#endif

/* The columns of 4 × 4 numbers. */
static inline void transpose(const float *rows, int stride, v4 *columns) {
  v4 r[4];
  for (int i = 0; i < 4; i++) memcpy(r + i, rows + i * stride, sizeof r[i]);
  const v4 low_01 = SHUFFLE(r[0], r[1], 0, 4, 1, 5), low_23 = SHUFFLE(r[2], r[3], 0, 4, 1, 5);
  const v4 high_01 = SHUFFLE(r[0], r[1], 2, 6, 3, 7), high_23 = SHUFFLE(r[2], r[3], 2, 6, 3, 7);
  columns[0] = SHUFFLE(low_01, low_23, 0, 1, 4, 5);
  columns[1] = SHUFFLE(low_01, low_23, 2, 3, 6, 7);
  columns[2] = SHUFFLE(high_01, high_23, 0, 1, 4, 5);
  columns[3] = SHUFFLE(high_01, high_23, 2, 3, 6, 7);
}

static inline void add_to_bin(float *bins, int bin, v4 sums) {
  v4 total;
  memcpy(&total, bins + 4 * bin, sizeof total);
  total += sums;
  memcpy(bins + 4 * bin, &total, sizeof total);
}

/* Move the least probable of LISTED tokens to their bins, to make room. */
static void shorten(frame *f, const double *z, float *bins, float *list) {
  while (f->listed == LISTED) {
    const double least_p = f->share * z[0], least_q = f->share * z[1];
    int kept = 0;
    for (int i = 0; i < LISTED; i++) {
      const float d = list[4 * i], p = list[4 * i + 1], q = list[4 * i + 2], r = list[4 * i + 3];
      if (p >= least_p || q >= least_q) {
        memmove(list + 4 * kept++, list + 4 * i, 4 * sizeof(float));
      } else {
        const v4 sums = {p, q, r, p > 0 ? r * (r / p) : 0};
        add_to_bin(bins, bin_of(all(d), (float)f->per_width)[0], sums);
      }
    }
    f->listed = kept;
    f->share *= 2;
  }
}

static void begin(frame *f, const float *d, int columns, double x_origin, double y_origin) {
  double size = 0;
  for (int i = 0; i < columns; i++) size += fmin(fabs(d[i]), FARTHEST);
  f->x_origin = x_origin;
  f->y_origin = y_origin;
  f->per_width = 1 / fmax(size / columns, 1e-8);
  f->share = LEAST_SHARE;
}

/* List the tokens of LANES that are at least as probable as least, and set their sums to 0. */
static void list_tokens(frame *f, const double *z, float *bins, float *list, vf d, vf *sums) {
  for (int j = 0; j < LANES; j++) {
    const float token[4] = {d[j], sums[0][j], sums[1][j], sums[2][j]};
    if (!(token[1] >= f->share * z[0] || token[2] >= f->share * z[1])) continue;
    if (f->listed == LISTED) shorten(f, z, bins, list);
    memcpy(list + 4 * (int)f->listed, token, sizeof token);
    f->listed += 1;
    for (int i = 0; i < 4; i++) sums[i][j] = 0;
  }
}

/* The sums p', q', r = p' - q' and r²/p' of tokens by their d', and d', p', q' and r of the most
   probable ones: bins is BINS × 4, list LISTED × 4.  z are Σ p' and Σ q' so far. */
static void variation_sums(const float *p, const float *q, const float *d, int width,
                           const double *scale, double shift, const double *z, frame *f,
                           float *bins, float *list) {
  if (scale[0] > 1e20 || scale[1] > 1e20) {
    f->overflows = 1;
    return;
  }
  const float p_scale = (float)scale[0], q_scale = (float)scale[1];
  float least_p = (float)(f->share * z[0]), least_q = (float)(f->share * z[1]);
  /* Of a block alone, then added to those of the row: long float32 sums lose digits. */
  float own[4 * BINS];
  memset(own, 0, sizeof own);
  for (int i = 0; i < width; i += LANES) {
    const vf d_v = load(d + i) + (float)shift;
    vf sums[4] = {load(p + i) * p_scale, load(q + i) * q_scale};
    const vi is_near = (d_v >= -NEAR) & (d_v <= NEAR);
    const vf n = keep(is_near, d_v);
    vf g = surplus_of(n);
    sums[2] = sums[0] * g;
    if (any(~is_near)) {
      sums[2] = select(is_near, sums[2], sums[0] - sums[1]);
      g = select(is_near, g, sums[2] / sums[0]);
      sums[3] = keep(sums[0] > 0.0f, sums[2] * g);
    } else {
      sums[3] = sums[2] * g;
    }
    if (any((sums[0] >= least_p) | (sums[1] >= least_q))) {
      list_tokens(f, z, own, list, d_v, sums);
      least_p = (float)(f->share * z[0]), least_q = (float)(f->share * z[1]);
    }
    const vi bin = bin_of(d_v, (float)f->per_width);
    int32_t at[LANES];
    float columns[4][LANES];
    memcpy(at, &bin, sizeof at);
    memcpy(columns, sums, sizeof columns);
    for (int j = 0; j < LANES; j += 4) {
      v4 tokens[4];
      transpose(columns[0] + j, LANES, tokens);
      for (int k = 0; k < 4; k++) add_to_bin(own, at[j + k], tokens[k]);
    }
  }
  for (int i = 0; i < 4 * BINS; i++) bins[i] += own[i];
}

/* Two models.  state is 4 × B: m and Z of the columns so far of either model, which are updated;
   x_sums and y_sums are SUMS × B; top logits and top tokens are B × k; offsets is B, the estimate
   of log Zx - log Zy that was subtracted, each Z relative to its m; moments, far and excluded are
   MOMENTS, FAR and EXCLUDED × B, the latter two zero where a row has no such tokens; frames are
   B × 6, bins B × BINS × 4 and lists B × LISTED × 4, all zero before the first block.  Returns 1
   where any row has far tokens, plus 2 where any has excluded ones. */
int kullback_pair_sums(const float *x_logits, int64_t x_stride, const float *y_logits,
                       int64_t y_stride, int64_t rows, int columns, int64_t first_column,
                       const float *x_targets, const float *y_targets, double *state,
                       double *x_sums, double *y_sums, float *x_top_logits, int64_t *x_top_tokens,
                       float *y_top_logits, int64_t *y_top_tokens, int k, double *offsets,
                       float *moments, float *far, float *excluded, double *frames, float *bins,
                       float *lists) {
  float copies[2][MOST_COLUMNS + LANES];
  float p[MOST_COLUMNS + LANES], q[MOST_COLUMNS + LANES], d[MOST_COLUMNS + LANES];
  const int width = padded_width(columns);
  int flags = 0;
  for (int64_t b = 0; b < rows; b++) {
    const float *x = padded(x_logits + b * x_stride, columns, copies[0]);
    const float *y = padded(y_logits + b * y_stride, columns, copies[1]);
    double of_x[SUMS], of_y[SUMS];
    row_sums(x, width, x_targets[b], p, of_x);
    row_sums(y, width, y_targets[b], q, of_y);
    update_top(x, width, first_column, (float)of_x[0], x_top_logits + b * k, x_top_tokens + b * k,
               k);
    update_top(y, width, first_column, (float)of_y[0], y_top_logits + b * k, y_top_tokens + b * k,
               k);
    for (int i = 0; i < SUMS; i++) {
      x_sums[i * rows + b] = of_x[i];
      y_sums[i * rows + b] = of_y[i];
    }
    double *mx = state + b, *zx = mx + rows, *my = zx + rows, *zy = my + rows;
    normalise(mx, zx, of_x);
    normalise(my, zy, of_y);
    /* 0 while a model has excluded all columns. */
    double offset = log(*zx) - log(*zy);
    if (!isfinite(offset)) offset = 0;
    offsets[b] = offset;
    vi is_excluded = {0};
    for (int i = 0; i < width; i += LANES) {
      is_excluded |= (load(x + i) == -INFINITY) | (load(y + i) == -INFINITY);
      store(d + i, difference(x + i, *mx, y + i, *my, offset));
    }
    if (any(is_excluded)) {
      set_aside(x, y, width, p, q, d, excluded + b, rows);
      flags |= 2 * (excluded[b + 2 * rows] != 0 || excluded[b + 3 * rows] != 0);
    } else {
      for (int i = 0; i < EXCLUDED; i++) excluded[b + i * rows] = 0;
    }
    frame *f = (frame *)(frames + 6 * b);
    if (f->per_width == 0 && *zx > 0 && *zy > 0) begin(f, d, columns, *mx, *my - offset);
    if (f->per_width > 0) {
      const double scale[2] = {exp(of_x[0] - f->x_origin), exp(of_y[0] - f->y_origin)};
      const double z[2] = {*zx * exp(*mx - f->x_origin), *zy * exp(*my - f->y_origin)};
      const double shift = (*mx - f->x_origin) - (*my - f->y_origin) + offset;
      variation_sums(p, q, d, width, scale, shift, z, f, bins + 4 * BINS * b,
                     lists + 4 * LISTED * b);
    }
    if (near_sums(p, d, width, moments + b, rows)) {
      far_sums(p, q, d, width, far + b, rows);
      flags |= 1;
    } else {
      for (int i = 0; i < FAR; i++) far[b + i * rows] = 0;
    }
  }
  return flags;
}

/* The terms of a block in Jensen-Shannon and total variation, where both normalisers are known:
   scales is 4 × B, m and log Z of whole rows of either model.  terms is 5 × B: Σ p j(l), Σ (p - q)+,
   Σ (q - p)+, and Σ q over the tokens with p > q and over the others. */
void kullback_exact_terms(const float *x_logits, int64_t x_stride, const float *y_logits,
                          int64_t y_stride, int64_t rows, int columns, const double *scales,
                          double *terms) {
  float copies[2][MOST_COLUMNS + LANES];
  const int width = padded_width(columns);
  for (int64_t b = 0; b < rows; b++) {
    const float *x = padded(x_logits + b * x_stride, columns, copies[0]);
    const float *y = padded(y_logits + b * y_stride, columns, copies[1]);
    const double mx = scales[b], my = scales[2 * rows + b];
    const double log_zx = scales[rows + b], log_zy = scales[3 * rows + b];
    vf sums[5] = {{0}};
    for (int i = 0; i < width; i += LANES) {
      const vd log_p = __builtin_convertvector(load(x + i), vd) - mx - log_zx;
      const vd log_q = __builtin_convertvector(load(y + i), vd) - my - log_zy;
      const vf p = exp2_of(__builtin_convertvector(log_p, vf) * BITS_PER_NAT);
      const vf q = exp2_of(__builtin_convertvector(log_q, vf) * BITS_PER_NAT);
      vf l = __builtin_convertvector(log_p - log_q, vf);
      l = keep(l == l, l); /* a token that both exclude: p = q = 0 */
      const vi is_far = (l < -NEAR) | (l > NEAR);
      const vf n = keep(~is_far, l);
      vf js = p * jensen_shannon_of(n), r = p * surplus_of(n);
      if (any(is_far)) {
        const vi is_positive = l > 0.0f;
        const far_logs s = far_logs_of(is_positive, l);
        const vf far_js = 0.5f * (p * select(is_positive, s.upper, s.lower) +
                                  q * select(is_positive, s.lower, s.upper));
        js = select(is_far, far_js, js);
        r = select(is_far, p - q, r);
      }
      const vi is_more = r > 0.0f;
      sums[0] += js;
      sums[1] += keep(is_more, r);
      sums[2] -= keep(~is_more, r);
      sums[3] += keep(is_more, q);
      sums[4] += keep(~is_more, q);
    }
    for (int i = 0; i < 5; i++) terms[i * rows + b] = sum(sums[i]);
  }
}
