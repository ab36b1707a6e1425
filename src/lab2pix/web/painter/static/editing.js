// The page of `lab2pix paint --edit`: corrects the label maps of a dataset, each over its photo.

import * as api from "./api.js";
import { announce, attempt, find, showToast } from "./dom.js";
import { decodeIds, encodeIds } from "./png.js";

const SETTINGS_KEY = "lab2pix-editor"; // of the tool, and of the photo's opacity, from pair to pair
const OPACITY = 0.5; // of the photo under the label map, at first

export class LabelEditor {
  // `pairs` are {name, token, corrected}; the address's hash is the token of the shown one.
  constructor(pairs) {
    this.pairs = pairs;
    this.index = Math.max(0, pairs.findIndex(({ token }) => token === location.hash.slice(1)));
    this.unsaved = false;
    document.body.classList.add("editing");
    find("image-title").textContent = "Photo";
    find("drawing-title").textContent = "Label map";
    find("trace-menu").querySelector("span").textContent = "Photo…";
    find("image").setAttribute("aria-label", "Photo");
    find("pairs").hidden = false;
    find("pair-name").textContent = `${this.index + 1} of ${pairs.length}: ${this.pair.name}`;
    find("pair-name").title = this.pair.name;
    find("pair-back").disabled = this.index === 0;
    find("pair-next").disabled = this.index === pairs.length - 1;
    find("pair-back").addEventListener("click", () => this.go(-1));
    find("pair-next").addEventListener("click", () => this.go(1));
    find("pair-save").addEventListener("click", () => this.save());
    window.addEventListener("hashchange", () => location.reload());
    window.addEventListener("beforeunload", (event) => this.unsaved && event.preventDefault());
    this.showStatus();
  }

  get pair() {
    return this.pairs[this.index];
  }

  // Loads label map and photo; returns the size, [height, width].
  async load() {
    const [png, photo] = await Promise.all([api.fetchPairLabels(this.pair.token), api.fetchPairPhoto(this.pair.token)]);
    const { ids, width, height } = await decodeIds(png);
    Object.assign(this, { photo, ids });
    return [height, width];
  }

  // Shows the label map over the photo, with the tool of the pair before.
  async show(labelCanvas, tracing, settings) {
    this.labelCanvas = labelCanvas;
    this.settings = settings;
    this.tracing = tracing;
    const stored = JSON.parse(sessionStorage.getItem(SETTINGS_KEY) ?? "{}");
    Object.assign(settings, stored.settings);
    labelCanvas.ids.set(this.ids);
    const bytes = new Uint8Array(await this.photo.arrayBuffer());
    tracing.set({ bytes, opacity: stored.opacity ?? OPACITY });
  }

  // Reports a change of the drawing, of the photo's opacity or of the tool.
  change(drawn) {
    sessionStorage.setItem(SETTINGS_KEY, JSON.stringify({ settings: this.settings, opacity: this.tracing.state?.opacity }));
    this.unsaved ||= drawn;
    this.showStatus();
  }

  showStatus() {
    const corrected = this.pair.corrected ? "Corrected" : "Not corrected yet";
    find("save-status").textContent = this.unsaved ? "Changes are not saved" : corrected;
    find("pair-save").disabled = !this.unsaved;
  }

  async save() {
    if (!this.unsaved) return true;
    this.unsaved = false;
    const { ids, width, height } = this.labelCanvas;
    const isSaved = await attempt(async () => {
      const { changed } = await api.savePair(this.pair.token, await encodeIds(ids, width, height));
      this.pair.corrected ||= changed;
      showToast(changed ? "Saved the label map" : "The label map is as it was");
    });
    this.unsaved ||= !isSaved;
    this.showStatus();
    return isSaved;
  }

  // Goes to another pair, and saves this one before.
  async go(step) {
    const next = this.pairs[this.index + step];
    if (!next || !(await this.save())) return;
    announce(next.name);
    location.hash = next.token;
  }
}
