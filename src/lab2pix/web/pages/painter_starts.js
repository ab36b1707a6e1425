// What a drawing can start from: examples, a random scene, a file, or one of the drawings kept in this browser.

import { attempt, drawIds, find, make, say } from "./painter_dom.js";
import { kindOf } from "./painter_kinds.js";
import { decodeIds } from "./painter_png.js";
import { readProject } from "./painter_project.js";
import * as server from "./painter_server.js";
import { resized } from "./painter_sheet.js";

export class Starts {
  // put({ids, style, what}) draws something new, `style` where it has one; open(record) goes on with a kept drawing;
  // begin() begins another one; forget(id) drops one. `store` is null where the browser keeps nothing.
  constructor(model, sheet, store, { put, open, begin, forget }) {
    Object.assign(this, { model, sheet, store, put, open, begin, forget });
    this.examples = [];
    find("open-start").addEventListener("click", () => this.show());
    find("start-random").addEventListener("click", () => this.close() || this.random());
    find("start-blank").addEventListener("click", () => this.close() || this.blank());
    find("start-file").addEventListener("click", () => find("file").click());
    find("file").addEventListener("change", ({ target }) => this.take([...target.files]));
    if (model.sketch) find("file-hint").textContent = "A line drawing, a photo (it becomes a sketch) or a project. Dropping it onto the page or pasting works, too.";
    this.listenToDrops();
  }

  // Asks the server what there is.
  async load() {
    find("start-random").hidden = this.model.label_space !== "scenes";
    this.examples = await server.fetchExamples();
    const tiles = this.examples.map(({ name, token }) => {
      const image = make("img", { src: server.exampleAddress(token), alt: "" });
      const tile = make("button", { type: "button", className: "tile" }, image, make("span", { textContent: name }));
      tile.addEventListener("click", () => this.close() || this.example(token, name));
      return tile;
    });
    find("examples").querySelector(".tiles").replaceChildren(...tiles);
    find("examples").hidden = tiles.length === 0;
  }

  async show() {
    find("start").showModal();
    if (this.store) await attempt(() => this.showMine());
  }

  close() {
    find("start").close();
  }

  // --- new drawings ---------------------------------------------------------------------------------------------------

  // The first drawing of somebody who has none yet.
  async first() {
    if (this.examples.length) await this.example(this.examples[0].token, this.examples[0].name);
    else this.blank();
  }

  example(token, name) {
    return attempt(async () => this.putPng(await server.fetchExample(token), name));
  }

  random() {
    return attempt(async () => {
      const seed = Math.floor(Math.random() * 1e6);
      await this.putPng(await server.fetchRandom(seed), "Random scene");
    });
  }

  blank() {
    this.put({ ids: new Uint8Array(this.sheet.ids.length), what: "Blank sheet" });
  }

  async putPng(png, what) {
    const { ids, width, height } = await decodeIds(png);
    const { width: ownWidth, height: ownHeight } = this.sheet;
    this.put({ ids: resized(ids, [width, height], [ownWidth, ownHeight]), what });
  }

  // --- files ----------------------------------------------------------------------------------------------------------

  async take([file]) {
    find("file").value = ""; // so that the same one can be opened again
    if (!file) return;
    this.close();
    const isProject = file.type === "application/json" || file.name.endsWith(".json");
    await attempt(async () => {
      if (isProject) {
        this.put({ ...(await readProject(file, this.sheet, this.model)), what: file.name });
        return;
      }
      if (file.size > this.model.limits.bytes) {
        const most = Math.floor(this.model.limits.bytes / 2 ** 20);
        throw new Error(`${file.name} is larger than ${most} MiB; make it smaller.`);
      }
      const kind = await kindOf(file);
      if (!kind) throw new Error(`${file.name} is no PNG, WebP, BMP, TIFF or JPEG picture and no project.`);
      await this.putPng(await server.readLabels(file, kind), file.name);
    });
  }

  listenToDrops() {
    const carries = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
    const over = (event) => {
      if (!carries(event)) return;
      event.preventDefault();
      find("drop").hidden = false;
    };
    document.addEventListener("dragenter", over);
    document.addEventListener("dragover", over);
    document.addEventListener("dragleave", (event) => event.relatedTarget || (find("drop").hidden = true));
    document.addEventListener("drop", (event) => {
      if (!carries(event)) return;
      event.preventDefault();
      find("drop").hidden = true;
      this.take([...event.dataTransfer.files]);
    });
    document.addEventListener("paste", (event) => {
      if (event.clipboardData.files.length) this.take([...event.clipboardData.files]);
    });
  }

  // --- kept drawings --------------------------------------------------------------------------------------------------

  async showMine() {
    const kept = (await this.store.list()).filter(({ id }) => id !== this.store.id);
    const busy = await this.store.busy();
    const another = make("button", { type: "button", className: "tile another" }, make("b", { textContent: "+" }), make("span", { textContent: "Another drawing" }));
    another.addEventListener("click", () => this.close() || this.begin());
    find("mine").querySelector(".tiles").replaceChildren(another, ...kept.map((record) => this.makeTile(record, busy.has(record.id))));
    find("mine").hidden = false;
  }

  // A drawing that is open in another tab can be gone on with as a copy, not deleted.
  makeTile(record, busy) {
    const { width, height } = this.sheet;
    const colors = this.model.classes.map(({ color }) => color);
    const canvas = drawIds(make("canvas"), record.ids, width, height, colors);
    const when = new Date(record.changed).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
    const tile = make("button", { type: "button", className: "tile" }, canvas, make("span", { textContent: when }));
    tile.addEventListener("click", () => this.close() || this.open(record));
    if (busy) return make("div", { className: "kept" }, tile);
    const forget = make("button", { type: "button", className: "forget", textContent: "×", title: "Delete" });
    forget.setAttribute("aria-label", `Delete the drawing of ${when}`);
    const both = make("div", { className: "kept" }, tile, forget);
    forget.addEventListener("click", async () => {
      await this.forget(record.id);
      both.remove();
      find("mine").querySelector(".tile").focus();
      say("Deleted");
    });
    return both;
  }
}
