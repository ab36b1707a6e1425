// Downloads of image, label map and project, and the image in the clipboard.

import * as api from "./api.js";
import { attempt, download, find, showToast } from "./dom.js";
import { encodeIds } from "./png.js";
import { writeProject } from "./project.js";

const LARGE = 2; // sizes of the model; also the server's limit

export class Downloads {
  // `generate(style, purpose, scale)` returns a promise of an image.
  constructor(model, labelCanvas, styles, generate) {
    Object.assign(this, { model, labelCanvas, styles, generate });
    this.shown = null; // Blob of the shown image
    const [height, width] = model.size.map((side) => LARGE * side);
    this.largeSize = `${height} × ${width} pixels (height × width)`;
    find("large-size").textContent = `PNG, ${this.largeSize}, generated at that size`;
    find("copy-image").hidden = !navigator.clipboard?.write; // without HTTPS, on another machine
    find("copy-image").addEventListener("click", () => this.copy());
    find("save-image").addEventListener("click", () => download(this.shown, this.name(".png")));
    find("save-large").addEventListener("click", () => this.saveLarge());
    find("save-labels").addEventListener("click", () => this.saveLabels());
    find("save-project").addEventListener("click", () => this.saveProject());
  }

  setImage(blob) {
    this.shown = blob;
    for (const id of ["save-image", "copy-image"]) find(id).disabled = false;
  }

  name(ending) {
    return `${this.model.name.replace(/[^0-9A-Za-z._-]+/g, "-")}-${this.styles.style.seed}${ending}`;
  }

  copy() {
    if (find("copy-image").hidden || !this.shown) return;
    attempt(async () => {
      try {
        await navigator.clipboard.write([new ClipboardItem({ "image/png": this.shown })]);
      } catch {
        throw new Error("The browser did not allow copying; allow the clipboard for this page, or download the image.");
      }
      showToast("Copied the image");
    });
  }

  // Generates the image at twice the size, which takes a slow server a while.
  async saveLarge() {
    find("save-large").disabled = true;
    showToast(`Generating the image at ${this.largeSize}…`, true);
    const name = this.name("-large.png");
    const isDone = await attempt(async () => {
      download(await api.retryWhileBusy(() => this.generate(this.styles.style, "large", LARGE)), name);
    });
    showToast(isDone ? `Downloaded the image at ${this.largeSize}` : "");
    find("save-large").disabled = false;
  }

  saveLabels() {
    return attempt(async () => {
      const png = await encodeIds(this.labelCanvas.ids, this.labelCanvas.width, this.labelCanvas.height);
      download(await api.writeLabels(png), this.name("-labels.png"));
    });
  }

  saveProject() {
    return attempt(async () => {
      download(await writeProject(this.labelCanvas, this.styles.style, this.model), this.name(".json"));
    });
  }
}
