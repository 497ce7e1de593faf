/* A step of Muon: a block of a matrix stays in the processor's caches from its momentum to its new
   weights, where torch makes a pass over all matrices for each operation.

   muon_library.py compiles and calls it; muon.py has the formulas: orthogonalise_wide, and of large
   blocks orthogonalise_in_three, or, where there are products of bfloat16, orthogonalise with these.
   All but the last is float32.
   Sums are added in one order, so that it does not matter which thread has a block.  Products of
   small blocks are computed here, those of large ones by a function of BLAS, but with AVX2 symmetric
   ones here, too: one triangle, and then the other from it.

   A block has R rows and C columns; S is the smaller of these, and the side of the products X X^T
   of a wide block or X^T X of a tall one.  Sides are filled up with zeros to a multiple of SIDE. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
enum { LANES = 16, ROWS = 8, BY_TRIANGLES = 0 };
#else
enum { LANES = 8, ROWS = 4, BY_TRIANGLES = 1 };
#endif
/* A tile of a triangle: rows of SIDE columns, as many as 16 registers of eight floats hold; rows of
   the second factor that the first-level cache holds beside it. */
enum { HIGH = 6, DEPTH = 384 };
/* FLOAT_PART, HALF_PART: rows of a symmetric product of either type that are computed at a time,
   from its diagonal to the left; fewer are fewer operations, and slower ones. */
enum { SIDE = 16, STEPS = 5, FLOAT_PART = 64, HALF_PART = 96 };
/* Steps of large blocks where so many are asked for. */
enum { FEW_STEPS = 3 };

typedef float vf __attribute__((vector_size(4 * LANES)));
typedef uint32_t vu __attribute__((vector_size(4 * LANES)));
typedef uint16_t vh __attribute__((vector_size(2 * LANES)));

/* A product of Fortran's BLAS: of floats, or of bfloat16 numbers with sums and results in float.
   Where it reads integers of 32 bits, these are the first half of those of 64 bits. */
typedef void (*Gemm)(const char *, const char *, const int64_t *, const int64_t *, const int64_t *,
                     const float *, const void *, const int64_t *, const void *, const int64_t *,
                     const float *, float *, const int64_t *);

#define INLINE static inline __attribute__((always_inline))

INLINE vf all(float x) { return x - (vf){0}; }

INLINE vf load(const float *x) {
  vf v;
  memcpy(&v, x, sizeof v);
  return v;
}

INLINE void store(float *x, vf v) { memcpy(x, &v, sizeof v); }

INLINE int64_t filled_up(int64_t n) { return (n + SIDE - 1) / SIDE * SIDE; }

/* A matrix as a factor: element (r, k) is at x[r row + k column]. */
typedef struct {
  const float *x;
  int64_t row, column;
} Factor;

/* ROWS rows by VECTORS vectors of out = alpha a b + beta other; b, out and other have rows of
   `width` numbers. */
INLINE void tile(const int vectors, int64_t inner, Factor a, const float *b, int64_t width,
                 float alpha, float beta, const float *other, float *out) {
  vf totals[ROWS][2];
  for (int r = 0; r < ROWS; r++)
    for (int v = 0; v < vectors; v++) totals[r][v] = (vf){0};
  for (int64_t k = 0; k < inner; k++) {
    vf values[2];
    for (int v = 0; v < vectors; v++) values[v] = load(b + k * width + v * LANES);
    for (int r = 0; r < ROWS; r++) {
      const vf factor = all(a.x[r * a.row + k * a.column]);
      for (int v = 0; v < vectors; v++) totals[r][v] += factor * values[v];
    }
  }
  for (int r = 0; r < ROWS; r++)
    for (int v = 0; v < vectors; v++) {
      vf total = totals[r][v] * alpha;
      if (other) total += load(other + r * width + v * LANES) * beta;
      store(out + r * width + v * LANES, total);
    }
}

