// Drawing tools, independent of the input device.

import { box, flood, polygon, replaceClass, straightened, stroke } from "./raster.js";

export const TOOLS = {
  brush: "Drag to paint.",
  line: "Drag from one end to the other; Shift keeps it straight.",
  box: "Drag from corner to corner.",
  polygon: "Click the corners; Enter or the first corner closes it.",
  fill: "Click an area to fill it.",
  replace: "Click a class to replace all of it by the selected one.",
  pick: "Click to select the class at that point.",
};

export class Tools {
  // `settings` is {tool, id, size}; `onChange(done)` is called when ids change, `onPick(id)` when a class is picked,
  // `onOutline(points)` when a polygon's corners change.
  constructor(labelCanvas, settings, { onChange, onPick, onOutline }) {
    Object.assign(this, { labelCanvas, settings, onChange, onPick, onOutline });
    this.start = null; // first point of a stroke
    this.last = null;
    this.corners = [];
    this.keys = { Enter: () => this.closePolygon(), Backspace: () => this.dropCorner(), Escape: () => this.cancel() };
  }

  get busy() {
    return this.start !== null;
  }

  // `near` is the distance in pixels within which a polygon's first corner is hit.
  down(point, { pick = false, near = 3 } = {}) {
    const { labelCanvas, settings } = this;
    const tool = pick ? "pick" : settings.tool;
    const [x, y] = point.map(Math.floor);
    const inside = x >= 0 && y >= 0 && x < labelCanvas.width && y < labelCanvas.height;
    if (tool === "polygon") return this.addCorner(point, near);
    if (tool === "pick") return inside && this.onPick(labelCanvas.at(x, y));
    if (tool === "fill") return inside && this.apply(() => flood(labelCanvas, point, settings.id));
    if (tool === "replace") return inside && this.apply(() => replaceClass(labelCanvas, labelCanvas.at(x, y), settings.id));
    labelCanvas.begin();
    this.start = this.last = point;
    return this.move(point);
  }

  // `size` may differ from the setting because of pen pressure; `straight` snaps a line's direction.
  move(point, { size = this.settings.size, straight = false } = {}) {
    const { labelCanvas, settings, start } = this;
    if (!start) return this.corners.length && this.onOutline([...this.corners, point]);
    if (settings.tool === "brush") {
      stroke(labelCanvas, this.last, point, size, settings.id);
    } else {
      labelCanvas.restore();
      const end = straight ? straightened(start, point) : point;
      if (settings.tool === "line") stroke(labelCanvas, start, end, settings.size, settings.id);
      else box(labelCanvas, start, end, settings.id);
    }
    this.last = point;
    return this.onChange(false);
  }

  up() {
    if (!this.start) return;
    this.start = null;
    if (this.labelCanvas.commit()) this.onChange(true);
  }

  cancel() {
    const { busy } = this;
    this.start = null;
    this.corners = [];
    this.onOutline([]);
    if (!busy) return;
    this.labelCanvas.cancel();
    this.onChange(false);
  }

  apply(action) {
    this.labelCanvas.begin();
    action();
    if (this.labelCanvas.commit()) this.onChange(true);
  }

  // --- polygon ------------------------------------------------------------------------------------------------------

  addCorner(point, near) {
    const first = this.corners[0];
    const closes = first && Math.hypot(point[0] - first[0], point[1] - first[1]) <= near;
    if (closes && this.corners.length > 2) return this.closePolygon();
    if (!closes) this.corners.push(point);
    return this.onOutline([...this.corners]);
  }

  dropCorner() {
    this.corners.pop();
    this.onOutline([...this.corners]);
  }

  closePolygon() {
    const corners = this.corners;
    this.corners = [];
    this.onOutline([]);
    if (corners.length > 2) this.apply(() => polygon(this.labelCanvas, corners, this.settings.id));
  }
}
