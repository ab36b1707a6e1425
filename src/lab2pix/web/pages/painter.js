// The painter: a drawing of classes on one side, the picture that the model makes of it on the other.

import { attempt, calm, complain, download, find, say } from "./painter_dom.js";
import { Follower } from "./painter_follow.js";
import { Hand } from "./painter_hand.js";
import { listenToKeys } from "./painter_keys.js";
import { Palette } from "./painter_palette.js";
import { encodeIds } from "./painter_png.js";
import { writeProject } from "./painter_project.js";
import * as server from "./painter_server.js";
import { Sheet } from "./painter_sheet.js";
import { Starts } from "./painter_starts.js";
import { Store } from "./painter_store.js";
import { Styles, isStyle } from "./painter_styles.js";
import { Tools } from "./painter_tools.js";
import { View } from "./painter_view.js";

let model = null; // as the server says
let store = null; // null where the browser keeps nothing
let sheet, view, tools, palette, styles, follower, starts, hand;
let picture = null; // Blob of the picture in sight
let saving = null; // promise of what is being kept
let unsaved = false;
let slow = 0; // timer after which words say that a picture is being drawn
let lost = false; // whether the server did not answer
const settings = { tool: "brush", id: 0, size: 12 };

// --- what follows a change ----------------------------------------------------------------------------------------

function drawn(done) {
  view.paint();
  styles.outdate();
  follower.change(done);
  if (done) remember();
  showSteps();
}

function restyled() {
  follower.change();
  remember();
}

function showSteps() {
  find("undo").disabled = sheet.done.length === 0;
  find("redo").disabled = sheet.undone.length === 0;
}

// Says once in plain sight, too, what narrow windows have no place for.
function notKept(sentence) {
  if (find("kept").textContent !== sentence) complain(new Error(sentence));
  find("kept").textContent = sentence;
}

// Keeps the work at once; while it is being kept, what changes is kept next.
function remember() {
  if (!store) return;
  store.note({ style: styles.style, settings: { ...settings } });
  unsaved = true;
  saving ??= keepAll();
}

async function keepAll() {
  while (unsaved) {
    unsaved = false;
    await keep();
  }
  saving = null;
}

async function keep() {
  try {
    await store.save({ ids: sheet.ids, style: styles.style, settings: { ...settings } });
    find("kept").textContent = "Kept in this browser";
  } catch {
    notKept("Not kept: this browser's storage is full or switched off");
  }
}

// Puts what is new in place of the drawing, as one step.
function put({ ids, style = null, what }) {
  tools.cancel();
  sheet.replace(ids, style && here());
  if (style) styles.set(style);
  drawn(true);
  calm();
  say(`${what} is on the sheet`);
}

function step(way) {
  tools.cancel();
  if (store && unsaved) keep(); // under its own name, should this lead to another drawing
  const made = sheet[way](here());
  if (!made) return;
  if (made.place) turn(made.place);
  drawn(true);
  say(way === "undo" ? "Undone" : "Redone");
}

function clear() {
  put({ ids: new Uint8Array(sheet.ids.length), what: model.classes[0].name });
}

// --- the picture --------------------------------------------------------------------------------------------------

async function draw(style, purpose) {
  return server.synthesize(await encodeIds(sheet.ids, sheet.width, sheet.height), style, { purpose });
}

async function show({ picture: blob }) {
  const bitmap = await createImageBitmap(blob);
  picture = blob;
  const canvas = find("picture");
  Object.assign(canvas, { width: bitmap.width, height: bitmap.height });
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  canvas.dataset.number = follower.shown;
  for (const id of ["save-picture", "compare"]) find(id).disabled = false;
}

