// Client of the study's API, and the state that survives a reload of this tab.

const STORAGE_KEY = "lab2pix-study";

// Sends JSON and returns the response; throws an Error with a message for people.
async function post(path, body) {
  let response;
  try {
    response = await fetch(path, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
    });
  } catch {
    throw new Error("The study cannot be reached. Check the connection, then try again; nothing is lost.");
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.error ? `${answer.error}.` : "Something went wrong; try again.");
  return answer;
}

export const fetchSamples = (participant) => post("api/participant", { participant });

export const sendAnswer = (answer) => post("api/answers", answer);

// Returns an id for a ranking, so that it is stored once however often it is sent. (randomUUID requires HTTPS.)
export function makeId() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

// The state is {name, first, index, drafts: {sample: {places, seconds, id}}}. If the browser stores nothing, a reload asks
// for the name again.
export function loadState() {
  try {
    return JSON.parse(sessionStorage.getItem(STORAGE_KEY)) ?? {};
  } catch {
    return {};
  }
}

export function saveState(state) {
  try {
    sessionStorage.setItem(STORAGE_KEY, JSON.stringify(state));
  } catch {
    // Storage is full or disabled; answers are on the server anyway.
  }
}
