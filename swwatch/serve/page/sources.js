// Pictures: camera, screen or a file in a video element, sampled at the rate that the server asked for.

const MOST_PIXELS = 640 * 480; // sent; the model sees far fewer
const JPEG_QUALITY = 0.85;
const THUMB_WIDTH = 128;
const MOST_THUMBS = 600; // five minutes at 2 a second

/** Show a camera in `video`. @returns a function that lets it go */
export async function openCamera(video, device) {
  const wanted = device ? { deviceId: { exact: device } } : { facingMode: "environment" };
  const size = { width: { ideal: 640 }, height: { ideal: 480 } };
  return show(video, await media().getUserMedia({ video: { ...wanted, ...size }, audio: false }));
}

/** Show a screen, window or tab in `video`. @returns a function that lets it go */
export async function openScreen(video) {
  if (!media().getDisplayMedia) throw new Error("This browser cannot share a screen.");
  return show(video, await media().getDisplayMedia({ video: { frameRate: 10 }, audio: false }));
}

/** Show a file in `video`, paused at its beginning. @returns a function that lets it go */
export async function openFile(video, file) {
  const address = URL.createObjectURL(file);
  video.srcObject = null;
  video.src = address;
  const release = () => {
    video.removeAttribute("src");
    video.load();
    URL.revokeObjectURL(address);
  };
  await new Promise((resolve, reject) => {
    video.onloadeddata = resolve;
    video.onerror = () => reject(new Error(`This browser cannot play ${file.name}. "Upload" lets the server read it.`));
  }).catch((error) => {
    release();
    throw error;
  });
  return release;
}

export async function listCameras() {
  const devices = (await navigator.mediaDevices?.enumerateDevices()) ?? [];
  return devices.filter(({ kind, deviceId }) => kind === "videoinput" && deviceId);
}

function media() {
  if (!navigator.mediaDevices) throw new Error("Cameras and screens need https or localhost.");
  return navigator.mediaDevices;
}

async function show(video, stream) {
  video.removeAttribute("src");
  video.srcObject = stream;
  await video.play();
  return () => {
    stream.getTracks().forEach((track) => track.stop());
    video.srcObject = null;
  };
}

/**
 * Takes `rate` pictures a second out of a video element.
 *
 * Times are those of the file, or the seconds since the first picture of a camera. While the page is hidden, browsers
 * present no frames; a timer then takes over, as it does where requestVideoFrameCallback is missing.
 */
export class Sampler {
  constructor(video, { rate, onPicture, onEnd }) {
    Object.assign(this, { video, rate, onPicture, onEnd });
    this.canvas = document.createElement("canvas");
    this.missed = 0; // pictures that were due while the one before was still being encoded
    this.timer = setInterval(() => this.byTimer && this.#take(this.#seconds()), 500 / rate);
    this.#next();
    if (!video.srcObject) this.#take(video.currentTime); // what is on show already
    const track = video.srcObject?.getVideoTracks()[0];
    (track ?? video).addEventListener("ended", () => this.#ended(), { once: true });
  }

  get byTimer() {
    return document.hidden || !this.video.requestVideoFrameCallback;
  }

  #next() {
    this.handle = this.video.requestVideoFrameCallback?.((now, { mediaTime }) => {
      if (this.stopped) return;
      this.#take(this.video.srcObject ? this.#seconds() : mediaTime);
      this.#next();
    });
  }

  #seconds() {
    if (!this.video.srcObject) return this.video.currentTime;
    this.began ??= performance.now();
    return (performance.now() - this.began) / 1000;
  }

  async #take(s) {
    const { video, canvas } = this;
    this.due ??= s;
    if (this.stopped || s < this.due || !video.videoWidth) return;
    this.due = Math.max(this.due + 1 / this.rate, s + 0.5 / this.rate); // on the grid, and no burst after a stall
    if (this.encoding) {
      this.missed += 1;
      return;
    }
    const scale = Math.min(1, Math.sqrt(MOST_PIXELS / (video.videoWidth * video.videoHeight)));
    canvas.width = Math.round(scale * video.videoWidth);
    canvas.height = Math.round(scale * video.videoHeight);
    canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
    this.encoding = new Promise((done) => canvas.toBlob(done, "image/jpeg", JPEG_QUALITY));
    const bytes = await (await this.encoding).arrayBuffer();
    this.encoding = null;
    if (!this.stopped) this.onPicture({ bytes, s, canvas });
  }

  async #ended() {
    await this.encoding;
    if (!this.stopped) this.onEnd();
  }

  stop() {
    this.stopped = true;
    clearInterval(this.timer);
    if (this.handle) this.video.cancelVideoFrameCallback(this.handle);
  }
}

/** Small pictures of the last minutes: what a word had last seen. */
export class Thumbs {
  constructor() {
    this.clear();
  }

  clear() {
    this.kept = []; // {s, thumb} with rising s, in seconds after the first
    this.zero = null;
  }

  keep(canvas, s) {
    this.zero ??= s;
    const thumb = document.createElement("canvas");
    thumb.width = THUMB_WIDTH;
    thumb.height = Math.max(1, Math.round((THUMB_WIDTH * canvas.height) / canvas.width));
    thumb.getContext("2d").drawImage(canvas, 0, 0, thumb.width, thumb.height);
    this.kept.push({ s: s - this.zero, thumb });
    if (this.kept.length > MOST_THUMBS) this.kept.shift();
  }

  /** The second picture of the newest step that a word could see: the server takes the one on display then. */
  of({ seen, saw }) {
    const shown = this.kept.findLast(({ s }) => s <= saw);
    return shown && shown.s > seen - 1 ? shown.thumb : null;
  }
}
