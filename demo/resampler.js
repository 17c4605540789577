// Runs in the browser's audio thread: from the rate of the sound card to 16 kHz.
//
// A sample between two others is a weighted sum of its neighbours; the weights are a sinc, cut to 16 zero crossings by a
// Hann window. The sinc also takes away what lies above 8 kHz, which 16 kHz cannot hold and would show as lower tones.
//
// An example: a card of 44,100 Hz. An output sample comes every 44,100 / 16,000 = 2.75625 input samples: the first lies on
// input sample 0, the next 0.75625 after sample 2, the one after that 0.5125 after sample 5. `at` is that sample, and `rest`
// how far behind it the output lies, counted in 1/16,000 of a sample (12,100, then 8,200): whole numbers add up without
// rounding errors, for hours. After 160 outputs the rests come round again, so there are 160 sets of weights.

const RATE = 16_000, CHUNK = 1_600; // as in model.js
const CROSSINGS = 16;

class Resampler extends AudioWorkletProcessor {
  constructor() {
    super();
    // an ideal filter ends at 8 kHz; this one falls from 7 to 8.4 kHz, so its middle lies 5 % lower
    this.cutoff = 0.95 * Math.min(1, RATE / sampleRate);
    this.half = Math.ceil(CROSSINGS / this.cutoff); // neighbours on either side
    this.input = new Array(this.half).fill(0); // zeros before the first sample
    this.at = this.half;
    this.rest = 0;
    this.weights = {}; // by `rest`
    this.chunk = [];
  }

  kernel(rest) {
    return (this.weights[rest] ??= Float32Array.from({ length: 2 * this.half }, (_, i) => {
      const x = i - this.half + 1 - rest / RATE; // from the output to this neighbour, in input samples
      const t = Math.PI * x * this.cutoff;
      return this.cutoff * (t ? Math.sin(t) / t : 1) * Math.cos((Math.PI * x) / (2 * this.half)) ** 2;
    }));
  }

  process([channels]) {
    for (let i = 0; i < channels[0]?.length; i++) {
      this.input.push(channels.reduce((sum, channel) => sum + channel[i], 0) / channels.length);
    }
    while (this.at + this.half < this.input.length) {
      const first = this.at - this.half + 1;
      this.chunk.push(this.kernel(this.rest).reduce((sum, weight, i) => sum + weight * this.input[first + i], 0));
      if (this.chunk.length === CHUNK) this.port.postMessage(Float32Array.from(this.chunk.splice(0)));
      this.rest += sampleRate;
      this.at += Math.floor(this.rest / RATE);
      this.rest %= RATE;
    }
    this.input.splice(0, this.at - this.half); // what no later output needs
    this.at = this.half;
    return true;
  }
}

registerProcessor("resampler", Resampler);
