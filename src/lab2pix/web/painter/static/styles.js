// Style of the image: a seed or a blend of two seeds, a style image, regions with seeds of their own, and eight
// variations to choose from.

import * as api from "./api.js";
import { announce, attempt, drawBlob, find, make } from "./dom.js";
import { toAcceptedImage } from "./file_types.js";
import { Gallery } from "./gallery.js";
import { flooded, outline } from "./raster.js";
import { isRegion, presentRegions, restyled } from "./regions.js";

const MAX_SEED = Number.MAX_SAFE_INTEGER; // also the server's limit
const SLIDER_SEEDS = 1000; // number of seeds of the slider and the random button
const VARIATIONS = 8;

const isSeed = (seed) => Number.isSafeInteger(seed) && seed >= 0;

const nextSeed = (seed, count) => (seed > MAX_SEED - count ? seed - MAX_SEED + count - 1 : seed + count);

const randomSeed = () => Math.floor(Math.random() * SLIDER_SEEDS);

// Tells whether a value is a style: {seed, blend, image, regions}, where blend is null or {seed, mix}, image is missing,
// null or {token, url}, and regions may be missing.
export function isStyle(style) {
  const { blend, image, regions = [] } = style ?? {};
  const known = typeof image?.token === "string" && image.url?.startsWith?.("data:image/png;base64,");
  if ((image && !known) || !Array.isArray(regions) || !regions.every(isRegion)) return false;
  return isSeed(style?.seed) && (blend === null || (isSeed(blend?.seed) && blend.mix >= 0 && blend.mix <= 1));
}

export class Styles {
  // `onChange()` is called when the style changes, `onShow(path)` to show the border of a region, "" for none;
  // `generate(style, purpose)` returns a promise of an image.
  constructor(model, labelCanvas, { onChange, onShow, generate }) {
    Object.assign(this, { model, labelCanvas, onChange, onShow, generate });
    this.gallery = new Gallery((seed) => this.take(seed));
    this.style = { seed: 1, blend: null, image: null, regions: [] };
    this.round = 0; // of variations; a newer round cancels the one before
    for (const id of ["seed", "seed-number"]) find(id).addEventListener("input", ({ target }) => this.setSeed(target));
    // Leaving a field with an invalid number restores the current one.
    for (const id of ["seed-number", "blend-seed"]) find(id).addEventListener("change", () => this.show());
    for (const id of ["blend-seed", "mix"]) find(id).addEventListener("input", () => this.setBlend());
    find("blend-on").addEventListener("change", () => this.setBlend());
    find("dice").addEventListener("click", () => this.randomize());
    find("vary").addEventListener("click", () => this.vary());
    find("style-open").addEventListener("click", () => find("style-file").click());
    find("style-file").addEventListener("change", ({ target }) => this.openImage([...target.files]));
    find("style-remove").addEventListener("click", () => this.setImage(null));
  }

  // A style image is dropped where the model takes none.
  set({ seed, blend, image = null, regions = [] }) {
    this.style = { seed, blend, image: this.model.style === "none" ? null : image, regions };
    this.show();
  }

  show() {
    const { seed, blend, image } = this.style;
    find("style-remove").hidden = find("style-shown").hidden = image === null;
    if (image) find("style-shown").src = image.url;
    find("seed").value = seed; // a larger seed is shown at the end
    find("seed").setAttribute("aria-valuetext", seed < SLIDER_SEEDS ? seed : `${seed}, beyond the slider`);
    if (document.activeElement !== find("seed-number")) find("seed-number").value = seed;
    find("blend-on").checked = blend !== null;
    find("blend").hidden = blend === null;
    if (blend) {
      if (document.activeElement !== find("blend-seed")) find("blend-seed").value = blend.seed;
      find("mix").value = Math.round(blend.mix * 100);
      find("mix").setAttribute("aria-valuetext", `${Math.round(blend.mix * 100)} % of style ${blend.seed}`);
      find("mix-from").textContent = find("mix-from").title = seed;
    }
    for (const button of find("variations").children) {
      button.setAttribute("aria-pressed", blend === null && Number(button.dataset.seed) === seed);
    }
    this.showRegions();
  }

  choose(seed) {
    this.set({ ...this.style, seed });
    this.onChange();
  }

  setSeed({ value }) {
    if (value !== "" && isSeed(Number(value))) this.choose(Number(value));
  }

  setBlend() {
    const { seed, blend } = this.style;
    if (!find("blend-on").checked) {
      this.set({ ...this.style, blend: null });
    } else if (blend === null) {
      const other = ((seed % SLIDER_SEEDS) + 1 + Math.floor(Math.random() * (SLIDER_SEEDS - 1))) % SLIDER_SEEDS;
      this.set({ ...this.style, blend: { seed: other, mix: 0.5 } });
    } else {
      const { value } = find("blend-seed");
      const other = value !== "" && isSeed(Number(value)) ? Number(value) : blend.seed;
      this.set({ ...this.style, blend: { seed: other, mix: Number(find("mix").value) / 100 } });
    }
    this.onChange();
  }

