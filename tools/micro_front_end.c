/* The front end in plain C: 30 ms of sound (480 samples of 16 bits) -> 40 numbers of 8 bits, as the network takes them.

   It says what to compute, not how to do it fast: on a chip the Fourier transform comes from its library (CMSIS-DSP,
   esp-dsp), which takes the 512 windowed samples and gives the same 257 powers. Build the check with
   cc -DKWS_CHECK front_end.c -lm -o check && ./check */
#include "front_end.h"
#include <math.h>

void kws_front_end(const int16_t *pcm, float *log_mel, int8_t *input) {
  static float power[KWS_FFT_SIZE / 2 + 1];
  for (int k = 0; k <= KWS_FFT_SIZE / 2; k++) {
    float real = 0, imaginary = 0;
    for (int n = 0; n < KWS_WINDOW; n++) { /* the other 32 samples are zeros */
      float angle = 6.28318531f * (float)((k * n) % KWS_FFT_SIZE) / KWS_FFT_SIZE;
      float value = (float)pcm[n] / 32768.0f * kws_window[n];
      real += value * cosf(angle);
      imaginary -= value * sinf(angle);
    }
    power[k] = real * real + imaginary * imaginary;
  }
  const float *weight = kws_mel_weights;
  for (int band = 0; band < KWS_BANDS; band++) {
    float sum = 0;
    for (int i = 0; i < kws_mel_count[band]; i++) sum += *weight++ * power[kws_mel_start[band] + i];
    log_mel[band] = logf(sum + KWS_FLOOR);
    float whole = roundf((log_mel[band] - kws_mean[band]) / kws_std[band] / KWS_INPUT_SCALE) + KWS_INPUT_ZERO;
    input[band] = (int8_t)(whole < -128 ? -128 : whole > 127 ? 127 : whole);
  }
}

#ifdef KWS_CHECK
#include "test_vectors.h"
#include <stdio.h>
#include <stdlib.h>

int main(void) {
  float log_mel[KWS_BANDS], worst = 0;
  int8_t input[KWS_BANDS];
  int steps = 0;
  for (int frame = 0; frame < KWS_TEST_FRAMES; frame++) {
    kws_front_end(kws_test_pcm + frame * KWS_WINDOW, log_mel, input);
    for (int band = 0; band < KWS_BANDS; band++) {
      float off = fabsf(log_mel[band] - kws_test_log_mel[frame * KWS_BANDS + band]);
      int step = abs(input[band] - kws_test_input[frame * KWS_BANDS + band]);
      worst = off > worst ? off : worst;
      steps = step > steps ? step : steps;
    }
  }
  printf("largest difference: %g in log-mel, %d of 256 steps in the network's input\n", worst, steps);
  return worst > 0.01f || steps > 1;
}
#endif
