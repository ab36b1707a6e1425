// The page of a user study: participants rank one sample after the other by dragging, tapping or keys.

import { announce, find } from "./dom.js";
import { makeDraggable } from "./drag.js";
import { fetchSamples, loadState, makeId, saveState, sendAnswer } from "./api.js";
import { isDraft, placeImage, removeImage } from "./ranking.js";
import * as viewport from "./viewport.js";

const { LETTERS } = viewport;

let study = null; // the server's {participant, samples, classes}
let state = loadState(); // {name, first, index, drafts}
let draft = null; // {places, seconds, id} of the current sample
let undoStack = []; // places before each change of this sample
let visibleSince = null; // null while the page is hidden
let shownAt = 0;
let saving = false;
let enlarged = 0;

const sample = () => study.samples[state.index];
const ranked = () => study.samples.filter((one) => one.ranking).length;

// --- navigation -------------------------------------------------------------------------------------------------

async function enter(name) {
  study = await fetchSamples(name);
  const first = study.samples[0].sample; // identifies the study, if another one used this address
  const isOwn = state.name === study.participant && state.first === first;
  if (!isOwn) state = { name: study.participant, first, index: firstOpen(), drafts: {} };
  find("who").textContent = study.participant;
  find("thanks").textContent = `, ${study.participant}`;
  if (!isOwn && ranked() > 0) {
    const done = `${ranked()} of ${study.samples.length} samples`;
    find("known").textContent = `${study.participant} has already ranked ${done}. Is that you?`;
    find("form").hidden = true;
    find("back").hidden = false;
    find("go-on").focus();
    return;
  }
  go(state.index);
}

function firstOpen() {
  const open = study.samples.findIndex((one) => !one.ranking);
  return open < 0 ? study.samples.length : open;
}

function logOut() {
  if (saving) return;
  stopClock();
  study = draft = null;
  state = {};
  saveState(state);
  find("form").hidden = false;
  find("back").hidden = true;
  find("name").value = "";
  viewport.showSection("start");
  find("name").focus();
}

function go(index) {
  const total = study.samples.length;
  state.index = Math.min(Math.max(index, 0), total);
  if (state.index === total) state.index = firstOpen(); // the server may lack answers that this tab remembers
  saveState(state);
  viewport.showProgress(state.index, ranked(), total);
  if (state.index === total) {
    draft = null;
    find("ended").textContent = `All ${total} samples are ranked and saved. You can close this page.`;
    viewport.showSection("end");
    find("end").querySelector("h1").focus();
    return;
  }
  const { sample: token, images, ranking } = sample();
  const stored = state.drafts[token];
  const places = ranking ? ranking.map((one) => images.indexOf(one)) : images.map(() => null);
  draft = isDraft(stored, images.length) ? stored : { places, seconds: 0, id: makeId() };
  undoStack = [];
  viewport.showSample(sample(), study.classes);
  viewport.showSection("rank");
  shownAt = performance.now();
  update();
  startClock();
  announce(`Sample ${state.index + 1} of ${total}`);
  viewport.cardOf(0).focus({ preventScroll: true });
  viewport.preload(study.samples[state.index + 1]);
}

// `detail` is a click's count: the second click of a double click must not answer the next sample.
async function next({ detail }) {
  if (saving) return;
  if (detail > 1 && (draft.places.includes(null) || performance.now() - shownAt < 500)) return;
  if (draft.places.includes(null)) {
    find("message").textContent = "Give every image a place first.";
    return;
  }
  const { sample: token, images, ranking: before } = sample();
  const ranking = draft.places.map((one) => images[one]);
  saveDraft();
  if (String(ranking) !== String(before)) {
    saving = true;
    update();
    try {
      const { id, seconds } = draft;
      await sendAnswer({ participant: study.participant, id, sample: token, ranking, seconds });
      sample().ranking = ranking;
    } catch (error) {
      find("message").textContent = error.message;
      return;
    } finally {
      saving = false;
      update();
    }
  }
  stopClock();
  delete state.drafts[token];
  go(state.index + 1 < study.samples.length ? state.index + 1 : firstOpen());
}

function previous() {
  if (saving || state.index === 0) return;
  if (draft) saveDraft();
  stopClock();
  go(state.index - 1);
}

// --- time and drafts --------------------------------------------------------------------------------------------

function startClock() {
  visibleSince = document.hidden ? null : performance.now();
}

function stopClock() {
  if (visibleSince !== null && draft) draft.seconds += (performance.now() - visibleSince) / 1000;
  visibleSince = null;
}

function saveDraft() {
  stopClock();
  state.drafts[sample().sample] = draft;
  saveState(state);
  startClock();
}

// --- ranking ----------------------------------------------------------------------------------------------------

function put(image, place) {
  if (change(placeImage(draft.places, image, place))) announce(`Image ${LETTERS[image]} is at place ${place + 1}`);
}

function remove(image) {
  if (change(removeImage(draft.places, image))) announce(`Image ${LETTERS[image]} was removed`);
}

function tap(image) {
  if (draft.places.includes(image)) remove(image);
  else put(image, draft.places.indexOf(null));
}

function move(image, step) {
  const from = draft.places.indexOf(image);
  const place = from < 0 ? draft.places.indexOf(null) : from + step;
  if (place >= 0 && place < draft.places.length) put(image, place);
}

function change(places) {
  if (saving || String(places) === String(draft.places)) return false;
  undoStack.push(draft.places);
  setPlaces(places);
  return true;
}

