// Shows one of the variations large, before it is taken.

import { find } from "./dom.js";

export class Gallery {
  // `onTake(seed)` is called when a variation is chosen.
  constructor(onTake) {
    this.frame = null; // button of the variation that is shown
    find("gallery-back").addEventListener("click", () => this.step(-1));
    find("gallery-next").addEventListener("click", () => this.step(1));
    find("gallery-take").addEventListener("click", () => {
      find("gallery").close();
      onTake(Number(this.frame.dataset.seed));
    });
    find("gallery").addEventListener("keydown", ({ key }) => {
      if (key === "ArrowLeft" || key === "ArrowRight") this.step(key === "ArrowLeft" ? -1 : 1);
    });
  }

  open(frame) {
    this.show(frame);
    find("gallery").showModal();
    find("gallery-take").focus();
  }

  show(frame) {
    this.frame = frame;
    const small = frame.querySelector("canvas");
    const canvas = Object.assign(find("gallery-image"), { width: small.width, height: small.height });
    canvas.getContext("2d").drawImage(small, 0, 0);
    find("gallery-title").textContent = `Style ${frame.dataset.seed}`;
    canvas.setAttribute("aria-label", `The drawing in style ${frame.dataset.seed}`);
  }

  // Shows the previous or next variation that is ready.
  step(direction) {
    const ready = [...find("variations").querySelectorAll("button:enabled")];
    const at = ready.indexOf(this.frame);
    this.show(ready[(at + direction + ready.length) % ready.length]);
  }
}
