// The drawing: one class id per pixel, never a blended colour, and what was done to it step by step.

const STEPS = 100; // that can be undone in any case
const MORE_BYTES = 64e6; // and more of them while they take no more memory than this

export class Sheet {
  constructor(width, height, id = 0) {
    this.width = width;
    this.height = height;
    this.ids = new Uint8Array(width * height).fill(id);
    this.before = null; // ids at the beginning of the step that is being made
    this.done = [];
    this.undone = [];
  }

  at(x, y) {
    return this.ids[y * this.width + x];
  }

  begin() {
    this.before = this.ids.slice();
  }

  // Takes back what this step did so far, as a line does that follows the pointer.
  restore() {
    this.ids.set(this.before);
  }

  cancel() {
    if (this.before) this.restore();
    this.before = null;
  }

  // Ends the step; returns whether anything changed. `place` is what else there was before, such as the name of another
  // drawing; it is a step then in any case.
  commit(place = null) {
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
    if (right < 0 && !place) return false;
    if (right < 0) [left, top, right, bottom] = [0, 0, -1, -1];
    const patch = { left, top, width: right - left + 1, height: bottom - top + 1, place };
    patch.ids = cut(before, width, patch);
    this.done.push(patch);
    this.undone = [];
    this.forget();
    return true;
  }

  // Makes one step of everything at once.
  replace(ids, place = null) {
    this.begin();
    this.ids.set(ids);
    return this.commit(place);
  }

  // These return the step that was taken back or taken again, or null. Where it leads to another place, that is its
  // `place`, and `here` is kept in turn.
  undo(here) {
    return this.swap(this.done, this.undone, here);
  }

  redo(here) {
    return this.swap(this.undone, this.done, here);
  }

  // A patch holds what is not on the sheet: before it is undone what was there, afterwards what came.
  swap(from, to, here) {
    if (this.before || !from.length) return null;
    const patch = from.pop();
    const ids = cut(this.ids, this.width, patch);
    for (let y = 0; y < patch.height; y++) {
      const row = patch.ids.subarray(y * patch.width, (y + 1) * patch.width);
      this.ids.set(row, (patch.top + y) * this.width + patch.left);
    }
    to.push({ ...patch, ids, place: patch.place && here });
    return patch;
  }

  forget() {
    let bytes = this.done.reduce((sum, patch) => sum + patch.ids.length, 0);
    while (this.done.length > STEPS && bytes > MORE_BYTES) bytes -= this.done.shift().ids.length;
  }
}

function cut(ids, stride, { left, top, width, height }) {
  const part = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    const start = (top + y) * stride + left;
    part.set(ids.subarray(start, start + width), y * width);
  }
  return part;
}

// Returns ids of another size, each pixel taken from the nearest one.
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