function tell(state, detail) {
  const bar = find("bar");
  bar.classList.toggle("busy", state === "busy");
  find("picture-stage").setAttribute("aria-busy", state === "busy" || state === "wait");
  clearTimeout(slow);
  if (state === "busy") {
    bar.style.setProperty("--expected", `${Math.max(300, detail)}ms`);
    slow = setTimeout(() => (find("state").textContent = "Drawing the picture…"), 800);
  } else if (state === "wait") {
    find("state").textContent = detail.error.status === 429 ? "The server is busy; the picture follows" : "Trying again…";
    if (detail.error.status !== 429) complain(detail.error);
    lost = true;
  } else if (state === "error") {
    find("state").textContent = "";
    complain(detail);
  } else {
    find("state").textContent = "";
    if (lost) calm();
    lost = false;
  }
}

function compare(on) {
  for (const id of ["compared", "divider", "compare-at"]) find(id).hidden = !on;
  find("compare").checked = on;
  if (on) divide();
}

function divide() {
  find("picture-stage").style.setProperty("--at", `${find("compare-at").value}%`);
}

// --- files to keep ------------------------------------------------------------------------------------------------

const named = (ending) => `${model.name.replace(/[^0-9A-Za-z._-]+/g, "-")}-${styles.style.seed}${ending}`;

const save = {
  picture: () => picture && download(picture, named(".png")),
  labels: () =>
    attempt(async () => {
      const png = await encodeIds(sheet.ids, sheet.width, sheet.height);
      download(await server.writeLabels(png), named("-labels.png"));
    }),
  project: () => attempt(async () => download(await writeProject(sheet, styles.style, model), named(".json"))),
};

// --- kept drawings ------------------------------------------------------------------------------------------------

// Goes on with the drawing that was kept last; what was done to it before cannot be undone.
function load({ ids, style, settings: kept }) {
  sheet.ids.set(ids);
  if (isStyle(style)) styles.set(style);
  Object.assign(settings, kept);
  palette.show();
  view.paint();
  styles.outdate();
  follower.change(true);
  showSteps();
}

// What a step back needs beside the ids that were on the sheet: the drawing's name, and its style.
const here = () => ({ id: store?.id, style: styles.style });

function turn({ id, style }) {
  store?.take(id, null);
  if (isStyle(style)) styles.set(style);
}

// Goes on with another drawing, which is a step that can be undone; the present one stays as it is under its name.
async function goTo(record, what) {
  await attempt(async () => {
    const id = await store.reserve(record.id);
    tools.cancel();
    if (unsaved) keep();
    sheet.replace(record.ids, here());
    turn({ ...record, id });
    drawn(true);
    calm();
    say(`${what}; undo brings back the one before`);
  });
}

const open = (record) => goTo(record, "The kept drawing is on the sheet");

const begin = () => goTo({ ids: new Uint8Array(sheet.ids.length) }, "Another drawing is begun");

// --- beginning ----------------------------------------------------------------------------------------------------

async function fetchModel() {
  for (let wait = 1; ; wait = Math.min(8, 2 * wait)) {
    try {
      return await server.fetchModel();
    } catch (error) {
      complain(error);
      await new Promise((resolve) => setTimeout(resolve, 1000 * wait));
    }
  }
}

function describe() {
  document.title = `Painter – ${model.name}`;
  find("model").textContent = model.name;
  find("model").title = `${model.name}, step ${model.step}, ${model.size[1]} × ${model.size[0]} pixels`;
  find("style").hidden = !model.noise;
  document.body.classList.toggle("plain", !model.noise);
  find("clear").title = `Clear: everything becomes ${model.classes[0].name} (Shift+Delete)`;
}

async function openStore() {
  try {
    const names = model.classes.map(({ name }) => name).join();
    store = await Store.open(`${model.size.join("x")} ${names}`);
    return await store.resume();
  } catch {
    store = null;
    notKept("Not kept: this browser stores nothing");
    return null;
  }
}

