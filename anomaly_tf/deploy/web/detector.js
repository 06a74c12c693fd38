// The exported detector: its metadata, its model in LiteRT.js, scores and maps of pictures, as
// anomaly_tf/deploy/detector.py.

import { Tensor, loadAndCompile, loadLiteRt } from "@litertjs/core";

import { UnreadablePicture, fromBase64, sha256 } from "anomaly_tf/bytes.js";
import { Calibration } from "anomaly_tf/calibration.js";
import { canvasPixels, channelsOf, decodeFile } from "anomaly_tf/decode.js";
import { Region, blank, clear } from "anomaly_tf/region.js";
import { resize } from "anomaly_tf/resize.js";
import { inTiles } from "anomaly_tf/tiles.js";

const DEFAULT_MAX_PIXELS = 50_000_000;

// Starts LiteRT.js once. `wasm`: its compiled part; `loader`: address of its script, or of an empty
// one if the page holds it. Without the accelerators: those were seen to give wrong scores.
export async function startRuntime(wasm, loader) {
  if (typeof WebAssembly !== "object") throw new Error("this browser has no WebAssembly; enable it or use another browser");
  self.Module = { wasmBinary: wasm, print() {}, printErr() {} };
  try {
    await loadLiteRt(loader);
  } catch (error) {
    // A script that cannot be loaded rejects with an event that has no message.
    throw new Error(`LiteRT.js cannot be started (${error?.message ?? "its script cannot be loaded"}); use another browser`);
  }
}

export class Detector {
  static async load(info, model) {
    if (sha256(model) !== info.model_sha256) {
      throw new Error("the model is not the one that its metadata describes (another SHA-256 digest); export the page again");
    }
    const region = info.roi ? await Region.from(info.roi.mask) : undefined;
    return new Detector(info, await loadAndCompile(model, { accelerator: "wasm" }), region);
  }

  constructor(info, model, region) {
    Object.assign(this, { info, model, region });
    this.calibration = new Calibration(info.calibration.scores);
    this.shape = info.image_shape;
    this.threshold = Math.fround(info.threshold.value); // scores are float32
    this.inside = region?.at(this.shape.slice(0, 2));
    this.running = Promise.resolve();
  }

  get explains() {
    return this.info.outputs.includes("error_map");
  }

  // Reads a file: { pixels, size, original, note }, with `pixels` in the detector's shape.
  async read(file, bytes = file.size) {
    const { pixels, size, note } = await decodeFile(file, {
      channels: this.shape[2], maxPixels: this.info.max_pixels ?? DEFAULT_MAX_PIXELS, bitDepth: this.info.bit_depth, size: bytes,
    });
    return { ...this.fitted(pixels, size), note };
  }

  // A frame of a video.
  readFrame(video) {
    const [height, width] = [video.videoHeight, video.videoWidth];
    return this.fitted(channelsOf(canvasPixels(video, width, height), this.shape[2]), [height, width]);
  }

  fitted(original, size) {
    const [height, width, channels] = this.shape;
    let pixels = original;
    if (this.region) {
      this.region.requireSize(size);
      pixels = blank(Uint8Array.from(original), this.region.inside, channels);
    }
    pixels = resize(pixels, size, [height, width], channels);
    if (this.region) blank(pixels, this.inside, channels); // resizing mixes pixels at its edge
    return { pixels, size, original };
  }

  // The answer for pixels in the detector's shape: score, and its other outputs.
  judge(pixels) {
    // One after the other: the camera and files share the model.
    const answer = this.running.then(() => this.answer(pixels));
    this.running = answer.catch(() => {});
    return answer;
  }

  async answer(pixels) {
    const { tiling, image_score: rule } = this.info;
    const channels = this.shape[2];
    const infer = async (part, counted) => {
      const answer = await this.infer(counted ? blank(Uint8Array.from(part), counted, channels) : part);
      return counted ? clear(answer, counted, rule === "maximum") : answer;
    };
    const answer = tiling ? await inTiles(infer, pixels, this.shape, tiling, this.inside) : await infer(pixels, this.inside);
    if (!Number.isFinite(answer.score)) throw new UnreadablePicture("has no finite score; the model is damaged");
    return answer;
  }

  // Calls the model with one picture, or tile.
  async infer(pixels) {
    const { info, model, shape } = this;
    const side = info.tiling?.tile;
    const input = new Tensor(pixels, side ? [1, side, side, shape[2]] : [1, ...shape]);
    const outputs = await model.run({ images: input });
    input.delete();
    const answer = {};
    for (const name of info.outputs) {
      const values = await outputs[name].data();
      answer[name] = name === "score" ? values[0] : Float32Array.from(values);
    }
    Object.values(outputs).forEach((tensor) => tensor.delete());
    return answer;
  }

  // Scores the picture in the metadata, whose pixels and score are known. Finds a browser that
  // changes pixels, against fingerprints for instance, and a runtime that computes wrongly.
  async requireKnownScore() {
    const { picture, pixels_sha256: digest, score, tolerance } = this.info.known;
    const { pixels } = await this.read(new Blob([fromBase64(picture)]));
    if (sha256(pixels) !== digest) {
      throw new Error(
        "this browser changes the pixels of pictures, as some do against fingerprinting; allow this page " +
        "to read canvas data, or use another browser");
    }
    const answer = await this.judge(pixels);
    if (!(Math.abs(answer.score - score) <= tolerance)) {
      throw new Error(
        `a known picture gets the score ${answer.score.toPrecision(7)}, not ${score.toPrecision(7)}; use another browser`);
    }
  }
}
