// Drags pictures with a mouse, a finger or a pen. A finger picks up a picture after a moment's rest, so that a page full
// of pictures can still be scrolled; what lies in the bar is picked up at once.

const NEAR = 6; // pixels that a pointer may tremble
const REST = 220; // milliseconds until a resting finger picks up

// start(element) returns whether it can be dragged; over(x, y) shows where it would land; drop(element, x, y) puts it
// there; end() clears what over showed.
export function makeDraggable(root, { start, over, drop, end }) {
  let held = null; // {element, pointer, x, y, timer}
  let ghost = null;
  let swallow = false; // the click that follows a drag

  function lift() {
    const { element, pointer, x, y } = held;
    const picture = element.querySelector("img");
    const box = picture.getBoundingClientRect();
    const width = Math.min(box.width, 180);
    ghost = picture.cloneNode();
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

  function letGo() {
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
    held.slow = event.pointerType === "touch" && element.dataset.drag === "rest";
    if (held.slow) held.timer = setTimeout(lift, REST);
  });

  root.addEventListener("pointermove", (event) => {
    if (event.pointerId !== held?.pointer) return;
    const far = Math.hypot(event.clientX - held.x, event.clientY - held.y) > NEAR;
    if (ghost) {
      move(event.clientX, event.clientY);
    } else if (far && held.slow) {
      letGo(); // the finger scrolls
    } else if (far) {
      lift();
      move(event.clientX, event.clientY);
    }
  });

  root.addEventListener("pointerup", (event) => {
    if (event.pointerId !== held?.pointer) return;
    const element = ghost && held.element;
    letGo();
    if (element) {
      swallow = true;
      setTimeout(() => (swallow = false)); // where the browser sends no click
      drop(element, event.clientX, event.clientY);
    }
  });

  root.addEventListener("pointercancel", (event) => event.pointerId === held?.pointer && letGo());
  root.addEventListener("touchmove", (event) => ghost && event.preventDefault(), { passive: false });
  root.addEventListener("contextmenu", (event) => (ghost || held?.slow) && event.preventDefault());
  root.addEventListener("dragstart", (event) => event.preventDefault());
  root.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && ghost) letGo();
  });
  root.addEventListener(
    "click",
    (event) => {
      if (swallow) event.stopPropagation();
      swallow = false;
    },
    true,
  );
}
