// The timeline of one session: frames arrived, steps seen and how much of them, words spoken and silence decided, steps
// dropped, over the seconds of the stream.

import { draw, make } from "./dom.js";

const SHOWN_S = 30; // while live
const FIRST_S = 12; // shown at the beginning
const LABELS = 52; // pixels left of the axis
const ROW = 18;
const ROWS = ["frames", "seen", "said", "dropped"];
const TOP = 4;
const HEIGHT = TOP + ROWS.length * ROW + 18;
const NEAR = 10; // pixels from a word that still point at it

export class Timeline {
  /** @param {(word: object|null) => void} onPoint called when a pointer is at a word */
  constructor(svg, table, onPoint) {
    Object.assign(this, { svg, table, words: [] });
    svg.setAttribute("height", HEIGHT);
    svg.addEventListener("pointermove", (event) => onPoint(this.#near(event.offsetX)));
    svg.addEventListener("pointerleave", () => onPoint(null));
  }

  /** Draw the last SHOWN_S seconds, or all of it; `marked` is a word whose second and moment are shown. */
  show(story, { whole = false, now = story.now, marked = null } = {}) {
    const width = Math.max(160, this.svg.clientWidth);
    const to = Math.max(whole ? 5 : FIRST_S, Math.ceil(now));
    const from = whole ? 0 : Math.max(0, to - SHOWN_S);
    const x = (s) => LABELS + ((s - from) / (to - from)) * (width - LABELS - 14);
    const inside = (s) => s >= from && s <= to;
    const y = (name) => TOP + ROW * ROWS.indexOf(name) + ROW / 2;
    const parts = [...this.#axis(from, to, x, width), ...this.#mark(marked, x, from)];
    for (const { s, taken } of story.frames.filter(({ s }) => inside(s)))
      parts.push(draw("line", { class: taken ? "frame" : "frame lost", x1: x(s), x2: x(s), y1: y("frames") - 4, y2: y("frames") + 4 }));
    for (const { arrival, t, share } of story.steps.filter(({ t }) => inside(t))) {
      const left = x(Math.max(from, arrival));
      const width = Math.max(4, x(t) - left);
      if (share < 1) parts.push(draw("rect", { class: "step unseen", x: left, width, y: y("seen") - 5, height: 10, rx: 2 }));
      if (share > 0) parts.push(draw("rect", { class: "step", x: left, width, y: y("seen") + 5 - 10 * share, height: 10 * share, rx: 2 }));
    }
    const silences = story.silences.map(({ said, start, end }) => ({ start: said, end: said + end - start, silent: true }));
    for (const { start, end, silent } of [...story.turns, ...silences].filter(({ end }) => end > from)) {
      const left = x(Math.max(from, start));
      parts.push(draw("rect", { class: silent ? "turn silent" : "turn", x: left, width: Math.max(0, x(Math.min(to, end)) - left - 1), y: y("said") - 6, height: 12, rx: 2 }));
    }
    this.words = story.words.filter(({ said }) => inside(said)).map((word) => ({ word, x: x(word.said) }));
    for (const { word, x: at } of this.words)
      parts.push(draw("line", { class: word === marked ? "spoken marked" : "spoken", x1: at, x2: at, y1: y("said") - 6, y2: y("said") + 6 }));
    for (const { s } of story.drops.filter(({ s }) => inside(s)))
      parts.push(draw("path", { class: "drop", d: `M${x(s) - 4} ${y("dropped") - 4}l8 8m0 -8l-8 8` }));
    this.svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.svg.setAttribute("aria-label", `Timeline. ${story.summary()}`);
    this.svg.replaceChildren(...parts);
  }

  #axis(from, to, x, width) {
    const every = [1, 2, 5, 10, 30, 60, 300, 600].find((s) => ((width - LABELS) * s) / (to - from) > 34) ?? 3600;
    const parts = ROWS.map((name, i) => draw("text", { class: "row", x: 0, y: TOP + ROW * i + ROW / 2 + 4 }, name));
    for (let s = Math.ceil(from / every) * every; s <= to; s += every) {
      parts.push(draw("line", { class: "grid", x1: x(s), x2: x(s), y1: TOP, y2: TOP + ROWS.length * ROW }));
      parts.push(draw("text", { class: "second", x: x(s), y: HEIGHT - 5 }, `${s}${s + every > to ? " s" : ""}`));
    }
    return parts;
  }

  #mark(word, x, from) {
    if (!word) return [];
    const band = (name, left, right) =>
      right > from ? [draw("rect", { class: name, x: x(Math.max(from, left)), width: x(right) - x(Math.max(from, left)), y: TOP, height: ROWS.length * ROW })] : [];
    return [...band("saw", 0, word.saw), ...band("newest", word.seen, word.saw)];
  }

  #near(at) {
    const nearest = this.words.reduce((best, one) => (best && Math.abs(best.x - at) <= Math.abs(one.x - at) ? best : one), null);
    return nearest && Math.abs(nearest.x - at) <= NEAR ? nearest.word : null;
  }

  /** The same as a table, a row a second. */
  fillTable(story) {
    const rows = story.table().map(({ second, frames, seen, words, dropped }) =>
      make("tr", {}, make("th", { scope: "row" }, `${second}`), ...[frames, seen.join(", "), words.join(" "), dropped].map((cell) => make("td", {}, `${cell}`))),
    );
    this.table.replaceChildren(...rows);
  }
}
