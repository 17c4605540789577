// The page: what happens when, in the order of reading. model.js runs the model, microphone.js brings the sound,
// detector.js makes words of probabilities, mel.js draws.

import { KeywordDetector, LastSecond, loudestSecond } from "./detector.js";
import { RollingPicture } from "./mel.js";
import { openMicrophone, readFile } from "./microphone.js";
import { openModel, RATE, top } from "./model.js";

const CHUNK = RATE / 10; // a look each 100 ms
const $ = (id) => document.getElementById(id);
const percent = (probability) => `${Math.round(100 * probability)} %`;

const picture = new RollingPicture($("picture"));
let model, second, detector, closeMicrophone;
let times = []; // ms of the last looks
let collecting = null; // chunks of “say one word”

/** Show a problem, or none. */
function complain(text = "") {
  $("problem").textContent = text;
  $("problem").hidden = !text;
}

/** Do something that may fail, and say so in a sentence if it does. */
async function attempt(work, before = "") {
  complain();
  try {
    await work();
  } catch (error) {
    complain(before + error.message);
  }
}

// --- the model ---

/** Make a model the one that listens; the labels become the bars. */
async function useModel(name, bytes, labels) {
  const opened = await openModel(bytes, labels);
  model?.close();
  model = opened;
  model.name = name;
  model.bytes = bytes.length;
  $("bars").replaceChildren(...labels.map((label) => {
    const row = $("bar").content.cloneNode(true).firstElementChild;
    row.firstElementChild.textContent = label;
    return row;
  }));
  restart();
  await look(); // one look at silence: the first takes longest
  times = [];
  for (const button of document.querySelectorAll("button")) button.disabled = false;
  showStatus();
}

async function fetchModel({ name, file, labels }) {
  $("status").textContent = `loading ${name} …`;
  const answer = await fetch(file);
  if (!answer.ok) throw new Error(`${file}: the server says ${answer.status}`);
  await useModel(name, new Uint8Array(await answer.arrayBuffer()), labels);
}

function showStatus() {
  const sorted = [...times].sort((a, b) => a - b);
  const median = times.length ? `, ${sorted[Math.floor(times.length / 2)].toFixed(2)} ms a look` : "";
  $("status").textContent = `${model.name}, ${model.bytes.toLocaleString("en")} bytes${median}`;
}

// --- listening ---

function restart() {
  second = new LastSecond();
  detector = new KeywordDetector(model.labels, Number($("threshold").value));
  picture.clear();
}

/** Ask the model what the last second holds, and move the bars. */
async function look() {
  const start = performance.now();
  const probabilities = await model.predict(second.sound);
  times = [...times.slice(-49), performance.now() - start];
  [...$("bars").children].forEach((row, i) => row.style.setProperty("--share", probabilities[i]));
  return probabilities;
}

/** A chunk of sound from the microphone, or of a file. */
async function hear(chunk) {
  second.push(chunk);
  picture.push(chunk);
  const ms = second.milliseconds;
  const word = detector.update(ms, await look());
  if (word) showWord(word, ms);
  if (second.samples % RATE === 0) showStatus();
}

function showWord({ word, probability }, ms) {
  $("word").textContent = word;
  const line = document.createElement("li");
  line.textContent = `${(ms / 1_000).toFixed(1)} s  ${word}  ${percent(probability)}`;
  $("history").prepend(line);
  while ($("history").children.length > 8) $("history").lastChild.remove();
}

/** Chunks in their order, one at a time; what comes while the machine is too slow for it is left out. */
let busy = false;
async function fromMicrophone(chunk) {
  collecting?.push(chunk);
  if (busy) return second.push(chunk);
  busy = true;
  try {
    await hear(chunk);
  } catch (error) {
    complain(error.message);
  }
  busy = false;
}

async function toggle() {
  if (closeMicrophone) {
    const close = closeMicrophone;
    closeMicrophone = undefined;
    await close();
  } else {
    restart();
    closeMicrophone = await openMicrophone(fromMicrophone);
  }
  $("listen").setAttribute("aria-pressed", Boolean(closeMicrophone));
  $("listen").textContent = closeMicrophone ? "Stop" : "Listen";
}

// --- one word ---

function showTop(title, probabilities) {
  const best = top(model.labels, probabilities);
  $("word").textContent = best[0].label;
  $("top").textContent = `${title}: ` + best.map((each) => `${each.label} ${percent(each.probability)}`).join(", ");
}

async function sayOneWord() {
  const wasOpen = Boolean(closeMicrophone);
  if (!wasOpen) await toggle();
  $("word").textContent = "say it now";
  collecting = [];
  while (collecting.length < 18) await new Promise((resolve) => setTimeout(resolve, 50)); // 1.8 s
  const sound = Float32Array.from(collecting.flatMap((chunk) => [...chunk]));
  collecting = null;
  if (!wasOpen) await toggle();
  showTop("One word", await model.predict(loudestSecond(sound)));
}

// --- files and examples ---

async function hearFile(name, bytes) {
  const sound = await readFile(bytes);
  if (closeMicrophone) await toggle();
  restart();
  for (let at = 0; at + CHUNK <= sound.length; at += CHUNK) await hear(sound.slice(at, at + CHUNK));
  showTop(name, await model.predict(loudestSecond(sound)));
  showStatus();
}

/** Files that were dropped: a sound, or a model of one's own with its labels.txt. */
async function takeFiles(files) {
  const ending = (text) => [...files].find((file) => file.name.toLowerCase().endsWith(text));
  const [own, names, sound] = [ending(".tflite"), ending(".txt"), files[0]];
  if (!sound) return;
  await attempt(async () => {
    if (!own) return hearFile(sound.name, await sound.arrayBuffer());
    if (!names) throw new Error("drop labels.txt together with it: one label a line, as kws freeze writes it");
    const labels = (await names.text()).split("\n").map((line) => line.trim()).filter(Boolean);
    await useModel(own.name, new Uint8Array(await own.arrayBuffer()), labels);
  }, `${(own ?? sound).name}: `);
}

function addExample({ file, word }) {
  const figure = $("example").content.cloneNode(true).firstElementChild;
  figure.querySelector("figcaption").textContent = word;
  figure.querySelector("audio").src = file;
  figure.querySelector("button").setAttribute("aria-label", `What does the model hear in “${word}”?`);
  figure.querySelector("button").onclick = () => attempt(async () =>
    hearFile(`Spoken “${word}”`, await (await fetch(file)).arrayBuffer()));
  $("examples").append(figure);
}

// --- the start ---

$("opened").remove(); // the sentence for whoever opened the file without a server
await attempt(async () => {
  const { models, examples } = await (await fetch("contents.json")).json();
  examples.forEach(addExample);
  for (const button of document.querySelectorAll("button")) button.disabled = true;
  $("model").replaceChildren(...models.map((each, i) => new Option(each.name, i)));
  const choose = () => attempt(() => fetchModel(models[$("model").value]), `${models[$("model").value].file}: `);
  $("model").onchange = choose;
  $("listen").onclick = () => attempt(toggle);
  $("one").onclick = () => attempt(sayOneWord);
  $("threshold").oninput = () => {
    detector.threshold = Number($("threshold").value);
    $("least").textContent = percent(detector.threshold);
    $("bars").style.setProperty("--threshold", detector.threshold);
  };
  $("file").onchange = () => takeFiles($("file").files);
  document.body.ondragover = (event) => event.preventDefault();
  document.body.ondrop = (event) => {
    event.preventDefault();
    takeFiles(event.dataTransfer.files);
  };
  await choose();
});
document.body.dataset.ready = "yes";
