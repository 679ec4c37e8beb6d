// What happened in one session, as plain data: the same for a live socket and for a recording.

// a space, or a letter of a script that writes no spaces
const BEGINS_WORD = /^(\s|\p{Script=Han}|\p{Script=Hiragana}|\p{Script=Katakana}|\p{Script=Thai})/u;

const DOTS = "...";

export class Story {
  constructor() {
    this.entries = []; // words and questions, as they are read
    this.words = [];
    this.frames = []; // {s, taken}
    this.fps = 2; // frames a second of the model's grid, two make a step
    this.steps = []; // {step, arrival, t, grid, kept, share}, the share of its picture that was looked at
    this.looked = [0, 0]; // places of pictures that were looked at, of how many, where not all are
    this.drops = []; // {s, steps, reason}
    this.turns = []; // {start, end, silent}, of a model that speaks in turns
    this.silences = []; // {start, end, said}, of a schedule that decides
    this.dropped = 0; // steps
    this.lost = 0; // frames not taken and steps dropped, as the server counts
    this.stats = {};
    this.end = null;
    this.now = 0; // newest moment that anything was told of, in seconds of the session
  }

  /**
   * Take in one message of the server.
   *
   * @returns {{kind: string, item: object}|null} what changed: a new "word", a "grown" word, a "question", a "step", ...
   */
  apply(event) {
    return this[`on_${event.type}`]?.(event) ?? null;
  }

  on_opened(event) {
    this.fps = event.fps ?? 2;
    return null;
  }

