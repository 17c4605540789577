// A .tflite file in the browser: LiteRT.js runs the same file that LiteRT runs in Python and on the Pi.
// The front end (log-mel) is inside the model, so it takes sound: one second, 16,000 numbers in [-1, 1].

import { loadAndCompile, loadLiteRt, Tensor } from "@litertjs/core";

export const RATE = 16_000; // samples in a second; resampler.js, which shares nothing with the page, has it again
export const SECOND = RATE; // samples that the model takes
export const CHUNK = RATE / 10; // samples from one look to the next; resampler.js has it again

let runtime; // LiteRT itself, 9 MB of WebAssembly: loaded once

/** Load LiteRT. Throws a sentence for the reader where that cannot be. */
export function startRuntime() {
  if (typeof WebAssembly === "undefined") {
    throw new Error("This browser has no WebAssembly, or it is switched off. Any current Firefox, Chrome, Edge or Safari has it.");
  }
  runtime ??= loadLiteRt("litert/core/wasm/").catch((error) => {
    runtime = undefined; // so that it can be tried again
    throw new Error(`LiteRT could not be loaded (${error.message ?? error.type}). Is the folder litert/ beside this page?`);
  });
  return runtime;
}

/** A model from the bytes of a .tflite file and its labels: {labels, predict, close}. */
export async function openModel(bytes, labels) {
  const mark = new TextDecoder().decode(bytes.subarray(4, 8)); // what every .tflite file has there
  if (mark !== "TFL3") throw new Error("this is no .tflite file");
  await startRuntime();
  const compiled = await loadAndCompile(bytes, { accelerator: "wasm" }).catch((error) => {
    throw new Error(`LiteRT cannot run this file (${String(error.message ?? error).slice(0, 120)})`);
  });
  const [takes, gives] = [compiled.getInputDetails(), compiled.getOutputDetails()].map((list) =>
    list.map((tensor) => `${tensor.dtype} [${Array.from(tensor.shape)}]`).join(" and "));
  const wanted = `takes float32 [1,${SECOND}] and gives float32 [1,${labels.length}]`;
  const found = `takes ${takes} and gives ${gives}`;
  if (found !== wanted) {
    compiled.delete();
    throw new Error(`labels.txt has ${labels.length} names, and a model for them ${wanted}; this one ${found}`);
  }

  /** Probabilities of the labels for one second of sound. What WebAssembly holds is given back by delete(). */
  async function predict(pcm) {
    const input = new Tensor(pcm, [1, SECOND]);
    const [output] = await compiled.run(input);
    const probabilities = await output.data();
    input.delete();
    output.delete();
    return probabilities;
  }

  return { labels, predict, close: () => compiled.delete() };
}

/** The most probable labels: [{word, probability}], the best first. */
export function top(labels, probabilities, count = 3) {
  const pairs = labels.map((word, i) => ({ word, probability: probabilities[i] }));
  return pairs.sort((a, b) => b.probability - a.probability).slice(0, count);
}
