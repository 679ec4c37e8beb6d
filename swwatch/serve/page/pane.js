// One pane: a variant and an engine, what they say about the video, and when.

import { download } from "./api.js";
import { byId, fillSelect, make, plural } from "./dom.js";
import { Connection } from "./protocol.js";
import { Story } from "./story.js";
import { Subtitles } from "./subtitles.js";
import { Timeline } from "./timeline.js";

const FRESH_MS = 1500; // a word stays lit
const MOST_SHOWN = 1500; // words and questions on the page
const MOST_THOUGHTS = 100; // notes
const PHRASE = 14; // words after which a phrase is read out even without a comma
const SILENCE_MS = 3000; // or after which what is there is read out
const REASONS = {
  finished: "finished",
  stopped: "stopped",
  idle: "ended: nothing came for a while",
  limit: "ended: the server's time limit",
  shutdown: "ended: the server stops",
  error: "ended by an error",
  replaced: "ended: another page took it over",
};

export class Pane {
  /** @param {{info, thumbs, onWord, onVariant, onChange}} house onWord(word): clicked; onVariant(): another is chosen; onChange(): the connection's state is new */
  constructor(number, house) {
    Object.assign(this, { number, ...house, marked: null, pinned: null, spans: new Map(), recordings: null });
    this.element = byId("pane").content.firstElementChild.cloneNode(true);
    this.element.setAttribute("aria-label", `Pane ${number}`);
    const part = (name) => this.element.querySelector(`[data-part="${name}"]`);
    const names = "title variant engine schedule state text mind thoughts log detail thumb svg table details notes jsonl vtt downloads choose";
    this.part = Object.fromEntries(names.split(" ").map((name) => [name, part(name)]));
    this.numbers = Object.fromEntries([...this.element.querySelectorAll("[data-number]")].map((cell) => [cell.dataset.number, cell]));
    this.subtitles = new Subtitles(byId("video"), number);
    this.timeline = new Timeline(this.part.svg, this.part.table, (word) => this.mark(word));
    this.#offer();
    this.#listen();
    this.reset();
  }

