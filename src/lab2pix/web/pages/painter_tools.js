// What the tools do with points, whether these come from a mouse, a finger, a pen or the keyboard.

import { box, flood, polygon, replaceClass, straightened, stroke } from "./painter_shapes.js";

export const TOOLS = {
  brush: "Drag to paint.",
  line: "Drag from one end to the other; Shift keeps it straight.",
  box: "Drag from corner to corner.",
  polygon: "Click the corners; Enter or the first corner closes.",
  fill: "Click an area to fill it.",
  replace: "Click a class: all of it becomes the chosen one.",
  pick: "Click to choose the class that is there.",
};

export class Tools {
  // `settings` is {tool, id, size}; changed(done) is told of new ids, picked(id) of a choice, outlined(points) of a
  // polygon's corners.
  constructor(sheet, settings, { changed, picked, outlined }) {
    Object.assign(this, { sheet, settings, changed, picked, outlined });
    this.start = null; // where a stroke began
    this.last = null;
    this.corners = [];
    this.keys = { Enter: () => this.close(), Backspace: () => this.dropCorner(), Escape: () => this.cancel() };
  }

  get busy() {
    return this.start !== null;
  }

  // `near` is how many pixels count as the same corner of a polygon.
  down(point, { pick = false, near = 3 } = {}) {
    const { sheet, settings } = this;
    const tool = pick ? "pick" : settings.tool;
    const [x, y] = point.map(Math.floor);
    const inside = x >= 0 && y >= 0 && x < sheet.width && y < sheet.height;
    if (tool === "polygon") return this.corner(point, near);
    if (tool === "pick") return inside && this.picked(sheet.at(x, y));
    if (tool === "fill") return inside && this.once(() => flood(sheet, point, settings.id));
    if (tool === "replace") return inside && this.once(() => replaceClass(sheet, sheet.at(x, y), settings.id));
    sheet.begin();
    this.start = this.last = point;
    return this.move(point);
  }

  // `size` is that of a pen pressed harder or less; `straight` keeps a line's direction.
  move(point, { size = this.settings.size, straight = false } = {}) {
    const { sheet, settings, start } = this;
    if (!start) return this.corners.length && this.outlined([...this.corners, point]);
    if (settings.tool === "brush") {
      stroke(sheet, this.last, point, size, settings.id);
    } else {
      sheet.restore();
      const end = straight ? straightened(start, point) : point;
      if (settings.tool === "line") stroke(sheet, start, end, settings.size, settings.id);
      else box(sheet, start, end, settings.id);
    }
    this.last = point;
    return this.changed(false);
  }

  up() {
    if (!this.start) return;
    this.start = null;
    if (this.sheet.commit()) this.changed(true);
  }

  cancel() {
    const { busy } = this;
    this.start = null;
    this.corners = [];
    this.outlined([]);
    if (!busy) return;
    this.sheet.cancel();
    this.changed(false);
  }

  once(act) {
    this.sheet.begin();
    act();
    if (this.sheet.commit()) this.changed(true);
  }

  // --- polygon ------------------------------------------------------------------------------------------------------

  corner(point, near) {
    const first = this.corners[0];
    const back = first && Math.hypot(point[0] - first[0], point[1] - first[1]) <= near;
    if (back && this.corners.length > 2) return this.close();
    if (!back) this.corners.push(point);
    return this.outlined([...this.corners]);
  }

  dropCorner() {
    this.corners.pop();
    this.outlined([...this.corners]);
  }

  close() {
    const corners = this.corners;
    this.corners = [];
    this.outlined([]);
    if (corners.length > 2) this.once(() => polygon(this.sheet, corners, this.settings.id));
  }
}
