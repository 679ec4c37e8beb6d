// A recorded session, told again at its own pace: beside the video where there is one.

/** Events of a recording with their moments on the stream's clock, which begins when the first frame arrived. */
export class Recording {
  constructor(lines) {
    const first = lines[0];
    if (first?.type !== "opened") throw new Error("This is no recording: its first line should be the session that was opened.");
    const told = (event) => event.t_emit_s ?? event.t_s;
    const starts = lines.filter((event) => Number.isFinite(told(event))).map((event) => event.at_s - told(event));
    const start = starts.length ? Math.min(...starts) : 0; // of the stream, in seconds after the session was opened
    this.events = lines.slice(1).map((event) => ({ s: Math.max(0, event.at_s - start), event }));
    this.opened = first;
    this.length = this.events.at(-1)?.s ?? 0;
  }

  static async read(file) {
    const lines = (await file.text()).split("\n").filter((line) => line.trim());
    try {
      return new Recording(lines.map((line) => JSON.parse(line)));
    } catch (error) {
      throw new Error(`${file.name}: ${error.message}`);
    }
  }
}

/** Plays recordings into panes, by the clock of `video` or, without one, by the wall's. */
export class Player {
  /** @param tracks [{recording, pane}] @param {(s: number, playing: boolean) => void} onTime */
  constructor(tracks, video, onTime) {
    Object.assign(this, { tracks, video, onTime, s: 0, playing: false });
    this.length = Math.max(...tracks.map(({ recording }) => recording.length), Number.isFinite(video?.duration) ? video.duration : 0);
    this.timer = setInterval(() => this.#tick(), 50);
    this.seek(0);
  }

  play() {
    if (this.s >= this.length) this.seek(0);
    this.playing = true;
    this.at = performance.now();
    if (this.video && this.s < this.video.duration) this.video.play();
  }

  pause() {
    this.playing = false;
    this.video?.pause();
    this.onTime(this.s, false);
  }

  seek(s) {
    this.s = Math.min(Math.max(0, s), this.length);
    this.at = performance.now();
    if (this.video) this.video.currentTime = Math.min(this.s, this.video.duration || 0);
    for (const track of this.tracks) {
      track.next = 0;
      track.pane.reset();
      track.pane.apply(track.recording.opened);
      this.#tell(track, false);
      track.pane.draw();
    }
    this.onTime(this.s, this.playing);
  }

  #tick() {
    if (!this.playing) return;
    const passed = (performance.now() - this.at) / 1000;
    this.at = performance.now();
    const byVideo = this.video && !this.video.ended && !this.video.paused;
    this.s = Math.min(this.length, byVideo ? Math.max(this.s, this.video.currentTime) : this.s + passed);
    this.tracks.forEach((track) => this.#tell(track, true));
    if (this.s >= this.length) this.pause();
    else this.onTime(this.s, true);
  }

  #tell(track, fresh) {
    const { events } = track.recording;
    for (; track.next < events.length && events[track.next].s <= this.s; track.next += 1)
      track.pane.apply(events[track.next].event, fresh);
  }

  close() {
    clearInterval(this.timer);
    this.video?.pause();
  }
}
