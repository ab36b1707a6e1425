// Lets the picture follow the drawing. While one picture is being drawn nothing is asked for, and then what is newest; so
// a slow machine never falls behind. One that is long in coming does not hold up the newest.

const REST = 90; // milliseconds without a change until the picture is asked for
const PATIENCE = 350; // milliseconds after which it is asked for amid a stroke, too
const LONG = 1500; // milliseconds at least that a picture may take before a newer one is asked for all the same
const MOST = 15; // seconds between attempts to reach a server that does not answer

export class Follower {
  // ask() begins a request for what is drawn now and returns its promise; show(answer) shows it; tell(state, detail) is
  // told "busy" with the milliseconds that it may take, "idle", "wait" with {error, wait} in seconds, or "error".
  constructor({ ask, show, tell }) {
    Object.assign(this, { ask, show, tell });
    this.timer = 0;
    this.since = null; // when the first change came that was not asked for yet
    this.number = 0; // of the last request
    this.shown = 0; // number of the picture in sight
    this.asked = 0; // when the last request began
    this.waiting = false; // whether the last request has not been answered
    this.failures = 0;
    this.expected = 400;
  }

  // The drawing changed; `now` where a step ended and nothing is to be waited for.
  change(now = false) {
    this.since ??= performance.now();
    const late = performance.now() - this.since > PATIENCE;
    this.sendIn(now || late ? 0 : REST);
  }

  sendIn(delay) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.send(), delay);
  }

  async send() {
    const left = this.asked + Math.max(LONG, 2 * this.expected) - performance.now();
    if (this.waiting && left > 0) {
      this.sendIn(left); // or as soon as the answer is there
      return;
    }
    this.since = null;
    this.waiting = true;
    this.asked = performance.now();
    const number = ++this.number;
    this.tell("busy", this.expected);
    try {
      const start = this.asked;
      const answer = await this.ask();
      this.expected = 0.5 * this.expected + 0.5 * (performance.now() - start);
      this.failures = 0;
      if (number > this.shown) {
        this.shown = number;
        await this.show(answer);
      }
      if (number === this.number) this.rest();
    } catch (error) {
      if (number === this.number) this.fail(error);
    }
  }

  rest() {
    this.waiting = false;
    if (this.since === null) this.tell("idle");
    else this.sendIn(0);
  }

  fail(error) {
    this.waiting = false;
    if (error.wait === undefined || error.wait === null) {
      this.tell("error", error);
      if (error.wait === undefined) throw error; // not the server's
      return;
    }
    const wait = Math.min(MOST, error.wait * (error.status ? 1 : 2 ** this.failures++));
    this.tell("wait", { error, wait });
    this.sendIn(1000 * wait);
  }
}
