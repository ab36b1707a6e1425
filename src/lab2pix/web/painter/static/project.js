// Project files: a drawing and its style as JSON, which a painter with another model can also open.

import { resized } from "./label_canvas.js";
import { decodeIds, encodeIds } from "./png.js";
import { isRegion } from "./regions.js";
import { isStyle } from "./styles.js";

const FORMAT = "lab2pix-painter";

// The label map is stored as a base64 PNG whose gray values are class ids.
export async function writeProject(labelCanvas, style, model) {
  const png = new Uint8Array(await (await encodeIds(labelCanvas.ids, labelCanvas.width, labelCanvas.height)).arrayBuffer());
  const project = {
    format: FORMAT,
    version: 1,
    model: { name: model.name, step: model.step },
    size: [labelCanvas.height, labelCanvas.width],
    classes: model.classes.map(({ name }) => name),
    style,
    ids: btoa(Array.from(png, (byte) => String.fromCharCode(byte)).join("")),
  };
  return new Blob([JSON.stringify(project, null, 1)], { type: "application/json" });
}

// Returns {ids, style} with the size and the class ids of this model; throws an Error with a message for people.
export async function readProject(file, labelCanvas, model) {
  let project;
  try {
    project = JSON.parse(await file.text());
  } catch {
    throw new Error(`${file.name} is not a project: it is not valid JSON.`);
  }
  if (project?.format !== FORMAT || project.version !== 1 || !Array.isArray(project.classes)) {
    throw new Error(`${file.name} is not a project of this painter.`);
  }
  if (!isStyle(project.style)) {
    throw new Error(`${file.name} has an invalid style; styles are integers from 0 to ${Number.MAX_SAFE_INTEGER}.`);
  }
  let png;
  try {
    png = await decodeIds(new Blob([Uint8Array.from(atob(project.ids), (letter) => letter.charCodeAt(0))]));
  } catch {
    throw new Error(`${file.name} is damaged: its label map cannot be decoded.`);
  }
  const names = model.classes.map(({ name }) => name);
  const table = project.classes.map((name) => names.indexOf(name));
  const unknown = png.ids.find((id) => !(table[id] >= 0));
  if (unknown !== undefined) {
    throw new Error(`${file.name} contains the class ${project.classes[unknown] ?? unknown}, which this model does not have.`);
  }
  const ids = resized(png.ids.map((id) => table[id]), [png.width, png.height], [labelCanvas.width, labelCanvas.height]);
  return { ids, style: { ...project.style, regions: movedRegions(project.style.regions, table, png, labelCanvas) } };
}

// Returns the regions of a project's label map, `png`, with the classes and pixels of this drawing.
function movedRegions(regions = [], table, png, labelCanvas) {
  const move = (at, length, own) => Math.min(own - 1, Math.floor(((at + 0.5) * own) / length));
  const moved = regions.map(({ x, y, id, seed }) => {
    return { x: move(x, png.width, labelCanvas.width), y: move(y, png.height, labelCanvas.height), id: table[id], seed };
  });
  return moved.filter(isRegion);
}
