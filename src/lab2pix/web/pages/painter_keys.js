// Shortcuts of the whole page. What the drawing does with arrows and Space is the hand's.

import { find } from "./painter_dom.js";

const KEY = "lab2pix-painter-letters";

function mayUseLetters() {
  try {
    return localStorage.getItem(KEY) !== "off";
  } catch {
    return true; // where the browser keeps nothing
  }
}

function keepLetters(on) {
  try {
    localStorage.setItem(KEY, on ? "on" : "off");
  } catch {
    // Then the choice lasts as long as the page.
  }
}

const types = ({ type, tagName }) => tagName === "INPUT" && ["search", "number", "text"].includes(type);

// `plain` and `control` are actions by key, those of letters in small; grab(on) is told whether H is held.
export function listenToKeys({ plain, control, grab }) {
  const letters = find("letters");
  letters.checked = mayUseLetters();
  letters.addEventListener("change", () => keepLetters(letters.checked));
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.altKey || types(event.target)) return;
    if (document.querySelector("dialog[open]")) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const command = event.ctrlKey || event.metaKey;
    const name = event.shiftKey && (command || key.length > 1) ? `Shift+${key}` : key;
    if (!command && key.length === 1 && !letters.checked) return;
    if (!command && key === "h") grab(true);
    const act = (command ? control : plain)[name];
    if (!act) return;
    event.preventDefault();
    act();
  });
  document.addEventListener("keyup", ({ key }) => key.toLowerCase() === "h" && grab(false));
  window.addEventListener("blur", () => grab(false));
}
