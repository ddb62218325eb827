// The page: pictures in, boxes out. What detects is a server or, in a folder of export.web, the browser itself.

import { PALETTE, decode, draw, shownOf } from "./detect.js";
import { inBrowser, onServer } from "./detectors.js";

const at = (id) => document.getElementById(id);
const LARGEST_CANVAS = 16e6; // px: browsers of phones draw nothing on a larger one

let model = null;
let detector = null;
let classes = []; // by label: {on, score, and the elements that show them}
const entries = []; // {name, file, row, took, failure, button}
let current = null;
let bitmap = null; // of the current picture
let drawing = 0; // number of the last picture that was asked for

// ---- start ----

const address = document.documentElement.dataset.model; // model.json where there is no server

async function start() {
  const token = at("token").value;
  if (!/^[ -~]*$/.test(token)) return say("problem", "The server does not take this token."); // no header may hold it
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  let answer;
  try {
    answer = await fetch(address, { headers });
  } catch {
    const where = location.protocol === "file:" ? "serve this folder over HTTP, for instance with `python -m http.server`" : "try again later";
    return say("problem", `The description of the model cannot be loaded; ${where}.`);
  }
  at("unlock").hidden = answer.status !== 401;
  if (answer.status === 401) return say("problem", token ? "The server does not take this token." : "The server asks for its token.");
  if (!answer.ok) return say("problem", `The description of the model cannot be loaded (${answer.status}).`);
  model = await answer.json();
  say("problem", "");
  describe();
  fillClasses();
  say("status", "Loading the model ...");
  try {
    detector = await (address.endsWith(".json") ? inBrowser(model) : onServer(headers));
  } catch (error) {
    say("status", "");
    return say("problem", `The model cannot be loaded: ${error.message}`);
  }
  at("about").textContent = detector.about;
  at("where").textContent = detector.promise;
  at("camera").hidden = !(detector.local && navigator.mediaDevices);
  say("status", "Ready.");
  for (let i = 0; i < detector.together; i++) work();
}

function say(id, text) {
  at(id).textContent = text;
}

function describe() {
  document.title = `${model.name}: detector`;
  say("name", model.name);
  const facts = {
    Classes: model.names.join(", "),
    Canvases: model.canvases.map((canvas) => canvas.join("x")).join(", ") + " (height x width, px)",
    Resizing: `shorter side at most ${model.short_side} px, longer at most ${model.long_side} px`,
    Precision: model.precision,
    "Score of highest F1": model.names.map((name, label) => `${name} ${model.score_thresholds[label]}`).join(", "),
    Digest: model.digest,
    "Version of gfl": model.version,
    Runtime: model.runtime ?? model.provider,
  };
  for (const [term, fact] of Object.entries(facts)) {
    if (fact) at("facts-of-model").append(element("dt", term), element("dd", fact));
  }
}

function element(name, text = "", properties = {}) {
  return Object.assign(document.createElement(name), text === "" ? {} : { textContent: text }, properties);
}

// ---- classes and scores ----

function fillClasses() {
  classes = model.names.map((name, label) => {
    const item = element("li"), text = element("label");
    const swatch = element("canvas", "", { className: "swatch", width: 1, height: 1 }); // a style would need a looser CSP
    const ground = swatch.getContext("2d");
    ground.fillStyle = `rgb(${PALETTE[label % PALETTE.length].join(" ")})`;
    ground.fillRect(0, 0, 1, 1);
    const check = element("input", "", { type: "checkbox", checked: true });
    const slider = element("input", "", { type: "range", min: 0, max: 1, step: 0.01, ariaLabel: `${name}: from this score on` });
    const output = element("output"), count = element("span", "", { className: "faint" });
    text.append(check, " ", swatch, ` ${name} `, count);
    item.append(text, output, slider);
    at("classes").append(item);
    const each = { on: true, score: 0, check, slider, output, count };
    check.onchange = () => { each.on = check.checked; show(); };
    slider.oninput = () => { setScore(each, Number(slider.value)); sayScores(); show(); };
    return each;
  });
  own();
}

