// What scores promise, from those of normal validation images: anomaly_tf/detection/threshold.py.

const SMALLEST = 2 ** -126; // normal float32

export class Calibration {
  constructor(scores) {
    this.scores = Float64Array.from(scores).sort();
    this.size = scores.length;
  }

  // The conformal p-value: the share of normal images that score at least as high.
  rank(score) {
    let [low, high] = [0, this.size];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.scores[middle] < score) low = middle + 1;
      else high = middle;
    }
    return (1 + this.size - low) / (this.size + 1);
  }

  // The threshold that a new normal image reaches with a probability of at most
  // `alarms / (size + 1)`: just above one of the scores.
  threshold(alarms) {
    const ordered = Float32Array.from(this.scores);
    const above = nextFloat32(ordered[this.size - alarms]);
    return above > 0 && above < SMALLEST ? SMALLEST : above;
  }

  // The numbers of alarms, of size + 1 images, that the slider offers: each of the small ones, then
  // in steps of at most 5 %.
  steps() {
    const found = [];
    for (let alarms = 1; alarms <= this.size; alarms += Math.max(1, Math.floor(alarms / 20))) found.push(alarms);
    return found;
  }
}

// The smallest float32 above a float32.
export function nextFloat32(value) {
  if (value === 0) return 2 ** -149;
  const bits = new DataView(new ArrayBuffer(4));
  bits.setFloat32(0, value);
  bits.setInt32(0, bits.getInt32(0) + (value > 0 ? 1 : -1));
  return bits.getFloat32(0);
}
