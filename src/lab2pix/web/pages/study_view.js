// What is seen of a sample: its label map, the pictures to rank, the places, one picture enlarged.

export const find = (id) => document.getElementById(id);
export const LETTERS = "ABCDEFGHI";
const source = (token) => `pictures/${token}.png`;

let cards = [];
let slots = [];

export const cardOf = (picture) => cards[picture];
export const slotOf = (place) => slots[place];

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function makeButton(label, properties, ...children) {
  const button = make("button", { type: "button", ...properties }, ...children);
  button.setAttribute("aria-label", label);
  return button;
}

function makeImage(token, [height, width]) {
  return make("img", { alt: "", src: source(token), draggable: false, width, height });
}

export function say(words) {
  find("live").textContent = words;
}

export function show(section) {
  for (const id of ["start", "rank", "end"]) find(id).hidden = id !== section;
  find("top").hidden = section === "start";
  find("bar").hidden = section !== "rank";
  find("message").textContent = "";
  window.scrollTo(0, 0);
}

export function showProgress(index, ranked, total) {
  const bar = find("progress");
  find("count").textContent = index === total ? "Done" : `Sample ${index + 1} of ${total}`;
  bar.setAttribute("aria-valuemax", total);
  bar.setAttribute("aria-valuenow", ranked);
  bar.firstElementChild.style.width = `${(100 * ranked) / total}%`;
}

// Builds what a sample consists of; `classes` are those of the label space, none where none was given.
export function build({ sample: label, truth, size, classes: present, pictures }, classes) {
  const ratio = size[1] / size[0];
  document.body.style.setProperty("--ratio", ratio);
  document.body.style.setProperty("--count", pictures.length);
  find("label").replaceChildren(makeImage(label, size));
  find("truth-box").hidden = !truth;
  if (truth) find("truth").replaceChildren(makeImage(truth, size));
  find("last-key").textContent = pictures.length;
  find("legend").hidden = !present.length;
  find("legend").querySelector("ul").replaceChildren(
    ...present.map((index) => {
      const item = make("li", {}, make("i"), classes[index].name);
      item.firstChild.style.background = `rgb(${classes[index].color})`;
      return item;
    }),
  );
  cards = pictures.map((token, picture) => {
    const card = make("button", { type: "button", className: "picture" }, makeImage(token, size), make("b"));
    card.dataset.drag = "rest";
    card.dataset.picture = picture;
    return card;
  });
  find("cards").replaceChildren(
    ...cards.map((card, picture) => {
      const zoom = makeButton(`Enlarge picture ${LETTERS[picture]}`, { className: "zoom" });
      zoom.dataset.enlarge = picture;
      const below = make("div", { className: "below" }, make("span", { textContent: LETTERS[picture] }), zoom);
      return make("div", { className: "card" }, card, below);
    }),
  );
  slots = pictures.map((_, place) => {
    const slot = make("button", { type: "button" });
    slot.dataset.place = place;
    return slot;
  });
  find("places").replaceChildren(...slots.map((slot) => make("li", {}, slot)));
}

// Shows which picture lies where.
export function showPlaces(places, pictures) {
  const count = places.length;
  cards.forEach((card, picture) => {
    const place = places.indexOf(picture);
    card.classList.toggle("placed", place >= 0);
    card.querySelector("b").textContent = place < 0 ? "" : place + 1;
    const where = place < 0 ? "no place yet" : `place ${place + 1} of ${count}`;
    card.setAttribute("aria-label", `Picture ${LETTERS[picture]}, ${where}`);
  });
  slots.forEach((slot, place) => {
    const picture = places[place];
    const word = place === 0 ? "best" : place === count - 1 ? "worst" : "";
    slot.classList.toggle("filled", picture !== null);
    slot.replaceChildren(make("span", {}, make("b", { textContent: place + 1 }), word && ` ${word}`));
    if (picture === null) {
      delete slot.dataset.drag;
    } else {
      slot.dataset.drag = "at once";
      slot.prepend(make("img", { alt: "", src: source(pictures[picture]), draggable: false }));
      slot.append(make("i", { textContent: LETTERS[picture] }));
    }
    const holds = picture === null ? "free" : `picture ${LETTERS[picture]}, press to take it back`;
    slot.setAttribute("aria-label", `Place ${place + 1}${word && `, ${word}`}: ${holds}`);
  });
}

// Marks the place under a point and returns its number, or -1. What lies a little beside a place still counts.
export function placeAt(x, y) {
  const near = 12;
  const inside = (box) => x > box.left - near && x < box.right + near && y > box.top - near && y < box.bottom + near;
  const off = (slot) => {
    const box = slot.getBoundingClientRect();
    return Math.abs(x - (box.left + box.right) / 2);
  };
  const hit = slots.filter((slot) => inside(slot.getBoundingClientRect())).sort((a, b) => off(a) - off(b))[0];
  for (const slot of slots) slot.classList.toggle("target", slot === hit);
  return hit ? slots.indexOf(hit) : -1;
}

export function clearTarget() {
  for (const slot of slots) slot.classList.remove("target");
}

export function preload(sample) {
  for (const token of sample ? [sample.sample, sample.truth, ...sample.pictures] : []) {
    if (token) new Image().src = source(token);
  }
}

// Enlarges what has a number: a picture, -1 the true one, -2 the label map; beyond either end it begins again.
export function enlarge(number, { sample: label, truth, pictures }, places) {
  const tokens = new Map([[-2, label], ...(truth ? [[-1, truth]] : []), ...pictures.entries()]);
  const numbers = [...tokens.keys()];
  const shown = tokens.has(number) ? number : number === -1 || number < -2 ? numbers.at(-1) : -2;
  const image = find("large").querySelector("img");
  image.src = source(tokens.get(shown));
  image.classList.toggle("ids", shown === -2);
  const place = places.indexOf(shown);
  const where = place < 0 ? "" : `, place ${place + 1}`;
  find("large-name").textContent = { "-2": "Label map", "-1": "True picture" }[shown] ?? `Picture ${LETTERS[shown]}${where}`;
  if (!find("large").open) find("large").showModal();
  return shown;
}
