// The move tool: selects an area or a rectangle, and moves it. What it uncovers takes the classes around it.

import { announce } from "./dom.js";
import { fillFromAround, flooded, outline, rectangle } from "./raster.js";

export class MoveTool {
  // `onChange(done)` is called when ids change, `onSelect(path)` when the selection does: an SVG path, or "" for none.
  constructor(labelCanvas, settings, { onChange, onSelect }) {
    Object.assign(this, { labelCanvas, settings, onChange, onSelect });
    this.selection = null; // {inside, ids, below, dx, dy}: mask, ids when selected, ids without it, and how far it moved
    this.drag = null; // {start, dx, dy} while a pointer is down; without dx, it spans a rectangle
  }

  // A drag shorter than `near` pixels selects an area instead of a rectangle.
  down(point, near) {
    const { selection } = this;
    if (!this.contains(point)) {
      this.clear();
      this.drag = { start: point, near };
      return;
    }
    this.labelCanvas.begin();
    this.drag = { start: point, dx: selection.dx, dy: selection.dy };
  }

  move(point) {
    const { start, dx, dy } = this.drag;
    if (dx === undefined) {
      this.onSelect(outline(this.labelCanvas, rectangle(this.labelCanvas, start, point)));
    } else {
      this.place(dx + Math.round(point[0] - start[0]), dy + Math.round(point[1] - start[1]));
      this.onChange(false);
    }
  }

  up(end) {
    const { start, near, dx } = this.drag;
    this.drag = null;
    if (dx !== undefined) {
      if (this.labelCanvas.commit()) this.onChange(true);
      return;
    }
    const isTap = Math.max(Math.abs(end[0] - start[0]), Math.abs(end[1] - start[1])) < near;
    this.select(isTap ? flooded(this.labelCanvas, start) : rectangle(this.labelCanvas, start, end));
    announce(isTap ? "The area is selected; drag to move it" : "The rectangle is selected; drag to move it");
  }

  // Ends a drag without its effect.
  abort() {
    const { dx, dy } = this.drag;
    this.drag = null;
    if (dx === undefined) return this.clear();
    this.labelCanvas.cancel();
    this.show(dx, dy);
    return this.onChange(false);
  }

  // --- the selection --------------------------------------------------------------------------------------------------

  select(inside) {
    const { ids, width } = this.labelCanvas;
    const below = fillFromAround({ ids: ids.slice(), width }, inside, this.settings.id);
    this.selection = { inside, below, ids: ids.slice(), path: outline(this.labelCanvas, inside) };
    this.show(0, 0);
  }

  contains([x, y]) {
    if (!this.selection) return false;
    const { width, height } = this.labelCanvas;
    const [column, row] = [Math.floor(x) - this.selection.dx, Math.floor(y) - this.selection.dy];
    return column >= 0 && row >= 0 && column < width && row < height && this.selection.inside[row * width + column] === 1;
  }

  // Writes the drawing with the selection moved that far from where it was selected.
  place(dx, dy) {
    const { width, height } = this.labelCanvas;
    const { inside, ids, below } = this.selection;
    this.labelCanvas.ids.set(below);
    inside.forEach((one, at) => {
      const [x, y] = [(at % width) + dx, Math.floor(at / width) + dy];
      if (one && x >= 0 && y >= 0 && x < width && y < height) this.labelCanvas.ids[y * width + x] = ids[at];
    });
    this.show(dx, dy);
  }

  show(dx, dy) {
    Object.assign(this.selection, { dx, dy });
    this.onSelect(this.selection.path, dx, dy);
  }

  // Removes what is selected from the drawing.
  remove() {
    if (!this.selection || this.drag) return;
    this.labelCanvas.begin();
    this.labelCanvas.ids.set(this.selection.below);
    this.clear();
    if (this.labelCanvas.commit()) this.onChange(true);
    announce("The selection is removed");
  }

  clear() {
    this.selection = null;
    this.onSelect("");
  }
}
