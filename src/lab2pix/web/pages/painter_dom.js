// Small helps for the page's elements.

export const find = (id) => document.getElementById(id);

export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// Tells those who hear the page, not see it.
export function say(words) {
  find("live").textContent = words;
}

// Shows what went wrong, until something else does or it is dismissed.
export function complain(error) {
  find("trouble-text").textContent = error.message;
  find("trouble").hidden = false;
}

export function calm() {
  find("trouble").hidden = true;
}

// Runs what may fail because of the server or a file; anything else is a mistake of the page and goes to the console.
export async function attempt(act) {
  try {
    await act();
    return true;
  } catch (error) {
    complain(error);
    if (error.name !== "Error") console.error(error);
    return false;
  }
}

// Gives a file to the person.
export function download(blob, name) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

// Draws ids onto a canvas of their own size, as a small picture.
export function drawIds(canvas, ids, width, height, colors) {
  Object.assign(canvas, { width, height });
  const image = new ImageData(width, height);
  ids.forEach((id, at) => image.data.set([...colors[id], 255], 4 * at));
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}
