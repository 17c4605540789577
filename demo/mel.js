// The log-mel spectrogram of a stream, for the picture: the same numbers as log_mel in notebook 2, one column each 10 ms.
// The model computes its own; this is what it sees.

import { RATE } from "./model.js";

const WINDOW = 480, HOP = 160, FFT = 512, BANDS = 40, LOW = 20, HIGH = 7_600, FLOOR = 1e-6;

// Slaney's mel scale: equal steps up to 1 kHz, equal ratios above it
const toMel = (hz) => (hz < 1_000 ? (3 * hz) / 200 : 15 + (27 * Math.log(hz / 1_000)) / Math.log(6.4));
const toHz = (mel) => (mel < 15 ? (200 * mel) / 3 : 1_000 * 6.4 ** ((mel - 15) / 27));

const frequencies = Array.from({ length: FFT / 2 + 1 }, (_, k) => (k * RATE) / FFT);
const edges = Array.from({ length: BANDS + 2 }, (_, i) => toHz(toMel(LOW) + (i * (toMel(HIGH) - toMel(LOW))) / (BANDS + 1)));
const hann = Float32Array.from({ length: WINDOW }, (_, n) => 0.5 - 0.5 * Math.cos((2 * Math.PI * n) / WINDOW));
const cosine = Float32Array.from({ length: FFT }, (_, n) => Math.cos((2 * Math.PI * n) / FFT));

/** A filter: a triangle from one edge over the next to the one after it. All have the same area: the wider, the lower. */
const filters = Array.from({ length: BANDS }, (_, band) => {
  const [left, top, right] = edges.slice(band, band + 3);
  return frequencies.flatMap((hz, k) => {
    const height = Math.min((hz - left) / (top - left), (right - hz) / (right - top));
    return height > 0 ? [{ k, weight: (height * 2) / (right - left) }] : [];
  });
});

/** 480 samples -> 40 numbers: window, Fourier transform (written out: it is short enough), power, filters, logarithm. */
export function melColumn(frame) {
  const windowed = frame.map((value, n) => value * hann[n]);
  const power = frequencies.map((_, k) => {
    let real = 0, imaginary = 0;
    for (let n = 0; n < WINDOW; n++) {
      const angle = (k * n) % FFT;
      real += windowed[n] * cosine[angle];
      imaginary += windowed[n] * cosine[(angle + FFT / 4) % FFT]; // cos(x + 90 degrees) = -sin(x)
    }
    return real ** 2 + imaginary ** 2;
  });
  return filters.map((filter) => Math.log(filter.reduce((sum, { k, weight }) => sum + weight * power[k], 0) + FLOOR));
}

/** A picture that moves to the left as sound comes in. */
export class RollingPicture {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.clear();
  }

  clear() {
    this.tail = new Float32Array(WINDOW - HOP);
    this.context.fillStyle = colour(0);
    this.context.fillRect(0, 0, this.canvas.width, this.canvas.height);
  }

  push(chunk) {
    const sound = Float32Array.of(...this.tail, ...chunk);
    const columns = chunk.length / HOP, { width, height } = this.canvas;
    this.context.drawImage(this.canvas, -columns, 0);
    for (let x = 0; x < columns; x++) {
      melColumn(sound.subarray(x * HOP, x * HOP + WINDOW)).forEach((value, band) => {
        this.context.fillStyle = colour((value + 12) / 14); // from -12, a quiet room, to 2, a loud vowel
        this.context.fillRect(width - columns + x, height - 1 - band, 1, 1);
      });
    }
    this.tail = sound.slice(-this.tail.length);
  }
}

/** Dark violet over green to yellow, near to the colours of the notebooks' pictures. */
function colour(share) {
  const place = Math.min(Math.max(share, 0), 1);
  return `hsl(${285 - 230 * place} ${85 - 40 * Math.sin(Math.PI * place)}% ${16 + 44 * place}%)`;
}
