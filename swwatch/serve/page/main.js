// The page: sources and panes wired to buttons and keys.

import { forget, getJson, keepToken, socketAddress, takeTokenFromAddress, Unauthorised, upload } from "./api.js";
import { byId, fillSelect } from "./dom.js";
import { listenToKeys } from "./keys.js";
import { Pane } from "./pane.js";
import { Player, Recording } from "./replay.js";
import { listCameras, openCamera, openFile, openScreen, Sampler, Thumbs } from "./sources.js";

const DRAW_MS = 250;
const HINTS = {
  camera: "Pictures go from this page to the server, nowhere else.",
  screen: "A screen, a window or a tab; the browser asks which.",
  video: "Played here; this page sends pictures of it.",
  upload: "Sent to the server as a whole, read there, and removed afterwards.",
  file: "Read by the server; not shown here.",
  url: "Fetched by the server; not shown here.",
  recording: "A session saved earlier, told again.",
};
const HERE = ["camera", "screen", "video"]; // this page sends the frames

const video = byId("video");
const thumbs = new Thumbs();
const panes = [];
let info = null;
let run = null; // what is on: {which, release, sampler, uploaded} or {which, release, player}
let ownQuestion = ""; // of the first pane's model
let putAway = null; // takes the file of the run before off the screen; its words still lead to their seconds

const kind = () => document.querySelector("[name=source]:checked").value;

function tell(sentence) {
  byId("message").textContent = sentence;
}

// --- beginning ---

async function begin() {
  try {
    info = await getJson("api/info");
  } catch (error) {
    byId("access").hidden = !(error instanceof Unauthorised);
    tell(error.message);
    return;
  }
  byId("access").hidden = true;
  tell((info.notes ?? []).join(" "));
  byId("model").textContent = `${info.model}: speaking while watching`;
  byId("question").maxLength = info.limits?.question_chars ?? 1000;
  for (const source of ["upload", "file", "url"]) {
    const radio = document.querySelector(`[name=source][value=${source}]`);
    radio.disabled = !info.sources.includes(source);
    radio.parentElement.title = radio.disabled ? "This server was started without it." : "";
  }
  if (!panes.length) addPane();
  showQuestion();
  refresh();
}

/** Until something else is written there, the field has what the first pane's model is asked by itself. */
function showQuestion() {
  const field = byId("question");
  if (!field.value || field.value === ownQuestion) field.value = panes[0].ownQuestion;
  ownQuestion = panes[0].ownQuestion;
}

async function showSource() {
  for (const part of document.querySelectorAll("[data-for]")) part.hidden = !part.dataset.for.split(" ").includes(kind());
  byId("hint").textContent = HINTS[kind()];
  byId("start").textContent = kind() === "recording" ? "Open" : "Start";
  if (kind() === "camera") await fillCameras();
  if (kind() === "file" && info) {
    const { files } = await getJson("api/files").catch(() => ({ files: [] }));
    fillSelect(byId("server-file"), files.map((name) => [name, name]));
  }
}

async function fillCameras() {
  const cameras = await listCameras();
  fillSelect(byId("camera"), [["", "the browser's choice"], ...cameras.map(({ deviceId, label }) => [deviceId, label || "camera"])]);
}

// --- panes ---

function addPane() {
  const pane = new Pane(panes.length + 1, { info, thumbs, onChange: refresh, onVariant: showQuestion, onWord: goTo });
  panes.push(pane);
  byId("panes").append(pane.element);
  pane.draw();
  if (run) pane.note("This pane takes part from the next start on.");
  refresh();
}

/** To the second that a word had seen, where a recording or a file is there to go back in. */
function goTo(word) {
  if (run?.player) run.player.seek(word.said);
  else if (!run && video.src) video.currentTime = word.seen;
}

function removePane() {
  const pane = panes.pop();
  pane.remove();
  refresh();
}

const togglePane = () => (panes.length > 1 ? removePane() : addPane());

// --- a run ---

/** What `open` says of the source; local ones send their frames over the socket. */
async function sourceOf(which) {
  if (which === "file") return { kind: "file", name: byId("server-file").value };
  if (which === "url") return { kind: "url", url: byId("url").value.trim() };
  if (which === "upload") return { kind: "upload", id: (run.uploaded = await upload(chosenFile("video-file"))) };
  return null;
}

function chosenFile(id) {
  const [file] = byId(id).files;
  if (!file) throw new Error("Choose a file first.");
  return file;
}

async function showPicture(which) {
  if (which === "camera") return openCamera(video, byId("camera").value);
  if (which === "screen") return openScreen(video);
  if (which === "video") return openFile(video, chosenFile("video-file"));
  if (which === "upload") return openFile(video, chosenFile("video-file")).catch(() => null); // the server may read more
  return null;
}

async function start() {
  if (run || !info) return;
  const which = kind();
  run = { which };
  putAway?.();
  putAway = null;
  tell("");
  refresh();
  try {
    if (which === "recording") await startReplay();
    else await startLive(which);
  } catch (error) {
    if (error instanceof Unauthorised) byId("access").hidden = false;
    tell(error.name === "NotAllowedError" ? "The browser did not allow it." : error.message);
    halt();
  }
}

