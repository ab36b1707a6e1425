// Lets the picture follow the drawing: at most one request is being drawn and one waits, which is always the newest.

const REST = 90; // milliseconds without a change until the picture is asked for
const PATIENCE = 350; // milliseconds after which it is asked for amid a stroke, too
const MOST = 15; // seconds between attempts to reach a server that does not answer

// ask() begins a request for what is drawn now and returns its promise; show(answer) shows it; tell(state, detail) is told
// "busy" with the milliseconds that it may take, "idle", "wait" with the seconds until the next attempt, or "error".
export class Follower {
  constructor({ ask, show, tell }) {
    Object.assign(this, { ask, show, tell });
    this.timer = 0;
    this.since = null; // when the first change came that was not asked for yet
    this.number = 0; // of the last request
    this.shown = 0; // number of the picture in sight
    this.failures = 0;
    this.expected = 400;
  }

  // The drawing changed; `now` where a step ended and nothing is to be waited for.
  change(now = false) {
    clearTimeout(this.timer);
    this.since ??= performance.now();
    const late = performance.now() - this.since > PATIENCE;
    this.timer = setTimeout(() => this.send(), now || late ? 0 : REST);
  }

  async send() {
    clearTimeout(this.timer);
    this.since = null;
    const number = ++this.number;
    const start = performance.now();
    this.tell("busy", this.expected);
    try {
      const answer = await this.ask();
      this.expected = 0.5 * this.expected + 0.5 * (performance.now() - start);
      this.failures = 0;
      if (number > this.shown) {
        this.shown = number;
        this.show(answer);
      }
      if (number === this.number) this.tell("idle");
    } catch (error) {
      if (number === this.number) this.fail(error);
    }
  }

  fail(error) {
    if (error.wait === undefined) throw error; // not the server's
    if (error.wait === null) {
      this.tell("error", error);
      return;
    }
    const wait = Math.min(MOST, error.wait * (error.status ? 1 : 2 ** this.failures++));
    this.tell("wait", { error, wait });
    this.timer = setTimeout(() => this.send(), 1000 * wait);
  }
}