/* out = alpha a b + beta other (nothing is added where it is null): `rows` by `width`. */
static void product(int64_t rows, int64_t inner, int64_t width, Factor a, const float *b,
                    float alpha, float beta, const float *other, float *out) {
  for (int64_t i = 0; i < width;) {
    const int vectors = i + 2 * LANES <= width ? 2 : 1;
    for (int64_t r = 0; r < rows; r += ROWS) {
      const Factor of_rows = {a.x + r * a.row, a.row, a.column};
      const float *of_other = other ? other + r * width + i : NULL;
      float *of_out = out + r * width + i;
      if (vectors == 2) tile(2, inner, of_rows, b + i, width, alpha, beta, of_other, of_out);
      else tile(1, inner, of_rows, b + i, width, alpha, beta, of_other, of_out);
    }
    i += vectors * LANES;
  }
}

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* An operand of a function of BLAS; transposed, rows and columns are exchanged. */
typedef struct {
  const void *x;
  int64_t row;
  int transposed;
} Operand;

/* out (R×C, rows of `row` numbers) = alpha a b + beta out. */
static void multiply(Gemm gemm, int64_t R, int64_t C, int64_t inner, Operand a, Operand b,
                     float alpha, float beta, float *out, int64_t row) {
  /* Fortran's matrices are by columns: out^T = b^T a^T. */
  gemm(b.transposed ? "T" : "N", a.transposed ? "T" : "N", &C, &R, &inner, &alpha, b.x, &b.row, a.x,
       &a.row, &beta, out, &row);
}

/* What is below the diagonal, to above it. */
static void mirror(int64_t side, float *out) {
  for (int64_t r = 0; r < side; r += SIDE)
    for (int64_t c = 0; c <= r; c += SIDE)
      for (int64_t i = 0; i < SIDE; i++)
        for (int64_t j = 0; j < (r == c ? i : SIDE); j++)
          out[(c + j) * side + r + i] = out[(r + i) * side + c + j];
}

/* out = alpha a b + beta out, which is symmetric, of operands whose numbers have so many bytes. */
static void symmetric(Gemm gemm, int64_t bytes, int64_t side, int64_t inner, Operand a, Operand b,
                      float alpha, float beta, float *out) {
  const int64_t part = bytes == 2 ? HALF_PART : FLOAT_PART;
  for (int64_t first = 0; first < side; first += part) {
    const int64_t end = least(first + part, side);
    Operand rows = a;
    rows.x = (const char *)a.x + bytes * first * (a.transposed ? 1 : a.row);
    multiply(gemm, end - first, end, inner, rows, b, alpha, beta, out + first * side, side);
  }
  mirror(side, out);
}

/* `rows` rows by SIDE columns of out = alpha a b + beta other; SIDE columns of b are in a panel, and
   the rows of out and other have `side` numbers. */
INLINE void high_tile(const int rows, int64_t inner, const float *a, int64_t row, const float *panel,
                      float alpha, float beta, const float *other, float *out, int64_t side) {
  enum { VECTORS = SIDE / LANES };
  vf totals[HIGH][VECTORS];
  for (int r = 0; r < rows; r++)
    for (int v = 0; v < VECTORS; v++) totals[r][v] = (vf){0};
#pragma GCC unroll 4
  for (int64_t k = 0; k < inner; k++, panel += SIDE) {
    vf values[VECTORS];
    for (int v = 0; v < VECTORS; v++) values[v] = load(panel + v * LANES);
    for (int r = 0; r < rows; r++) {
      const vf factor = all(a[r * row + k]);
      for (int v = 0; v < VECTORS; v++) totals[r][v] += factor * values[v];
    }
  }
  for (int r = 0; r < rows; r++)
    for (int v = 0; v < VECTORS; v++) {
      vf total = totals[r][v] * alpha;
      if (other) total += load(other + r * side + v * LANES) * beta;
      store(out + r * side + v * LANES, total);
    }
}

/* out = alpha a b + beta other, which is symmetric, of a with rows of `inner` numbers and b with rows
   of `side`; nothing is added where `other` is null. */
