// What is seen of the drawing: its pixels in the colours of their classes, enlarged or not, and where the brush is.

import { find } from "./painter_dom.js";

const MOST = 16; // times that can be zoomed in

export class View {
  // `colors` are [r, g, b] by class id.
  constructor(sheet, colors) {
    this.sheet = sheet;
    this.colors = Uint32Array.from(colors, ([r, g, b]) => ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0);
    this.canvases = [find("canvas"), find("mirror")];
    for (const canvas of this.canvases) Object.assign(canvas, { width: sheet.width, height: sheet.height });
    this.image = new ImageData(sheet.width, sheet.height);
    this.pixels = new Uint32Array(this.image.data.buffer);
    this.asked = false;
    this.zoom = { scale: 1, x: 0, y: 0 }; // x, y: where the left upper corner lies, in widths and heights of the stage
    document.body.style.setProperty("--ratio", sheet.width / sheet.height);
    find("overlay").setAttribute("viewBox", `0 0 ${sheet.width} ${sheet.height}`);
  }

  // Shows the ids, once per frame however often they change.
  paint() {
    if (this.asked) return;
    this.asked = true;
    requestAnimationFrame(() => {
      this.asked = false;
      this.sheet.ids.forEach((id, at) => (this.pixels[at] = this.colors[id]));
      for (const canvas of this.canvases) canvas.getContext("2d").putImageData(this.image, 0, 0);
    });
  }

  // Returns where on the sheet a pointer is, in pixels with fractions.
  point({ clientX, clientY }) {
    const frame = find("canvas").getBoundingClientRect();
    const { width, height } = this.sheet;
    return [((clientX - frame.left) / frame.width) * width, ((clientY - frame.top) / frame.height) * height];
  }

  // Returns how many pixels of the sheet a length on the screen is.
  length(pixels) {
    return (pixels * this.sheet.width) / find("canvas").getBoundingClientRect().width;
  }

  // --- zoom -----------------------------------------------------------------------------------------------------------

  // Zooms so that what is at a point of the stage, in widths and heights of it, stays there.
  zoomBy(factor, at = [0.5, 0.5], [moveX, moveY] = [0, 0]) {
    const scale = Math.min(MOST, Math.max(1, this.zoom.scale * factor));
    const ratio = scale / this.zoom.scale;
    const keep = (value) => Math.min(0, Math.max(1 - scale, value)); // no gap beside the sheet
    this.zoom = {
      scale,
      x: keep(at[0] - (at[0] - this.zoom.x) * ratio + moveX),
      y: keep(at[1] - (at[1] - this.zoom.y) * ratio + moveY),
    };
    for (const name of ["x", "y", "scale"]) document.body.style.setProperty(`--zoom-${name}`, this.zoom[name]);
    find("zoom-level").textContent = `${Math.round(scale * 100)} %`;
    find("zoom-in").disabled = scale >= MOST;
    find("zoom-out").disabled = scale <= 1;
  }

  resetZoom() {
    this.zoom = { scale: 1, x: 0, y: 0 };
    this.zoomBy(1);
  }

  // Returns a place of the stage as zoomBy takes it.
  place({ clientX, clientY }) {
    const frame = find("stage").getBoundingClientRect();
    return [(clientX - frame.left) / frame.width, (clientY - frame.top) / frame.height];
  }

  // Moves the sheet so that a point of it can be seen.
  reveal([x, y]) {
    const { scale } = this.zoom;
    const shift = (value, size, offset) => {
      const seen = (value / size) * scale + offset;
      return seen < 0.05 ? 0.05 - seen : seen > 0.95 ? 0.95 - seen : 0;
    };
    const move = [shift(x, this.sheet.width, this.zoom.x), shift(y, this.sheet.height, this.zoom.y)];
    if (move[0] || move[1]) this.zoomBy(1, [0.5, 0.5], move);
  }

  // --- where the brush is ---------------------------------------------------------------------------------------------

  // `size` is the brush's, or 0 for tools without one.
  showBrush(point, size) {
    for (const ring of find("overlay").querySelectorAll("circle")) {
      ring.setAttribute("visibility", point && size ? "visible" : "hidden");
      if (!point) continue;
      ring.setAttribute("cx", point[0]);
      ring.setAttribute("cy", point[1]);
      ring.setAttribute("r", size / 2);
    }
  }

  showOutline(points) {
    for (const line of find("overlay").querySelectorAll("polyline")) {
      line.setAttribute("points", points.map((point) => point.join()).join(" "));
    }
  }

  // Shows the keyboard's cursor; `down` while it paints.
  showCross(point, down) {
    const cross = find("cross");
    cross.hidden = !point;
    cross.classList.toggle("down", down);
    if (!point) return;
    cross.style.left = `${(100 * point[0]) / this.sheet.width}%`;
    cross.style.top = `${(100 * point[1]) / this.sheet.height}%`;
  }
}
