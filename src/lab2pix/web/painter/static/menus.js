// Menus and dialogs of the page.

export function toggleMenu(menu) {
  menu.open = !menu.open;
  if (menu.open) [...menu.querySelectorAll("button, input")].find((one) => one.checkVisibility())?.focus();
}

// Closes menus and dialogs by a click elsewhere or on a button of theirs, and menus by Escape.
export function listenToMenus() {
  for (const menu of document.querySelectorAll(".menu")) {
    document.addEventListener("click", ({ target }) => {
      if (!menu.contains(target) || target.closest("button")) menu.open = false;
    });
    menu.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !menu.open) return;
      menu.open = false;
      menu.querySelector("summary").focus();
    });
  }
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.addEventListener("click", ({ target }) => {
      if (target === dialog || target.closest("[data-close]")) dialog.close();
    });
  }
}
