// The painter's page: connects the drawing, its tools, the live image, and storage.

import * as api from "./api.js";
import { announce, attempt, clearError, drawBlob, find, showError } from "./dom.js";
import { Downloads } from "./downloads.js";
import { LabelEditor } from "./editing.js";
import { LabelCanvas } from "./label_canvas.js";
import { LivePreview } from "./live_preview.js";
import { listenToMenus, toggleMenu } from "./menus.js";
import { Palette, inOrder } from "./palette.js";
import { encodeIds } from "./png.js";
import { PointerInput } from "./pointer.js";
import { isOff, turn } from "./preferences.js";
import { listenToShortcuts } from "./shortcuts.js";
import { StartMenu } from "./start_menu.js";
import { DrawingStorage } from "./storage.js";
import { presentRegions } from "./regions.js";
import { Styles, isStyle } from "./styles.js";
import { Tools } from "./tools.js";
import { Tracing } from "./tracing.js";
import { Viewport } from "./viewport.js";

let model = null; // the server's description
let storage = null; // null if the browser stores nothing
let editor = null; // of the label maps of a dataset, instead of a model
let labelCanvas, viewport, tools, palette, styles, preview, startMenu, pointer, downloads, tracing;
let saving = null; // promise of the running save
let unsaved = false;
let slowTimer = 0; // delays the message that an image is being generated
let disconnected = false;
const FOLLOW_MS = 5000; // pause between questions for a new checkpoint
const settings = { tool: "brush", id: 0, size: 12, rough: false };

// --- changes ------------------------------------------------------------------------------------------------------

function onDrawingChange(done) {
  viewport.paint();
  styles.markOutdated();
  if (done) styles.showRegions();
  preview.change(done);
  if (done) editor ? editor.change(true) : scheduleSave();
  updateUndoButtons();
  if (document.body.dataset.ready) closeWelcome();
}

function onStyleChange() {
  preview.change();
  scheduleSave();
}

function updateUndoButtons() {
  find("undo").disabled = labelCanvas.done.length === 0;
  find("redo").disabled = labelCanvas.undone.length === 0;
}

// Shows that nothing is saved, once also as an error, because narrow windows do not show the status.
function showNotSaved(message) {
  if (find("save-status").textContent !== message) showError(new Error(message));
  find("save-status").textContent = message;
}

// Saves at once; changes during a save are saved after it.
function scheduleSave() {
  editor?.change(false);
  if (!storage) return;
  storage.saveSettings({ style: styles.style, settings: { ...settings } });
  unsaved = true;
  saving ??= saveAll();
}

async function saveAll() {
  while (unsaved) {
    unsaved = false;
    await saveDrawing();
  }
  saving = null;
}

async function saveDrawing() {
  try {
    await storage.save({ ids: labelCanvas.ids, style: styles.style, settings: { ...settings }, trace: tracing.state });
    find("save-status").textContent = "Saved in this browser";
  } catch {
    showNotSaved("Not saved: this browser's storage is full or disabled");
  }
}

// Replaces the drawing in one step.
function replaceDrawing({ ids, style = null, what }) {
  tools.cancel();
  if (!style && styles.style.regions.length) style = withoutRegions();
  labelCanvas.replace(ids, style && currentContext());
  if (style) styles.set(style);
  onDrawingChange(true);
  clearError();
  announce(`Loaded: ${what}`);
}

function undoOrRedo(action) {
  tools.cancel();
  if (storage && unsaved) saveDrawing(); // under its own id, before the step leads to another drawing
  const step = labelCanvas[action](currentContext());
  if (!step) return;
  if (step.context) restoreContext(step.context);
  onDrawingChange(true);
  announce(action === "undo" ? "Undone" : "Redone");
}

function clear() {
  replaceDrawing({ ids: new Uint8Array(labelCanvas.ids.length).fill(model.blank.id), what: model.blank.title });
}

// --- the image ----------------------------------------------------------------------------------------------------

async function generate(style, purpose, scale = 1) {
  if (editor) return editor.photo;
  const regions = presentRegions(style.regions, labelCanvas);
  const png = await encodeIds(labelCanvas.ids, labelCanvas.width, labelCanvas.height);
  return api.synthesize(png, { ...style, regions }, purpose, scale);
}

async function showImage(blob) {
  const canvas = await drawBlob(find("image"), blob);
  downloads.setImage(blob);
  canvas.dataset.number = preview.shown;
  find("compare").disabled = false;
}

function onPreviewState(state, detail) {
  const progress = find("progress");
  progress.classList.toggle("busy", state === "busy");
  find("image-stage").setAttribute("aria-busy", state === "busy" || state === "wait");
  clearTimeout(slowTimer);
  if (state === "busy") {
    progress.style.setProperty("--expected", `${Math.max(300, detail)}ms`);
    const about = detail > 2000 ? ` about ${Math.round(detail / 1000)} s` : "";
    slowTimer = setTimeout(() => (find("state").textContent = `Generating the image…${about}`), 800);
  } else if (state === "wait") {
    find("state").textContent = detail.status === 429 ? "The server is busy; the image will follow" : "Trying again…";
    if (detail.status !== 429) showError(detail);
    disconnected = true;
  } else {
    find("state").textContent = "";
    if (state === "error") showError(detail);
    else if (disconnected) clearError();
    disconnected &&= state === "error";
  }
}

