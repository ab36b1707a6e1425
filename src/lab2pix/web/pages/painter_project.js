// Projects: a drawing with its seeds, as a JSON file that can be opened again, in a painter of another model, too.

import { decodeIds, encodeIds } from "./painter_png.js";
import { resized } from "./painter_sheet.js";
import { isStyle } from "./painter_styles.js";

const FORMAT = "lab2pix-painter";

// The label map is a PNG whose grey values are class ids, as data: address.
export async function writeProject(sheet, style, model) {
  const png = new Uint8Array(await (await encodeIds(sheet.ids, sheet.width, sheet.height)).arrayBuffer());
  const project = {
    format: FORMAT,
    version: 1,
    model: { name: model.name, step: model.step },
    size: [sheet.height, sheet.width],
    classes: model.classes.map(({ name }) => name),
    style,
    ids: btoa(Array.from(png, (byte) => String.fromCharCode(byte)).join("")),
  };
  return new Blob([JSON.stringify(project, null, 1)], { type: "application/json" });
}

// Returns {ids, style} at this sheet's size and with this model's ids; throws an Error whose message is for people.
export async function readProject(file, sheet, model) {
  let project;
  try {
    project = JSON.parse(await file.text());
  } catch {
    throw new Error(`${file.name} is no project: it holds no JSON.`);
  }
  if (project?.format !== FORMAT || project.version !== 1 || !Array.isArray(project.classes)) {
    throw new Error(`${file.name} is no project of this painter.`);
  }
  if (!isStyle(project.style)) {
    throw new Error(`${file.name} names a style that there is not; styles are whole numbers from 0 to ${Number.MAX_SAFE_INTEGER}.`);
  }
  let png;
  try {
    png = await decodeIds(new Blob([Uint8Array.from(atob(project.ids), (letter) => letter.charCodeAt(0))]));
  } catch {
    throw new Error(`${file.name} is damaged: its label map cannot be read.`);
  }
  const names = model.classes.map(({ name }) => name);
  const table = project.classes.map((name) => names.indexOf(name));
  const strange = png.ids.find((id) => !(table[id] >= 0));
  if (strange !== undefined) {
    throw new Error(`${file.name} holds the class ${project.classes[strange] ?? strange}, which this model does not know.`);
  }
  const ids = resized(png.ids.map((id) => table[id]), [png.width, png.height], [sheet.width, sheet.height]);
  return { ids, style: project.style };
}
