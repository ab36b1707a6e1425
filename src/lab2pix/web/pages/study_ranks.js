// Places and what lies in them: an array as long as there are pictures, best first, of picture numbers or null.

// Puts a picture at a place; what lies there moves on, to where the picture came from or else to the nearest free place.
export function putAt(places, picture, place) {
  const after = [...places];
  const from = after.indexOf(picture);
  if (from >= 0) after[from] = null;
  if (after[place] !== null) {
    let free = from >= 0 ? from : after.indexOf(null, place);
    if (free < 0) free = after.lastIndexOf(null);
    const step = free > place ? -1 : 1;
    for (let i = free; i !== place; i += step) after[i] = after[i + step];
  }
  after[place] = picture;
  return after;
}

export function takenBack(places, picture) {
  return places.map((one) => (one === picture ? null : one));
}

// Whether what this tab kept of a sample can be gone on with.
export function isDraft(kept, count) {
  if (!Array.isArray(kept?.places) || kept.places.length !== count) return false;
  const given = kept.places.filter((one) => one !== null);
  const known = given.every((one) => Number.isInteger(one) && one >= 0 && one < count);
  return known && new Set(given).size === given.length && Number.isFinite(kept.seconds) && typeof kept.id === "string";
}
