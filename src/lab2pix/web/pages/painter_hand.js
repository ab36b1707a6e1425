// Brings mouse, fingers, pen and keyboard to the tools, and what moves the sheet to the view.

import { find, say } from "./painter_dom.js";

const NEAR = 10; // pixels on the screen within which a polygon's first corner is hit
const AT_ONCE = ["brush", "line", "box"]; // tools that begin as soon as they touch
const STEPS = 64; // of the keyboard's cursor along the longer side

export class Hand {
  // name(id) is what a class is called.
  constructor(view, tools, settings, name) {
    Object.assign(this, { view, tools, settings, name });
    this.pointers = new Map(); // by id, those that touch
    this.tool = null; // id of the pointer that holds the tool
    this.moving = false; // the sheet, not the tool
    this.grab = false; // whether the next drag moves the sheet
    this.cursor = null; // of the keyboard
    const stage = find("stage");
    stage.addEventListener("pointerdown", (event) => this.touch(event));
    stage.addEventListener("pointermove", (event) => this.drag(event));
    for (const end of ["pointerup", "pointercancel"]) stage.addEventListener(end, (event) => this.lift(event));
    stage.addEventListener("pointerleave", () => this.view.showBrush(null, 0));
    stage.addEventListener("contextmenu", (event) => event.preventDefault());
    stage.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    stage.addEventListener("dblclick", () => this.settings.tool === "polygon" && this.tools.close());
    const canvas = find("canvas");
    canvas.addEventListener("keydown", (event) => this.press(event));
    canvas.addEventListener("focus", () => canvas.matches(":focus-visible") && this.showCursor());
    canvas.addEventListener("blur", () => this.hideCursor());
  }

  // --- pointers -------------------------------------------------------------------------------------------------------

