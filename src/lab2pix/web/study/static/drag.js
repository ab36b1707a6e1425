// Drag and drop with mouse, touch or pen. A finger picks up an image after a short delay, so that the page can still be
// scrolled; images in the bar are picked up at once.

const DRAG_THRESHOLD_PX = 6;
const LONG_PRESS_MS = 220;

// `start(element)` returns whether it can be dragged; `over(x, y)` marks the target; `drop(element, x, y)` drops it;
// `end()` removes the mark.
export function makeDraggable(root, { start, over, drop, end }) {
  let held = null; // {element, pointer, x, y, timer}
  let ghost = null;
  let ignoreClick = false; // the click event after a drag

  function lift() {
    const { element, pointer, x, y } = held;
    const image = element.querySelector("img");
    const box = image.getBoundingClientRect();
    const width = Math.min(box.width, 180);
    ghost = image.cloneNode();
    ghost.removeAttribute("id");
    ghost.className = "ghost";
    ghost.style.width = `${width}px`;
    ghost.style.height = `${(width * box.height) / box.width}px`;
    document.body.append(ghost);
    element.classList.add("lifted");
    element.setPointerCapture(pointer);
    move(x, y);
  }

  function move(x, y) {
    ghost.style.transform = `translate(${x}px, ${y}px) translate(-50%, -60%)`;
    over(x, y);
  }

  function release() {
    clearTimeout(held?.timer);
    held?.element.classList.remove("lifted");
    ghost?.remove();
    held = ghost = null;
    end();
  }

  root.addEventListener("pointerdown", (event) => {
    const element = event.target.closest("[data-drag]");
    if (!element || event.button !== 0 || !event.isPrimary || !start(element)) return;
    held = { element, pointer: event.pointerId, x: event.clientX, y: event.clientY, timer: 0 };
    held.slow = event.pointerType === "touch" && element.dataset.drag === "long-press";
    if (held.slow) held.timer = setTimeout(lift, LONG_PRESS_MS);
  });

  root.addEventListener("pointermove", (event) => {
    if (event.pointerId !== held?.pointer) return;
    const far = Math.hypot(event.clientX - held.x, event.clientY - held.y) > DRAG_THRESHOLD_PX;
    if (ghost) {
      move(event.clientX, event.clientY);
    } else if (far && held.slow) {
      release(); // the finger scrolls
    } else if (far) {
      lift();
      move(event.clientX, event.clientY);
    }
  });

  root.addEventListener("pointerup", (event) => {
    if (event.pointerId !== held?.pointer) return;
    const element = ghost && held.element;
    release();
    if (element) {
      ignoreClick = true;
      setTimeout(() => (ignoreClick = false)); // in case the browser sends no click
      drop(element, event.clientX, event.clientY);
    }
  });

  root.addEventListener("pointercancel", (event) => event.pointerId === held?.pointer && release());
  root.addEventListener("touchmove", (event) => ghost && event.preventDefault(), { passive: false });
  root.addEventListener("contextmenu", (event) => (ghost || held?.slow) && event.preventDefault());
  root.addEventListener("dragstart", (event) => event.preventDefault());
  root.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && ghost) release();
  });
  root.addEventListener(
    "click",
    (event) => {
      if (ignoreClick) event.stopPropagation();
      ignoreClick = false;
    },
    true,
  );
}
