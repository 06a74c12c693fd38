// What the page says of scores and verdicts.

export const NORMAL = "\u2713 normal";
export const ANOMALY = "\u26a0 anomaly";

export const verdictOf = (isAnomaly) => (isAnomaly ? ANOMALY : NORMAL);

export const percent = (share) => `${Number((100 * share).toPrecision(2))} %`;

export const shortScore = (score) => String(Number(score.toPrecision(4)));

export function thresholdText({ method, percentile, false_alarm_rate: rate }, size) {
  if (method === "conformal") return promise(rate, size);
  if (method === "percentile") return `about ${percent(1 - percentile / 100)} of normal pictures (percentile ${percentile} of ${size})`;
  return "separates the labelled pictures of the validation set best";
}

export const promise = (rate, size) =>
  `at most ${percent(rate)} of new normal pictures (by ${size} of the same source)`;

export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}