function compare(on) {
  for (const id of ["compared", "divider", "compare-position"]) find(id).hidden = !on;
  find("compare").checked = on;
  if (on) moveDivider();
}

function moveDivider() {
  find("image-stage").style.setProperty("--at", `${find("compare-position").value}%`);
}

// --- stored drawings ----------------------------------------------------------------------------------------------

// Continues the drawing of an earlier visit, whose undo history is lost.
function resume({ ids, style, trace = null, settings: stored }) {
  labelCanvas.ids.set(ids);
  if (isStyle(style)) styles.set(style);
  tracing.set(trace);
  Object.assign(settings, stored);
  palette.show();
  viewport.paint();
  styles.markOutdated();
  preview.change(true);
  updateUndoButtons();
}

// What undo restores in addition to the ids: which drawing it was, its style and its tracing picture.
const currentContext = () => ({ id: storage?.id, style: styles.style, trace: tracing.state });

function restoreContext({ id, style, trace = null }) {
  storage?.select(id, null);
  if (isStyle(style)) styles.set(style);
  tracing.set(trace);
}

// Switches to another drawing, in a step that can be undone; the present one stays stored under its id.
async function switchTo(record, message) {
  await attempt(async () => {
    const id = await storage.reserve(record.id);
    tools.cancel();
    if (unsaved) saveDrawing();
    labelCanvas.replace(record.ids, currentContext());
    restoreContext({ ...record, id });
    onDrawingChange(true);
    clearError();
    announce(`${message}; undo returns to the previous one`);
  });
}

const open = (record) => switchTo(record, "Opened the stored drawing");

function openNew() {
  return switchTo({ ids: new Uint8Array(labelCanvas.ids.length).fill(model.blank.id), style: withoutRegions() }, "Started a new drawing");
}

// The style for another drawing, which has other areas.
const withoutRegions = () => ({ ...styles.style, regions: [] });

// --- start --------------------------------------------------------------------------------------------------------

async function fetchModel() {
  for (let wait = 1; ; wait = Math.min(8, 2 * wait)) {
    try {
      const found = await api.fetchModel();
      return { ...found, blank: inOrder(found.classes)[0] };
    } catch (error) {
      showError(error);
      await new Promise((resolve) => setTimeout(resolve, 1000 * wait));
    }
  }
}

function showModel() {
  document.title = `Painter – ${model.name}`;
  find("model").textContent = model.name;
  const step = editor ? "" : `step ${model.step}, `;
  find("model").title = `${model.name}, ${step}${model.size[0]} × ${model.size[1]} pixels (height × width)`;
  const styled = model.style !== "none";
  find("style").hidden = !model.noise && !styled;
  find("style-image").hidden = !styled;
  for (const part of document.querySelectorAll("[data-noise]")) part.hidden = !model.noise;
  document.body.classList.toggle("plain", !model.noise && !styled);
  find("clear").title = `Clear: everything becomes ${model.blank.title} (Shift+Delete)`;
}

async function openStorage() {
  try {
    const names = model.classes.map(({ name }) => name).join();
    storage = await DrawingStorage.open(`${model.size.join("x")} ${names}`);
    return await storage.resume();
  } catch {
    storage = null;
    showNotSaved("Not saved: this browser stores nothing");
    return null;
  }
}

async function start() {
  model = await fetchModel();
  clearError();
  if (model.pairs && !(await openEditor())) return;
  showModel();
  const [height, width] = model.size;
  labelCanvas = new LabelCanvas(width, height, model.blank.id);
  Object.assign(settings, model.sketch ? { size: 2, id: 1 } : { size: Math.max(2, Math.round(Math.min(width, height) / 12)), id: model.blank.id });
  viewport = new Viewport(labelCanvas, model.classes.map(({ color }) => color));
  const onShow = (path) => tools.mover.selection || viewport.showSelection(path);
  styles = new Styles(model, labelCanvas, { onChange: onStyleChange, onShow, generate });
  preview = new LivePreview({ request: () => generate(styles.style, "live"), show: showImage, onState: onPreviewState });
  downloads = new Downloads(model, labelCanvas, styles, generate);
  tracing = new Tracing(labelCanvas, scheduleSave);
  const onPick = (id) => palette.chooseClass(id);
  const onRestyle = (point) => styles.restyle(point);
  tools = new Tools(labelCanvas, settings, { onChange: onDrawingChange, onPick, onRestyle, onOutline, onSelect });
  palette = new Palette(model.classes, settings, labelCanvas, onSettingsChange);
  pointer = new PointerInput(viewport, tools, settings, (id) => model.classes[id].title);
  viewport.resetZoom();
  listen();
  await (editor ? showPair() : showDrawing());
  labelCanvas.done = []; // the first drawing cannot be undone
  updateUndoButtons();
  find("welcome").hidden = Boolean(editor) || isOff("welcome");
  document.body.dataset.ready = "yes";
  if (model.following) setInterval(follow, FOLLOW_MS);
  await storage?.prune();
}

