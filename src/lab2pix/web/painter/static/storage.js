// Stores drawings in this browser's IndexedDB. Each tab has a drawing of its own: two tabs never write to the same one.

const NAME = "lab2pix-painter";
const STORE = "drawings";
const SETTINGS_KEY = `${NAME}-settings`;
const MAX_DRAWINGS = 24; // per model

// Returns the settings that this tab stored last for a drawing.
function loadSettings(id) {
  const found = JSON.parse(sessionStorage.getItem(SETTINGS_KEY) ?? "null");
  return found?.id === id ? found.settings : {};
}

const completed = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

function makeId() {
  return [...crypto.getRandomValues(new Uint8Array(8))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

// Locks a drawing for this tab. Returns false if another tab has locked it, or if the browser has no locks (without
// HTTPS, on another machine).
const locked = new Set();
function lock(id) {
  if (locked.has(id)) return Promise.resolve(true);
  if (!navigator.locks) return Promise.resolve(false);
  return new Promise((resolve) => {
    navigator.locks.request(`${NAME}-${id}`, { ifAvailable: true }, (granted) => {
      if (granted) locked.add(id);
      resolve(granted !== null);
      return granted && new Promise(() => {});
    });
  });
}

export class DrawingStorage {
  // `model` distinguishes drawings of different classes and sizes.
  static async open(model) {
    const storage = new DrawingStorage();
    storage.model = model;
    storage.id = null;
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "id" });
    storage.database = await completed(request);
    return storage;
  }

  drawings(mode) {
    return this.database.transaction(STORE, mode).objectStore(STORE);
  }

  // Returns this model's drawings, newest first.
  async list() {
    const all = await completed(this.drawings("readonly").getAll());
    return all.filter((one) => one.model === this.model).sort((a, b) => b.changed - a.changed);
  }

  // Returns the ids of drawings that are open in other tabs, as far as the browser tells.
  async openElsewhere() {
    const { held } = navigator.locks ? await navigator.locks.query() : { held: [] };
    return new Set(held.map(({ name }) => name.slice(NAME.length + 1)).filter((id) => !locked.has(id)));
  }

  // Returns the drawing to continue, or null: this tab's before a reload, or else the newest that is open in no other
  // tab. One that may be open in another tab is continued as a copy, with a new id.
  async resume() {
    const stored = await this.list();
    const own = stored.find((one) => one.id === sessionStorage.getItem(NAME));
    for (const drawing of own ? [own] : stored) {
      if (await lock(drawing.id)) return this.select(drawing.id, drawing);
    }
    return this.select(await this.reserve(), own ?? null);
  }

  select(id, drawing) {
    this.id = id;
    sessionStorage.setItem(NAME, id);
    return drawing && { ...drawing, ...loadSettings(drawing.id) };
  }

  // Stores style and settings before it returns, because a reload does not wait for a database.
  saveSettings(settings) {
    try {
      sessionStorage.setItem(SETTINGS_KEY, JSON.stringify({ id: this.id, settings }));
    } catch {
      sessionStorage.removeItem(SETTINGS_KEY); // a style image too large for it; the database has room
    }
  }

  // Returns the id under which to continue a stored drawing: its own, or a new one if another tab may have it open.
  async reserve(id = null) {
    if (id !== null && (await lock(id))) return id;
    const fresh = makeId();
    await lock(fresh);
    return fresh;
  }

  // `drawing` is {ids, style, settings}.
  save(drawing) {
    const record = { ...drawing, id: this.id, model: this.model, changed: Date.now() };
    return completed(this.drawings("readwrite").put(record));
  }

  remove(id) {
    return completed(this.drawings("readwrite").delete(id));
  }

  // Removes the oldest drawings beyond the limit, except those that are open.
  async prune() {
    const open = await this.openElsewhere();
    for (const { id } of (await this.list()).slice(MAX_DRAWINGS)) {
      if (id !== this.id && !open.has(id)) await this.remove(id);
    }
  }
}