  /** Where a step of the grid begins, in seconds of the stream. */
  #second(step) {
    return (2 * step) / this.fps;
  }

  /** An answer to frames; `seconds` are their times at the sender, whose first one is 0 here. */
  on_ack({ seconds = [], taken, dropped }) {
    for (const s of seconds) {
      this.zero ??= s;
      this.frames.push({ s: s - this.zero, taken });
      this.#reach(s - this.zero);
    }
    this.lost = dropped; // frames and steps
    return { kind: "frames", item: seconds };
  }

  on_token(event) {
    this.#reach(event.t_emit_s);
    const seen = this.#second(event.newest_visible_step);
    const until = this.#second(event.newest_visible_step + 1);
    const knows = { newest: event.newest_visible_step, seen, saw: (seen + until) / 2, until, said: event.t_emit_s, lag: event.lag_s };
    const last = this.entries.at(-1);
    if (last?.kind === "word" && !BEGINS_WORD.test(event.text)) {
      if (event.text) Object.assign(last, knows, { text: last.text + event.text });
      return { kind: "grown", item: last };
    }
    if (!event.text.trim()) return null;
    const word = {
      ...knows,
      kind: "word",
      text: event.text.trimStart(),
      spaced: /^\s/.test(event.text) || last?.kind === "turn",
      step: event.step,
      opens: this.words.at(-1)?.step !== event.step, // the first of its step
    };
    this.words.push(word);
    this.entries.push(word);
    return { kind: "word", item: word };
  }

  /** A token that was thought and not said. */
  on_thought({ text, begins, newest_visible_step, t_emit_s }) {
    this.#reach(t_emit_s);
    return { kind: "thought", item: { text, begins, until: this.#second(newest_visible_step + 1) } };
  }

  /** A turn is over, and if it was a thought nothing was said. The dots by which a model is silent are no words. */
  on_turn({ start_s, end_s, text, t_s, thought }) {
    this.#reach(t_s);
    if (thought) return null;
    const words = this.entries.slice(this.entries.findLastIndex(({ kind }) => kind === "turn") + 1).filter(({ kind }) => kind === "word");
    const last = words.at(-1);
    if (last?.text.endsWith(DOTS) && !text.endsWith(DOTS)) last.text = last.text.slice(0, -DOTS.length);
    if (last && !last.text) for (const list of [words, this.entries, this.words]) list.splice(list.indexOf(last), 1);
    const item = { kind: "turn", start: start_s, end: end_s, silent: !text, said: t_s, first: words[0] ?? null, last: last ?? null };
    this.entries.push(item);
    this.turns.push(item);
    return { kind: "turn", item };
  }

  /** A schedule that decides while it streams says how many tokens are due: none is silence. */
  on_decided({ step, tokens, t_s }) {
    this.#reach(t_s);
    if (tokens) return null;
    const item = { start: this.#second(step), end: this.#second(step + 1), said: t_s };
    this.silences.push(item);
    return { kind: "silence", item };
  }

  on_asked(event) {
    const item = { kind: "question", text: event.question, s: this.#second(event.step + 1) };
    this.entries.push(item);
    return { kind: "question", item };
  }

  on_watched(event) {
    const { grid, kept } = event;
    const share = kept ? kept.length / (grid[0] * grid[1]) : 1;
    const item = { step: event.step, arrival: event.arrival_s, t: event.t_s, grid, kept, share };
    this.steps.push(item);
    if (kept) this.looked = [this.looked[0] + kept.length, this.looked[1] + grid[0] * grid[1]];
    this.#reach(item.t);
    return { kind: "step", item };
  }

  on_dropped(event) {
    const item = { s: this.now, steps: event.steps, reason: event.reason };
    this.drops.push(item);
    this.dropped = event.total ?? this.dropped + event.steps;
    return { kind: "drop", item };
  }

  on_stats(event) {
    this.stats = event;
    return { kind: "stats", item: event };
  }

  on_end(event) {
    this.end = event;
    return { kind: "end", item: event };
  }

  #reach(s) {
    if (Number.isFinite(s)) this.now = Math.max(this.now, s);
  }

  /** What a word knows, as a sentence. A step has two frames: `saw` is the second one's time. */
  static about(word) {
    return `“${word.text}” saw 0–${Number(word.saw.toFixed(3))} s, said at ${word.said.toFixed(1)} s`;
  }

  /** Which part of a step's picture was not looked at: rectangles in shares of width and height. */
  unseen(step) {
    const { grid, kept } = this.steps.findLast((seen) => seen.step === step) ?? {};
    if (!kept) return [];
    const [rows, columns] = grid;
    const cells = Array.from({ length: rows * columns }, (_, cell) => cell).filter((cell) => !kept.includes(cell));
    return cells.map((cell) => ({ x: (cell % columns) / columns, y: Math.floor(cell / columns) / rows, width: 1 / columns, height: 1 / rows }));
  }

  /** One row for each second: what arrived, what was seen when, what was said, what was dropped. */
  table() {
    const rows = [];
    const row = (s) => {
      const index = Math.max(0, Math.floor(s));
      while (rows.length <= index) rows.push({ second: rows.length, frames: 0, seen: [], words: [], dropped: 0 });
      return rows[index];
    };
    for (const { s } of this.frames) row(s).frames += 1;
    for (const { step, t, share } of this.steps) row(t).seen.push(`${this.#second(step + 1)}${share < 1 ? ` (${Math.round(100 * share)} %)` : ""}`);
    for (const { text, said } of this.words) row(said).words.push(text);
    for (const { silent, said, start, end } of this.turns) if (silent) row(said).words.push(`(silent about ${start}–${end} s)`);
    for (const { said, start, end } of this.silences) row(said).words.push(`(silent about ${start}–${end} s)`);
    for (const { s, steps } of this.drops) row(s).dropped += steps;
    return rows;
  }

  /** The same in one sentence, for those who do not see the drawing. */
  summary() {
    const taken = this.frames.filter((frame) => frame.taken).length;
    const frames = this.frames.length ? `${taken} of ${this.frames.length} frames taken, ` : "";
    const unseen = this.steps.filter(({ share }) => !share).length;
    const partly = this.steps.filter(({ share }) => share > 0 && share < 1).length;
    const looked = unseen + partly ? ` (${partly} in part, ${unseen} not looked at)` : "";
    const turns = this.turns.length ? `${this.turns.length} turns, ${this.turns.filter(({ silent }) => silent).length} of them silent, ` : "";
    const silent = this.silences.length ? `${this.silences.length} steps silent, ` : "";
    return `${this.now.toFixed(0)} seconds: ${frames}${this.steps.length} steps seen${looked}, ${turns}${this.words.length} words spoken, ${silent}${this.dropped} steps dropped.`;
  }
}
