// The page of a user study: samples one after the other, each ranked by drag, tap or keys, each answer kept at once.

import { makeDraggable } from "./study_drag.js";
import { isDraft, putAt, takenBack } from "./study_ranks.js";
import { begin, keep, makeId, recall, sendAnswer } from "./study_server.js";
import * as view from "./study_view.js";

const { find, say, LETTERS } = view;

let study = null; // {participant, samples, classes} as the server says
let memory = recall(); // {name, first, index, drafts}
let draft = null; // {places, seconds, id} of the sample in sight
let undone = []; // places before each change of this sample
let since = null; // when the sample came into sight; null while it is not
let shown = 0; // when the sample was built
let saving = false;
let enlarged = 0;

const sample = () => study.samples[memory.index];
const ranked = () => study.samples.filter((one) => one.ranking).length;

// --- from name to sample to end ---------------------------------------------------------------------------------

async function enter(name) {
  study = await begin(name);
  const first = study.samples[0].sample; // tells this study from another one at the same address
  const mine = memory.name === study.participant && memory.first === first;
  if (!mine) memory = { name: study.participant, first, index: firstOpen(), drafts: {} };
  find("who").textContent = study.participant;
  find("thanks").textContent = `, ${study.participant}`;
  if (!mine && ranked() > 0) {
    const done = `${ranked()} of ${study.samples.length} samples`;
    find("known").textContent = `${study.participant} has ranked ${done} here already. Is that you?`;
    find("form").hidden = true;
    find("back").hidden = false;
    find("go-on").focus();
    return;
  }
  go(memory.index);
}

function firstOpen() {
  const open = study.samples.findIndex((one) => !one.ranking);
  return open < 0 ? study.samples.length : open;
}

function leave() {
  if (saving) return;
  stopClock();
  study = draft = null;
  memory = {};
  keep(memory);
  find("form").hidden = false;
  find("back").hidden = true;
  find("name").value = "";
  view.show("start");
  find("name").focus();
}

function go(index) {
  const total = study.samples.length;
  memory.index = Math.min(Math.max(index, 0), total);
  if (memory.index === total) memory.index = firstOpen(); // this tab may remember an end that the server does not know
  keep(memory);
  view.showProgress(memory.index, ranked(), total);
  if (memory.index === total) {
    draft = null;
    find("ended").textContent = `All ${total} samples are ranked and kept. You can close this page.`;
    view.show("end");
    find("end").querySelector("h1").focus();
    return;
  }
  const { sample: token, pictures, ranking } = sample();
  const kept = memory.drafts[token];
  const places = ranking ? ranking.map((one) => pictures.indexOf(one)) : pictures.map(() => null);
  draft = isDraft(kept, pictures.length) ? kept : { places, seconds: 0, id: makeId() };
  undone = [];
  view.build(sample(), study.classes);
  view.show("rank");
  shown = performance.now();
  update();
  startClock();
  say(`Sample ${memory.index + 1} of ${total}`);
  view.cardOf(0).focus({ preventScroll: true });
  view.preload(study.samples[memory.index + 1]);
}

// `detail` is that of a click: the second one of a double click meets the sample that the first one brought.
async function next({ detail }) {
  if (saving) return;
  if (detail > 1 && (draft.places.includes(null) || performance.now() - shown < 500)) return;
  if (draft.places.includes(null)) {
    find("message").textContent = "Every picture needs a place first.";
    return;
  }
  const { sample: token, pictures, ranking: before } = sample();
  const ranking = draft.places.map((one) => pictures[one]);
  keepDraft();
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
  delete memory.drafts[token];
  go(memory.index + 1 < study.samples.length ? memory.index + 1 : firstOpen());
}

function previous() {
  if (saving || memory.index === 0) return;
  if (draft) keepDraft();
  stopClock();
  go(memory.index - 1);
}

// --- time, and what a reload finds again ------------------------------------------------------------------------

function startClock() {
  since = document.hidden ? null : performance.now();
}

function stopClock() {
  if (since !== null && draft) draft.seconds += (performance.now() - since) / 1000;
  since = null;
}

function keepDraft() {
  stopClock();
  memory.drafts[sample().sample] = draft;
  keep(memory);
  startClock();
}

// --- ranks ------------------------------------------------------------------------------------------------------

function put(picture, place) {
  if (change(putAt(draft.places, picture, place))) say(`Picture ${LETTERS[picture]} is at place ${place + 1}`);
}

function takeBack(picture) {
  if (change(takenBack(draft.places, picture))) say(`Picture ${LETTERS[picture]} has no place`);
}

function tap(picture) {
  if (draft.places.includes(picture)) takeBack(picture);
  else put(picture, draft.places.indexOf(null));
}

function move(picture, step) {
  const from = draft.places.indexOf(picture);
  const place = from < 0 ? draft.places.indexOf(null) : from + step;
  if (place >= 0 && place < draft.places.length) put(picture, place);
}