  randomize() {
    this.choose(randomSeed());
    announce(`Style ${this.style.seed}`);
  }

  // --- regions -----------------------------------------------------------------------------------------------------------

  // Gives the area around a point another style.
  restyle(point) {
    if (!this.model.noise) return;
    const regions = restyled(this.style.regions, this.labelCanvas, point, randomSeed());
    const { id, seed } = regions.at(-1);
    this.setRegions(regions, `Style ${seed} for this area: ${this.model.classes[id].title}`);
  }

  setRegions(regions, message) {
    this.set({ ...this.style, regions });
    this.onChange();
    announce(message);
  }

  // Shows a button for each region of the drawing, which removes its style.
  showRegions() {
    const regions = presentRegions(this.style.regions, this.labelCanvas);
    find("regions").hidden = regions.length === 0;
    find("region-list").replaceChildren(...regions.map((region) => this.makeRegion(region)));
  }

  makeRegion(region) {
    const { title, color } = this.model.classes[region.id];
    const swatch = make("i", { ariaHidden: "true" });
    swatch.style.background = `rgb(${color})`;
    const parts = [swatch, make("span", { textContent: `${title} ${region.seed}` }), make("b", { textContent: "×", ariaHidden: "true" })];
    const button = make("button", { type: "button", className: "small", title: "Back to the style of the image" }, ...parts);
    button.setAttribute("aria-label", `Remove style ${region.seed} of this area: ${title}`);
    const show = () => this.onShow(outline(this.labelCanvas, flooded(this.labelCanvas, [region.x, region.y])));
    for (const event of ["pointerenter", "focus"]) button.addEventListener(event, show);
    for (const event of ["pointerleave", "blur"]) button.addEventListener(event, () => this.onShow(""));
    button.addEventListener("click", () => {
      this.onShow("");
      this.setRegions(this.style.regions.filter((one) => one !== region), "The area has the style of the image");
    });
    return button;
  }

  // --- the style image ---------------------------------------------------------------------------------------------------

  async openImage([file]) {
    find("style-file").value = ""; // so that the same file can be opened again
    if (!file) return;
    await attempt(async () => {
      const image = await toAcceptedImage(file, { ...this.model, sketch: true }); // gray is as good as color
      const { bytes } = this.model.limits;
      if (image.size > bytes) throw new Error(`${file.name} is larger than ${Math.floor(bytes / 2 ** 20)} MiB; make it smaller.`);
      this.setImage(await api.sendStyle(image));
    });
  }

  setImage(image) {
    this.set({ ...this.style, image });
    this.onChange();
    announce(image ? "The image has the style of your picture" : "The style image is removed");
  }

  // --- variations -----------------------------------------------------------------------------------------------------

  // Generates the next eight seeds one by one, so that each image is shown as soon as it is ready.
  async vary() {
    const round = ++this.round;
    const frames = Array.from({ length: VARIATIONS }, (_, k) => this.makeFrame(nextSeed(this.style.seed, k + 1)));
    find("variations").replaceChildren(...frames);
    find("variations").hidden = false;
    find("variations").classList.remove("old");
    find("variations").setAttribute("aria-busy", "true");
    find("variations").scrollIntoView({ block: "nearest", behavior: "smooth" });
    const complete = await attempt(async () => {
      for (const frame of frames) {
        const style = { ...this.style, seed: Number(frame.dataset.seed), blend: null };
        const image = await api.retryWhileBusy(() => this.generate(style, "vary"), () => round === this.round);
        if (round !== this.round) return;
        frame.replaceChildren(await drawBlob(make("canvas"), image), make("span", { textContent: frame.dataset.seed }));
        frame.disabled = false;
      }
    });
    if (round !== this.round) return;
    find("variations").setAttribute("aria-busy", "false");
    if (complete) announce("Eight variations are ready");
  }

  makeFrame(seed) {
    const frame = make("button", { type: "button", disabled: true }, make("span", { textContent: seed }));
    frame.dataset.seed = seed;
    frame.setAttribute("aria-label", `Style ${seed}`);
    frame.setAttribute("aria-haspopup", "dialog");
    frame.setAttribute("aria-pressed", "false");
    frame.addEventListener("click", () => this.gallery.open(frame));
    return frame;
  }

  take(seed) {
    this.set({ ...this.style, seed, blend: null });
    this.onChange();
  }

  // Marks the variations as outdated after the drawing has changed, and cancels those that are missing.
  markOutdated() {
    const list = find("variations");
    if (list.hidden || list.classList.contains("old")) return;
    this.round++;
    list.classList.add("old");
    list.setAttribute("aria-busy", "false");
    for (const frame of [...list.children].filter((one) => one.disabled)) frame.remove();
    list.hidden = list.children.length === 0;
  }
}
