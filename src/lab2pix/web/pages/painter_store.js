// Keeps the work in this browser, so that a reload loses nothing. Each tab has a drawing of its own: two tabs never write
// to the same one.

const NAME = "lab2pix-painter";
const DRAWINGS = "drawings";
const MOST = 24; // drawings that are kept per model

const NOTED = `${NAME}-noted`;

// Returns what this tab noted last of a drawing.
function noted(id) {
  const found = JSON.parse(sessionStorage.getItem(NOTED) ?? "null");
  return found?.id === id ? found.small : {};
}

const done = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

function makeId() {
  return [...crypto.getRandomValues(new Uint8Array(8))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

// Holds a drawing's name as long as this tab lives; returns false where another tab holds it, or where the browser (not
// asked by https or on this machine) cannot tell.
const held = new Set();
function hold(id) {
  if (held.has(id)) return Promise.resolve(true);
  if (!navigator.locks) return Promise.resolve(false);
  return new Promise((resolve) => {
    navigator.locks.request(`${NAME}-${id}`, { ifAvailable: true }, (lock) => {
      if (lock) held.add(id);
      resolve(lock !== null);
      return lock && new Promise(() => {});
    });
  });
}

export class Store {
  // `model` tells drawings of one model's classes and size from others'.
  static async open(model) {
    const store = new Store();
    store.model = model;
    store.id = null;
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(DRAWINGS, { keyPath: "id" });
    store.database = await done(request);
    return store;
  }

  drawings(mode) {
    return this.database.transaction(DRAWINGS, mode).objectStore(DRAWINGS);
  }

  // Returns this model's drawings, the newest first.
  async list() {
    const all = await done(this.drawings("readonly").getAll());
    return all.filter((one) => one.model === this.model).sort((a, b) => b.changed - a.changed);
  }

  // Returns the names of those that are open in other tabs, as far as the browser tells.
  async busy() {
    const { held: locks } = navigator.locks ? await navigator.locks.query() : { held: [] };
    return new Set(locks.map(({ name }) => name.slice(NAME.length + 1)).filter((id) => !held.has(id)));
  }

  // Returns the drawing to go on with, or null: this tab's before a reload, or else the newest that is in no other tab.
  // One that another tab may be working on is gone on with as a copy, under a new name.
  async resume() {
    const kept = await this.list();
    const mine = kept.find((one) => one.id === sessionStorage.getItem(NAME));
    for (const drawing of mine ? [mine] : kept) {
      if (await hold(drawing.id)) return this.take(drawing.id, drawing);
    }
    return this.take(await this.reserve(), mine ?? null);
  }

  take(id, drawing) {
    this.id = id;
    sessionStorage.setItem(NAME, id);
    return drawing && { ...drawing, ...noted(drawing.id) };
  }

  // Keeps what is small before this returns, as a reload does not wait for a database.
  note(small) {
    sessionStorage.setItem(NOTED, JSON.stringify({ id: this.id, small }));
  }

  // Returns the name under which a kept drawing is gone on with: its own, or a new one where there is none or another tab
  // may have it.
  async reserve(id = null) {
    if (id !== null && (await hold(id))) return id;
    const name = makeId();
    await hold(name);
    return name;
  }

  // `drawing` is {ids, seed, blend, ...}, of what IndexedDB can keep.
  save(drawing) {
    const record = { ...drawing, id: this.id, model: this.model, changed: Date.now() };
    return done(this.drawings("readwrite").put(record));
  }

  remove(id) {
    return done(this.drawings("readwrite").delete(id));
  }

  // Drops the oldest drawings where there are many, but none that is open.
  async prune() {
    const busy = await this.busy();
    for (const { id } of (await this.list()).slice(MOST)) {
      if (id !== this.id && !busy.has(id)) await this.remove(id);
    }
  }
}