async function openEditor() {
  editor = new LabelEditor(model.pairs);
  return attempt(async () => (model.size = await editor.load()));
}

async function showPair() {
  await editor.show(labelCanvas, tracing, settings);
  palette.show();
  viewport.paint();
  preview.change(true);
}

// Shows the drawing of an earlier visit, or the first example.
async function showDrawing() {
  const stored = await openStorage();
  const trace = (file) => tracing.open([file]);
  startMenu = new StartMenu(model, labelCanvas, storage, { replace: replaceDrawing, open, openNew, trace });
  if (stored?.ids?.length === labelCanvas.ids.length) resume(stored);
  await attempt(() => startMenu.loadExamples());
  if (!stored) await startMenu.first();
}

// Asks for the image again if the run that the server follows has a new checkpoint.
async function follow() {
  const { step } = await api.fetchModel().catch(() => model);
  if (step === model.step) return;
  model.step = step;
  showModel();
  preview.change(true);
}

function onOutline(points) {
  viewport.showOutline(points);
  find("close-polygon").hidden = tools.corners.length < 3;
}

function onSelect(path, dx, dy) {
  viewport.showSelection(path, dx, dy);
  find("remove-selection").hidden = !tools.mover.selection;
}

// The hint for new visitors is not shown again.
function closeWelcome() {
  if (find("welcome").hidden) return;
  find("welcome").hidden = true;
  turn("welcome", false);
}

let lastTool = settings.tool;
function onSettingsChange() {
  if (lastTool !== settings.tool) tools.cancel();
  lastTool = settings.tool;
  scheduleSave();
}

function listen() {
  const onClick = (id, action) => find(id).addEventListener("click", action);
  onClick("undo", () => undoOrRedo("undo"));
  onClick("redo", () => undoOrRedo("redo"));
  onClick("clear", clear);
  onClick("close-polygon", () => tools.closePolygon());
  onClick("remove-selection", () => tools.mover.remove());
  onClick("welcome-close", closeWelcome);
  onClick("zoom-in", () => viewport.zoomBy(1.5));
  onClick("zoom-out", () => viewport.zoomBy(1 / 1.5));
  onClick("zoom-level", () => viewport.resetZoom());
  onClick("error-close", clearError);
  onClick("open-help", () => find("help").showModal());
  find("compare").addEventListener("change", ({ target }) => compare(target.checked));
  find("compare-position").addEventListener("input", moveDivider);
  find("image-stage").addEventListener("click", (event) => {
    if (settings.tool === "restyle") tools.down(viewport.point(event, find("image")));
  });
  listenToMenus();
  listenToToolKeys();
  listenToShortcuts({ plain: plainShortcuts(), control: controlShortcuts(), onPan: (on) => (pointer.pan = on) });
}

// The keys of an open polygon or selection work wherever the focus is, except on elements that use them themselves.
function listenToToolKeys() {
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.shiftKey || !tools.keys[event.key] || !tools.open) return;
    if (event.target.closest("button, summary, dialog, input:not([type=radio])")) return;
    event.preventDefault();
    tools.keys[event.key]();
  });
}

function plainShortcuts() {
  const letters = { b: "brush", l: "line", r: "box", p: "polygon", f: "fill", c: "replace", g: "move", i: "pick" };
  if (model.noise) letters.e = "restyle";
  const chooseTool = Object.entries(letters).map(([key, name]) => [key, () => palette.chooseTool(name)]);
  const chooseClass = [..."123456789"].map((key) => [key, () => palette.chooseClass(palette.order[key - 1])]);
  return {
    ...Object.fromEntries([...chooseTool, ...chooseClass]),
    "[": () => palette.resize(-1),
    "]": () => palette.resize(1),
    ",": () => palette.step(-1),
    ".": () => palette.step(1),
    "+": () => viewport.zoomBy(1.5),
    "-": () => viewport.zoomBy(1 / 1.5),
    0: () => viewport.resetZoom(),
    d: () => find("canvas").focus(),
    n: () => palette.setRough(!settings.rough),
    t: () => toggleMenu(find("trace-menu")),
    o: () => startMenu?.show(),
    "?": () => find("help").showModal(),
    m: () => !find("compare").disabled && compare(!find("compare").checked),
    ...(model.noise ? { s: () => styles.randomize(), v: () => styles.vary() } : {}),
    "Shift+Delete": clear,
    ...(editor ? { PageUp: () => editor.go(-1), PageDown: () => editor.go(1) } : {}),
  };
}

function controlShortcuts() {
  return {
    z: () => undoOrRedo("undo"),
    "Shift+z": () => undoOrRedo("redo"),
    y: () => undoOrRedo("redo"),
    s: () => (editor ? editor.save() : downloads.saveProject()),
    ...(editor || find("copy-image").hidden ? {} : { c: () => downloads.copy() }),
  };
}

start();