function setScore(each, score) {
  each.score = score;
  each.slider.value = score;
  each.output.textContent = score.toFixed(3).replace(/0$/, "");
}

function sayScores() {
  const scores = classes.map((each) => each.score);
  const [low, high] = [Math.min(...scores), Math.max(...scores)].map((score) => score.toFixed(2));
  say("score-value", low === high ? low : `${low} to ${high}`);
}

function own() {
  classes.forEach((each, label) => setScore(each, model.score_thresholds[label]));
  at("score").value = classes.reduce((sum, each) => sum + each.score, 0) / classes.length;
  sayScores();
  show();
}

at("own").onclick = own;
at("score").oninput = () => {
  for (const each of classes) setScore(each, Number(at("score").value));
  sayScores();
  show();
};
for (const on of [true, false]) {
  at(on ? "all" : "none").onclick = () => {
    for (const each of classes) each.on = each.check.checked = on;
    show();
  };
}

// ---- pictures ----

function add(files) {
  for (const file of files) enter({ name: file.name || "pasted picture", file });
  wake();
}

function enter(entry) {
  entry.button = element("button", entry.name, { type: "button", onclick: () => select(entry) });
  const item = element("li");
  item.append(entry.button);
  at("pictures").append(item);
  entries.push(entry);
  at("work").hidden = false;
  if (!current) select(entry);
}

let waiting = []; // workers without a picture
const wake = () => waiting.splice(0).forEach((go) => go());

// Detect in one picture after the other, for ever.
async function work() {
  for (;;) {
    const entry = entries.find((each) => !each.started);
    if (!entry) {
      await new Promise((go) => waiting.push(go));
      continue;
    }
    entry.started = true;
    try {
      Object.assign(entry, await detector.detect(entry.file));
      if (entry.row.failure) entry.failure = entry.row.failure;
    } catch (error) {
      entry.failure = error.message;
    }
    sayProgress();
    sayCount(entry);
    if (entry === current) show();
  }
}

function sayProgress() {
  const done = entries.filter((each) => each.row || each.failure).length;
  const failed = entries.filter((each) => each.failure).length;
  say("status", entries.length ? `${done} of ${entries.length} pictures done${failed ? `, ${failed} failed` : ""}.` : "");
}

function sayCount(entry) {
  const text = entry.failure ? "failed" : entry.row ? shownOf(entry.row, model, classes).length : "...";
  entry.button.textContent = `${entry.name} (${text})`;
}

async function select(entry) {
  current?.button.removeAttribute("aria-current");
  current = entry;
  entry.button.setAttribute("aria-current", "true");
  entry.button.scrollIntoView({ block: "nearest" });
  const number = ++drawing;
  const decoded = await decode(entry.file).catch(() => null);
  if (number !== drawing) return decoded?.close(); // another was chosen meanwhile
  bitmap?.close();
  bitmap = decoded;
  show();
}

// Draw the current picture, and say what is on it.
function show() {
  if (model) for (const entry of entries) if (entry.row) sayCount(entry);
  if (!current) return;
  const { row, failure, took } = current;
  say("file", current.name);
  const shown = row && !row.failure ? shownOf(row, model, classes) : [];
  paint(bitmap, shown);
  at("found").replaceChildren(...shown.map(({ label, score, bbox }) => {
    const line = element("tr");
    line.append(element("td", model.names[label]), element("td", score.toFixed(3), { className: "number" }));
    line.append(element("td", bbox.map((side) => side.toFixed(1)).join(", "), { className: "number" }));
    return line;
  }));
  for (const [label, each] of classes.entries()) {
    const count = shown.filter((detection) => detection.label === label).length;
    each.count.textContent = count ? `(${count})` : "";
  }
  const facts = failure ? `It failed: ${failure}.` : row ? [
    `${shown.length} shown of ${row.count}`, bitmap ? `${row.width}x${row.height} px` : "this browser cannot show it", took,
    row.complete ? "" : "NMS did not settle: detections may be missing",
  ].filter(Boolean).join("; ") + "." : "Waiting.";
  say("facts", facts);
  const kinds = shown.map(({ label, score }) => `${model.names[label]} ${score.toFixed(2)}`).slice(0, 20).join(", ");
  at("picture").setAttribute("aria-label", `${current.name}: ${kinds || "nothing"}`);
  at("save-picture").disabled = !row || !bitmap;
  at("save-json").disabled = !entries.some((each) => each.row || each.failure);
}

