// The drawing: one class id per pixel, without antialiasing, and its undo history.

const MIN_UNDO_STEPS = 100; // kept in any case
const MAX_UNDO_BYTES = 64e6; // memory limit of further steps

export class LabelCanvas {
  constructor(width, height, id = 0) {
    this.width = width;
    this.height = height;
    this.ids = new Uint8Array(width * height).fill(id);
    this.before = null; // ids before the current step
    this.done = [];
    this.undone = [];
  }

  at(x, y) {
    return this.ids[y * this.width + x];
  }

  begin() {
    this.before = this.ids.slice();
  }

  // Restores the ids before this step, for a line that follows the pointer.
  restore() {
    this.ids.set(this.before);
  }

  cancel() {
    if (this.before) this.restore();
    this.before = null;
  }

  // Ends the step; returns whether anything changed. `context` is other state to restore on undo, such as the id of
  // another drawing; the step is recorded then in any case.
  commit(context = null) {
    const { ids, before, width } = this;
    this.before = null;
    let [left, top, right, bottom] = [width, this.height, -1, -1];
    for (let at = 0; at < ids.length; at++) {
      if (ids[at] === before[at]) continue;
      const x = at % width;
      const y = (at - x) / width;
      if (x < left) left = x;
      if (x > right) right = x;
      if (y < top) top = y;
      bottom = y;
    }
    if (right < 0 && !context) return false;
    if (right < 0) [left, top, right, bottom] = [0, 0, -1, -1];
    const patch = { left, top, width: right - left + 1, height: bottom - top + 1, context };
    patch.ids = crop(before, width, patch);
    this.done.push(patch);
    this.undone = [];
    this.limitHistory();
    return true;
  }

  // Replaces all ids in one step.
  replace(ids, context = null) {
    this.begin();
    this.ids.set(ids);
    return this.commit(context);
  }

  // These return the step, or null if there is none. `current` replaces the step's `context`, if it has one.
  undo(current) {
    return this.swap(this.done, this.undone, current);
  }

  redo(current) {
    return this.swap(this.undone, this.done, current);
  }

  // A patch holds the ids that are not on the canvas: the old ones until it is undone, then the new ones.
  swap(from, to, current) {
    if (this.before || !from.length) return null;
    const patch = from.pop();
    const ids = crop(this.ids, this.width, patch);
    for (let y = 0; y < patch.height; y++) {
      const row = patch.ids.subarray(y * patch.width, (y + 1) * patch.width);
      this.ids.set(row, (patch.top + y) * this.width + patch.left);
    }
    to.push({ ...patch, ids, context: patch.context && current });
    return patch;
  }

  limitHistory() {
    let bytes = this.done.reduce((sum, patch) => sum + patch.ids.length, 0);
    while (this.done.length > MIN_UNDO_STEPS && bytes > MAX_UNDO_BYTES) bytes -= this.done.shift().ids.length;
  }
}

function crop(ids, stride, { left, top, width, height }) {
  const part = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    const start = (top + y) * stride + left;
    part.set(ids.subarray(start, start + width), y * width);
  }
  return part;
}

// Returns ids resized by nearest neighbor.
export function resized(ids, [width, height], [newWidth, newHeight]) {
  const result = new Uint8Array(newWidth * newHeight);
  for (let y = 0; y < newHeight; y++) {
    const row = Math.floor(((y + 0.5) * height) / newHeight) * width;
    for (let x = 0; x < newWidth; x++) {
      result[y * newWidth + x] = ids[row + Math.floor(((x + 0.5) * width) / newWidth)];
    }
  }
  return result;
}
