// From probabilities to words. The same rules, with the same numbers, as KeywordDetector in kws/pi.py.

import { RATE, SECOND } from "./model.js";

/** The last second of a stream of sound, and how long the stream has been. */
export class LastSecond {
  sound = new Float32Array(SECOND);
  milliseconds = 0;

  push(chunk) {
    this.sound.copyWithin(0, chunk.length); // all of it moves to the left
    this.sound.set(chunk, SECOND - chunk.length);
    this.milliseconds += (1_000 * chunk.length) / RATE;
  }
}

/**
 * A word is heard where its probability, averaged over half a second, reaches the threshold; for a second and a half after
 * it nothing is. The first two labels, silence and unknown, are never heard.
 */
export class KeywordDetector {
  constructor(labels, threshold = 0.7, windowMs = 500, suppressionMs = 1500) {
    this.labels = labels;
    this.threshold = threshold;
    this.windowMs = windowMs;
    this.suppressionMs = suppressionMs;
    this.recent = []; // {ms, probabilities} of the last half second
    this.last = -suppressionMs; // when a word was heard
  }

  /** The word that is heard at a time: {word, probability}, or null. */
  update(ms, probabilities) {
    this.recent.push({ ms, probabilities });
    this.recent = this.recent.filter((each) => each.ms > ms - this.windowMs);
    let best = 2, most = -1;
    for (let i = 2; i < this.labels.length; i++) {
      const mean = this.recent.reduce((sum, each) => sum + each.probabilities[i], 0) / this.recent.length;
      if (mean > most) [best, most] = [i, mean];
    }
    if (most < this.threshold || ms - this.last < this.suppressionMs) return null;
    this.last = ms;
    return { word: this.labels[best], probability: most };
  }
}

/** The loudest second of a sound, with zeros after the end of a short one; a word alone comes to lie in its middle. */
export function loudestSecond(sound) {
  let energy = sound.subarray(0, SECOND).reduce((sum, value) => sum + value ** 2, 0);
  let first = 0, last = 0, most = energy;
  for (let i = 1; i + SECOND <= sound.length; i++) {
    energy += sound[i + SECOND - 1] ** 2 - sound[i - 1] ** 2;
    // in digital silence all seconds that hold the whole word are equally loud, but for rounding errors below 1e-9
    if (energy > most * (1 + 1e-9)) [first, last, most] = [i, i, energy];
    else if (energy >= most * (1 - 1e-9)) last = i;
  }
  const start = Math.floor((first + last) / 2);
  const clip = new Float32Array(SECOND);
  clip.set(sound.subarray(start, start + SECOND));
  return clip;
}