function paint(picture, shown) {
  const canvas = at("picture");
  const [height, width] = picture ? [picture.height, picture.width] : [1, 1];
  const scale = Math.min(1, Math.sqrt(LARGEST_CANVAS / (height * width)));
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  if (!picture) return;
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  context.drawImage(picture, 0, 0);
  draw(context, [height, width], shown, model, at("edges").checked);
}

at("edges").onchange = show;
at("clear").onclick = () => {
  entries.length = 0;
  current = null;
  drawing++;
  bitmap?.close();
  bitmap = null;
  at("pictures").replaceChildren();
  at("work").hidden = true;
  sayProgress();
  at("files").focus();
};

// ---- ways in ----

at("files").onchange = () => {
  add([...at("files").files]);
  at("files").value = ""; // so that the same file can be chosen again
};
at("unlock").onsubmit = (event) => {
  event.preventDefault();
  start();
};
const pictures = (transfer) => [...transfer.files];
addEventListener("paste", (event) => add(pictures(event.clipboardData)));
addEventListener("dragover", (event) => {
  event.preventDefault();
  at("drop").classList.add("over");
});
addEventListener("dragleave", () => at("drop").classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  at("drop").classList.remove("over");
  add(pictures(event.dataTransfer));
});
addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!step || !current || event.altKey || event.ctrlKey || event.metaKey || event.target.matches("input")) return;
  const next = entries[entries.indexOf(current) + step];
  if (next) {
    event.preventDefault();
    select(next);
    if (document.activeElement.closest?.("#pictures")) next.button.focus();
  }
});

// ---- the camera: a frame after the other, none of which leaves the tab; the last one stays as a picture ----

let stream = null;

at("camera").onclick = async () => {
  if (stream) return stop();
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    return say("problem", `The camera cannot be used: ${error.message}.`);
  }
  say("problem", "");
  at("camera").textContent = "Stop the camera";
  const video = element("video", "", { srcObject: stream, muted: true, playsInline: true });
  await video.play();
  const entry = { name: `camera ${new Date().toLocaleTimeString()}`, started: true };
  while (stream) {
    const frame = await createImageBitmap(video);
    const seen = await detector.detect(await createImageBitmap(frame));
    if (!entry.file) {
      Object.assign(entry, { file: await fileOf(frame) }, seen);
      enter(entry);
      await select(entry);
    }
    Object.assign(entry, seen);
    bitmap?.close();
    bitmap = frame;
    show();
    if (current !== entry) stop();
  }
  if (current === entry) entry.file = await fileOf(bitmap);
};

function stop() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
  at("camera").textContent = "Camera";
}

function fileOf(frame) {
  const canvas = new OffscreenCanvas(frame.width, frame.height);
  canvas.getContext("2d").drawImage(frame, 0, 0);
  return canvas.convertToBlob({ type: "image/png" });
}

// ---- ways out ----

function save(blob, name) {
  const link = element("a", "", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

at("save-picture").onclick = () => {
  const name = `${current.name.replace(/\.\w+$/, "")}_drawn.jpg`;
  at("picture").toBlob((blob) => save(blob, name), "image/jpeg", 0.95);
};
at("save-json").onclick = () => {
  const rows = entries.map(({ name, row, failure }, index) => ({ entry: { id: index + 1, file: name }, row, failure }));
  const empty = { width: null, height: null, count: 0, complete: null, detections: [] };
  const done = rows.filter(({ row, failure }) => row || failure);
  const content = done.map(({ entry, row, failure }) => ({ ...(row ?? empty), ...entry, failure: failure ?? null }));
  save(new Blob([JSON.stringify(content)], { type: "application/json" }), "detections.json");
};

start();
