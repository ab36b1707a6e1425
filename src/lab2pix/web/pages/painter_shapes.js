// What can be put on a sheet: strokes, boxes, polygons, floods. Points are [x, y] in pixels of the sheet, with fractions.

// The middle of a brush: of odd sizes in the middle of a pixel, of even ones between pixels, so that dabs look alike.
function settle([x, y], size) {
  return size % 2 ? [Math.floor(x) + 0.5, Math.floor(y) + 0.5] : [Math.round(x), Math.round(y)];
}

// Moves a round brush from one point to another.
export function stroke(sheet, from, to, size, id) {
  const [x0, y0] = settle(from, size);
  const [x1, y1] = settle(to, size);
  const radius = size / 2;
  const [dx, dy] = [x1 - x0, y1 - y0];
  const length = dx * dx + dy * dy || 1;
  const reach = radius * radius + 1e-6;
  const bottom = Math.min(sheet.height - 1, Math.ceil(Math.max(y0, y1) + radius));
  const right = Math.min(sheet.width - 1, Math.ceil(Math.max(x0, x1) + radius));
  for (let y = Math.max(0, Math.floor(Math.min(y0, y1) - radius)); y <= bottom; y++) {
    for (let x = Math.max(0, Math.floor(Math.min(x0, x1) - radius)); x <= right; x++) {
      const [px, py] = [x + 0.5 - x0, y + 0.5 - y0];
      const along = Math.min(1, Math.max(0, (px * dx + py * dy) / length));
      const [ox, oy] = [px - along * dx, py - along * dy];
      if (ox * ox + oy * oy <= reach) sheet.ids[y * sheet.width + x] = id;
    }
  }
}

const pixel = (value, end) => Math.min(end - 1, Math.max(0, Math.floor(value)));

// Fills what lies between two corners, both included.
export function box(sheet, [x0, y0], [x1, y1], id) {
  const left = pixel(Math.min(x0, x1), sheet.width);
  const right = pixel(Math.max(x0, x1), sheet.width);
  const bottom = pixel(Math.max(y0, y1), sheet.height);
  for (let y = pixel(Math.min(y0, y1), sheet.height); y <= bottom; y++) {
    sheet.ids.fill(id, y * sheet.width + left, y * sheet.width + right + 1);
  }
}

// Fills a polygon, its border included.
export function polygon(sheet, points, id) {
  const corners = points.map((point) => settle(point, 1));
  for (let y = 0; y < sheet.height; y++) {
    const middle = y + 0.5;
    const crossings = [];
    corners.forEach(([x1, y1], i) => {
      const [x0, y0] = corners.at(i - 1);
      if (y0 <= middle !== y1 <= middle) crossings.push(x0 + ((middle - y0) / (y1 - y0)) * (x1 - x0));
    });
    crossings.sort((a, b) => a - b);
    for (let i = 0; i + 1 < crossings.length; i += 2) {
      const start = Math.max(0, Math.ceil(crossings[i] - 0.5));
      const end = Math.min(sheet.width, Math.floor(crossings[i + 1] - 0.5) + 1);
      if (end > start) sheet.ids.fill(id, y * sheet.width + start, y * sheet.width + end);
    }
  }
  corners.forEach((corner, i) => stroke(sheet, corners.at(i - 1), corner, 1, id));
}

// Fills what hangs together with a point by its sides and is of the same class.
export function flood(sheet, [x, y], id) {
  const { ids, width, height } = sheet;
  const start = pixel(y, height) * width + pixel(x, width);
  const old = ids[start];
  if (old === id) return;
  const open = [start];
  ids[start] = id;
  const visit = (at) => {
    if (ids[at] === old) {
      ids[at] = id;
      open.push(at);
    }
  };
  while (open.length) {
    const at = open.pop();
    const column = at % width;
    if (column > 0) visit(at - 1);
    if (column < width - 1) visit(at + 1);
    if (at >= width) visit(at - width);
    if (at < ids.length - width) visit(at + width);
  }
}

// Makes all of one class another.
export function replaceClass(sheet, old, id) {
  sheet.ids.forEach((one, at) => {
    if (one === old) sheet.ids[at] = id;
  });
}

// The end of a line that goes in one of eight directions only.
export function straightened([x0, y0], [x, y]) {
  const angle = (Math.round(Math.atan2(y - y0, x - x0) / (Math.PI / 4)) * Math.PI) / 4;
  const length = (x - x0) * Math.cos(angle) + (y - y0) * Math.sin(angle);
  return [x0 + length * Math.cos(angle), y0 + length * Math.sin(angle)];
}
