// The socket: framing, acknowledgements, backpressure, reconnecting. docs/protocol.md has the messages.

const VERSION = 1;
const SUBPROTOCOL = "swwatch.v1";
const MAGIC = 0x53574631; // "SWF1"
const HEADER_BYTES = 16;
const MOST_BUFFERED = 512 * 1024; // bytes that may wait in the browser before frames are left out
const MOST_UNANSWERED = 8; // frames sent and not acknowledged
const FIRST_WAIT_MS = 250;
const LONGEST_WAIT_MS = 4000;
const GRACE_S = 20; // until the server says how long it waits

/** A frame as it travels: magic, number (uint32), seconds (float64), all big-endian, then the picture's bytes. */
function frameMessage(number, seconds, bytes) {
  const message = new Uint8Array(HEADER_BYTES + bytes.byteLength);
  const header = new DataView(message.buffer);
  header.setUint32(0, MAGIC);
  header.setUint32(4, number);
  header.setFloat64(8, seconds);
  message.set(new Uint8Array(bytes), HEADER_BYTES);
  return message.buffer;
}

/**
 * One session with the server, over as many sockets as it takes.
 *
 * `onEvent` gets every message of the server once. `onState` gets "connecting", "live", "reconnecting" or "closed" and
 * a sentence; after "closed" nothing more comes.
 */
export class Connection {
  constructor({ url, protocols = [], open, onEvent, onState }) {
    Object.assign(this, { url, protocols: [SUBPROTOCOL, ...protocols], open, onEvent, onState });
    this.session = null; // the server's secret name for it, once opened
    this.seen = -1; // number of the newest message that counts
    this.sent = new Map(); // number -> seconds, of frames without an answer
    this.frames = 0;
    this.skipped = 0; // frames that this side left out because the way or the server was slow
    this.graceS = GRACE_S;
    this.standing = new Map(); // orders that hold for good, told again to a new socket: they may have been lost
    this.#connect("connecting", "connecting…");
  }

  #enter(state, sentence = "") {
    this.state = state;
    this.onState(state, sentence);
  }

  #connect(state, sentence) {
    this.#enter(state, sentence);
    this.sent.clear(); // the answers were lost with the socket
    const socket = new WebSocket(this.url, this.protocols);
    const again = this.session ? { resume: this.session, seen: this.seen } : {};
    socket.binaryType = "arraybuffer";
    socket.onopen = () => socket.send(JSON.stringify({ ...this.open, ...again, type: "open", version: VERSION }));
    socket.onmessage = ({ data }) => this.#receive(JSON.parse(data));
    socket.onclose = (closed) => this.#lost(closed);
    this.socket = socket;
  }

  #receive(event) {
    if (event.n !== undefined && event.n !== null) {
      if (event.n <= this.seen) return;
      this.seen = event.n;
    }
    if (event.type === "opened") {
      Object.assign(this, { session: event.session, graceS: event.grace_s ?? GRACE_S, waitMs: 0, lostAt: null });
      this.#enter("live");
      for (const type of this.standing.values()) this.send({ type });
    }
    if (event.type === "ack") event = this.#answered(event);
    // of a session that stands: its server starts again; the socket closes now, and the next try may find it
    if (event.code === "full" && event.fatal && this.session) return;
    this.over ||= event.type === "end" || (event.type === "error" && event.fatal);
    this.onEvent(event);
    if (event.type === "end") this.close();
  }

  /** One answer may stand for several frames; adds their times as `seconds`. */
  #answered(ack) {
    const numbers = [...this.sent.keys()].filter((number) => number <= ack.frame);
    const seconds = numbers.map((number) => this.sent.get(number));
    numbers.forEach((number) => this.sent.delete(number));
    return { ...ack, seconds };
  }

  #lost({ code, reason }) {
    if (this.state === "closed") return;
    this.lostAt ??= performance.now();
    const left = this.graceS - (performance.now() - this.lostAt) / 1000;
    if (this.over || !this.session || left <= 0) {
      this.#enter("closed", reason || (this.session ? "The connection was lost." : `No connection (code ${code}).`));
      return;
    }
    this.waitMs = Math.min(LONGEST_WAIT_MS, 2 * this.waitMs || FIRST_WAIT_MS);
    const sentence = `connection lost, trying again for ${Math.ceil(left)} s…`;
    this.#enter("reconnecting", sentence);
    this.timer = setTimeout(() => this.#connect("reconnecting", sentence), this.waitMs);
  }

  /** ask, pause, resume, stop, end; false where there is no connection to say it over. `end` is told once there is. */
  send(message) {
    if (message.type === "end") this.standing.set("end", "end");
    if (this.state !== "live" || this.socket.readyState !== WebSocket.OPEN) return false;
    this.socket.send(JSON.stringify(message));
    if (["pause", "resume"].includes(message.type)) this.standing.set("speech", message.type);
    return true;
  }

  /** Send a picture, or leave it out and count it where the way is busy. */
  sendFrame(bytes, seconds) {
    const busy = this.socket.bufferedAmount > MOST_BUFFERED || this.sent.size >= MOST_UNANSWERED;
    if (this.state !== "live" || busy) {
      this.skipped += 1;
      return;
    }
    this.sent.set(this.frames, seconds);
    this.socket.send(frameMessage(this.frames, seconds, bytes));
    this.frames += 1;
  }

  close() {
    clearTimeout(this.timer);
    if (this.state === "closed") return;
    this.#enter("closed");
    this.socket.close(1000);
  }
}
