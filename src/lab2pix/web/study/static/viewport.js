// Shows a sample: its label map, the images to rank, their places, and an enlarged image.

import { find, make } from "./dom.js";

export const LETTERS = "ABCDEFGHI";
const source = (token) => `images/${token}.png`;

let cards = [];
let slots = [];

export const cardOf = (image) => cards[image];
export const slotOf = (place) => slots[place];

function makeButton(label, properties, ...children) {
  const button = make("button", { type: "button", ...properties }, ...children);
  button.setAttribute("aria-label", label);
  return button;
}

function makeImage(token, [height, width]) {
  return make("img", { alt: "", src: source(token), draggable: false, width, height });
}

export function showSection(section) {
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

// Builds the elements of a sample; `classes` are those of the label space, empty without one.
export function showSample({ sample: label, truth, size, classes: present, images }, classes) {
  const ratio = size[1] / size[0];
  document.body.style.setProperty("--ratio", ratio);
  document.body.style.setProperty("--count", images.length);
  find("label").replaceChildren(makeImage(label, size));
  find("truth-box").hidden = !truth;
  if (truth) find("truth").replaceChildren(makeImage(truth, size));
  find("last-key").textContent = images.length;
  find("legend").hidden = !present.length;
  find("legend").querySelector("ul").replaceChildren(
    ...present.map((index) => {
      const item = make("li", {}, make("i"), classes[index].name);
      item.firstChild.style.background = `rgb(${classes[index].color})`;
      return item;
    }),
  );
  cards = images.map((token, image) => {
    const card = make("button", { type: "button", className: "image" }, makeImage(token, size), make("b"));
    card.dataset.drag = "long-press";
    card.dataset.image = image;
    return card;
  });
  find("cards").replaceChildren(
    ...cards.map((card, image) => {
      const zoom = makeButton(`Enlarge image ${LETTERS[image]}`, { className: "zoom" });
      zoom.dataset.enlarge = image;
      const below = make("div", { className: "below" }, make("span", { textContent: LETTERS[image] }), zoom);
      return make("div", { className: "card" }, card, below);
    }),
  );
  slots = images.map((_, place) => {
    const slot = make("button", { type: "button" });
    slot.dataset.place = place;
    return slot;
  });
  find("places").replaceChildren(...slots.map((slot) => make("li", {}, slot)));
}

// Shows the image at each place.
export function showPlaces(places, images) {
  const count = places.length;
  cards.forEach((card, image) => {
    const place = places.indexOf(image);
    card.classList.toggle("placed", place >= 0);
    card.querySelector("b").textContent = place < 0 ? "" : place + 1;
    const where = place < 0 ? "no place yet" : `place ${place + 1} of ${count}`;
    card.setAttribute("aria-label", `Image ${LETTERS[image]}, ${where}`);
  });
  slots.forEach((slot, place) => {
    const image = places[place];
    const word = place === 0 ? "best" : place === count - 1 ? "worst" : "";
    slot.classList.toggle("filled", image !== null);
    slot.replaceChildren(make("span", {}, make("b", { textContent: place + 1 }), word && ` ${word}`));
    if (image === null) {
      delete slot.dataset.drag;
    } else {
      slot.dataset.drag = "immediate";
      slot.prepend(make("img", { alt: "", src: source(images[image]), draggable: false }));
      slot.append(make("i", { textContent: LETTERS[image] }));
    }
    const content = image === null ? "free" : `image ${LETTERS[image]}, press to remove it`;
    slot.setAttribute("aria-label", `Place ${place + 1}${word && `, ${word}`}: ${content}`);
  });
}

// Marks the place under or close to a point and returns its number, or -1.
export function placeAt(x, y) {
  const margin = 12;
  const inside = (box) => x > box.left - margin && x < box.right + margin && y > box.top - margin && y < box.bottom + margin;
  const distance = (slot) => {
    const box = slot.getBoundingClientRect();
    return Math.abs(x - (box.left + box.right) / 2);
  };
  const hit = slots.filter((slot) => inside(slot.getBoundingClientRect())).sort((a, b) => distance(a) - distance(b))[0];
  for (const slot of slots) slot.classList.toggle("target", slot === hit);
  return hit ? slots.indexOf(hit) : -1;
}

export function clearTarget() {
  for (const slot of slots) slot.classList.remove("target");
}

export function preload(sample) {
  for (const token of sample ? [sample.sample, sample.truth, ...sample.images] : []) {
    if (token) new Image().src = source(token);
  }
}

// Enlarges an image by its number, -1 for the real image, -2 for the label map; wraps around at both ends.
export function enlarge(number, { sample: label, truth, images }, places) {
  const tokens = new Map([[-2, label], ...(truth ? [[-1, truth]] : []), ...images.entries()]);
  const numbers = [...tokens.keys()];
  const shown = tokens.has(number) ? number : number === -1 || number < -2 ? numbers.at(-1) : -2;
  const image = find("large").querySelector("img");
  image.src = source(tokens.get(shown));
  image.classList.toggle("ids", shown === -2);
  const place = places.indexOf(shown);
  const where = place < 0 ? "" : `, place ${place + 1}`;
  find("large-name").textContent = { "-2": "Label map", "-1": "Real image" }[shown] ?? `Image ${LETTERS[shown]}${where}`;
  if (!find("large").open) find("large").showModal();
  return shown;
}
