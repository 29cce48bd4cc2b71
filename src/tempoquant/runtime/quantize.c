/* One pass over an activation: q = clamp(rint(x / s) + z, low, high). Ties go to even, as in torch.round. */
#include <math.h>
#include <stdint.h>

void tempoquant_quantize(const float *x, uint8_t *q, int64_t count, float scale, float zero, float low, float high) {
#pragma omp parallel for simd schedule(static) if (count > 32768)
  for (int64_t i = 0; i < count; i++) {
    float value = rintf(x[i] / scale) + zero;
    value = value < low ? low : value;
    value = value > high ? high : value;
    q[i] = (uint8_t)(int32_t)value;
  }
}
