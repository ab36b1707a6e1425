// A picture under the drawing, to trace: the drawing becomes partly transparent.

import { announce, attempt, find } from "./dom.js";

const MAX_SIDE = 1024; // of the stored picture
const OPACITY = 0.5; // of a new picture

export class Tracing {
  // `onChange()` is called when the picture or its opacity change.
  constructor({ width, height }, onChange) {
    Object.assign(this, { ratio: width / height, onChange });
    this.state = null; // {bytes, opacity}: a JPEG in the drawing's proportions, from 0 for hidden to 1
    find("trace-open").addEventListener("click", () => find("trace-file").click());
    find("trace-file").addEventListener("change", ({ target }) => this.open([...target.files]));
    find("trace-remove").addEventListener("click", () => this.change(null, "The tracing picture is removed"));
    find("trace-opacity").addEventListener("input", ({ target }) => {
      this.change({ ...this.state, opacity: Number(target.value) / 100 });
    });
  }

  async open([file]) {
    find("trace-file").value = ""; // so that the same file can be opened again
    if (!file) return;
    await attempt(async () => {
      const bytes = await this.crop(file);
      this.change({ bytes, opacity: this.state?.opacity || OPACITY }, "The picture is under the drawing");
    });
  }

  // Returns the middle of a picture in the drawing's proportions, as JPEG.
  async crop(file) {
    let bitmap;
    try {
      bitmap = await createImageBitmap(file);
    } catch {
      throw new Error(`${file.name} is not an image that this browser can read; save it as PNG or JPEG.`);
    }
    const width = Math.min(bitmap.width, bitmap.height * this.ratio);
    const height = width / this.ratio;
    const scale = Math.min(1, MAX_SIDE / Math.max(width, height));
    const canvas = new OffscreenCanvas(Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale)));
    const [left, top] = [(bitmap.width - width) / 2, (bitmap.height - height) / 2];
    canvas.getContext("2d").drawImage(bitmap, left, top, width, height, 0, 0, canvas.width, canvas.height);
    const blob = await canvas.convertToBlob({ type: "image/jpeg", quality: 0.85 });
    return new Uint8Array(await blob.arrayBuffer());
  }

  change(state, message = null) {
    this.set(state);
    this.onChange();
    if (message) announce(message);
  }

  set(state) {
    const picture = find("trace");
    if (state?.bytes !== this.state?.bytes) {
      URL.revokeObjectURL(picture.src);
      if (state) picture.src = URL.createObjectURL(new Blob([state.bytes], { type: "image/jpeg" }));
      else picture.removeAttribute("src");
    }
    this.state = state;
    for (const id of ["trace", "trace-row", "trace-remove"]) find(id).hidden = state === null;
    find("trace-menu").classList.toggle("on", state !== null);
    find("trace-opacity").value = Math.round(100 * (state?.opacity ?? OPACITY));
    find("stage").style.setProperty("--traced", state?.opacity ?? 0);
  }
}