function undo() {
  if (saving || !undoStack.length) return;
  setPlaces(undoStack.pop());
  announce("Undone");
}

function setPlaces(places) {
  draft.places = places;
  draft.id = makeId();
  find("message").textContent = "";
  saveDraft();
  update();
}

function update() {
  viewport.showPlaces(draft.places, sample().images);
  find("previous").disabled = saving || state.index === 0;
  find("undo").disabled = saving || !undoStack.length;
  find("next").setAttribute("aria-disabled", saving || draft.places.includes(null));
  const last = ranked() + (sample().ranking ? 0 : 1) === study.samples.length;
  find("next").textContent = saving ? "Saving …" : last ? "Finish" : "Next";
}

// --- mouse, touch, pen ------------------------------------------------------------------------------------------

// Returns the image that an element shows, or undefined.
function imageOf(element) {
  if (element?.dataset.image) return Number(element.dataset.image);
  return element?.dataset.place ? (draft.places[Number(element.dataset.place)] ?? undefined) : undefined;
}

makeDraggable(document.body, {
  start: (element) => !saving && imageOf(element) !== undefined,
  over: viewport.placeAt,
  drop(element, x, y) {
    const place = viewport.placeAt(x, y);
    if (place >= 0) put(imageOf(element), place);
    else if (element.dataset.place && y < find("bar").getBoundingClientRect().top) remove(imageOf(element));
    viewport.clearTarget();
  },
  end: viewport.clearTarget,
});

find("cards").addEventListener("click", ({ target }) => {
  const zoom = target.closest("[data-enlarge]");
  const card = target.closest("[data-image]");
  if (zoom) enlarge(Number(zoom.dataset.enlarge));
  else if (card) tap(imageOf(card));
});
find("places").addEventListener("click", ({ target }) => {
  const image = imageOf(target.closest("[data-place]"));
  if (image !== undefined) remove(image);
});

// --- keys -------------------------------------------------------------------------------------------------------

function enlarge(number) {
  enlarged = viewport.enlarge(number, sample(), draft.places);
}

function onSampleKey({ key, repeat }, focused) {
  if (key === "n" || key === "N") {
    next({ detail: repeat ? 2 : 1 });
    return true;
  }
  const image = imageOf(focused);
  const inPlaces = Boolean(focused?.dataset.place);
  if (key === "ArrowLeft" || key === "ArrowRight") {
    const step = key === "ArrowLeft" ? -1 : 1;
    const at = inPlaces ? Number(focused.dataset.place) : image;
    const to = at === undefined ? 0 : Math.min(Math.max(at + step, 0), draft.places.length - 1);
    (inPlaces ? viewport.slotOf(to) : viewport.cardOf(to)).focus();
    return true;
  }
  if (image === undefined) return false;
  if (key >= "1" && key <= String(draft.places.length)) put(image, Number(key) - 1);
  else if (key === "ArrowUp" || key === "ArrowDown") move(image, key === "ArrowUp" ? -1 : 1);
  else if (key === "Backspace" || key === "Delete") remove(image);
  else if (key === "z" || key === "Z") enlarge(image);
  else return false;
  if (inPlaces && draft.places.includes(image)) viewport.slotOf(draft.places.indexOf(image)).focus();
  return true;
}

function onLargeKey(key) {
  if (key === "ArrowLeft" || key === "ArrowRight") enlarge(enlarged + (key === "ArrowLeft" ? -1 : 1));
  else if (key === "z" || key === "Z") find("large").close();
  else if (enlarged >= 0 && key >= "1" && key <= String(draft.places.length)) {
    put(enlarged, Number(key) - 1);
    enlarge(enlarged);
  } else return false;
  return true;
}

document.addEventListener("keydown", (event) => {
  if (!draft || find("rank").hidden || event.altKey) return;
  if (event.ctrlKey || event.metaKey) {
    if (event.key !== "z" || event.shiftKey) return;
    undo();
    event.preventDefault();
  } else if (find("large").open ? onLargeKey(event.key) : onSampleKey(event, document.activeElement)) {
    event.preventDefault();
  }
});

// --- buttons ----------------------------------------------------------------------------------------------------

find("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  find("refused").textContent = "";
  try {
    await enter(find("name").value);
  } catch (error) {
    find("refused").textContent = error.message;
    find("name").focus();
  }
});
find("go-on").addEventListener("click", () => go(state.index));
find("another").addEventListener("click", logOut);
find("leave").addEventListener("click", logOut);
find("next").addEventListener("click", next);
find("previous").addEventListener("click", previous);
find("undo").addEventListener("click", undo);
find("look-back").addEventListener("click", previous);
find("label").addEventListener("click", () => enlarge(-2));
find("truth").addEventListener("click", () => enlarge(-1));
find("large-before").addEventListener("click", () => enlarge(enlarged - 1));
find("large-after").addEventListener("click", () => enlarge(enlarged + 1));
find("large-close").addEventListener("click", () => find("large").close());
find("large").addEventListener("click", ({ target }) => target === find("large") && find("large").close());
document.addEventListener("visibilitychange", () => {
  if (!draft) return;
  if (document.hidden) {
    saveDraft();
    stopClock();
  } else startClock();
});

// --- start ------------------------------------------------------------------------------------------------------

find("legend").open = window.matchMedia("(min-width: 48rem)").matches;
try {
  if (state.name) await enter(state.name);
} catch (error) {
  find("refused").textContent = error.message;
}
if (!study) viewport.showSection("start");
