// Rankings: arrays of places, best first, each with an image number or null.

// Puts an image at a place; the image there moves to where the first one came from, or else to the nearest free place.
export function placeImage(places, image, place) {
  const after = [...places];
  const from = after.indexOf(image);
  if (from >= 0) after[from] = null;
  if (after[place] !== null) {
    let free = from >= 0 ? from : after.indexOf(null, place);
    if (free < 0) free = after.lastIndexOf(null);
    const step = free > place ? -1 : 1;
    for (let i = free; i !== place; i += step) after[i] = after[i + step];
  }
  after[place] = image;
  return after;
}

export function removeImage(places, image) {
  return places.map((one) => (one === image ? null : one));
}

// Tells whether a stored draft is valid.
export function isDraft(draft, count) {
  if (!Array.isArray(draft?.places) || draft.places.length !== count) return false;
  const given = draft.places.filter((one) => one !== null);
  const known = given.every((one) => Number.isInteger(one) && one >= 0 && one < count);
  return known && new Set(given).size === given.length && Number.isFinite(draft.seconds) && typeof draft.id === "string";
}
