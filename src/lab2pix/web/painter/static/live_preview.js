// Keeps the image up to date with the drawing. One request runs at a time, followed by one for the newest drawing, so
// that a slow server does not fall behind. A request that takes very long does not block newer ones.

const DEBOUNCE_MS = 90; // pause in drawing before an image is requested
const MAX_DEBOUNCE_MS = 350; // during a stroke an image is requested after this time
const MIN_TIMEOUT_MS = 1500; // least time before a newer request no longer waits for the running one
const MAX_RETRY_S = 15; // longest pause before the server is tried again

export class LivePreview {
  // `request()` requests the current image; `show(image)` shows it; `onState(state, detail)` is called with "busy" and
  // the expected milliseconds, "idle", "wait" and the error, or "error" and the error.
  constructor({ request, show, onState }) {
    Object.assign(this, { request, show, onState });
    this.timer = 0;
    this.changedAt = null; // time of the first change that was not requested yet
    this.requested = 0; // number of the last request
    this.shown = 0; // number of the shown image's request
    this.requestedAt = 0;
    this.pending = false;
    this.failures = 0;
    this.expectedMs = 400;
  }

  // Reports a change; `now` if a step is complete.
  change(now = false) {
    this.changedAt ??= performance.now();
    const late = performance.now() - this.changedAt > MAX_DEBOUNCE_MS;
    this.schedule(now || late ? 0 : DEBOUNCE_MS);
  }

  schedule(delay) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.send(), delay);
  }

  async send() {
    const left = this.requestedAt + Math.max(MIN_TIMEOUT_MS, 2 * this.expectedMs) - performance.now();
    if (this.pending && left > 0) {
      this.schedule(left); // or as soon as the response arrives
      return;
    }
    this.changedAt = null;
    this.pending = true;
    const start = (this.requestedAt = performance.now());
    const number = ++this.requested;
    this.onState("busy", this.expectedMs);
    try {
      const image = await this.request();
      this.expectedMs = 0.5 * this.expectedMs + 0.5 * (performance.now() - start);
      this.failures = 0;
      if (number > this.shown) {
        this.shown = number;
        await this.show(image);
      }
      if (number === this.requested) this.finish();
    } catch (error) {
      if (number === this.requested) this.fail(error);
    }
  }

  finish() {
    this.pending = false;
    if (this.changedAt === null) this.onState("idle");
    else this.schedule(0);
  }

  fail(error) {
    this.pending = false;
    if (error.wait === undefined || error.wait === null) {
      this.onState("error", error);
      if (error.wait === undefined) throw error; // not an error of the server
      return;
    }
    const wait = Math.min(MAX_RETRY_S, error.wait * (error.status ? 1 : 2 ** this.failures++));
    this.onState("wait", error);
    this.schedule(1000 * wait);
  }
}
