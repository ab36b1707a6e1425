// Selection of tool, size and class.

import { announce, find, make } from "./dom.js";
import { TOOLS } from "./tools.js";

const MAX_UNFILTERED_CLASSES = 24; // with more, there is a search field

// Returns the classes as they are listed: class `other` comes last, and a blank drawing is the first one.
export function inOrder(classes) {
  return [...classes].sort((one, two) => (one.name === "other") - (two.name === "other"));
}

export class Palette {
  // `settings` is {tool, id, size, rough}, changed only here; `onChange()` is called afterwards.
  constructor(classes, settings, { width, height }, onChange) {
    Object.assign(this, { classes, settings, onChange });
    find("size").max = Math.max(8, Math.round(Math.min(width, height) / 4));
    this.order = inOrder(classes).map(({ id }) => id);
    find("class-list").replaceChildren(...this.order.map((id, place) => this.makeClass(classes[id], place)));
    find("class-list").addEventListener("change", ({ target }) => this.chooseClass(Number(target.value)));
    find("class-filter").hidden = classes.length <= MAX_UNFILTERED_CLASSES;
    find("classes").classList.toggle("many", classes.length > MAX_UNFILTERED_CLASSES);
    find("class-filter").addEventListener("input", () => this.filter());
    find("tools").addEventListener("change", ({ target }) => this.chooseTool(target.value));
    find("rough").addEventListener("change", ({ target }) => this.setRough(target.checked));
    find("size").addEventListener("input", ({ target }) => this.chooseSize(Number(target.value)));
    this.show();
  }

  makeClass({ id, title, color }, place) {
    const radio = make("input", { type: "radio", name: "class", value: id });
    const swatch = make("i", { ariaHidden: "true" });
    swatch.style.background = `rgb(${color})`;
    const label = make("label", { title: place < 9 ? `${title} (${place + 1})` : title }, radio, swatch, make("span", { textContent: title }));
    label.dataset.id = id;
    return label;
  }

  filter() {
    const wanted = find("class-filter").value.trim().toLowerCase();
    for (const label of find("class-list").children) {
      const { title, name } = this.classes[label.dataset.id];
      label.hidden = !`${title} ${name}`.toLowerCase().includes(wanted);
    }
  }

  chooseTool(tool) {
    this.settings.tool = tool;
    this.show();
    this.onChange();
  }

  chooseSize(size) {
    this.settings.size = Math.min(Number(find("size").max), Math.max(1, Math.round(size)));
    this.show();
    this.onChange();
  }

  setRough(on) {
    this.settings.rough = on;
    this.show();
    this.onChange();
  }

  // Changes the size by a fifth, at least one pixel.
  resize(direction) {
    const { size } = this.settings;
    this.chooseSize(size + direction * Math.max(1, Math.round(size / 5)));
    announce(`Size ${this.settings.size}`);
  }

  chooseClass(id) {
    if (!this.classes[id]) return;
    this.settings.id = id;
    this.show();
    this.onChange();
    if (document.activeElement?.name !== "class") announce(this.classes[id].title);
  }

  step(direction) {
    const { order } = this;
    this.chooseClass(order.at((order.indexOf(this.settings.id) + direction) % order.length));
  }

  show() {
    const { tool, id, size, rough } = this.settings;
    find("rough").checked = rough;
    find("tools").querySelector(`[value="${tool}"]`).checked = true;
    const chosen = find("class-list").querySelector(`[value="${id}"]`);
    chosen.checked = true;
    const list = find("class-list");
    const [box, frame] = [chosen.parentElement.getBoundingClientRect(), list.getBoundingClientRect()];
    if (box.right > frame.right || box.left < frame.left) list.scrollLeft += box.left - frame.left - frame.width / 3;
    if (box.bottom > frame.bottom || box.top < frame.top) list.scrollTop += box.top - frame.top - frame.height / 3;
    find("size").value = size;
    find("size-shown").textContent = size;
    find("hint").textContent = TOOLS[tool];
    for (const place of ["help-class", "welcome-class"]) find(place).textContent = this.classes[id].title;
  }
}
