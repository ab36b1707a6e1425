// Regions with a style of their own. A region is {x, y, id, seed}: the connected area of class `id` around a pixel. It
// has no effect while that pixel has another class, so that undo brings it back.

import { flooded } from "./raster.js";

const MAX_REGIONS = 64; // also the server's limit

export function isRegion(region) {
  const { x, y, id, seed } = region ?? {};
  return [x, y, id, seed].every((value) => Number.isSafeInteger(value) && value >= 0);
}

// Returns the regions that the drawing has.
export function presentRegions(regions, { ids, width, height }) {
  return regions.filter(({ x, y, id }) => x < width && y < height && ids[y * width + x] === id);
}

// Returns the regions with another seed for the area around a point.
export function restyled(regions, labelCanvas, point, seed) {
  const [x, y] = point.map(Math.floor);
  const inside = flooded(labelCanvas, point);
  const others = regions.filter((one) => !inside[one.y * labelCanvas.width + one.x]);
  return [...others, { x, y, id: labelCanvas.at(x, y), seed }].slice(-MAX_REGIONS);
}
