// The microphone, in chunks of a tenth of a second at 16 kHz. The sound never leaves this page.

import { RATE } from "./model.js";

const REASONS = {
  NotAllowedError: "This page may not use the microphone. Allow it in the address bar (camera or lock), then press Listen again.",
  NotFoundError: "There is no microphone on this machine. Plug one in, or drop a sound file below.",
  NotReadableError: "Another program is using the microphone, or it is switched off in the system's settings.",
};
const LOST = "The microphone is gone: unplugged, or no longer allowed. Plug it in or allow it, then press Listen again.";

/**
 * Call `hear` with each chunk, Float32Array [1,600], and `lost` with an Error where the microphone goes away. Returns a
 * function that closes it.
 */
export async function openMicrophone(hear, lost) {
  if (!navigator.mediaDevices?.getUserMedia || typeof AudioWorkletNode === "undefined") {
    throw new Error("This browser gives no microphone to this page. It does so on https:// and on localhost.");
  }
  const context = new AudioContext(); // at the rate of the sound card, often 48 kHz
  await context.audioWorklet.addModule("resampler.js");
  // as it is: what a browser does for telephone calls is made for ears, and the model has not been trained on it
  const raw = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false };
  const stream = await navigator.mediaDevices.getUserMedia({ audio: raw }).catch((error) => {
    context.close();
    throw new Error(REASONS[error.name] ?? `The microphone cannot be used (${error.message}).`);
  });
  const [track] = stream.getTracks();
  track.onended = () => lost(new Error(LOST)); // not called by stop()
  const node = new AudioWorkletNode(context, "resampler");
  node.port.onmessage = ({ data }) => hear(data);
  // a node runs only where it leads to the loudspeaker; this one gives it silence
  context.createMediaStreamSource(stream).connect(node).connect(context.destination);
  context.resume(); // where the browser has held it back
  return () => {
    track.stop();
    context.close();
  };
}

/** A whole sound file of any format that the browser knows: Float32Array at 16 kHz, mono. */
export async function readFile(bytes) {
  const context = new OfflineAudioContext(1, 1, RATE); // its rate is the one that the file is brought to
  const sound = await context.decodeAudioData(bytes).catch(() => {
    throw new Error("this browser cannot read it as sound");
  });
  const mono = new Float32Array(sound.length);
  for (let channel = 0; channel < sound.numberOfChannels; channel++) {
    sound.getChannelData(channel).forEach((value, i) => (mono[i] += value / sound.numberOfChannels));
  }
  return mono;
}
