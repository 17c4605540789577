// From probabilities to words. The same rules, with the same numbers, as KeywordDetector in kws/pi.py.

import { SECOND } from "./model.js";

/** The last second of a stream of sound. */
export class LastSecond {
  constructor() {
    this.sound = new Float32Array(SECOND);
    this.samples = 0; // heard so far
  }

  push(chunk) {
    this.sound.copyWithin(0, chunk.length); // all of it moves to the left
    this.sound.set(chunk, SECOND - chunk.length);
    this.samples += chunk.length;
  }

  get milliseconds() {
    return this.samples / 16;
  }
}

/**
 * A word is heard where its probability, averaged over half a second, reaches the threshold; for a second and a half after
 * it nothing is. The first two labels, silence and unknown, are never heard.
 */
export class KeywordDetector {
  constructor(labels, threshold = 0.7, windowMs = 500, suppressionMs = 1500) {
    Object.assign(this, { labels, threshold, windowMs, suppressionMs, recent: [], last: -suppressionMs });
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
  const clip = new Float32Array(SECOND);
  if (sound.length <= SECOND) {
    clip.set(sound);
    return clip;
  }
  let energy = 0;
  for (let i = 0; i < SECOND; i++) energy += sound[i] ** 2;
  let first = 0, last = 0, most = energy;
  for (let i = 1; i + SECOND <= sound.length; i++) {
    energy += sound[i + SECOND - 1] ** 2 - sound[i - 1] ** 2;
    if (energy > most * (1 + 1e-9)) [first, last, most] = [i, i, energy];
    else if (energy >= most * (1 - 1e-9)) last = i;
  }
  const start = Math.floor((first + last) / 2);
  clip.set(sound.subarray(start, start + SECOND));
  return clip;
}
