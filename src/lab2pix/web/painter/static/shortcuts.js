// Keyboard shortcuts of the page. Arrows and Space on the drawing belong to pointer.js.

import { find } from "./dom.js";

const STORAGE_KEY = "lab2pix-painter-letters";

function loadEnabled() {
  try {
    return localStorage.getItem(STORAGE_KEY) !== "off";
  } catch {
    return true; // storage is disabled
  }
}

function saveEnabled(on) {
  try {
    localStorage.setItem(STORAGE_KEY, on ? "on" : "off");
  } catch {
    // The choice lasts as long as the page.
  }
}

const isTextField = ({ type, tagName }) => tagName === "INPUT" && ["search", "number", "text"].includes(type);

// `plain` and `control` are actions by key, letters in lower case; `onPan(on)` is called when H is pressed or released.
export function listenToShortcuts({ plain, control, onPan }) {
  const letters = find("letter-shortcuts");
  letters.checked = loadEnabled();
  letters.addEventListener("change", () => saveEnabled(letters.checked));
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.altKey || isTextField(event.target)) return;
    if (document.querySelector("dialog[open]")) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const command = event.ctrlKey || event.metaKey;
    const name = event.shiftKey && (command || key.length > 1) ? `Shift+${key}` : key;
    if (!command && key.length === 1 && !letters.checked) return;
    if (!command && key === "h") onPan(true);
    const action = (command ? control : plain)[name];
    if (!action) return;
    event.preventDefault();
    action();
  });
  document.addEventListener("keyup", ({ key }) => key.toLowerCase() === "h" && onPan(false));
  window.addEventListener("blur", () => onPan(false));
}