function change(places) {
  if (saving || String(places) === String(draft.places)) return false;
  undone.push(draft.places);
  renew(places);
  return true;
}

function undo() {
  if (saving || !undone.length) return;
  renew(undone.pop());
  say("Undone");
}

function renew(places) {
  draft.places = places;
  draft.id = makeId();
  find("message").textContent = "";
  keepDraft();
  update();
}

function update() {
  view.showPlaces(draft.places, sample().pictures);
  find("previous").disabled = saving || memory.index === 0;
  find("undo").disabled = saving || !undone.length;
  find("next").setAttribute("aria-disabled", saving || draft.places.includes(null));
  const last = ranked() + (sample().ranking ? 0 : 1) === study.samples.length;
  find("next").textContent = saving ? "Saving …" : last ? "Finish" : "Next";
}

// --- mouse, finger, pen -----------------------------------------------------------------------------------------

// The picture that an element shows, or undefined.
function pictureOf(element) {
  if (element?.dataset.picture) return Number(element.dataset.picture);
  return element?.dataset.place ? (draft.places[Number(element.dataset.place)] ?? undefined) : undefined;
}

makeDraggable(document.body, {
  start: (element) => !saving && pictureOf(element) !== undefined,
  over: view.placeAt,
  drop(element, x, y) {
    const place = view.placeAt(x, y);
    if (place >= 0) put(pictureOf(element), place);
    else if (element.dataset.place && y < find("bar").getBoundingClientRect().top) takeBack(pictureOf(element));
    view.clearTarget();
  },
  end: view.clearTarget,
});

find("cards").addEventListener("click", ({ target }) => {
  const zoom = target.closest("[data-enlarge]");
  const card = target.closest("[data-picture]");
  if (zoom) look(Number(zoom.dataset.enlarge));
  else if (card) tap(pictureOf(card));
});
find("places").addEventListener("click", ({ target }) => {
  const picture = pictureOf(target.closest("[data-place]"));
  if (picture !== undefined) takeBack(picture);
});

// --- keys -------------------------------------------------------------------------------------------------------

function look(number) {
  enlarged = view.enlarge(number, sample(), draft.places);
}

function onSampleKey({ key, repeat }, focused) {
  if (key === "n" || key === "N") {
    next({ detail: repeat ? 2 : 1 });
    return true;
  }
  const picture = pictureOf(focused);
  const inPlaces = Boolean(focused?.dataset.place);
  if (key === "ArrowLeft" || key === "ArrowRight") {
    const step = key === "ArrowLeft" ? -1 : 1;
    const at = inPlaces ? Number(focused.dataset.place) : picture;
    const to = at === undefined ? 0 : Math.min(Math.max(at + step, 0), draft.places.length - 1);
    (inPlaces ? view.slotOf(to) : view.cardOf(to)).focus();
    return true;
  }
  if (picture === undefined) return false;
  if (key >= "1" && key <= String(draft.places.length)) put(picture, Number(key) - 1);
  else if (key === "ArrowUp" || key === "ArrowDown") move(picture, key === "ArrowUp" ? -1 : 1);
  else if (key === "Backspace" || key === "Delete") takeBack(picture);
  else if (key === "z" || key === "Z") look(picture);
  else return false;
  if (inPlaces && draft.places.includes(picture)) view.slotOf(draft.places.indexOf(picture)).focus();
  return true;
}

function onLargeKey(key) {
  if (key === "ArrowLeft" || key === "ArrowRight") look(enlarged + (key === "ArrowLeft" ? -1 : 1));
  else if (key === "z" || key === "Z") find("large").close();
  else if (enlarged >= 0 && key >= "1" && key <= String(draft.places.length)) {
    put(enlarged, Number(key) - 1);
    look(enlarged);
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
find("go-on").addEventListener("click", () => go(memory.index));
find("another").addEventListener("click", leave);
find("leave").addEventListener("click", leave);
find("next").addEventListener("click", next);
find("previous").addEventListener("click", previous);
find("undo").addEventListener("click", undo);
find("look-back").addEventListener("click", previous);
find("label").addEventListener("click", () => look(-2));
find("truth").addEventListener("click", () => look(-1));
find("large-before").addEventListener("click", () => look(enlarged - 1));
find("large-after").addEventListener("click", () => look(enlarged + 1));
find("large-close").addEventListener("click", () => find("large").close());
find("large").addEventListener("click", ({ target }) => target === find("large") && find("large").close());
document.addEventListener("visibilitychange", () => {
  if (!draft) return;
  if (document.hidden) {
    keepDraft();
    stopClock();
  } else startClock();
});

// --- the beginning ----------------------------------------------------------------------------------------------

find("legend").open = window.matchMedia("(min-width: 48rem)").matches;
try {
  if (memory.name) await enter(memory.name);
} catch (error) {
  find("refused").textContent = error.message;
}
if (!study) view.show("start");