async function startLive(which) {
  const mine = run;
  mine.release = await showPicture(which);
  if (run !== mine) return mine.release?.(); // stopped while the browser asked for permission
  if (which === "camera") fillCameras(); // names are told after permission only
  thumbs.clear();
  const asked = byId("rate").valueAsNumber || null; // null: as many as the model watches
  const question = byId("question").value.trim();
  const options = {
    source: await sourceOf(which),
    question: [ownQuestion, ""].includes(question) ? null : question,
    rate: asked,
    policy: byId("policy").value,
    record: byId("record").checked,
  };
  const opened = await Promise.all(panes.map((pane) => pane.open(options, socketAddress())));
  if (run !== mine || !opened.includes(true)) return halt(mine);
  const rate = asked ?? Math.max(...panes.map((pane) => pane.story.fps));
  if (HERE.includes(which)) mine.sampler = new Sampler(video, { rate, onPicture: send, onEnd: finish });
  else if (video.src) mine.sampler = new Sampler(video, { rate, onPicture: ({ canvas, s }) => thumbs.keep(canvas, s), onEnd: () => null });
  if (which === "video") await Promise.all(panes.map((pane) => pane.firstAnswer)); // it starts their clocks
  if (run === mine && video.src) await video.play();
}

function send({ bytes, s, canvas }) {
  thumbs.keep(canvas, s);
  for (const pane of panes) if (pane.running) pane.connection.sendFrame(bytes, s);
}

const say = (message) => panes.forEach((pane) => pane.say(message));

function ask() {
  const question = byId("question").value.trim();
  if (question && panes.some((pane) => pane.running)) say({ type: "ask", question });
}

function pause() {
  const silent = byId("pause").getAttribute("aria-pressed") === "true";
  say({ type: silent ? "resume" : "pause" });
}

/** No more frames; the panes go on until all is said. */
function finish() {
  run?.sampler?.stop();
  video.pause();
  say({ type: "end" });
  if (run) run.finishing = true;
  refresh();
}

function stop() {
  if (run?.player) return halt();
  if (panes.some((pane) => pane.running && pane.connection.state === "live")) say({ type: "stop" });
  else halt();
}

/** Back to the beginning: nothing is sent or played any more. */
function halt(which = run) {
  if (!which || which !== run) return;
  run = null;
  which.sampler?.stop();
  which.player?.close();
  if (video.src) {
    video.pause();
    putAway = which.release;
  } else which.release?.();
  if (which.uploaded) forget(which.uploaded);
  panes.forEach((pane) => pane.close());
  refresh();
}

// --- replay ---

async function startReplay() {
  const files = [...byId("recording-file").files].slice(0, 2);
  if (!files.length) throw new Error("Choose a recording (.jsonl) first.");
  const recordings = await Promise.all(files.map(Recording.read));
  while (panes.length < recordings.length) addPane();
  const [film] = byId("recording-video").files;
  thumbs.clear();
  if (film) run.release = await openFile(video, film);
  const tracks = recordings.map((recording, i) => ({ recording, pane: panes[i] }));
  run.player = new Player(tracks, film ? video : null, showMoment);
  byId("moment").max = run.player.length;
  run.player.play();
  refresh();
}

function showMoment(s, playing) {
  byId("moment").value = s;
  byId("moment-text").textContent = `${s.toFixed(1)} s`;
  byId("play").textContent = playing ? "Hold" : "Play";
}

// --- the page's own state ---

function refresh() {
  const live = panes.some((pane) => pane.running);
  if (run && !run.player && run.began && !live) return halt();
  if (run && live) run.began = true;
  const paused = panes.some((pane) => pane.running && pane.paused);
  byId("start").disabled = Boolean(run) || !info;
  for (const id of ["ask-button", "pause"]) byId(id).disabled = !live;
  byId("finish").disabled = !live || Boolean(run?.finishing);
  byId("stop").disabled = !run;
  byId("sources").disabled = Boolean(run);
  byId("more").querySelectorAll("input, select").forEach((input) => (input.disabled = Boolean(run)));
  for (const { part } of panes) part.choose.hidden = Boolean(run);
  byId("setup").classList.toggle("running", Boolean(run));
  byId("pause").setAttribute("aria-pressed", paused);
  byId("pause").textContent = paused ? "Speak again" : "Pause";
  byId("player").hidden = !run?.player;
  byId("curtain").hidden = Boolean(run?.release || putAway);
  byId("curtain").textContent = run && !run.release ? "The server reads this one; it is not shown here." : "No video yet: choose a source and start.";
  byId("add").textContent = panes.length > 1 ? "Remove the second pane" : "Add a second pane";
  byId("panes").classList.toggle("two", panes.length > 1);
}

byId("setup").addEventListener("submit", (event) => {
  event.preventDefault();
  start();
});
byId("question").addEventListener("keydown", ({ key, isComposing }) => key === "Enter" && !isComposing && ask());
byId("access").addEventListener("submit", (event) => {
  event.preventDefault();
  keepToken(byId("token").value.trim());
  begin();
});
byId("sources").addEventListener("change", (event) => event.target.name === "source" && showSource());
const buttons = { "ask-button": ask, pause, finish, stop, add: togglePane, help: () => byId("shortcuts").showModal() };
for (const [id, action] of Object.entries(buttons)) byId(id).addEventListener("click", action);
byId("play").addEventListener("click", () => (run.player.playing ? run.player.pause() : run.player.play()));
byId("moment").addEventListener("input", () => run.player?.seek(byId("moment").valueAsNumber));
listenToKeys({
  s: () => byId("start").click(),
  p: () => byId("pause").click(),
  e: () => byId("finish").click(),
  x: () => byId("stop").click(),
  q: () => byId("question").focus(),
  w: () => document.querySelector(".word[tabindex='0']")?.focus(),
  2: togglePane,
  "?": () => byId("shortcuts").showModal(),
});
setInterval(() => panes.forEach((pane) => (pane.running || run?.player) && pane.draw()), DRAW_MS);
addEventListener("resize", () => panes.forEach((pane) => pane.draw()));
addEventListener("pagehide", () => halt());
takeTokenFromAddress();
begin().then(showSource);
