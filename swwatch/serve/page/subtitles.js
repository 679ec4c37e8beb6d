// Subtitles on the video: what a recorded session says, as its WebVTT file grows on the server.

import { follow } from "./api.js";
import { make } from "./dom.js";

const CUE = /(\d+):(\d\d):(\d\d\.\d{3}) --> (\d+):(\d\d):(\d\d\.\d{3})\n(.+)\n/g;
const LATE_S = 2; // a cue is whole only when its words are over: so long it is shown then

const seconds = (hours, minutes, rest) => 3600 * hours + 60 * minutes + Number(rest);

export class Subtitles {
  /** A track of `video`; that of a second pane is at the top. */
  constructor(video, number) {
    Object.assign(this, { video, number, cues: [], leaving: null });
    this.element = make("track", { kind: "subtitles", label: `Pane ${number}` });
    video.append(this.element);
    this.element.track.mode = "showing";
  }

  /** Show a session to its end. While it runs, what comes late is shown when it comes; then each cue has its own time. */
  async follow(recording) {
    this.clear();
    const { signal } = (this.leaving = new AbortController());
    let text = "";
    for await (const more of follow(`sessions/${recording}.vtt`, signal)) {
      text += more;
      let read = 0;
      for (const found of text.matchAll(CUE)) {
        read = found.index + found[0].length;
        this.#add(seconds(...found.slice(1, 4)), seconds(...found.slice(4, 7)), found[7]);
      }
      text = text.slice(read);
    }
    for (const { cue, start, end } of this.cues) Object.assign(cue, { startTime: start, endTime: end });
  }

  #add(start, end, words) {
    const now = this.video.currentTime;
    const times = end > now ? [start, end] : [now, now + Math.max(LATE_S, end - start)];
    const last = this.cues.at(-1)?.cue;
    if (last?.endTime > times[0]) last.endTime = times[0]; // one at a time
    const cue = new VTTCue(...times, words);
    if (this.number > 1) cue.line = 0;
    this.cues.push({ cue, start, end });
    this.element.track.addCue(cue);
  }

  clear() {
    this.leaving?.abort();
    for (const { cue } of this.cues) this.element.track.removeCue(cue);
    this.cues = [];
  }

  remove() {
    this.clear();
    this.element.remove();
  }
}