  #offer() {
    const { info, part, number } = this;
    const notes = Object.fromEntries((info.checkpoints ?? []).map(({ variant, name }) => [variant, name]));
    fillSelect(part.variant, info.variants.map((name) => [name, notes[name] && notes[name] !== name ? `${name} (${notes[name]})` : name]));
    part.variant.value = info.variants[(number - 1) % info.variants.length];
    this.#offerWays();
    part.engine.title = Object.entries(info.engines).map(([name, about]) => `${name}: ${about}`).join("\n");
  }

  get #checkpoint() {
    return this.info.checkpoints?.find(({ variant }) => variant === this.part.variant.value);
  }

  /** What its model is asked where nothing else is. */
  get ownQuestion() {
    return this.#checkpoint?.question ?? this.info.question ?? "";
  }

  /** Not every engine runs every variant, and chat turns have no schedule. */
  #offerWays() {
    const { info, part } = this;
    const names = this.#checkpoint?.engines ?? Object.keys(info.engines);
    const schedule = this.#checkpoint?.schedule ?? info.schedule;
    part.schedule.placeholder = schedule || "in turns";
    part.schedule.disabled = schedule === "";
    fillSelect(part.engine, [["", info.engine ?? "auto"], ...names.map((name) => [name, name])]);
  }

  #listen() {
    const { variant, text, details, jsonl, vtt } = this.part;
    variant.addEventListener("change", () => {
      this.#offerWays();
      this.onVariant();
    });
    const at = (event) => this.spans.get(event.target.closest?.(".word")) ?? null;
    text.addEventListener("pointerover", (event) => this.mark(at(event)));
    text.addEventListener("pointerleave", () => this.mark(null));
    text.addEventListener("focusin", (event) => this.mark(at(event)));
    text.addEventListener("focusout", () => this.mark(null));
    text.addEventListener("click", (event) => this.#pin(at(event)));
    text.addEventListener("keydown", (event) => this.#walk(event));
    details.addEventListener("toggle", () => this.draw());
    for (const [button, ending] of [[jsonl, "jsonl"], [vtt, "vtt"]])
      button.addEventListener("click", () => {
        const name = `${this.recording}.${ending}`;
        download(`api/recordings/${name}`, `swwatch-${name}`).catch((error) => this.note(error.message));
      });
  }

  // --- the session ---

  /** Begin a session. Resolves with whether it was opened; `firstAnswer` once a frame has come in or none can. */
  open(options, address) {
    this.reset();
    const { variant, engine, schedule } = this.part;
    const open = { ...options, variant: variant.value, engine: engine.value || null, schedule: (!schedule.disabled && schedule.value.trim()) || null };
    this.firstAnswer = new Promise((resolve) => (this.onAnswer = resolve));
    return new Promise((resolve) => {
      this.connection = new Connection({
        ...address,
        open,
        onEvent: (event) => {
          this.apply(event);
          if (event.type === "ack") this.onAnswer();
          if (event.type === "opened") resolve(true);
        },
        onState: (state, sentence) => {
          this.#connected(state, sentence);
          if (state !== "closed") return;
          this.onAnswer();
          resolve(false);
        },
      });
    });
  }

  #connected(state, sentence) {
    if (state === "closed" && !this.story.end && sentence) this.note(sentence);
    if (state === "closed") this.flush();
    const ended = this.story.end ? REASONS[this.story.end.reason] : "not connected";
    this.#state(state, { live: this.paused ? "silent, watching" : "live", closed: ended }[state] ?? sentence);
    this.onChange();
  }

  #state(name, sentence) {
    this.part.state.dataset.state = name;
    this.part.state.textContent = sentence;
  }

  get running() {
    return Boolean(this.connection) && this.connection.state !== "closed";
  }

  /** ask, pause, resume, stop or end. */
  say(message) {
    if (!this.running) return;
    if (!this.connection.send(message)) {
      if (message.type !== "end") this.note(`“${message.type}” was not sent: there is no connection now. Try again in a moment.`);
      return;
    }
    if (message.type === "pause" || message.type === "resume") {
      this.paused = message.type === "pause";
      this.#connected("live");
    }
  }

  close() {
    if (this.running) this.connection.send({ type: "stop" });
    this.connection?.close();
  }

  remove() {
    this.close();
    this.subtitles.remove();
    this.element.remove();
  }

  // --- what the server tells, live or recorded ---

  reset() {
    this.story = new Story();
    this.spans.clear();
    Object.assign(this, { marked: null, pinned: null, phrase: [], paused: false, whole: false, recording: null, began: null });
    const { title, text, mind, thoughts, log, notes, downloads } = this.part;
    title.textContent = `Pane ${this.number}`;
    for (const element of [text, thoughts, log, notes]) element.replaceChildren();
    mind.hidden = true;
    downloads.hidden = true;
    this.subtitles.clear();
    this.#state("idle", "ready");
    this.mark(null);
  }

  /** @param {boolean} fresh false for what was long ago, when a recording is wound */
  apply(event, fresh = true) {
    const change = this.story.apply(event);
    if (event.type === "opened") this.#opened(event);
    if (event.type === "error") this.note(`${event.message} (${event.code})`);
    if (change?.kind === "word") this.#addWord(change.item, fresh);
    if (change?.kind === "grown") this.#grow(change.item);
    if (change?.kind === "thought") this.#addThought(change.item);
    if (change?.kind === "turn") this.#endTurn(change.item);
    if (change?.kind === "silence") this.#addSilence(change.item);
    if (change?.kind === "question") this.#addQuestion(change.item, fresh);
    if (change?.kind === "drop" && fresh) this.note(`${plural(event.steps, "step")} dropped: ${event.reason}`);
    if (change?.kind === "end") this.#ended(event);
    this.#anchor();
  }

  #opened(event) {
    this.part.title.textContent = [event.variant, event.engine, event.schedule].filter(Boolean).join(" · ");
    this.part.title.title = event.why ?? "";
    if (this.running && event.recording && !event.resumed)
      this.subtitles.follow(event.recording).catch((error) => error.name !== "AbortError" && this.note(error.message));
    if (event.missed) this.note(`${plural(event.missed, "message")} of this session were lost with the connection.`);
  }

  #ended({ recording }) {
    this.flush();
    this.whole = true;
    this.recording = recording ?? null;
    this.part.downloads.hidden = !this.recording;
    this.draw();
  }

  /** Where "now" is between two messages, in seconds of the session. */
  #anchor() {
    if (this.story.now > 0) this.began = Math.min(this.began ?? Infinity, performance.now() / 1000 - this.story.now);
  }

  note(sentence) {
    const { notes } = this.part;
    if (notes.lastElementChild?.textContent !== sentence) notes.append(make("li", {}, sentence));
    while (notes.children.length > 4) notes.firstElementChild.remove();
  }

  // --- text ---

  #addWord(word, fresh) {
    const { text } = this.part;
    const span = make("span", { class: "word", role: "button", tabindex: text.querySelector(".word") ? -1 : 0 }, word.text);
    if (word.opens) span.dataset.second = word.until;
    if (word.spaced) text.append(" ");
    text.append(span);
    this.spans.set(span, word);
    word.span = span;
    this.#describe(word);
    if (fresh) {
      span.classList.add("fresh");
      setTimeout(() => span.classList.remove("fresh"), FRESH_MS);
      this.#tell(word);
    }
    this.#prune();
    text.scrollTop = text.scrollHeight;
  }

  #grow(word) {
    if (word.span.firstChild.data === word.text) return;
    word.span.firstChild.data = word.text;
    this.#describe(word);
  }

  #describe(word) {
    word.span.setAttribute("aria-description", Story.about(word));
  }

  /** What is thought and not said, apart from the words; each note tells how far it had seen when it began. */
  #addThought({ text, begins, until }) {
    const { mind, thoughts } = this.part;
    mind.hidden = false;
    if (begins || !thoughts.lastElementChild) thoughts.append(make("li", { "data-second": until }, ""));
    thoughts.lastElementChild.textContent += text;
    while (thoughts.children.length > MOST_THOUGHTS) thoughts.firstElementChild.remove();
    thoughts.scrollTop = thoughts.scrollHeight;
  }

  /** Its first word tells its seconds, if it is about some, and not a question; of silence, and of silences that follow one another, there is one sign. */
  #endTurn({ start, end, silent, first, last }) {
    const { text } = this.part;
    if (last?.text) this.#grow(last); // its dots are gone
    else if (last) {
      this.spans.delete(last.span);
      if (last.spaced) last.span.previousSibling?.remove(); // the blank before it
      last.span.remove();
      this.phrase = this.phrase.filter((word) => word !== last);
    }
    this.flush();
    if (first && end > start) first.span.dataset.second = `${start}–${end}`;
    if (silent) this.#addSilence({ start, end });
  }

  /** Silences that follow one another are one. */
  #addSilence({ start, end }) {
    const { text } = this.part;
    const sign = text.lastElementChild;
    if (sign?.className === "silence") {
      sign.dataset.second = `${sign.dataset.second.split("–")[0]}–${end}`;
      sign.setAttribute("aria-label", `silent from ${sign.dataset.second.replace("–", " to ")} s`);
    } else {
      const label = `silent from ${start} to ${end} s`;
      text.append(" ", make("span", { class: "silence", role: "img", "aria-label": label, "data-second": `${start}–${end}` }, "…"));
    }
    text.scrollTop = text.scrollHeight;
  }

  #addQuestion({ text, s }, fresh) {
    this.flush();
    this.part.text.append(make("p", { class: "question" }, make("b", {}, "Asked"), ` at ${s} s: ${text}`));
    if (fresh) this.part.log.append(make("p", {}, `Asked: ${text}`));
  }

  #prune() {
    const { text } = this.part;
    while (this.spans.size > MOST_SHOWN) {
      this.spans.delete(text.firstChild);
      text.firstChild.remove();
    }
  }

  /** Screen readers get whole phrases, not every token. */
  #tell(word) {
    const before = this.phrase.at(-1);
    if (before && /[.,;:!?…]$/.test(before.text)) this.flush(); // now it is sure that the word is whole
    this.phrase.push(word);
    clearTimeout(this.silence);
    this.silence = setTimeout(() => this.flush(), SILENCE_MS);
    if (this.phrase.length > PHRASE) this.flush();
  }

  flush() {
    clearTimeout(this.silence);
    if (!this.phrase.length) return;
    this.part.log.append(make("p", {}, this.phrase.map(({ text, spaced }) => (spaced ? " " : "") + text).join("").trim()));
    while (this.part.log.children.length > 200) this.part.log.firstChild.remove();
    this.phrase = [];
  }

  // --- a word and its second ---

  /** Show what a word had seen; null goes back to the pinned one, or to none. */
  mark(word) {
    word ??= this.pinned;
    if (word === this.marked && this.part.detail.textContent) return;
    this.marked?.span.classList.remove("marked");
    this.marked = word;
    word?.span.classList.add("marked");
    const { detail, thumb } = this.part;
    const late = word && Number.isFinite(word.lag) ? `, ${word.lag.toFixed(2)} s after the newest frame it saw` : "";
    detail.textContent = word ? `${Story.about(word)}${late}.` : "Point at a word, or walk with the arrow keys: what had it seen?";
    const picture = word && this.thumbs.of(word);
    thumb.hidden = !picture;
    if (picture) {
      [thumb.width, thumb.height] = [picture.width, picture.height];
      const paper = thumb.getContext("2d");
      paper.drawImage(picture, 0, 0);
      paper.fillStyle = "rgb(0 0 0 / 0.75)";
      const unseen = this.story.unseen(word.newest);
      for (const { x, y, width, height } of unseen) paper.fillRect(x * thumb.width, y * thumb.height, width * thumb.width, height * thumb.height);
      const dark = unseen.length ? `; the model did not look at the ${plural(unseen.length, "place")} that are dark` : "";
      thumb.setAttribute("aria-label", `The picture of second ${word.until}${dark}`);
    }
    this.draw();
  }

  #pin(word) {
    this.pinned?.span.removeAttribute("aria-pressed");
    this.pinned = word === this.pinned ? null : word;
    this.pinned?.span.setAttribute("aria-pressed", "true");
    this.mark(word);
    if (this.pinned) this.onWord(this.pinned);
  }

  /** Arrow keys, Home and End go from word to word; Enter and Space pin, Escape lets go. */
  #walk(event) {
    const spans = [...this.spans.keys()];
    const here = spans.indexOf(event.target);
    const to = { ArrowRight: here + 1, ArrowDown: here + 1, ArrowLeft: here - 1, ArrowUp: here - 1, Home: 0, End: spans.length - 1 }[event.key];
    if (event.key === "Enter" || event.key === " ") this.#pin(this.spans.get(event.target) ?? null);
    else if (event.key === "Escape") this.#pin(this.pinned);
    else if (!spans[to]) return;
    else {
      spans[here]?.setAttribute("tabindex", -1);
      spans[to].setAttribute("tabindex", 0);
      spans[to].focus();
    }
    event.preventDefault();
  }

  // --- numbers and timeline ---

  draw() {
    const { story, numbers, part } = this;
    const { stats } = story;
    const elapsed = this.running && this.began !== null ? performance.now() / 1000 - this.began : 0;
    this.timeline.show(story, { whole: this.whole, marked: this.marked, now: Math.max(story.now, elapsed) });
    const rate = (value) => (Number.isFinite(value) ? value.toFixed(1) : "–");
    numbers.lag.textContent = Number.isFinite(stats.lag_s) ? `${stats.lag_s.toFixed(2)} s` : "–";
    numbers.frames.textContent = rate(stats.frame_rate);
    numbers.tokens.textContent = rate(stats.tokens_per_s);
    numbers.dropped.textContent = `${Math.max(story.lost ?? 0, stats.frames_dropped ?? 0, story.dropped)}`;
    numbers.unseen.textContent = story.looked[1] ? `${story.looked[1] - story.looked[0]} of ${story.looked[1]}` : "0";
    numbers.skipped.textContent = `${this.connection?.skipped ?? 0}`;
    numbers.queued.textContent = `${stats.steps_queued ?? 0}`;
    if (part.details.open) this.timeline.fillTable(story);
  }
}
