"use strict";
// The clip browser. All text goes in as text nodes, never as markup: captions come from models and data sets.
(() => {
const SHOWN = 300; // clips in the list at first
const TINTS = 8; // colours, repeated every 8 seconds
const { runs, clips, asItIs } = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const [search, filter, sort, descending] = ["search", "filter", "sort", "descending"].map(byId);
let listed = [];
let chosen = null;
let room = SHOWN;

// make("p", {class: "x", title: "y"}, "text", node, ...)
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value != null) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const names = (part) => [...new Set(clips.flatMap((clip) => clip.runs.flatMap((run) => Object.keys(run?.[part] ?? {}))))];
const metrics = names("scores");
const times = names("times");
const tasks = [...new Set(clips.map((clip) => clip.task))].filter(Boolean);
const shown = {
  scores: (name, value) => (value == null ? "–" : asItIs.includes(name) ? `${value}` : (100 * value).toFixed(1)),
  times: (name, value) => (value == null ? "–" : `${+value.toPrecision(4)}`),
};
const seconds = (clip) => clip.seconds ?? clip.frames?.length ?? null;
const plain = (name) => name.replace(/^num_/, "number of ").replace(/_(m?s)$/, " ($1)").replaceAll("_", " ");

// What the list can be sorted by: name -> {of: clip -> value or null, show: value -> text}
const orders = { "file order": {}, "clip id": { of: (clip) => clip.id } };
orders["length of video"] = { of: seconds, show: (value) => `${+value.toFixed(1)} s` };
orders["length of reference"] = { of: (clip) => clip.reference.length, show: (value) => `${value} letters` };
for (const [part, metric] of [...metrics.map((name) => ["scores", name]), ...times.map((name) => ["times", name])]) {
  const show = (value) => shown[part](metric, value);
  runs.forEach((run, i) => {
    orders[runs.length > 1 ? `${plain(metric)}, ${run}` : plain(metric)] = { of: (clip) => clip.runs[i]?.[part][metric], show };
  });
  if (runs.length > 1) {
    const spread = (clip) => {
      const values = clip.runs.map((run) => run?.[part][metric]).filter((value) => value != null);
      return values.length > 1 ? Math.max(...values) - Math.min(...values) : null;
    };
    orders[`${plain(metric)}, difference of runs`] = { of: spread, show };
  }
}

const filters = {
  "all clips": () => true,
  "with frames": (clip) => clip.frames,
  "with an empty caption": (clip) => clip.runs.some((run) => run && !run.text.trim()),
};
for (const task of tasks.length > 1 ? tasks : []) filters[`task ${task}`] = (clip) => clip.task === task;
if (runs.length > 1) filters["not in every run"] = (clip) => clip.runs.includes(null);

function matches(clip, words) {
  const text = [clip.id, clip.reference, ...clip.runs.map((run) => run?.text ?? "")].join("\n").toLowerCase();
  return words.every((word) => text.includes(word));
}

function select() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  listed = clips.filter((clip) => filters[filter.value](clip) && matches(clip, words));
  const of = orders[sort.value].of;
  const sign = descending.checked ? -1 : 1;
  if (of) {
    const missing = (clip) => of(clip) == null;
    listed.sort((a, b) => missing(a) - missing(b) || (missing(a) ? 0 : sign * compare(of(a), of(b))));
  } else if (sign < 0) listed.reverse();
  room = SHOWN;
  list();
}

const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b);

function list() {
  const { of, show } = orders[sort.value];
  const items = listed.slice(0, room).map((clip) => {
    const value = of && show && of(clip) != null ? show(of(clip)) : "";
    const button = make("button", { type: "button", "aria-current": clip === chosen ? "true" : null });
    button.append(make("bdi", {}, clip.id), make("span", { class: "value" }, value));
    button.addEventListener("click", () => choose(clip));
    return make("li", {}, button);
  });
  if (listed.length > room) {
    const more = make("button", { type: "button" }, `${listed.length - room} more ...`);
    more.addEventListener("click", () => ((room += SHOWN), list()));
    items.push(make("li", {}, more));
  }
  byId("list").replaceChildren(...items);
  byId("count").textContent = `${listed.length} of ${clips.length} clips`;
}

function choose(clip, scroll = true) {
  chosen = clip;
  for (const [i, item] of [...byId("list").children].entries()) {
    const here = listed[i] === clip && i < room;
    item.firstChild.toggleAttribute("aria-current", here);
    if (here) item.firstChild.setAttribute("aria-current", "true");
  }
  byId("clip").replaceChildren(...details(clip));
  if (scroll) {
    history.replaceState(null, "", `#clip=${encodeURIComponent(clip.id)}`);
    if (matchMedia("(max-width: 50rem)").matches) byId("clip").scrollIntoView();
  }
}

function details(clip) {
  const length = seconds(clip);
  const facts = [clip.task && `task ${clip.task}`, length && `${+length.toFixed(1)} s`].filter(Boolean).join(", ");
  const step = (by, text) => {
    const next = listed[listed.indexOf(chosen) + by];
    const button = make("button", { type: "button" }, text);
    button.disabled = !next;
    button.addEventListener("click", () => choose(next));
    return button;
  };
  const head = make("div", { class: "head" }, make("h3", {}, make("bdi", {}, clip.id)), make("span", {}, facts));
  head.append(step(-1, "previous"), step(1, "next"));
  const parts = [head, frames(clip), make("h4", {}, "Reference")];
  parts.push(make("p", { class: "text", dir: "auto" }, clip.reference || "(none)"));
  if (clip.events.length) parts.push(make("ul", { class: "events" }, ...clip.events.map((event) => make("li", {}, event))));
  const key = "A word has the colour of the frame of the second at which it was spoken; the small number is that second.";
  parts.push(make("h4", {}, "Captions"), make("p", { class: "missing" }, key));
  const cards = make("div", { class: "cards" });
  clip.runs.forEach((run, i) => cards.append(card(runs[i], run)));
  parts.push(cards, valueTable(clip, "scores", metrics, "Scores of this clip"));
  if (times.length) parts.push(valueTable(clip, "times", times, "Times of this clip"));
  return parts;
}

