// Routes mouse, touch, pen and keyboard input to the tools, and pan and zoom gestures to the viewport.

import { announce, find } from "./dom.js";

const SNAP_PX = 10; // screen distance within which a polygon's first corner is hit
const IMMEDIATE_TOOLS = ["brush", "line", "box", "move"]; // start on touch, while the others wait for a tap
const CURSOR_STEPS = 64; // of the keyboard cursor along the longer side

const hasSize = (tool) => tool === "brush" || tool === "line";

export class PointerInput {
  // `className(id)` returns the name of a class.
  constructor(viewport, tools, settings, className) {
    Object.assign(this, { viewport, tools, settings, className });
    this.pointers = new Map(); // latest event of each pressed pointer by its id
    this.drawing = null; // id of the pointer that draws
    this.moving = false; // whether pointers pan and zoom
    this.pan = false; // whether the next drag pans
    this.cursor = null; // of the keyboard
    const stage = find("stage");
    stage.addEventListener("pointerdown", (event) => this.onDown(event));
    stage.addEventListener("pointermove", (event) => this.onMove(event));
    for (const end of ["pointerup", "pointercancel"]) stage.addEventListener(end, (event) => this.onUp(event));
    stage.addEventListener("pointerleave", () => this.viewport.showBrush(null, 0));
    stage.addEventListener("contextmenu", (event) => event.preventDefault());
    stage.addEventListener("wheel", (event) => this.onWheel(event), { passive: false });
    stage.addEventListener("dblclick", () => this.settings.tool === "polygon" && this.tools.closePolygon());
    const canvas = find("canvas");
    canvas.addEventListener("keydown", (event) => this.onKey(event));
    canvas.addEventListener("focus", () => canvas.matches(":focus-visible") && this.showCursor());
    canvas.addEventListener("blur", () => this.hideCursor());
  }

  // --- pointers -------------------------------------------------------------------------------------------------------

