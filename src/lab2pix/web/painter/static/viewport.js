// Shows the drawing in class colors, with pan and zoom, and the brush outline over it.

import { find } from "./dom.js";

const MAX_ZOOM = 16;

export class Viewport {
  // `colors` are [r, g, b] by class id.
  constructor(labelCanvas, colors) {
    this.labelCanvas = labelCanvas;
    this.colors = Uint32Array.from(colors, ([r, g, b]) => ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0);
    this.canvases = [find("canvas"), find("mirror")];
    for (const canvas of this.canvases) Object.assign(canvas, { width: labelCanvas.width, height: labelCanvas.height });
    this.image = new ImageData(labelCanvas.width, labelCanvas.height);
    this.pixels = new Uint32Array(this.image.data.buffer);
    this.scheduled = false;
    this.zoom = { scale: 1, x: 0, y: 0 }; // x, y: offset in widths and heights of the stage
    document.body.style.setProperty("--ratio", labelCanvas.width / labelCanvas.height);
    find("overlay").setAttribute("viewBox", `0 0 ${labelCanvas.width} ${labelCanvas.height}`);
  }

  // Shows the ids, at most once per frame.
  paint() {
    if (this.scheduled) return;
    this.scheduled = true;
    requestAnimationFrame(() => {
      this.scheduled = false;
      this.labelCanvas.ids.forEach((id, at) => (this.pixels[at] = this.colors[id]));
      for (const canvas of this.canvases) canvas.getContext("2d").putImageData(this.image, 0, 0);
    });
  }

  // Converts a pointer position on the drawing, or on its image, to pixels of the drawing, with fractions.
  point({ clientX, clientY }, canvas = find("canvas")) {
    const frame = canvas.getBoundingClientRect();
    const { width, height } = this.labelCanvas;
    return [((clientX - frame.left) / frame.width) * width, ((clientY - frame.top) / frame.height) * height];
  }

  // Converts a length on the screen to pixels of the drawing.
  length(pixels) {
    return (pixels * this.labelCanvas.width) / find("canvas").getBoundingClientRect().width;
  }

  // --- zoom -----------------------------------------------------------------------------------------------------------

  // Zooms around a point of the stage, given in its widths and heights, and pans.
  zoomBy(factor, center = [0.5, 0.5], [moveX, moveY] = [0, 0]) {
    const scale = Math.min(MAX_ZOOM, Math.max(1, this.zoom.scale * factor));
    const ratio = scale / this.zoom.scale;
    const clamp = (value) => Math.min(0, Math.max(1 - scale, value)); // leaves no gap at the edges
    this.zoom = {
      scale,
      x: clamp(center[0] - (center[0] - this.zoom.x) * ratio + moveX),
      y: clamp(center[1] - (center[1] - this.zoom.y) * ratio + moveY),
    };
    for (const name of ["x", "y", "scale"]) document.body.style.setProperty(`--zoom-${name}`, this.zoom[name]);
    find("zoom-level").textContent = `${Math.round(scale * 100)} %`;
    find("zoom-in").disabled = scale >= MAX_ZOOM;
    find("zoom-out").disabled = scale <= 1;
  }

  resetZoom() {
    this.zoom = { scale: 1, x: 0, y: 0 };
    this.zoomBy(1);
  }

  // Converts a pointer position to widths and heights of the stage.
  stagePoint({ clientX, clientY }) {
    const frame = find("stage").getBoundingClientRect();
    return [(clientX - frame.left) / frame.width, (clientY - frame.top) / frame.height];
  }

  // Pans so that a point is visible.
  reveal([x, y]) {
    const { scale } = this.zoom;
    const shift = (value, size, offset) => {
      const at = (value / size) * scale + offset;
      return at < 0.05 ? 0.05 - at : at > 0.95 ? 0.95 - at : 0;
    };
    const move = [shift(x, this.labelCanvas.width, this.zoom.x), shift(y, this.labelCanvas.height, this.zoom.y)];
    if (move[0] || move[1]) this.zoomBy(1, [0.5, 0.5], move);
  }

  // --- overlays -------------------------------------------------------------------------------------------------------

  // `size` is the brush diameter, or 0 for tools without one.
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

  // Shows the border of the selection, an SVG path, moved by some pixels.
  showSelection(path, dx = 0, dy = 0) {
    for (const line of find("overlay").querySelectorAll("path")) {
      line.setAttribute("d", path);
      line.setAttribute("transform", `translate(${dx} ${dy})`);
    }
  }

  // Shows the keyboard cursor; `down` while it paints.
  showCross(point, down) {
    const cross = find("cross");
    cross.hidden = !point;
    cross.classList.toggle("down", down);
    if (!point) return;
    cross.style.left = `${(100 * point[0]) / this.labelCanvas.width}%`;
    cross.style.top = `${(100 * point[1]) / this.labelCanvas.height}%`;
  }
}
