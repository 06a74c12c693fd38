// Scores as the command predict writes them with --format csv.

const FORMULA = ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20"];

export function csv(rows) {
  const lines = rows.map(({ name, score, isAnomaly, rank }) =>
    [quoted(cell(name)), rounded(score, 7), isAnomaly ? "anomaly" : "normal", rounded(rank, 4)].join(","));
  return ["file,score,verdict,rank", ...lines, ""].join("\n");
}

// A number with some significant digits, as Python writes it.
export function rounded(value, digits) {
  const [mantissa, exponent] = Number(value.toPrecision(digits)).toExponential().split("e");
  const power = Number(exponent);
  if (power >= -4 && power < 16) {
    const plain = Number(value.toPrecision(digits)).toFixed(Math.max(0, mantissa.replace(/[-.]/g, "").length - 1 - power));
    return plain.includes(".") ? plain : `${plain}.0`;
  }
  return `${mantissa}e${power < 0 ? "-" : "+"}${String(Math.abs(power)).padStart(2, "0")}`;
}

// Text that a spreadsheet does not run as a formula, with invisible characters escaped.
function cell(text) {
  const visible = text.replace(/[\p{C}\p{Z}]/gu, (character) => (character === " " ? " " : escaped(character)));
  return FORMULA.includes(text.replace(/^ +/, "")[0]) ? `'${visible}` : visible;
}

function escaped(character) {
  const short = { "\n": "\\n", "\r": "\\r", "\t": "\\t" }[character];
  if (short) return short;
  const digits = character.codePointAt(0).toString(16);
  if (digits.length <= 2) return `\\x${digits.padStart(2, "0")}`;
  return digits.length <= 4 ? `\\u${digits.padStart(4, "0")}` : `\\U${digits.padStart(8, "0")}`;
}

const quoted = (text) => (/[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
