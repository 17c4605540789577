// A .tflite file in the browser: LiteRT.js runs the same file that LiteRT runs in Python and on the Pi.
// The front end (log-mel) is inside the model, so it takes sound: one second, 16,000 numbers in [-1, 1].

import { loadAndCompile, loadLiteRt, Tensor } from "@litertjs/core";

export const RATE = 16_000;
export const SECOND = 16_000;

let runtime; // LiteRT itself, 9 MB of WebAssembly: loaded once

/** Load LiteRT. Throws a sentence for the reader where that cannot be. */
export function startRuntime() {
  if (typeof WebAssembly === "undefined") {
    throw new Error("This browser has no WebAssembly, or it is switched off. Any current Firefox, Chrome, Edge or Safari has it.");
  }
  runtime ??= loadLiteRt(new URL("litert/core/wasm/", document.baseURI).pathname).catch((error) => {
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
  let compiled;
  try {
    compiled = await loadAndCompile(bytes, { accelerator: "wasm" });
  } catch (error) {
    throw new Error(`LiteRT cannot run this file (${String(error.message ?? error).slice(0, 120)})`);
  }
  const shapes = [compiled.getInputDetails(), compiled.getOutputDetails()].map((list) =>
    list.map((tensor) => `${tensor.dtype} [${Array.from(tensor.shape)}]`).join(" and "));
  const wanted = [`float32 [1,${SECOND}]`, `float32 [1,${labels.length}]`];
  if (shapes.some((shape, i) => shape !== wanted[i])) {
    compiled.delete();
    throw new Error(`it takes ${shapes[0]} and gives ${shapes[1]}; wanted: ${wanted.join(" and ")}`);
  }

  /** Probabilities of the labels for one second of sound. What WebAssembly holds is given back by delete(). */
  async function predict(pcm) {
    const input = new Tensor(pcm, [1, SECOND]);
    const outputs = await compiled.run(input);
    const output = await outputs[0].moveTo("wasm");
    const probabilities = Float32Array.from(output.toTypedArray());
    for (const tensor of new Set([input, ...outputs, output])) tensor.delete();
    return probabilities;
  }

  return { labels, predict, close: () => compiled.delete() };
}

/** The most probable labels: [{label, probability}], the best first. */
export function top(labels, probabilities, count = 3) {
  const pairs = labels.map((label, i) => ({ label, probability: probabilities[i] }));
  return pairs.sort((a, b) => b.probability - a.probability).slice(0, count);
}
