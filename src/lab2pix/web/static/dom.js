// Helpers for the page's elements.

const TOAST_MS = 3000;

export const find = (id) => document.getElementById(id);

export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// Announces a message to screen readers.
export function announce(message) {
  find("live").textContent = message;
}

// Shows a message for a moment, or until the next one; "" hides it.
let toastTimer = 0;
export function showToast(message, stays = false) {
  const toast = find("toast");
  toast.textContent = message;
  toast.hidden = !message;
  clearTimeout(toastTimer);
  if (!stays) toastTimer = setTimeout(() => (toast.hidden = true), TOAST_MS);
}

// Shows an error until another one replaces it or it is dismissed. A button offers `error.action`, if there is one:
// {label, run}.
export function showError(error) {
  find("error-text").textContent = error.message;
  find("error").hidden = false;
  const button = find("error-action");
  if (!button) return;
  button.hidden = !error.action;
  button.textContent = error.action?.label;
  button.onclick = () => clearError() || error.action.run();
}

export function clearError() {
  find("error").hidden = true;
}

// Runs an action and shows its error; an unexpected one also goes to the console.
export async function attempt(action) {
  try {
    await action();
    return true;
  } catch (error) {
    showError(error);
    if (error.name !== "Error") console.error(error);
    return false;
  }
}

export function download(blob, name) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

export async function drawBlob(canvas, blob) {
  const bitmap = await createImageBitmap(blob);
  Object.assign(canvas, { width: bitmap.width, height: bitmap.height });
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  return canvas;
}

export function drawIds(canvas, ids, width, height, colors) {
  Object.assign(canvas, { width, height });
  const image = new ImageData(width, height);
  ids.forEach((id, index) => image.data.set([...colors[id], 255], 4 * index));
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}