async function start() {
  model = await fetchModel();
  calm();
  describe();
  const [height, width] = model.size;
  sheet = new Sheet(width, height);
  settings.size = model.sketch ? 2 : Math.max(2, Math.round(Math.min(width, height) / 12));
  settings.id = model.sketch ? 1 : 0;
  view = new View(sheet, model.classes.map(({ color }) => color));
  styles = new Styles({ changed: restyled, draw });
  follower = new Follower({ ask: () => draw(styles.style, "live"), show, tell });
  tools = new Tools(sheet, settings, { changed: drawn, picked: (id) => palette.chooseClass(id), outlined });
  palette = new Palette(model.classes, settings, sheet, chosen);
  hand = new Hand(view, tools, settings, (id) => model.classes[id].name);
  view.resetZoom();
  listen();
  const kept = await openStore();
  starts = new Starts(model, sheet, store, { put, open, begin, forget: (id) => store.remove(id) });
  if (kept?.ids?.length === sheet.ids.length) load(kept);
  await attempt(() => starts.load());
  if (!kept) await starts.first();
  sheet.done = []; // there is nothing before the beginning
  showSteps();
  document.body.dataset.ready = "yes";
  await store?.prune();
}

function outlined(points) {
  view.showOutline(points);
  find("close-polygon").hidden = tools.corners.length < 3;
}

let tool = settings.tool;
function chosen() {
  if (tool !== settings.tool) tools.cancel();
  tool = settings.tool;
  remember();
}

function listen() {
  const press = (id, act) => find(id).addEventListener("click", act);
  press("undo", () => step("undo"));
  press("redo", () => step("redo"));
  press("clear", clear);
  press("close-polygon", () => tools.close());
  press("zoom-in", () => view.zoomBy(1.5));
  press("zoom-out", () => view.zoomBy(1 / 1.5));
  press("zoom-level", () => view.resetZoom());
  press("trouble-close", calm);
  press("open-help", () => find("help").showModal());
  for (const name of Object.keys(save)) press(`save-${name}`, () => save[name]());
  find("compare").addEventListener("change", ({ target }) => compare(target.checked));
  find("compare-at").addEventListener("input", divide);
  listenToMenus();
  listenToCorners();
  listenToKeys({ plain: plainKeys(), control: controlKeys(), grab: (on) => (hand.grab = on) });
}

// A polygon that was begun is closed and dropped by keys wherever the focus is, but on what these keys press.
function listenToCorners() {
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || !tools.keys[event.key] || !tools.corners.length) return;
    if (event.target.closest("button, summary, dialog, input:not([type=radio])")) return;
    event.preventDefault();
    tools.keys[event.key]();
  });
}

function plainKeys() {
  const toggle = () => !find("compare").disabled && compare(!find("compare").checked);
  const letters = { b: "brush", l: "line", r: "box", p: "polygon", f: "fill", c: "replace", i: "pick" };
  const chooseTool = Object.entries(letters).map(([key, name]) => [key, () => palette.chooseTool(name)]);
  const chooseClass = [..."123456789"].map((key) => [key, () => palette.chooseClass(Number(key) - 1)]);
  return {
    ...Object.fromEntries([...chooseTool, ...chooseClass]),
    "[": () => palette.resize(-1),
    "]": () => palette.resize(1),
    ",": () => palette.step(-1),
    ".": () => palette.step(1),
    "+": () => view.zoomBy(1.5),
    "-": () => view.zoomBy(1 / 1.5),
    0: () => view.resetZoom(),
    d: () => find("canvas").focus(),
    o: () => starts?.show(),
    "?": () => find("help").showModal(),
    m: toggle,
    ...(model.noise ? { s: () => styles.roll(), v: () => styles.vary() } : {}),
    "Shift+Delete": clear,
  };
}

function controlKeys() {
  return {
    z: () => step("undo"),
    "Shift+z": () => step("redo"),
    y: () => step("redo"),
    s: () => save.project(),
  };
}

function listenToMenus() {
  const menu = find("save-menu");
  document.addEventListener("click", ({ target }) => {
    if (!menu.contains(target) || target.closest("#save-menu button")) menu.open = false;
  });
  menu.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !menu.open) return;
    menu.open = false;
    menu.querySelector("summary").focus();
  });
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.addEventListener("click", ({ target }) => {
      if (target === dialog || target.closest("[data-close]")) dialog.close();
    });
  }
}

start();
