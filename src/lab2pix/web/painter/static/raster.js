// Rasterizes strokes, boxes, polygons and fills onto a label canvas. Points are [x, y] in its pixels, with fractions.

// Snaps the center of a brush to a pixel center (odd sizes) or corner (even sizes), so that all dabs look alike.
function snap([x, y], size) {
  return size % 2 ? [Math.floor(x) + 0.5, Math.floor(y) + 0.5] : [Math.round(x), Math.round(y)];
}

// Moves a round brush from one point to another.
export function stroke(canvas, from, to, size, id) {
  const [x0, y0] = snap(from, size);
  const [x1, y1] = snap(to, size);
  const radius = size / 2;
  const [dx, dy] = [x1 - x0, y1 - y0];
  const length = dx * dx + dy * dy || 1;
  const reach = radius * radius + 1e-6;
  const bottom = Math.min(canvas.height - 1, Math.ceil(Math.max(y0, y1) + radius));
  const right = Math.min(canvas.width - 1, Math.ceil(Math.max(x0, x1) + radius));
  for (let y = Math.max(0, Math.floor(Math.min(y0, y1) - radius)); y <= bottom; y++) {
    for (let x = Math.max(0, Math.floor(Math.min(x0, x1) - radius)); x <= right; x++) {
      const [px, py] = [x + 0.5 - x0, y + 0.5 - y0];
      const along = Math.min(1, Math.max(0, (px * dx + py * dy) / length));
      const [ox, oy] = [px - along * dx, py - along * dy];
      if (ox * ox + oy * oy <= reach) canvas.ids[y * canvas.width + x] = id;
    }
  }
}

const clampPixel = (value, end) => Math.min(end - 1, Math.max(0, Math.floor(value)));

// Fills the rectangle between two corners, both included.
export function box(canvas, [x0, y0], [x1, y1], id) {
  const left = clampPixel(Math.min(x0, x1), canvas.width);
  const right = clampPixel(Math.max(x0, x1), canvas.width);
  const bottom = clampPixel(Math.max(y0, y1), canvas.height);
  for (let y = clampPixel(Math.min(y0, y1), canvas.height); y <= bottom; y++) {
    canvas.ids.fill(id, y * canvas.width + left, y * canvas.width + right + 1);
  }
}

// Fills a polygon, its outline included, by scan lines.
export function polygon(canvas, points, id) {
  const corners = points.map((point) => snap(point, 1));
  for (let y = 0; y < canvas.height; y++) {
    const middle = y + 0.5;
    const crossings = [];
    corners.forEach(([x1, y1], i) => {
      const [x0, y0] = corners.at(i - 1);
      if (y0 <= middle !== y1 <= middle) crossings.push(x0 + ((middle - y0) / (y1 - y0)) * (x1 - x0));
    });
    crossings.sort((a, b) => a - b);
    for (let i = 0; i + 1 < crossings.length; i += 2) {
      const start = Math.max(0, Math.ceil(crossings[i] - 0.5));
      const end = Math.min(canvas.width, Math.floor(crossings[i + 1] - 0.5) + 1);
      if (end > start) canvas.ids.fill(id, y * canvas.width + start, y * canvas.width + end);
    }
  }
  corners.forEach((corner, i) => stroke(canvas, corners.at(i - 1), corner, 1, id));
}

// Calls `visit` with the index of each of the four neighbors of a pixel.
function visitNeighbors(at, width, length, visit) {
  const column = at % width;
  if (column > 0) visit(at - 1);
  if (column < width - 1) visit(at + 1);
  if (at >= width) visit(at - width);
  if (at < length - width) visit(at + width);
}

// Flood-fills the 4-connected area of one class around a point.
export function flood(canvas, [x, y], id) {
  const { ids, width, height } = canvas;
  const start = clampPixel(y, height) * width + clampPixel(x, width);
  const old = ids[start];
  if (old === id) return;
  const open = [start];
  ids[start] = id;
  const visit = (index) => {
    if (ids[index] === old) {
      ids[index] = id;
      open.push(index);
    }
  };
  while (open.length) visitNeighbors(open.pop(), width, ids.length, visit);
}

// --- rough edges ----------------------------------------------------------------------------------------------------

