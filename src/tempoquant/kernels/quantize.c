/* Passes over activations that end in integers: q = clamp(rint(x / s) + z, low, high). Ties go to even, as in
   torch.round. Work is cut into pieces whose sizes depend on the shape alone: any number of threads gives the same. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#define MANY 32768
/* PIECE, the rows that are added up at a time, is given to the compiler: whoever calls must know it too. */

static inline float quantized(float x, float scale, float zero, float low, float high) {
  float value = rintf(x / scale) + zero;
  value = value < low ? low : value;
  return value > high ? high : value;
}

/* q as uint8. */
void tempoquant_quantize(const float *x, uint8_t *q, int64_t count, float scale, float zero, float low, float high) {
#pragma omp parallel for simd schedule(static) if (count > MANY)
  for (int64_t i = 0; i < count; i++) q[i] = (uint8_t)(int32_t)quantized(x[i], scale, zero, low, high);
}

/* q - z as float32. */
void tempoquant_quantize_centered(const float *x, float *q, int64_t count, float scale, float zero, float low, float high) {
#pragma omp parallel for simd schedule(static) if (count > MANY)
  for (int64_t i = 0; i < count; i++) q[i] = quantized(x[i], scale, zero, low, high) - zero;
}

/* out = (acc + row + column) * left * right: an int8 product, to whose rows and columns zero points add. */
void tempoquant_scaled(const int32_t *acc, float *out, const int32_t *row, const int32_t *column, int64_t items,
                       int64_t rows, int64_t columns, float left, float right) {
#pragma omp parallel for schedule(static) if (items * rows * columns > MANY)
  for (int64_t i = 0; i < items * rows; i++) {
    const int32_t *a = acc + i * columns, *c = column + i / rows * columns;
    float *o = out + i * columns;
#pragma omp simd
    for (int64_t j = 0; j < columns; j++) o[j] = (float)(a[j] + row[i] + c[j]) * left * right;
  }
}

/* e^x within two units in the last place: a power of two times a polynomial (Cephes' coefficients); no call, so that
   loops around it become vectors. */
static inline float exponential(float x) {
  x = x < -87.0f ? -87.0f : x;
  x = x > 88.0f ? 88.0f : x;
  float n = rintf(x * 1.44269504f), r = x - n * 0.693359375f + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  union { int32_t i; float f; } power = {((int32_t)n + 127) << 23};
  return p * power.f;
}

/* Softmax of rows of scores as int8, and the sum of each row. The scores are (acc + row + column) * left *
   right * factor, as of tempoquant_scaled. work: floats, columns for each of `workers` threads. */
void tempoquant_softmax_quantize(const int32_t *acc, int8_t *q, int32_t *sums, float *work, const int32_t *row,
                              const int32_t *column, int64_t rows, int64_t columns, int64_t workers, float left,
                              float right, float factor, float scale, float zero, float low, float high) {
#pragma omp parallel for schedule(static) num_threads(workers)
  for (int64_t worker = 0; worker < workers; worker++) {
    float *e = work + worker * columns;
    for (int64_t i = rows * worker / workers; i < rows * (worker + 1) / workers; i++) {
      const int32_t *a = acc + i * columns;
      int8_t *out = q + i * columns;
      float most = -INFINITY, total = 0;
      int32_t sum = 0;
#pragma omp simd reduction(max : most)
      for (int64_t j = 0; j < columns; j++) {
        e[j] = (float)(a[j] + row[i] + column[j]) * left * right * factor;
        most = e[j] > most ? e[j] : most;
      }
#pragma omp simd reduction(+ : total)
      for (int64_t j = 0; j < columns; j++) {
        e[j] = exponential(e[j] - most);
        total += e[j];
      }
      float share = 1 / total;
#pragma omp simd reduction(+ : sum)
      for (int64_t j = 0; j < columns; j++) {
        int32_t value = (int32_t)quantized(e[j] * share, scale, zero, low, high);
        out[j] = (int8_t)value;
        sum += value;
      }
      sums[i] = sum;
    }
  }
}

/* Of one piece of an item: sums and sums of squares of every channel. */
static void add_up(const float *x, int64_t rows, int64_t channels, float *sums, float *squares) {
  memset(sums, 0, channels * sizeof *sums);
  memset(squares, 0, channels * sizeof *squares);
  for (int64_t row = 0; row < rows; row++, x += channels)
#pragma omp simd
    for (int64_t c = 0; c < channels; c++) {
      sums[c] += x[c];
      squares[c] += x[c] * x[c];
    }
}

/* Group norm of one item as y = x * a + b, from the sums of its pieces. */
static void as_affine(const float *sums, int64_t pieces, int64_t rows, int64_t channels, int64_t groups, float eps,
                      const float *gamma, const float *beta, float *a, float *b) {
  int64_t width = channels / groups;
  for (int64_t first = 0; first < channels; first += width) {
    double sum = 0, square = 0;
    for (int64_t piece = 0; piece < pieces; piece++)
      for (int64_t c = first; c < first + width; c++) {
        sum += sums[2 * piece * channels + c];
        square += sums[(2 * piece + 1) * channels + c];
      }
    double count = (double)(rows * width), mean = sum / count, variance = square / count - mean * mean;
    double inverse = 1 / sqrt((variance > 0 ? variance : 0) + eps);
    for (int64_t c = first; c < first + width; c++) {
      a[c] = (float)(gamma[c] * inverse);
      b[c] = (float)(beta[c] - mean * gamma[c] * inverse);
    }
  }
}

/* Group norm, SiLU and quantization to uint8 of x (items, rows, channels): what stands between two convolutions.
   work: floats, items * channels * (2 * ceil(rows / PIECE) + 2). */
void tempoquant_norm_silu_quantize(const float *x, uint8_t *q, float *work, int64_t items, int64_t rows, int64_t channels,
                                int64_t groups, const float *gamma, const float *beta, float eps, float scale,
                                float zero, float low, float high) {
  int64_t pieces = (rows + PIECE - 1) / PIECE, held = channels * (2 * pieces + 2);
  int many = items * rows * channels > MANY;
#pragma omp parallel if (many)
  {
#pragma omp for schedule(static)
    for (int64_t k = 0; k < items * pieces; k++) {
      int64_t item = k / pieces, first = k % pieces * PIECE, last = first + PIECE < rows ? first + PIECE : rows;
      float *sums = work + item * held + 2 * (k % pieces) * channels;
      add_up(x + (item * rows + first) * channels, last - first, channels, sums, sums + channels);
    }
#pragma omp for schedule(static)
    for (int64_t item = 0; item < items; item++) {
      float *sums = work + item * held, *a = sums + 2 * pieces * channels;
      as_affine(sums, pieces, rows, channels, groups, eps, gamma, beta, a, a + channels);
    }
#pragma omp for schedule(static)
    for (int64_t row = 0; row < items * rows; row++) {
      const float *a = work + row / rows * held + 2 * pieces * channels, *b = a + channels, *in = x + row * channels;
      uint8_t *out = q + row * channels;
#pragma omp simd
      for (int64_t c = 0; c < channels; c++) {
        float y = in[c] * a[c] + b[c];
        y = y / (1.0f + exponential(-y));
        out[c] = (uint8_t)(int32_t)quantized(y, scale, zero, low, high);
      }
    }
  }
}