function frames(clip) {
  if (!clip.frames) return make("p", { class: "missing" }, `No frames: ${clip.no_frames}`);
  const strip = make("div", { class: "frames", role: "group", "aria-label": "Frames, one a step" });
  clip.frames.forEach((uri, step) => {
    const s = (step + 1) * clip.step_s;
    const picture = make("img", { src: uri, alt: `second ${s} of the video` });
    strip.append(make("figure", { class: tint(step), "data-step": step }, picture, make("figcaption", {}, `${s} s`)));
  });
  return strip;
}

const tint = (step) => `tint tint${step % TINTS}`;

function card(name, run) {
  const element = make("section", { class: "card" }, make("h4", {}, make("bdi", {}, name)));
  if (!run) return element.append(make("p", { class: "missing" }, "This run has no caption of this clip.")), element;
  if (!run.text.trim()) element.append(make("p", { class: "missing" }, "(empty caption)"));
  else element.append(run.tokens ? spoken(run.tokens, run.step_s) : make("p", { class: "text", dir: "auto" }, run.text));
  if (!run.tokens) element.append(make("p", { class: "missing" }, "No trace of this caption's tokens: when each word was spoken is not known."));
  return element;
}

// The caption, one span for the tokens of a step that follow each other, in it one span a token.
function spoken(tokens, stepS) {
  const text = make("p", { class: "text", dir: "auto" });
  const about = make("p", { class: "about", "aria-live": "polite" }, "Point at a word, or choose one with the Tab and arrow keys.");
  let group = null;
  let held = 0; // tokens so far that carry a part of a character only
  for (const [word, step, newest, emitted, stale] of tokens) {
    if (!word) {
      held += 1;
      continue;
    }
    let letters = word;
    if (group?.dataset.step !== String(step)) {
      group = make("span", { class: tint(step), "data-step": step, "data-second": (step + 1) * stepS });
      letters = word.trimStart(); // the space before a second's first word stays outside its colour
      text.append(word.slice(0, word.length - letters.length), group);
    }
    const ms = (value) => `${(value / 1000).toFixed(3)} s`;
    const parts = held ? ` (${held + 1} tokens make it up)` : "";
    held = 0; // below, U+2068 and U+2069 keep the word's own direction of writing away from the sentence
    const told = `“\u2068${word.trim()}\u2069”${parts}: spoken at second ${(step + 1) * stepS} (step ${step}), newest second seen ${(newest + 1) * stepS}, emitted at ${ms(emitted)}, staleness ${ms(stale)}`;
    const token = make("span", { class: "token", title: told, tabindex: text.querySelector(".token") ? -1 : 0 }, letters);
    const tell = () => {
      about.textContent = told;
      mark(step, newest);
    };
    token.addEventListener("mouseenter", tell);
    token.addEventListener("focus", tell);
    token.addEventListener("mouseleave", () => mark());
    token.addEventListener("blur", () => mark());
    group.append(token);
  }
  text.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const all = [...text.querySelectorAll(".token")];
    const next = by && all[all.indexOf(event.target) + by];
    if (next) next.focus(), event.preventDefault();
  });
  return make("div", {}, text, about);
}

// Lift the frame of a step, and that of the newest second seen, out of the strip.
function mark(step, newest) {
  for (const figure of document.querySelectorAll("#clip .frames figure")) {
    figure.classList.toggle("spoken", Number(figure.dataset.step) === step);
    figure.classList.toggle("seen", Number(figure.dataset.step) === newest);
  }
}

function valueTable(clip, part, columns, label) {
  if (!columns.length) return make("p", { class: "missing" }, "No scores of single clips.");
  const head = make("tr", {}, make("td"), ...columns.map((name) => make("th", { scope: "col", class: "number" }, plain(name))));
  const rows = clip.runs.map((run, i) =>
    make(
      "tr",
      {},
      make("th", { scope: "row" }, make("bdi", {}, runs[i])),
      ...columns.map((name) => make("td", {}, shown[part](name, run?.[part][name]))),
    ),
  );
  const table = make("table", { class: "numbers" }, make("thead", {}, head), make("tbody", {}, ...rows));
  return make("div", { class: "scroll", role: "region", "aria-label": label, tabindex: 0 }, make("h4", {}, label), table);
}

function fromAddress() {
  const found = /^#clip=(.*)$/.exec(location.hash);
  return found && clips.find((clip) => encodeURIComponent(clip.id) === found[1]);
}

filter.append(...Object.keys(filters).map((name) => make("option", {}, name)));
sort.append(...Object.keys(orders).map((name) => make("option", {}, name)));
for (const control of [search, filter, sort, descending]) control.addEventListener("input", select);
byId("controls").addEventListener("submit", (event) => event.preventDefault());
addEventListener("hashchange", () => fromAddress() && choose(fromAddress()));
byId("browser").hidden = false;
select();
if (clips.length) choose(fromAddress() ?? clips[0], false);
})();
