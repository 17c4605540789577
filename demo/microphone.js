// The microphone, in chunks of a tenth of a second at 16 kHz. The sound never leaves this page.

const REASONS = {
  NotAllowedError: "This page may not use the microphone. Allow it in the address bar (the camera or lock sign), then press Listen again.",
  NotFoundError: "There is no microphone on this machine. Plug one in, or drop a sound file below.",
  NotReadableError: "Another program is using the microphone, or it is switched off in the system's settings.",
};

/** Call `hear` with each chunk, Float32Array [1,600]. Returns a function that closes the microphone. */
export async function openMicrophone(hear) {
  if (!navigator.mediaDevices?.getUserMedia || typeof AudioWorkletNode === "undefined") {
    throw new Error("This browser gives no microphone to this page. It does so on https:// and on localhost.");
  }
  // as it is: what a browser does for telephone calls is made for ears, and the model has not been trained on it
  const raw = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false };
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ audio: raw });
  } catch (error) {
    throw new Error(REASONS[error.name] ?? `The microphone cannot be used (${error.message}).`);
  }
  const context = new AudioContext(); // at the rate of the sound card, often 48 kHz
  try {
    await context.audioWorklet.addModule("resampler.js");
  } catch (error) {
    stream.getTracks().forEach((track) => track.stop());
    throw error;
  }
  const node = new AudioWorkletNode(context, "resampler");
  node.port.onmessage = ({ data }) => hear(data);
  context.createMediaStreamSource(stream).connect(node).connect(context.destination); // which the node feeds nothing
  await context.resume();
  return () => {
    node.port.onmessage = null;
    stream.getTracks().forEach((track) => track.stop());
    return context.close();
  };
}

/** A whole sound file of any format that the browser knows: Float32Array at 16 kHz, mono. */
export async function readFile(bytes) {
  const context = new OfflineAudioContext(1, 1, 16_000); // its rate is the one that the file is brought to
  let sound;
  try {
    sound = await context.decodeAudioData(bytes);
  } catch {
    throw new Error("this browser cannot read it as sound");
  }
  const mono = new Float32Array(sound.length);
  for (let channel = 0; channel < sound.numberOfChannels; channel++) {
    sound.getChannelData(channel).forEach((value, i) => (mono[i] += value / sound.numberOfChannels));
  }
  return mono;
}