  onDown(event) {
    const hasPen = [...this.pointers.values()].some(({ pointerType }) => pointerType === "pen");
    if (event.button > 2 || (hasPen && event.pointerType === "touch")) return; // palm rejection
    event.preventDefault(); // no text selection, no image dragging
    find("canvas").focus({ preventScroll: true });
    this.hideCursor();
    find("stage").setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, event);
    if (this.pointers.size > 1) {
      if (this.drawing !== null && this.tools.busy) this.tools.abort();
      this.drawing = null;
      this.moving = true;
    } else if (event.button === 1 || this.pan) {
      this.moving = true;
    } else {
      this.drawing = event.pointerId;
      this.pick = event.altKey || event.button === 2;
      if (event.pointerType !== "touch" || (IMMEDIATE_TOOLS.includes(this.settings.tool) && !this.pick)) this.press(event);
    }
  }

  press(event) {
    this.tools.down(this.viewport.point(event), { pick: this.pick, near: this.viewport.length(SNAP_PX) });
  }

  onMove(event) {
    const before = this.pointers.get(event.pointerId);
    if (before && this.moving) {
      this.pinch(before, event);
      this.pointers.set(event.pointerId, event);
      return;
    }
    if (before) this.pointers.set(event.pointerId, event);
    if (event.pointerId !== this.drawing) {
      if (!before) this.hover(event);
      return;
    }
    const coalesced = event.getCoalescedEvents?.() ?? [];
    for (const one of coalesced.length ? coalesced : [event]) {
      const size = this.sizeOf(one);
      this.tools.move(this.viewport.point(one), { size, straight: event.shiftKey });
      this.showBrush(one, size);
    }
  }

  // Pen pressure scales the brush.
  sizeOf({ pointerType, pressure }) {
    if (pointerType !== "pen" || !pressure) return this.settings.size;
    return Math.max(1, Math.round(this.settings.size * (0.3 + 1.4 * pressure)));
  }

  hover(event) {
    if (event.pointerType === "touch") return;
    this.showBrush(event, this.settings.size);
    this.tools.move(this.viewport.point(event));
  }

  showBrush(event, size) {
    this.viewport.showBrush(this.viewport.point(event), hasSize(this.settings.tool) ? size : 0);
  }

  // Pans with one pointer; with two, pans by their center and zooms by their distance.
  pinch(before, event) {
    const other = [...this.pointers.values()].find(({ pointerId }) => pointerId !== event.pointerId);
    const [ax, ay] = this.viewport.stagePoint(before);
    const [bx, by] = this.viewport.stagePoint(event);
    if (!other) {
      this.viewport.zoomBy(1, [ax, ay], [bx - ax, by - ay]);
      return;
    }
    const distance = (one) => Math.max(1, Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY));
    const [ox, oy] = this.viewport.stagePoint(other);
    const center = [(ax + ox) / 2, (ay + oy) / 2];
    this.viewport.zoomBy(distance(event) / distance(before), center, [(bx - ax) / 2, (by - ay) / 2]);
  }

  onUp(event) {
    if (!this.pointers.delete(event.pointerId)) return;
    if (event.pointerId === this.drawing) {
      this.drawing = null;
      if (event.type === "pointercancel") this.tools.abort();
      else if (this.tools.busy) this.tools.up();
      else if (event.pointerType === "touch") this.press(event); // a tap
      if (event.pointerType === "touch") this.viewport.showBrush(null, 0);
    }
    if (this.pointers.size === 0) this.moving = false;
  }

  onWheel(event) {
    const { scale } = this.viewport.zoom;
    const zooms = event.ctrlKey || event.metaKey;
    if (!zooms && scale === 1) return; // scrolls the page
    event.preventDefault();
    const point = this.viewport.stagePoint(event);
    const frame = find("stage").getBoundingClientRect();
    if (zooms) this.viewport.zoomBy(Math.exp(-event.deltaY / 300), point);
    else this.viewport.zoomBy(1, point, [-event.deltaX / frame.width, -event.deltaY / frame.height]);
  }

  // --- keyboard -------------------------------------------------------------------------------------------------------

  showCursor() {
    const { width, height } = this.viewport.labelCanvas;
    this.cursor ??= [Math.floor(width / 2) + 0.5, Math.floor(height / 2) + 0.5];
    this.viewport.showCross(this.cursor, this.tools.busy);
    this.viewport.showBrush(this.cursor, hasSize(this.settings.tool) ? this.settings.size : 0);
  }

  hideCursor() {
    this.viewport.showCross(null, false);
    this.viewport.showBrush(null, 0);
    if (this.drawing === null && this.tools.busy) this.tools.up();
  }

  onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || this.drawing !== null) return;
    if (event.shiftKey && event.key === "Delete") return; // clears the drawing
    const action = {
      ArrowLeft: () => this.moveCursor(-1, 0, event.shiftKey),
      ArrowRight: () => this.moveCursor(1, 0, event.shiftKey),
      ArrowUp: () => this.moveCursor(0, -1, event.shiftKey),
      ArrowDown: () => this.moveCursor(0, 1, event.shiftKey),
      " ": () => !event.repeat && this.toggleTool(),
      ...this.tools.keys,
    }[event.key];
    if (!action) return;
    event.preventDefault();
    this.showCursor();
    action();
    this.showCursor();
  }

  moveCursor(dx, dy, fine) {
    const { width, height } = this.viewport.labelCanvas;
    const step = fine ? 1 : Math.max(1, Math.round(Math.max(width, height) / CURSOR_STEPS));
    const clamp = (value, end) => Math.min(end - 0.5, Math.max(0.5, value));
    this.cursor = [clamp(this.cursor[0] + dx * step, width), clamp(this.cursor[1] + dy * step, height)];
    this.tools.move(this.cursor);
    this.viewport.reveal(this.cursor);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.announceCursor(), 200);
  }

  toggleTool() {
    if (this.tools.busy) {
      this.tools.up();
      announce("Tool up");
      return;
    }
    this.tools.down(this.cursor, { near: 0.5 });
    if (this.tools.busy) announce("Tool down; move, then press Space again");
  }

  announceCursor() {
    const [x, y] = this.cursor.map(Math.floor);
    announce(`${this.className(this.viewport.labelCanvas.at(x, y))}, column ${x + 1}, row ${y + 1}`);
  }
}
