// Menu of starting points for a drawing: examples, a random scene, a file, or a drawing stored in this browser.

import { announce, attempt, drawIds, find, make } from "./dom.js";
import { toAcceptedImage } from "./file_types.js";
import { resized } from "./label_canvas.js";
import { decodeIds } from "./png.js";
import { readProject } from "./project.js";
import * as api from "./api.js";

export class StartMenu {
  // `replace({ids, style, what})` replaces the drawing, with `style` if there is one; `open(record)` continues a stored
  // drawing; `openNew()` starts another one; `trace(file)` puts a picture under the drawing. `storage` is null if the browser stores nothing.
  constructor(model, labelCanvas, storage, { replace, open, openNew, trace }) {
    Object.assign(this, { model, labelCanvas, storage, replace, open, openNew, trace });
    this.examples = [];
    find("open-start").addEventListener("click", () => this.show());
    find("start-random").addEventListener("click", () => this.close() || this.random());
    find("start-blank").addEventListener("click", () => this.close() || this.blank());
    for (const id of ["start-file", "start-photo"]) find(id).addEventListener("click", () => find("file").click());
    find("file").addEventListener("change", ({ target }) => this.openFile([...target.files]));
    if (model.photo) {
      const [drawing, result] = model.sketch ? ["line drawing", "sketch"] : ["label map", "layout"];
      find("file-hint").textContent = `A ${drawing}, a photo (it becomes a ${result}) or a project. You can also drop it on the page or paste it.`;
      find("start-photo").hidden = model.sketch;
    }
    this.listenToDrops();
  }

  async loadExamples() {
    find("start-random").hidden = !this.model.random;
    this.examples = await api.fetchExamples();
    const tiles = this.examples.map(({ name, token }) => {
      const image = make("img", { src: api.exampleUrl(token), alt: "" });
      const tile = make("button", { type: "button", className: "tile" }, image, make("span", { textContent: name }));
      tile.addEventListener("click", () => this.close() || this.example(token, name));
      return tile;
    });
    find("examples").querySelector(".tiles").replaceChildren(...tiles);
    find("examples").hidden = tiles.length === 0;
  }

  async show() {
    find("start").showModal();
    if (this.storage) await attempt(() => this.showDrawings());
  }

  close() {
    find("start").close();
  }

  // --- new drawings ---------------------------------------------------------------------------------------------------

  // The first drawing of a new visitor.
  async first() {
    if (this.examples.length) await this.example(this.examples[0].token, this.examples[0].name);
    else this.blank();
  }

  example(token, name) {
    return attempt(async () => this.replaceByPng(await api.fetchExample(token), name));
  }

  random() {
    return attempt(async () => {
      const seed = Math.floor(Math.random() * 1e6);
      await this.replaceByPng(await api.fetchRandom(seed), "Random scene");
    });
  }

  blank() {
    this.replace({ ids: new Uint8Array(this.labelCanvas.ids.length).fill(this.model.blank.id), what: "Blank drawing" });
  }

  async replaceByPng(png, what) {
    const { ids, width, height } = await decodeIds(png);
    const size = [this.labelCanvas.width, this.labelCanvas.height];
    this.replace({ ids: resized(ids, [width, height], size), what });
  }

  // --- files ----------------------------------------------------------------------------------------------------------

  async openFile([file]) {
    find("file").value = ""; // so that the same file can be opened again
    if (!file) return;
    this.close();
    await attempt(async () => {
      if (file.type === "application/json" || file.name.endsWith(".json")) {
        this.replace({ ...(await readProject(file, this.labelCanvas, this.model)), what: file.name });
        return;
      }
      const image = await toAcceptedImage(file, this.model);
      const { bytes } = this.model.limits;
      if (image.size > bytes) throw new Error(`${file.name} is larger than ${Math.floor(bytes / 2 ** 20)} MiB; make it smaller.`);
      await this.replaceByPng(await this.readLabels(image, file), file.name);
    });
  }

  // Offers to trace a photo.
  async readLabels(image, file) {
    try {
      return await api.readLabels(image);
    } catch (error) {
      if (!error.isPhoto) throw error;
      const message = "This looks like a photo, not a label map: trace it, or open a label map of class ids or colors.";
      const action = { label: "Trace this picture", run: () => this.trace(file) };
      throw Object.assign(new Error(message), { action });
    }
  }

  listenToDrops() {
    const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
    const over = (event) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      find("drop").hidden = false;
    };
    document.addEventListener("dragenter", over);
    document.addEventListener("dragover", over);
    document.addEventListener("dragleave", (event) => event.relatedTarget || (find("drop").hidden = true));
    document.addEventListener("drop", (event) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      find("drop").hidden = true;
      this.openFile([...event.dataTransfer.files]);
    });
    document.addEventListener("paste", (event) => {
      if (event.clipboardData.files.length) this.openFile([...event.clipboardData.files]);
    });
  }

  // --- stored drawings ------------------------------------------------------------------------------------------------

  async showDrawings() {
    const stored = (await this.storage.list()).filter(({ id }) => id !== this.storage.id);
    const open = await this.storage.openElsewhere();
    const another = make("button", { type: "button", className: "tile another" }, make("b", { textContent: "+" }), make("span", { textContent: "New drawing" }));
    another.addEventListener("click", () => this.close() || this.openNew());
    find("drawings").querySelector(".tiles").replaceChildren(another, ...stored.map((record) => this.makeTile(record, open.has(record.id))));
    find("drawings").hidden = false;
  }

  // A drawing that is open in another tab can be continued as a copy, but not deleted.
  makeTile(record, isOpen) {
    const { width, height } = this.labelCanvas;
    const colors = this.model.classes.map(({ color }) => color);
    const canvas = drawIds(make("canvas"), record.ids, width, height, colors);
    const when = new Date(record.changed).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
    const tile = make("button", { type: "button", className: "tile" }, canvas, make("span", { textContent: when }));
    tile.addEventListener("click", () => this.close() || this.open(record));
    const stored = make("div", { className: "stored" }, tile);
    if (isOpen) return stored;
    const remove = make("button", { type: "button", className: "delete", textContent: "×", title: "Delete" });
    remove.setAttribute("aria-label", `Delete the drawing of ${when}`);
    remove.addEventListener("click", async () => {
      await this.storage.remove(record.id);
      stored.remove();
      find("drawings").querySelector(".tile").focus();
      announce("Deleted");
    });
    stored.append(remove);
    return stored;
  }
}