static void triangle(int64_t side, int64_t inner, const float *a, const float *b, float alpha,
                     float beta, const float *other, float *out) {
  float panel[DEPTH * SIDE] __attribute__((aligned(64)));
  const int64_t parts = (inner + DEPTH - 1) / DEPTH, depth = filled_up((inner + parts - 1) / parts);
  for (int64_t k = 0; k < inner; k += depth) {
    const int64_t deep = least(depth, inner - k);
    for (int64_t c = 0; c < side; c += SIDE) {
      for (int64_t i = 0; i < deep; i++)
        memcpy(panel + i * SIDE, b + (k + i) * side + c, sizeof(float) * SIDE);
      for (int64_t r = c / HIGH * HIGH; r < side; r += HIGH) {
        const float *rows = a + r * inner + k;
        float *of_out = out + r * side + c;
        const float *added = k ? of_out : other ? other + r * side + c : NULL;
        const float times = k ? 1 : beta;
        /* Sides are even. */
        if (side - r >= 6) high_tile(6, deep, rows, inner, panel, alpha, times, added, of_out, side);
        else if (side - r == 4) high_tile(4, deep, rows, inner, panel, alpha, times, added, of_out, side);
        else high_tile(2, deep, rows, inner, panel, alpha, times, added, of_out, side);
      }
    }
  }
  mirror(side, out);
}

/* Rows and columns exchanged, of which there are multiples of SIDE. */
static void transpose(int64_t rows, int64_t width, const float *x, float *out) {
  for (int64_t r = 0; r < rows; r += SIDE)
    for (int64_t c = 0; c < width; c += SIDE)
      for (int64_t j = 0; j < SIDE; j++)
        for (int64_t i = 0; i < SIDE; i++) out[(c + j) * rows + r + i] = x[(r + i) * width + c + j];
}

/* out = alpha a b + beta other of symmetric matrices that commute; here, or by `gemm`. */
static void square(Gemm gemm, int64_t side, const float *a, const float *b, float alpha, float beta,
                   const float *other, float *out) {
  if (gemm && BY_TRIANGLES) {
    triangle(side, side, a, b, alpha, beta, other, out);
  } else if (gemm) {
    memcpy(out, other, sizeof(float) * (size_t)(side * side));
    symmetric(gemm, 4, side, side, (Operand){a, side, 0}, (Operand){b, side, 0}, alpha, beta, out);
  } else {
    product(side, side, side, (Factor){a, side, 1}, b, alpha, beta, other, out);
  }
}

/* gram over a bound of its largest eigenvalue, the root of the norm of its square, which is returned;
   out = b gram + c gram². */
static float bounded(int64_t side, float b, float c, float *gram, float *out) {
  double squares = 0;
  triangle(side, side, gram, gram, 1, 0, NULL, out);
  for (int64_t i = 0; i < side * side; i++) squares += (double)out[i] * out[i];
  const float bound = fmaxf((float)sqrt(sqrt(squares)), 1e-14f), inverse = 1 / bound;
  for (int64_t i = 0; i < side * side; i += LANES) {
    const vf of_gram = load(gram + i) * inverse;
    store(gram + i, of_gram);
    store(out + i, load(out + i) * (c * inverse * inverse) + of_gram * b);
  }
  return bound;
}

/* The product of the polynomials of all steps, of the Gram matrix in the first of six squares, one of
   which it is in.  Unless `bound` is null, of that over a bound, which is stored there. */
static const float *polynomials(Gemm gemm, int64_t side, float *squares, int steps,
                                const float (*coefficients)[3], float *bound) {
  const int64_t size = side * side;
  float *gram = squares, *rest = gram + size, *half = rest + size, *next = half + size;
  float *joint = next + size, *other = joint + size;
  for (int step = 0; step < steps; step++) {
    const float a = coefficients[step][0], b = coefficients[step][1], c = coefficients[step][2];
    /* Without a I, which the next products add. */
    if (step == 0 && bound) *bound = bounded(side, b, c, gram, rest);
    else square(gemm, side, gram, gram, c, b, gram, rest);
    if (step == 0) {
      memcpy(joint, rest, sizeof(float) * (size_t)size);
      for (int64_t i = 0; i < side; i++) joint[i * side + i] += a;
    } else {
      square(gemm, side, rest, joint, 1, a, joint, other);
      float *before = joint;
      joint = other, other = before;
    }
    if (step == steps - 1) break;
    square(gemm, side, rest, gram, 1, a, gram, half);
    square(gemm, side, rest, half, 1, a, half, next);
    float *before = gram;
    gram = next, next = before;
  }
  return joint;
}