  touch(event) {
    if (event.button > 2 || (this.holdsPen() && event.pointerType === "touch")) return; // a hand that rests beside the pen
    event.preventDefault(); // no text is selected, no image dragged
    find("canvas").focus({ preventScroll: true });
    this.hideCursor();
    find("stage").setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, event);
    if (this.pointers.size > 1) {
      if (this.tool !== null && this.tools.busy) this.tools.cancel();
      this.tool = null;
      this.moving = true;
    } else if (event.button === 1 || this.grab) {
      this.moving = true;
    } else {
      this.tool = event.pointerId;
      this.pick = event.altKey || event.button === 2;
      if (event.pointerType !== "touch" || (AT_ONCE.includes(this.settings.tool) && !this.pick)) this.put(event);
    }
  }

  holdsPen() {
    return [...this.pointers.values()].some(({ pointerType }) => pointerType === "pen");
  }

  put(event) {
    this.tools.down(this.view.point(event), { pick: this.pick, near: this.view.length(NEAR) });
  }

  drag(event) {
    const before = this.pointers.get(event.pointerId);
    if (before && this.moving) {
      this.pinch(before, event);
      this.pointers.set(event.pointerId, event);
      return;
    }
    if (before) this.pointers.set(event.pointerId, event);
    if (event.pointerId !== this.tool) {
      if (!before) this.hover(event);
      return;
    }
    const coalesced = event.getCoalescedEvents?.() ?? [];
    for (const one of coalesced.length ? coalesced : [event]) {
      const size = this.sizeOf(one);
      this.tools.move(this.view.point(one), { size, straight: event.shiftKey });
      this.showBrush(one, size);
    }
  }

  // A pen pressed harder paints wider.
  sizeOf({ pointerType, pressure }) {
    if (pointerType !== "pen" || !pressure) return this.settings.size;
    return Math.max(1, Math.round(this.settings.size * (0.3 + 1.4 * pressure)));
  }

  hover(event) {
    if (event.pointerType === "touch") return;
    this.showBrush(event, this.settings.size);
    this.tools.move(this.view.point(event));
  }

  showBrush(event, size) {
    this.view.showBrush(this.view.point(event), ["brush", "line"].includes(this.settings.tool) ? size : 0);
  }

  // One pointer moves the sheet; two move it with their middle, and zoom by their distance.
  pinch(before, event) {
    const other = [...this.pointers.values()].find(({ pointerId }) => pointerId !== event.pointerId);
    const [ax, ay] = this.view.place(before);
    const [bx, by] = this.view.place(event);
    if (!other) {
      this.view.zoomBy(1, [ax, ay], [bx - ax, by - ay]);
      return;
    }
    const length = (one) => Math.max(1, Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY));
    const [ox, oy] = this.view.place(other);
    const middle = [(ax + ox) / 2, (ay + oy) / 2];
    this.view.zoomBy(length(event) / length(before), middle, [(bx - ax) / 2, (by - ay) / 2]);
  }

  lift(event) {
    if (!this.pointers.delete(event.pointerId)) return;
    if (event.pointerId === this.tool) {
      this.tool = null;
      if (event.type === "pointercancel") this.tools.cancel();
      else if (this.tools.busy) this.tools.up();
      else if (event.pointerType === "touch") this.put(event); // a tap
      if (event.pointerType === "touch") this.view.showBrush(null, 0);
    }
    if (this.pointers.size === 0) this.moving = false;
  }

  wheel(event) {
    const { scale } = this.view.zoom;
    if (!event.ctrlKey && !event.metaKey && scale === 1) return; // the page scrolls
    event.preventDefault();
    const at = this.view.place(event);
    const frame = find("stage").getBoundingClientRect();
    if (event.ctrlKey || event.metaKey) this.view.zoomBy(Math.exp(-event.deltaY / 300), at);
    else this.view.zoomBy(1, at, [-event.deltaX / frame.width, -event.deltaY / frame.height]);
  }

  // --- keyboard -------------------------------------------------------------------------------------------------------

  showCursor() {
    const { width, height } = this.view.sheet;
    this.cursor ??= [Math.floor(width / 2) + 0.5, Math.floor(height / 2) + 0.5];
    this.show();
  }

  show() {
    this.view.showCross(this.cursor, this.tools.busy);
    this.view.showBrush(this.cursor, ["brush", "line"].includes(this.settings.tool) ? this.settings.size : 0);
  }

  hideCursor() {
    this.view.showCross(null, false);
    this.view.showBrush(null, 0);
    if (this.tool === null && this.tools.busy) this.tools.up();
  }

  press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || this.tool !== null) return;
    const act = {
      ArrowLeft: () => this.go(-1, 0, event.shiftKey),
      ArrowRight: () => this.go(1, 0, event.shiftKey),
      ArrowUp: () => this.go(0, -1, event.shiftKey),
      ArrowDown: () => this.go(0, 1, event.shiftKey),
      " ": () => !event.repeat && this.space(),
      ...this.tools.keys,
    }[event.key];
    if (!act) return;
    event.preventDefault();
    this.showCursor();
    act();
    this.show();
  }

  go(dx, dy, fine) {
    const { width, height } = this.view.sheet;
    const step = fine ? 1 : Math.max(1, Math.round(Math.max(width, height) / STEPS));
    const keep = (value, end) => Math.min(end - 0.5, Math.max(0.5, value));
    this.cursor = [keep(this.cursor[0] + dx * step, width), keep(this.cursor[1] + dy * step, height)];
    this.tools.move(this.cursor);
    this.view.reveal(this.cursor);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.tellPlace(), 200);
  }

  space() {
    if (this.tools.busy) {
      this.tools.up();
      say("Lifted");
      return;
    }
    this.tools.down(this.cursor, { near: 0.5 });
    if (this.tools.busy) say("Put down; move, then press Space again");
  }

  tellPlace() {
    const [x, y] = this.cursor.map(Math.floor);
    say(`${this.name(this.view.sheet.at(x, y))}, column ${x + 1}, row ${y + 1}`);
  }
}
