// Files that the user gives: chosen, dropped, in folders, pasted. Each is { file, name }.

const PICTURES = /\.(a?png|jpe?g|jfif|jpe|jif|jfi|webp|gif|bmp|tiff?|heic|heif|avif)$/i;

// Of a folder only what is named as a picture is scored; the rest is counted.
function fromFolder(found) {
  const pictures = found.filter(({ name }) => PICTURES.test(name) && !/(^|\/)\./.test(name));
  return { pictures, leftOut: found.length - pictures.length };
}

export function chosenFiles(list) {
  const found = [...list].map((file) => ({ file, name: file.webkitRelativePath || file.name }));
  const inFolder = found.filter(({ file }) => file.webkitRelativePath);
  const { pictures, leftOut } = fromFolder(inFolder);
  return { pictures: [...found.filter(({ file }) => !file.webkitRelativePath), ...pictures], leftOut };
}

// Of a drop or a paste. The entries must be asked for before the event ends.
export async function transferredFiles(transfer) {
  const entries = [...(transfer.items ?? [])].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return chosenFiles(transfer.files);
  const [single, inFolders] = [[], []];
  for (const entry of entries) await walk(entry, entry.isFile ? single : inFolders);
  const { pictures, leftOut } = fromFolder(inFolders);
  return { pictures: [...single, ...pictures], leftOut };
}

async function walk(entry, found) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    found.push({ file, name: entry.fullPath.replace(/^\//, "") });
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    const part = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!part.length) return;
    for (const inner of part) await walk(inner, found);
  }
}
