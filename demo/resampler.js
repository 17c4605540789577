// Runs in the browser's audio thread: from the rate of the sound card to 16 kHz.
//
// A sample between two others is a weighted sum of its neighbours; the weights are a sinc, cut to 16 zero crossings by a
// Hann window. The sinc also takes away what lies above 8 kHz, which 16 kHz cannot hold and would show as lower tones.

const RATE = 16_000, CHUNK = 1_600, CROSSINGS = 16;

class Resampler extends AudioWorkletProcessor {
  constructor() {
    super();
    this.cutoff = 0.95 * Math.min(1, RATE / sampleRate);
    this.half = Math.ceil(CROSSINGS / this.cutoff); // neighbours on either side
    this.input = new Float32Array(2 * this.half + 8_192);
    this.end = this.half; // zeros before the first sample
    this.at = this.half; // the sample left of the next output, and how far behind it that lies, in 1/16,000 of a sample
    this.rest = 0;
    this.weights = new Map(); // by `rest`: at 48 kHz there is 1, at 44.1 kHz there are 160
    this.chunk = new Float32Array(CHUNK);
    this.filled = 0;
  }

  kernel(rest) {
    if (!this.weights.has(rest)) {
      const kernel = Float32Array.from({ length: 2 * this.half }, (_, i) => {
        const x = i - this.half + 1 - rest / RATE;
        if (Math.abs(x) >= this.half) return 0;
        const t = Math.PI * x * this.cutoff;
        return this.cutoff * (t ? Math.sin(t) / t : 1) * Math.cos((Math.PI * x) / (2 * this.half)) ** 2;
      });
      this.weights.set(rest, kernel);
    }
    return this.weights.get(rest);
  }

  process([channels]) {
    if (!channels.length) return true;
    for (let i = 0; i < channels[0].length; i++) {
      this.input[this.end++] = channels.reduce((sum, channel) => sum + channel[i], 0) / channels.length;
    }
    while (this.at + this.half < this.end) {
      const kernel = this.kernel(this.rest);
      let sum = 0;
      for (let i = 0; i < kernel.length; i++) sum += kernel[i] * this.input[this.at - this.half + 1 + i];
      this.chunk[this.filled++] = sum;
      if (this.filled === CHUNK) {
        this.port.postMessage(this.chunk.slice());
        this.filled = 0;
      }
      this.rest += sampleRate;
      this.at += Math.floor(this.rest / RATE);
      this.rest %= RATE;
    }
    const used = this.at - this.half; // what no later output needs
    if (used > 4_096) {
      this.input.copyWithin(0, used, this.end);
      this.end -= used;
      this.at -= used;
    }
    return true;
  }
}

registerProcessor("resampler", Resampler);
