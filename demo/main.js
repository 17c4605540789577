// The page: what happens when, in the order of reading. model.js runs the model, microphone.js brings the sound,
// detector.js makes words of probabilities, mel.js draws.

import { KeywordDetector, LastSecond, loudestSecond } from "./detector.js";
import { RollingPicture } from "./mel.js";
import { openMicrophone, readFile } from "./microphone.js";
import { CHUNK, openModel, SECOND, top } from "./model.js";

const QUIET = 0.001; // a chunk without a larger sample holds no sound: a microphone that is on has more noise than that
const NO_SOUND = "No sound arrives: check the input device, and whether it is muted";
const $ = (id) => document.getElementById(id);
const percent = (probability) => `${Math.round(100 * probability)} %`;
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const picture = new RollingPicture($("picture"));
const models = []; // in the order of the selector: {name, labels, file or bytes, right}
let model; // the one that listens: {labels, predict, close, entry}, where `entry` is one of `models`
let current = null; // what is heard: {title, close, second, detector, …}; what comes late of an older one is left out
let opening = false; // the microphone is being opened; the browser may be asking the reader
let wanted; // the file that was chosen last

/** Show a problem, or none. */
function complain(text = "") {
  $("problem").textContent = text;
  $("problem").hidden = !text;
  $("problem").scrollIntoView({ block: "nearest" });
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

/** A copy of a <template>, with a text in its first element. */
function copyOf(id, text) {
  const copy = $(id).content.firstElementChild.cloneNode(true);
  copy.firstElementChild.textContent = text;
  return copy;
}

// --- the model ---

/** Make a model the one that listens; its labels become the bars. Where that fails, the one before listens on. */
async function useModel(entry) {
  $("status").textContent = `loading ${entry.name} …`;
  try {
    entry.bytes ??= await fetchBytes(entry.file);
    const opened = await openModel(entry.bytes, entry.labels);
    const times = [];
    for (let i = 0; i < 51; i++) {
      const start = performance.now();
      await opened.predict(new Float32Array(SECOND));
      times.push(performance.now() - start);
    }
    entry.ms = times.sort((a, b) => a - b)[25]; // the median: the first ones take longer
    model?.close();
    model = { ...opened, entry };
    if (!models.includes(entry)) addModel(entry);
  } finally {
    $("model").selectedIndex = models.indexOf(model?.entry);
    $("status").textContent = model ? describe(model.entry) : "no model yet";
  }
  if (current) Object.assign(current, fresh());
  $("words").textContent = model.labels.slice(2).join(", ");
  $("bars").replaceChildren(...model.labels.map((label) => copyOf("bar", label)));
  for (const button of document.querySelectorAll("button")) button.disabled = false;
}

async function fetchBytes(file) {
  const answer = await fetch(file);
  if (!answer.ok) throw new Error(`the server says ${answer.status}`);
  return new Uint8Array(await answer.arrayBuffer());
}

function addModel(entry) {
  models.push(entry);
  $("model").add(new Option(entry.name));
}

function describe({ name, bytes, ms, right }) {
  const facts = [name, `${Math.round(bytes.length / 1_000)} kB`, `${ms.toFixed(1)} ms for a look at one second of sound`];
  return [...facts, right].filter(Boolean).join(", ");
}

// --- what is heard: the microphone or a file, one at a time ---

const threshold = () => Number($("threshold").value);
const fresh = () => ({ second: new LastSecond(), detector: new KeywordDetector(model.labels, threshold()) });

/** End what is heard. */
function stop() {
  current?.close?.();
  current = null;
  $("word").textContent = "";
  say("");
  $("level").value = 0;
  Object.assign($("listen"), { textContent: "Listen", className: "" });
}

/** Hear something new; `close` is what ends it. */
function begin(title, close) {
  stop();
  const run = copyOf("run", title);
  $("history").prepend(run);
  $("history").children[5]?.remove();
  current = { title, close, words: run.lastElementChild, quiet: 0, ...fresh() };
  picture.clear();
  showBars([]);
  Object.assign($("listen"), { textContent: "Stop", className: "on" });
  return current;
}

/** A chunk of sound: draw it, ask the model what the last second holds, and show a word where one is heard. */
async function hear(own, chunk) {
  own.second.push(chunk);
  picture.push(chunk);
  const peak = Math.max(...chunk.map(Math.abs));
  $("level").value = Math.sqrt(peak); // speech often reaches a tenth of the largest peak only
  own.quiet = peak > QUIET ? 0 : own.quiet + 1;
  if (own.close) say(own.quiet > 50 ? NO_SOUND : `Listening: say ${$("words").textContent}`);
  if (own.chunks) return own.chunks.push(chunk); // of one word: the look comes at the end
  if (own.busy) return; // too slow a machine for ten looks a second: this look is left out, the sound is kept
  own.busy = true;
  const { second, detector } = own, ms = second.milliseconds;
  const probabilities = await model.predict(second.sound).finally(() => (own.busy = false));
  if (own !== current) return;
  showBars(probabilities);
  const heard = detector.update(ms, probabilities);
  if (!heard) return;
  showWord(heard.word);
  note(own, heard);
}

function showBars(probabilities) {
  [...$("bars").children].forEach((row, i) => row.style.setProperty("--share", probabilities[i] ?? 0));
}

function showWord(word) {
  $("word").replaceChildren(word); // a new child: the same word again is read out, and seen, again
  $("word").animate({ opacity: [0.2, 1] }, 300);
}

/** The line under the word. The same text is not set again, or it would be read out again. */
function say(text) {
  if ($("top").textContent !== text) $("top").textContent = text;
}

function note(own, { word, probability }) {
  own.words.prepend(copyOf("line", `${(own.second.milliseconds / 1_000).toFixed(1)} s  ${word}  ${percent(probability)}`));
  own.words.children[8]?.remove();
}

/** The end of one word or a file: what its loudest second is taken for. The word, the line and the bars say the same. */
async function answer(own, sound) {
  const probabilities = await model.predict(loudestSecond(sound));
  if (own !== current) return;
  stop();
  const best = top(model.labels, probabilities);
  showBars(probabilities);
  showWord(best[0].word);
  say(`${own.title}: ` + best.map((each) => `${each.word} ${percent(each.probability)}`).join(", "));
  if (own.chunks) note(own, best[0]);
  $("word").scrollIntoView({ block: "nearest" });
}

async function listen(title) {
  let own;
  const fail = (error) => {
    stop();
    complain(error.message);
  };
  opening = true;
  const close = await openMicrophone((chunk) => own === current && hear(own, chunk).catch(fail), fail)
    .finally(() => (opening = false));
  return (own = begin(title, close));
}

async function sayOneWord() {
  const own = await listen("One word");
  own.chunks = [];
  showWord("say it now");
  while (own === current && own.chunks.length < 18) await pause(50); // 1.8 s
  await answer(own, Float32Array.from(own.chunks.flatMap((chunk) => [...chunk])));
}

/** Hear a file; `bytes` is a promise. Of two that were chosen one after the other, the last counts, however long they take to read. */
async function hearFile(title, bytes) {
  if (!model) throw new Error("there is no model yet that could hear it. Wait a moment, or choose one");
  const mine = (wanted = bytes), sound = await readFile(await bytes);
  if (mine !== wanted) return;
  const own = begin(title);
  for (let at = 0; own === current && at + CHUNK <= sound.length; at += CHUNK) {
    await hear(own, sound.slice(at, at + CHUNK));
    await pause(0); // the page moves, and Stop can be pressed
  }
  await answer(own, sound);
}

// --- the reader's files, and the examples ---

/** Files that were chosen or dropped: a sound, or a model of one's own with its labels.txt. */
async function takeFiles(files) {
  const ending = (text) => files.find((file) => file.name.toLowerCase().endsWith(text));
  const own = ending(".tflite"), names = ending(".txt"), file = own ?? names ?? files[0];
  if (!file) return; // text was dropped
  await attempt(async () => {
    if (!own && !names) return hearFile(file.name, file.arrayBuffer());
    if (!names) throw new Error("drop labels.txt together with it: one label a line, as kws freeze writes it");
    if (!own) throw new Error("drop the .tflite file that it belongs to together with it");
    const labels = (await names.text()).split("\n").map((line) => line.trim()).filter(Boolean);
    await useModel({ name: own.name, bytes: new Uint8Array(await own.arrayBuffer()), labels });
  }, `${file.name}: `);
}

function addExample({ file, word }) {
  const figure = copyOf("example", word), button = figure.querySelector("button");
  figure.querySelector("audio").src = file;
  button.setAttribute("aria-label", `What does the model hear in “${word}”?`);
  button.onclick = () => attempt(async () => hearFile(`Spoken “${word}”`, fetchBytes(file).then((bytes) => bytes.buffer)));
  $("examples").append(figure);
}

// --- the start ---

$("opened").remove(); // the sentence for whoever opened the file without a server
await attempt(async () => {
  const contents = await (await fetch("contents.json")).json();
  contents.models.forEach(addModel);
  contents.examples.forEach(addExample);
  const choose = (entry) => attempt(() => useModel(entry), `${entry.name}: `);
  $("model").onchange = () => choose(models[$("model").selectedIndex]);
  $("listen").onclick = () => opening || attempt(async () => (current ? stop() : listen("Microphone")));
  $("one").onclick = () => opening || attempt(sayOneWord);
  $("threshold").oninput = () => {
    if (current) current.detector.threshold = threshold();
    $("least").textContent = percent(threshold());
    $("bars").style.setProperty("--threshold", threshold());
  };
  $("file").onclick = () => ($("file").value = ""); // so that the same file can be chosen again
  $("file").onchange = () => takeFiles([...$("file").files]);
  document.body.ondragover = (event) => event.preventDefault();
  document.body.ondrop = (event) => {
    event.preventDefault();
    takeFiles([...event.dataTransfer.files]);
  };
  await choose(models[0]);
});
document.body.dataset.ready = "yes";
