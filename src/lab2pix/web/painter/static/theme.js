// Light or dark colors: the system's, until the switch is used. Runs before the page is shown.

{
  const KEY = "lab2pix-theme";
  const system = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;

  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);

  // A choice that is the system's again is forgotten.
  const choose = (dark) => {
    const theme = dark ? "dark" : "light";
    if (dark === system.matches) delete root.dataset.theme;
    else root.dataset.theme = theme;
    try {
      if (dark === system.matches) localStorage.removeItem(KEY);
      else localStorage.setItem(KEY, theme);
    } catch {
      // The choice lasts as long as the page.
    }
  };

  try {
    const stored = localStorage.getItem(KEY);
    if (stored) root.dataset.theme = stored;
  } catch {
    // Storage is disabled.
  }

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const show = () => button.setAttribute("aria-checked", isDark());
    button.addEventListener("click", () => {
      choose(!isDark());
      show();
    });
    system.addEventListener("change", show);
    show();
  });
}
