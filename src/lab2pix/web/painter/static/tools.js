// Drawing tools, independent of the input device.

import { MoveTool } from "./selection.js";
import { box, flood, polygon, replaceClass, roughen, straightened, stroke } from "./raster.js";

export const TOOLS = {
  brush: "Drag to paint.",
  line: "Drag from one end to the other; Shift keeps it straight.",
  box: "Drag from corner to corner.",
  polygon: "Click the corners; Enter or the first corner closes it.",
  fill: "Click an area to fill it.",
  replace: "Click a class to replace all of it by the selected one.",
  move: "Click an area or drag around several, then drag to move.",
  restyle: "Click an area, also in the image, to restyle it.",
  pick: "Click to select the class at that point.",
};

export class Tools {
  // `settings` is {tool, id, size, rough}; `onChange(done)` is called when ids change, `onPick(id)` when a class is picked,
  // `onRestyle(point)` when an area gets another style, `onOutline(points)` when a polygon's corners change, `onSelect(path, dx, dy)` when the selection does.
  constructor(labelCanvas, settings, { onChange, onPick, onRestyle, onOutline, onSelect }) {
    Object.assign(this, { labelCanvas, settings, onChange, onPick, onRestyle, onOutline });
    this.mover = new MoveTool(labelCanvas, settings, { onChange, onSelect });
    this.start = null; // first point of a stroke
    this.last = null;
    this.corners = [];
    this.keys = {
      Enter: () => this.closePolygon(),
      Backspace: () => (this.mover.selection ? this.mover.remove() : this.dropCorner()),
      Delete: () => this.mover.remove(),
      Escape: () => this.cancel(),
    };
  }

  get busy() {
    return this.start !== null;
  }

  // Whether the keys above have something to act on.
  get open() {
    return this.corners.length > 0 || this.mover.selection !== null;
  }

  // `near` is the distance in pixels within which a polygon's first corner is hit.
  down(point, { pick = false, near = 3 } = {}) {
    const { labelCanvas, settings } = this;
    const tool = pick ? "pick" : settings.tool;
    const [x, y] = point.map(Math.floor);
    const inside = x >= 0 && y >= 0 && x < labelCanvas.width && y < labelCanvas.height;
    if (tool === "polygon") return this.addCorner(point, near);
    if (tool === "pick") return inside && this.onPick(labelCanvas.at(x, y));
    if (tool === "restyle") return inside && this.onRestyle(point);
    if (tool === "fill") return inside && this.apply(() => flood(labelCanvas, point, settings.id));
    if (tool === "replace") return inside && this.apply(() => replaceClass(labelCanvas, labelCanvas.at(x, y), settings.id));
    this.start = this.last = point;
    if (tool === "move") return this.mover.down(point, near / 2);
    labelCanvas.begin();
    return this.move(point);
  }

  // `size` may differ from the setting because of pen pressure; `straight` snaps a line's direction.
  move(point, { size = this.settings.size, straight = false } = {}) {
    const { labelCanvas, settings, start } = this;
    if (!start) return this.corners.length && this.onOutline([...this.corners, point]);
    if (settings.tool === "move") {
      this.last = point;
      return this.mover.move(point);
    }
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
    if (this.mover.drag) this.mover.up(this.last);
    else this.finish();
  }

  // Ends a stroke or a shape.
  finish() {
    const { labelCanvas, settings } = this;
    if (settings.rough) roughen(labelCanvas, labelCanvas.before, settings.id);
    if (labelCanvas.commit()) this.onChange(true);
  }

  // Ends a drag without its effect; the selection stays.
  abort() {
    if (!this.busy) return;
    this.start = null;
    if (this.mover.drag) return this.mover.abort();
    this.labelCanvas.cancel();
    return this.onChange(false);
  }

  // Ends whatever is open: a drag, a polygon, the selection.
  cancel() {
    this.abort();
    this.corners = [];
    this.onOutline([]);
    this.mover.clear();
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
    if (corners.length < 3) return;
    this.labelCanvas.begin();
    polygon(this.labelCanvas, corners, this.settings.id);
    this.finish();
  }
}
