// Selection of tool, size and class.

import { announce, find, make } from "./dom.js";
import { TOOLS } from "./tools.js";

const MAX_UNFILTERED_CLASSES = 24; // with more, there is a search field

export class Palette {
  // `settings` is {tool, id, size}, changed only here; `onChange()` is called afterwards.
  constructor(classes, settings, { width, height }, onChange) {
    Object.assign(this, { classes, settings, onChange });
    find("size").max = Math.max(8, Math.round(Math.min(width, height) / 4));
    find("class-list").replaceChildren(...classes.map((one) => this.makeClass(one)));
    find("class-list").addEventListener("change", ({ target }) => this.chooseClass(Number(target.value)));
    find("class-filter").hidden = classes.length <= MAX_UNFILTERED_CLASSES;
    find("classes").classList.toggle("many", classes.length > MAX_UNFILTERED_CLASSES);
    find("class-filter").addEventListener("input", () => this.filter());
    find("tools").addEventListener("change", ({ target }) => this.chooseTool(target.value));
    find("size").addEventListener("input", ({ target }) => this.chooseSize(Number(target.value)));
    this.show();
  }

  makeClass({ id, name, color }) {
    const radio = make("input", { type: "radio", name: "class", value: id });
    const swatch = make("i", { ariaHidden: "true" });
    swatch.style.background = `rgb(${color})`;
    const label = make("label", { title: id < 9 ? `${name} (${id + 1})` : name }, radio, swatch, make("span", { textContent: name }));
    label.dataset.id = id;
    return label;
  }

  filter() {
    const wanted = find("class-filter").value.trim().toLowerCase();
    for (const label of find("class-list").children) {
      label.hidden = !this.classes[label.dataset.id].name.toLowerCase().includes(wanted);
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
    if (document.activeElement?.name !== "class") announce(this.classes[id].name);
  }

  step(direction) {
    const count = this.classes.length;
    this.chooseClass((this.settings.id + direction + count) % count);
  }

  show() {
    const { tool, id, size } = this.settings;
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
    for (const place of ["help-class", "welcome-class"]) find(place).textContent = this.classes[id].name;
  }
}