/* `count` numbers to the nearest bfloat16, to even between two. */
static void narrow(int64_t count, const float *x, uint16_t *out) {
  for (int64_t i = 0; i < count; i += LANES) {
    const vu bits = (vu)load(x + i), up = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const vh h = __builtin_convertvector(up, vh);
    memcpy(out + i, &h, sizeof h);
  }
}

/* x of norm 1 is orthogonalised with products of bfloat16 numbers; `gram` is a square, and the last
   two are memory for x and for it in bfloat16. */
static void iterate(Gemm gemm, int64_t rows, int64_t width, int tall, float *x, float *gram,
                    const float (*coefficients)[3], uint16_t *of_x, uint16_t *of_gram) {
  const int64_t side = tall ? width : rows, inner = tall ? rows : width;
  const Operand straight = {of_x, width, 0}, transposed = {of_x, width, 1};
  const Operand square = {of_gram, side, 0};
  for (int step = 0; step < STEPS; step++) {
    const float a = coefficients[step][0], b = coefficients[step][1], c = coefficients[step][2];
    narrow(rows * width, x, of_x);
    symmetric(gemm, 2, side, inner, tall ? transposed : straight, tall ? straight : transposed, 1, 0,
              gram);
    narrow(side * side, gram, of_gram);
    symmetric(gemm, 2, side, side, square, square, c, b, gram);
    narrow(side * side, gram, of_gram);
    multiply(gemm, rows, width, side, tall ? straight : square, tall ? square : straight, 1, a,
             x, width);
  }
}

typedef struct {
  float *weight;
  const float *gradient;
  float *momentum;
  int64_t R, C;
} Matrix;

typedef struct {
  float lr, momentum, decay, coefficients[STEPS][3], of_few[FEW_STEPS][3], steps;
} Settings;

/* What multiplies blocks whose smaller side is above `small`, in bfloat16 unless that is null. */
typedef struct {
  Gemm float32, bfloat16;
  int64_t small;
} Products;

/* The Nesterov momentum of R rows, filled up, and its norm. */
static double momenta(const Matrix *m, const Settings *s, int64_t width, float *out) {
  const float of_new = 1 - s->momentum;
  double squares = 0;
  for (int64_t r = 0; r < m->R; r++) {
    const float *gradient = m->gradient + r * m->C;
    float *momentum = m->momentum + r * m->C, *row = out + r * width, of_row[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= m->C; i += LANES) {
      const vf g = load(gradient + i), before = load(momentum + i);
      const vf now = before + of_new * (g - before), nesterov = now + of_new * (g - now);
      store(momentum + i, now);
      store(row + i, nesterov);
      store(of_row, load(of_row) + nesterov * nesterov);
    }
    for (int lane = 0; i < m->C; i++, lane++) {
      const float g = gradient[i];
      momentum[i] += of_new * (g - momentum[i]);
      row[i] = momentum[i] + of_new * (g - momentum[i]);
      of_row[lane] += row[i] * row[i];
    }
    for (; i < width; i++) row[i] = 0;
    for (int lane = 0; lane < LANES; lane++) squares += of_row[lane];
  }
  return sqrt(squares);
}

