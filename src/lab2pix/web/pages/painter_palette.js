// The choice of tool, size and class.

import { find, make, say } from "./painter_dom.js";
import { TOOLS } from "./painter_tools.js";

const MANY = 24; // classes from which on they can be searched

export class Palette {
  // `settings` is {tool, id, size}, changed here alone; changed() is told of it.
  constructor(classes, settings, { width, height }, changed) {
    Object.assign(this, { classes, settings, changed });
    find("size").max = Math.max(8, Math.round(Math.min(width, height) / 4));
    find("class-list").replaceChildren(...classes.map((one) => this.makeClass(one)));
    find("class-list").addEventListener("change", ({ target }) => this.chooseClass(Number(target.value)));
    find("class-filter").hidden = classes.length <= MANY;
    find("classes").classList.toggle("many", classes.length > MANY);
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
    this.changed();
  }

  chooseSize(size) {
    this.settings.size = Math.min(Number(find("size").max), Math.max(1, Math.round(size)));
    this.show();
    this.changed();
  }

  // One step smaller or larger: by a pixel where that is much, else by a fifth.
  resize(direction) {
    const { size } = this.settings;
    this.chooseSize(size + direction * Math.max(1, Math.round(size / 5)));
    say(`Size ${this.settings.size}`);
  }

  chooseClass(id) {
    if (!this.classes[id]) return;
    this.settings.id = id;
    this.show();
    this.changed();
    if (document.activeElement?.name !== "class") say(this.classes[id].name);
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
    find("help-class").textContent = this.classes[id].name;
  }
}
