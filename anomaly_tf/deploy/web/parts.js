// The parts of the page: inside it, compressed (one file), or beside it (a folder on a web server).

import { fromBase64, inflated } from "anomaly_tf/bytes.js";

export async function loadPart(name) {
  const inside = document.getElementById(`part-${name}`);
  if (inside) {
    const bytes = await inflated(fromBase64(inside.textContent), "gzip");
    inside.remove(); // several megabytes of text
    return bytes;
  }
  const answer = await fetch(addressOf(name));
  // The page of an error would be taken for the part.
  if (!answer.ok) throw new Error(`${name} cannot be loaded (${answer.status} ${answer.statusText}); export the page again`);
  return new Uint8Array(await answer.arrayBuffer());
}

// Of a part beside the page; undefined if all of them are inside.
export function addressOf(name) {
  const folder = document.querySelector("meta[name=parts]")?.content;
  return folder && new URL(folder + name, document.baseURI).href;
}

export const loadText = async (name) => new TextDecoder().decode(await loadPart(name));