/* x over its norm, orthogonalised; in x or y. */
static const float *orthogonal(const Products *products, int64_t rows, int64_t width, int tall,
                               float inverse, const Settings *settings, float *x, float *y,
                               float *squares) {
  const float(*coefficients)[3] = settings->coefficients;
  const int64_t side = tall ? width : rows, inner = tall ? rows : width;
  if (side <= products->small) {
    if (!tall) transpose(rows, width, x, y);
    const Factor straight = {x, width, 1}, transposed = {x, 1, width};
    product(side, inner, side, tall ? transposed : straight, tall ? x : y, inverse * inverse, 0, NULL,
            squares);
    const float *of_all = polynomials(NULL, side, squares, STEPS, coefficients, NULL);
    if (tall) product(rows, side, width, straight, of_all, inverse, 0, NULL, y);
    else product(rows, side, width, (Factor){of_all, side, 1}, x, inverse, 0, NULL, y);
    return y;
  }
  const int few = settings->steps == FEW_STEPS;
  if (products->bfloat16 && !few) {
    for (int64_t i = 0; i < rows * width; i += LANES) store(x + i, load(x + i) * inverse);
    iterate(products->bfloat16, rows, width, tall, x, squares, coefficients, (uint16_t *)y,
            (uint16_t *)(squares + side * side));
    return x;
  }
  const Operand straight = {x, width, 0}, transposed = {x, width, 1};
  if (BY_TRIANGLES) {
    transpose(rows, width, x, y);
    triangle(side, inner, tall ? y : x, tall ? x : y, inverse * inverse, 0, NULL, squares);
  } else {
    symmetric(products->float32, 4, side, inner, tall ? transposed : straight,
              tall ? straight : transposed, inverse * inverse, 0, squares);
  }
  float bound = 1;
  const float *of_all =
      few ? polynomials(products->float32, side, squares, FEW_STEPS, settings->of_few, &bound)
          : polynomials(products->float32, side, squares, STEPS, coefficients, NULL);
  inverse /= sqrtf(bound);
  const Operand of_rows = {of_all, side, 0};
  multiply(products->float32, rows, width, side, tall ? straight : of_rows, tall ? of_rows : straight,
           inverse, 0, y, width);
  return y;
}

static void update(const Matrix *m, const Settings *s, const Products *products, float *memory) {
  const int tall = m->R > m->C;
  const int64_t rows = filled_up(m->R), width = filled_up(m->C);
  float *x = memory, *y = x + rows * width, *squares = y + rows * width;
  const double norm = momenta(m, s, width, x);
  memset(x + m->R * width, 0, sizeof(float) * (size_t)((rows - m->R) * width));
  const float inverse = 1.0f / fmaxf((float)norm, 1e-7f);
  const float *result = orthogonal(products, rows, width, tall, inverse, s, x, y, squares);
  const float kept = 1 - s->lr * s->decay;
  const float rate = s->lr * sqrtf(tall ? (float)m->R / (float)m->C : 1);
  for (int64_t r = 0; r < m->R; r++)
    for (int64_t i = 0; i < m->C; i++)
      m->weight[r * m->C + i] = m->weight[r * m->C + i] * kept - rate * result[r * width + i];
}

/* A step of the blocks from `first` until before `end` of all matrices, each in blocks of so many
   rows.  1 where there is no memory. */
int kullback_muon(int64_t count, const Matrix *matrices, int64_t rows, int64_t first, int64_t end,
                  const Settings *settings, const Products *products) {
  int64_t largest = 0;
  for (int64_t n = 0; n < count; n++) {
    const int64_t R = filled_up(least(rows, matrices[n].R)), C = filled_up(matrices[n].C);
    const int64_t side = least(R, C), size = 2 * R * C + 6 * side * side;
    largest = size > largest ? size : largest;
  }
  float *memory = aligned_alloc(64, sizeof(float) * (size_t)largest);
  if (!memory) return 1;
  int64_t block = 0;
  for (int64_t n = 0; n < count; n++) {
    const Matrix *whole = matrices + n;
    for (int64_t r = 0; r < whole->R; r += rows, block++) {
      if (block < first || block >= end) continue;
      const int64_t place = r * whole->C;
      const Matrix part = {whole->weight + place, whole->gradient + place, whole->momentum + place,
                           least(rows, whole->R - r), whole->C};
      update(&part, settings, products, memory);
    }
  }
  free(memory);
  return 0;
}