// Returns a function of smooth noise: from -1 to 1, with bumps of about `size` pixels.
function noise(size, seed) {
  const at = (x, y) => {
    const value = Math.sin(127.1 * x + 311.7 * y + 74.7 * seed) * 43758.5453;
    return 2 * (value - Math.floor(value)) - 1;
  };
  const ease = (part) => part * part * (3 - 2 * part);
  return (x, y) => {
    const [column, row] = [Math.floor(x / size), Math.floor(y / size)];
    const [across, down] = [ease(x / size - column), ease(y / size - row)];
    const mix = (line) => at(column, line) * (1 - across) + at(column + 1, line) * across;
    return mix(row) * (1 - down) + mix(row + 1) * down;
  };
}

// Makes the edges of what was painted in `id` since `before` ragged, as those of label maps made from photographs:
// each pixel takes the state of one up to a 30th of the smaller side away.
export function roughen({ ids, width, height }, before, id) {
  const painted = ids.slice();
  const side = Math.min(width, height);
  const octaves = [[side / 12, side / 42], [side / 40, side / 100]];
  const fields = [0, 1].map((axis) => octaves.map(([size, reach], index) => [noise(size, 2 * index + axis), reach]));
  const offset = (axis, x, y) => fields[axis].reduce((sum, [field, reach]) => sum + reach * field(x, y), 0);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const here = y * width + x;
      const from = clampPixel(y + 0.5 + offset(1, x, y), height) * width + clampPixel(x + 0.5 + offset(0, x, y), width);
      const changed = painted[here] !== before[here] || painted[from] !== before[from];
      if (changed) ids[here] = painted[from] === id ? id : before[here];
    }
  }
}

// --- masks: 1 for each pixel inside ---------------------------------------------------------------------------------

// Returns the mask of the area that a flood fill around a point changes.
export function flooded({ ids, width, height }, point) {
  const copy = { ids: ids.slice(), width, height };
  const old = ids[clampPixel(point[1], height) * width + clampPixel(point[0], width)];
  flood(copy, point, (old + 1) % 256);
  return copy.ids.map((id, at) => Number(id !== ids[at]));
}

// Returns the mask of the rectangle between two corners, both included.
export function rectangle({ width, height }, from, to) {
  const mask = { ids: new Uint8Array(width * height), width, height };
  box(mask, from, to, 1);
  return mask.ids;
}

// Fills a mask with the nearest ids outside, or with `id` if all is inside; returns the ids.
export function fillFromAround({ ids, width }, mask, id) {
  const open = mask.slice();
  const ring = [];
  const fill = (from) => (at) => {
    if (!open[at]) return;
    open[at] = 0;
    ids[at] = ids[from];
    ring.push(at);
  };
  mask.forEach((inside, at) => inside || visitNeighbors(at, width, ids.length, fill(at)));
  for (let next = 0; next < ring.length; next++) visitNeighbors(ring[next], width, ids.length, fill(ring[next]));
  return ring.length ? ids : ids.fill(id);
}

// Returns the border of a mask as an SVG path of horizontal and vertical lines.
export function outline({ width, height }, mask) {
  const inside = (x, y) => x >= 0 && y >= 0 && x < width && y < height && mask[y * width + x] === 1;
  const parts = [];
  const trace = (lines, length, differs, draw) => {
    for (let line = 0; line <= lines; line++) {
      for (let start = 0; start < length; start++) {
        if (!differs(line, start)) continue;
        let end = start + 1;
        while (end < length && differs(line, end)) end++;
        parts.push(draw(line, start, end - start));
        start = end;
      }
    }
  };
  trace(height, width, (y, x) => inside(x, y) !== inside(x, y - 1), (y, x, length) => `M${x} ${y}h${length}`);
  trace(width, height, (x, y) => inside(x, y) !== inside(x - 1, y), (x, y, length) => `M${x} ${y}v${length}`);
  return parts.join("");
}

// Replaces all pixels of one class by another.
export function replaceClass(canvas, old, id) {
  canvas.ids.forEach((one, index) => {
    if (one === old) canvas.ids[index] = id;
  });
}

// Returns the end of a line snapped to the nearest of eight directions.
export function straightened([x0, y0], [x, y]) {
  const angle = (Math.round(Math.atan2(y - y0, x - x0) / (Math.PI / 4)) * Math.PI) / 4;
  const length = (x - x0) * Math.cos(angle) + (y - y0) * Math.sin(angle);
  return [x0 + length * Math.cos(angle), y0 + length * Math.sin(angle)];
}
