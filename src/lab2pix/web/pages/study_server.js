// What the page asks of the server, and what it keeps in this tab so that a reload loses nothing.

const KEY = "lab2pix-study";

// Sends JSON and returns what comes back; throws an Error whose message is a sentence for people.
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

export const begin = (participant) => post("api/participant", { participant });

export const sendAnswer = (answer) => post("api/answers", answer);

// A name for one ranking, so that it is kept once however often it is sent. (randomUUID needs https, this does not.)
export function makeId() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

// {name, first, index, drafts: {sample: {places, seconds, id}}}; where the browser keeps nothing, reloads ask for the name.
export function recall() {
  try {
    return JSON.parse(sessionStorage.getItem(KEY)) ?? {};
  } catch {
    return {};
  }
}

export function keep(memory) {
  try {
    sessionStorage.setItem(KEY, JSON.stringify(memory));
  } catch {
    // A full or forbidden storage: answers are on the server all the same.
  }
}
