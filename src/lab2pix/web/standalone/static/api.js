// The functions of the painter's api.js without a server: a worker of this page generates the images.

import { showToast } from "./dom.js";
import { decodeIds, encodeIds, encodePng, PALETTE } from "./png.js";

const RELOADED = "lab2pix-reloaded"; // in sessionStorage, so that a page reloads itself only once
const WORKER_WAIT_MS = 10_000; // longest time before the page opens without its service worker

let model = null;
let worker = null;
let busy = Promise.resolve(); // until the running image is finished
const newest = new Map(); // newest request by purpose

export class ServerError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
    this.wait = null;
  }
}

async function request(path) {
  const response = await fetch(path).catch(() => null);
  if (response?.ok) return response;
  throw new ServerError(`${path} cannot be loaded; check the connection, and reload the page.`, response?.status ?? 0);
}

// Starts the service worker, which keeps the page for use without a connection. It also isolates the page from others,
// which browsers require for threads; the page must be loaded through it for that.
async function startServiceWorker() {
  if (!navigator.serviceWorker) return; // browsers have it on HTTPS pages and on this machine
  const controlled = new Promise((resolve) => (navigator.serviceWorker.oncontrollerchange = resolve));
  const registered = navigator.serviceWorker.register("service_worker.js").then(() => controlled);
  if (navigator.serviceWorker.controller) return;
  await Promise.race([registered.catch(() => {}), new Promise((resolve) => setTimeout(resolve, WORKER_WAIT_MS))]);
  if (!navigator.serviceWorker.controller || crossOriginIsolated || sessionStorage.getItem(RELOADED)) return;
  sessionStorage.setItem(RELOADED, "yes");
  location.reload();
  await new Promise(() => {});
}

export async function fetchModel() {
  await startServiceWorker().catch(() => {}); // the page works without it, as long as there is a connection
  model ??= await (await request("model/model.json")).json();
  return model;
}

// --- images -------------------------------------------------------------------------------------------------------

function startWorker() {
  worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
  const megabytes = Math.ceil(model.program.bytes / 1e6);
  showToast(`Loading the model (${megabytes} MB); the image follows`, true);
  busy = run({ program: model.program }).then(() => showToast(""), (error) => {
    worker = null; // the next image tries again
    showToast("");
    throw error;
  });
}

function run(job) {
  return new Promise((resolve, reject) => {
    worker.onmessage = ({ data }) => (data.error ? reject(new ServerError(data.error, 500)) : resolve(data.image));
    worker.onerror = () => reject(new ServerError("The model cannot be loaded; check the connection, and reload the page.", 0));
    worker.postMessage(job);
  });
}

// Returns the image of a PNG of ids, at `scale` times the model's size. Images are generated one after the other; a
// newer request with the same `purpose` replaces one that waits.
export async function synthesize(png, { seed, blend, regions }, purpose, scale) {
  const ticket = {};
  newest.set(purpose, ticket);
  const label = await decodeIds(png);
  if (!worker) startWorker();
  const image = busy.then(() => {
    if (newest.get(purpose) !== ticket) throw new ServerError("A newer request replaced this one.", 409);
    return run({ label, seed, blend, regions, scale });
  });
  busy = image.catch(() => {});
  return image;
}

export const retryWhileBusy = (action, isWanted = () => true) => action().catch((error) => {
  if (isWanted()) throw error;
  return null;
});

// --- label maps -----------------------------------------------------------------------------------------------------

export const fetchExamples = async () => model.examples;

export const exampleUrl = (token) => `examples/${token}.png`;

export const fetchExample = async (token) => (await request(`examples/${token}-ids.png`)).blob();

// Converts a label map, of class colors or of the values in label files, to a PNG of ids.
export async function readLabels(image) {
  const [stored, { data, width, height }] = await Promise.all([decodeIds(image).catch(() => null), readPixels(image)]);
  const colors = new Map(model.classes.map(({ color, id }) => [color.join(), id]));
  const byColor = Uint8Array.from({ length: width * height }, (_, at) => colors.get(data.slice(4 * at, 4 * at + 3).join()) ?? 255);
  const values = new Map(model.classes.map(({ value, id }) => [value, id]));
  const byValue = stored?.ids.map((value) => values.get(value) ?? 255);
  const isGray = data.every((value, at) => at % 4 === 3 || value === data[at - (at % 4)]);
  const read = (isGray ? [byValue, byColor] : [byColor, byValue]).find((ids) => ids?.every((id) => id < model.classes.length));
  if (read) return encodeIds(read, width, height);
  const error = new ServerError("The picture has colors that no class has; open a label map of class ids or colors.", 400);
  throw Object.assign(error, { isPhoto: true });
}

async function readPixels(image) {
  const bitmap = await createImageBitmap(image, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d");
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, bitmap.width, bitmap.height);
}

// Converts a PNG of ids to a label file.
export async function writeLabels(png) {
  const { ids, width, height } = await decodeIds(png);
  const places = model.classes.map(({ value }) => value);
  if (Math.max(...places) > 255) {
    const bytes = new Uint8Array(2 * ids.length);
    ids.forEach((id, at) => bytes.set([places[id] >> 8, places[id] & 255], 2 * at));
    return encodePng(bytes, width, height, { depth: 16 });
  }
  const palette = new Uint8Array(768);
  for (const { value, color } of model.classes) palette.set(color, 3 * value);
  return encodePng(ids.map((id) => places[id]), width, height, { kind: PALETTE, palette });
}
