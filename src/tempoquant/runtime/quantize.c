/* One pass over an activation: q = clamp(rint(x / s) + z, low, high). Ties go to even, as in torch.round. */
#include <math.h>
#include <stdint.h>

static inline float quantized(float x, float scale, float zero, float low, float high) {
  float value = rintf(x / scale) + zero;
  value = value < low ? low : value;
  return value > high ? high : value;
}

/* q as bytes. */
void tempoquant_bytes(const float *x, uint8_t *q, int64_t count, float scale, float zero, float low, float high) {
#pragma omp parallel for simd schedule(static) if (count > 32768)
  for (int64_t i = 0; i < count; i++) q[i] = (uint8_t)(int32_t)quantized(x[i], scale, zero, low, high);
}

/* q - z as floats. */
void tempoquant_centred(const float *x, float *q, int64_t count, float scale, float zero, float low, float high) {
#pragma omp parallel for simd schedule(static) if (count > 32768)
  for (int64_t i = 0; i < count; i++) q[i] = quantized(x[i], scale, zero, low, high) - zero;
}
