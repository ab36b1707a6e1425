// Keyboard shortcuts of the page. Arrows and Space on the drawing belong to pointer.js.

import { find } from "./dom.js";
import { isOff, turn } from "./preferences.js";

const isTextField = ({ type, tagName }) => tagName === "INPUT" && ["search", "number", "text"].includes(type);

// `plain` and `control` are actions by key, letters in lower case; `onPan(on)` is called when H is pressed or released.
export function listenToShortcuts({ plain, control, onPan }) {
  const letters = find("letter-shortcuts");
  letters.checked = !isOff("letters");
  letters.addEventListener("change", () => turn("letters", letters.checked));
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.altKey || isTextField(event.target)) return;
    if (document.querySelector("dialog[open]")) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const command = event.ctrlKey || event.metaKey;
    const name = event.shiftKey && (command || key.length > 1) ? `Shift+${key}` : key;
    if (!command && key.length === 1 && !letters.checked) return;
    if (!command && key === "h") onPan(true);
    if (command && key === "c" && String(getSelection())) return; // copies the selected text
    const action = (command ? control : plain)[name];
    if (!action) return;
    event.preventDefault();
    action();
  });
  document.addEventListener("keyup", ({ key }) => key.toLowerCase() === "h" && onPan(false));
  window.addEventListener("blur", () => onPan(false));
}
