// Settings of this browser that have two values, kept in its local storage.

const PREFIX = "lab2pix-painter-";

export function isOff(name) {
  try {
    return localStorage.getItem(PREFIX + name) === "off";
  } catch {
    return false; // storage is disabled
  }
}

export function turn(name, on) {
  try {
    localStorage.setItem(PREFIX + name, on ? "on" : "off");
  } catch {
    // The choice lasts as long as the page.
  }
}
