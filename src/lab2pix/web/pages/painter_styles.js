// How the picture looks beyond what is drawn: seed, blend of two seeds, and eight variations to choose from.

import { attempt, find, make, say } from "./painter_dom.js";

const MOST = Number.MAX_SAFE_INTEGER; // the largest seed, the server's too
const NEAR = 1000; // seeds that the slider and the dice reach
const VARIATIONS = 8;

const isSeed = (seed) => Number.isSafeInteger(seed) && seed >= 0;

const after = (seed, count) => (seed > MOST - count ? seed - MOST + count - 1 : seed + count);

// Whether something is a style: {seed, blend: null or {seed, mix}}.
export function isStyle(style) {
  const blend = style?.blend;
  return isSeed(style?.seed) && (blend === null || (isSeed(blend?.seed) && blend.mix >= 0 && blend.mix <= 1));
}

const anySeed = () => Math.floor(Math.random() * NEAR);

export class Styles {
  // changed() is told of another style; draw(style, purpose) returns a promise of {picture}.
  constructor({ changed, draw }) {
    Object.assign(this, { changed, draw });
    this.style = { seed: 1, blend: null };
    this.round = 0; // of variations: a newer one ends the one before
    for (const id of ["seed", "seed-number"]) find(id).addEventListener("input", ({ target }) => this.setSeed(target));
    // A number that is no style is put right as soon as somebody is done with it.
    for (const id of ["seed-number", "blend-seed"]) find(id).addEventListener("change", () => this.show());
    for (const id of ["blend-seed", "mix"]) find(id).addEventListener("input", () => this.setBlend());
    find("blend-on").addEventListener("change", () => this.setBlend());
    find("dice").addEventListener("click", () => this.roll());
    find("vary").addEventListener("click", () => this.vary());
  }

  set({ seed, blend }) {
    this.style = { seed, blend };
    this.show();
  }

  show() {
    const { seed, blend } = this.style;
    find("seed").value = seed; // or its end, where the seed lies beyond it
    find("seed").setAttribute("aria-valuetext", seed < NEAR ? seed : `${seed}, beyond the slider`);
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
  }

  choose(seed) {
    this.set({ seed, blend: this.style.blend });
    this.changed();
  }

  setSeed({ value }) {
    if (value !== "" && isSeed(Number(value))) this.choose(Number(value));
  }

  setBlend() {
    const { seed, blend } = this.style;
    if (!find("blend-on").checked) {
      this.set({ seed, blend: null });
    } else {
      const typed = Number(find("blend-seed").value);
      const second = blend === null ? ((seed % NEAR) + 1 + Math.floor(Math.random() * (NEAR - 1))) % NEAR : blend.seed;
      const mix = blend === null ? 0.5 : Number(find("mix").value) / 100;
      this.set({ seed, blend: { seed: blend && find("blend-seed").value !== "" && isSeed(typed) ? typed : second, mix } });
    }
    this.changed();
  }

  roll() {
    this.choose(anySeed());
    say(`Style ${this.style.seed}`);
  }

  // --- variations -----------------------------------------------------------------------------------------------------

  // Draws the next eight seeds, one after the other, so that each is seen as soon as it is there.
  async vary() {
    const round = ++this.round;
    const frames = Array.from({ length: VARIATIONS }, (_, k) => this.makeFrame(after(this.style.seed, k + 1)));
    find("variations").replaceChildren(...frames);
    find("variations").hidden = false;
    find("vary-hint").hidden = true;
    find("variations").classList.remove("old");
    find("variations").setAttribute("aria-busy", "true");
    const complete = await attempt(async () => {
      for (const frame of frames) {
        const picture = await this.patiently(Number(frame.dataset.seed), round);
        if (round !== this.round) return;
        const bitmap = await createImageBitmap(picture);
        const canvas = make("canvas", { width: bitmap.width, height: bitmap.height });
        canvas.getContext("2d").drawImage(bitmap, 0, 0);
        frame.replaceChildren(canvas, make("span", { textContent: frame.dataset.seed }));
        frame.disabled = false;
      }
    });
    if (round !== this.round) return;
    find("variations").setAttribute("aria-busy", "false");
    if (complete) say("Eight variations are there to choose from");
  }

  makeFrame(seed) {
    const frame = make("button", { type: "button", disabled: true }, make("span", { textContent: seed }));
    frame.dataset.seed = seed;
    frame.setAttribute("aria-label", `Style ${seed}`);
    frame.setAttribute("aria-pressed", "false");
    frame.addEventListener("click", () => {
      this.set({ seed, blend: null });
      this.changed();
    });
    return frame;
  }

  // A full queue is waited for: these pictures are the least urgent.
  async patiently(seed, round) {
    for (;;) {
      try {
        return (await this.draw({ seed, blend: null }, "vary")).picture;
      } catch (error) {
        if (round !== this.round) return null; // nobody waits for it any more
        if (error.status !== 429 && error.status !== 503) throw error;
        await new Promise((resolve) => setTimeout(resolve, 1000 * error.wait));
      }
    }
  }

  // The drawing changed: what was varied is another drawing's, and what is not yet there is not needed any more.
  outdate() {
    const list = find("variations");
    if (list.hidden || list.classList.contains("old")) return;
    this.round++;
    list.classList.add("old");
    list.setAttribute("aria-busy", "false");
    for (const frame of [...list.children].filter((one) => one.disabled)) frame.remove();
    list.hidden = list.children.length === 0;
    find("vary-hint").hidden = !list.hidden;
  }
}
