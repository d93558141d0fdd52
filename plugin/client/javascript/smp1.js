/**
 * SMP/1 as bytes and as JavaScript objects; docs/protocol.md is the specification.
 *
 * `parse` checks every field of a header against the bytes that came with it, so its result needs
 * no further checks. (JSON.parse cannot tell 2.0 from 2: both are whole numbers here.)
 */
"use strict";

const MAGIC = 0x31504d53; // "SMP1", little-endian
const LIMITS = Object.freeze({
  headerBytes: 1 << 16, partBytes: 64 << 20, messageBytes: 128 << 20, planes: 5, side: 4096,
});
const U53 = Number.MAX_SAFE_INTEGER;
const DAY_MS = 86_400_000;
const ANY_SIDE = 1 << 20;
const MOST_CREDIT = 1 << 16;
const COLORS = ["rgb8", "bgr8", "rgba8", "bgra8", "rgb16", "rgba16", "rgb16f", "rgba16f",
  "rgb32f", "rgba32f"];
const FORMATS = {
  color: COLORS, alpha: ["r8", "r16", "r16f", "r32f"], depth: ["r16f", "r32f"],
  motion: ["rg16f", "rg32f"], mask: ["r8"],
};
const LAYOUTS = ["hwc", "chw"];
const ORIGINS = ["tl", "bl"];
const PICTURES = { png: 0, jpeg: 0, rgb8: 3, rgba8: 4 }; // bytes of a pixel; 0: a file
const MOST_REFERENCES = 64; // in a message; a server may accept fewer
const MODES = ["latest", "sync", "ordered"];
const DROPS = ["superseded", "stale", "busy", "shutdown"];
const CODES = ["version", "bad_header", "unsupported", "size_mismatch", "too_large", "auth",
  "no_session", "busy", "internal"];

/** A message that cannot be used; `code` is one of the protocol's. */
class ProtocolError extends Error {
  constructor(code, text) {
    super(text);
    this.name = "ProtocolError";
    this.code = code;
  }
}

function check(holds, code, text) {
  if (!holds) throw new ProtocolError(code, text);
}

// Framing

function concat(chunks) {
  const whole = new Uint8Array(chunks.reduce((sum, chunk) => sum + chunk.length, 0));
  let at = 0;
  for (const chunk of chunks) {
    whole.set(chunk, at);
    at += chunk.length;
  }
  return whole;
}

/** Join header and planes, all Uint8Arrays, to the bytes of one message. */
function join(parts) {
  const head = new DataView(new ArrayBuffer(8 + 4 * parts.length));
  [MAGIC, parts.length, ...parts.map((part) => part.length)].forEach(
    (value, index) => head.setUint32(4 * index, value, true));
  return concat([new Uint8Array(head.buffer), ...parts]);
}

/** Read the lengths at the start of a message, if they are here, and the bytes that it needs. */
function measure(bytes, limits) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  if (bytes.length < 8) return { lengths: [], total: 8 };
  check(view.getUint32(0, true) === MAGIC, "bad_header", "a message starts with SMP1");
  const count = view.getUint32(4, true);
  check(count >= 1 && count <= 1 + limits.planes, "bad_header",
    `a message has a header and at most ${limits.planes} planes, got ${count} parts`);
  const head = 8 + 4 * count;
  if (bytes.length < head) return { lengths: [], total: head };
  const lengths = Array.from({ length: count }, (_, i) => view.getUint32(8 + 4 * i, true));
  const sum = lengths.reduce((a, b) => a + b, 0);
  const fits = Math.max(...lengths) <= limits.partBytes && sum <= limits.messageBytes;
  check(fits && lengths[0] <= limits.headerBytes, "too_large", `parts of ${lengths} bytes`);
  return { lengths, total: head + sum };
}

/** Split one whole message into header and planes, as views into it. Throws ProtocolError. */
function split(message, limits = LIMITS) {
  const { lengths, total } = measure(message, limits);
  check(message.length === total, "size_mismatch",
    `${total} bytes were announced, ${message.length} came`);
  let at = 8 + 4 * lengths.length;
  return lengths.map((length) => message.subarray(at, (at += length)));
}

// Headers

/** Typed access to a JSON object; null is the same as absent. */
class Fields {
  constructor(values) {
    this.values = values;
  }

  with(more) {
    return new Fields({ ...this.values, ...more });
  }

  has(key) {
    return this.values[key] !== undefined && this.values[key] !== null;
  }

  get(key, fallback, valid, wanted) {
    const value = this.has(key) ? this.values[key] : fallback;
    check(valid(value), "bad_header", `${key} must be ${wanted}, got ${JSON.stringify(value)}`);
    return value;
  }

  text(key, fallback) {
    const valid = (v) => typeof v === "string" && /^(?:[^\p{C}\p{Z}]| ){0,256}$/u.test(v);
    return this.get(key, fallback, valid, "at most 256 printable characters");
  }

  choice(key, allowed, fallback) {
    return this.get(key, fallback, (v) => allowed.includes(v), `one of ${allowed.join(", ")}`);
  }

  whole(key, low, high, fallback) {
    const valid = (v) => Number.isInteger(v) && v >= low && v <= high;
    return this.get(key, fallback, valid, `a whole number from ${low} to ${high}`);
  }

  number(key, low, high, fallback) {
    const valid = (v) => typeof v === "number" && v >= low && v <= high;
    return this.get(key, fallback, valid, `a number from ${low} to ${high}`);
  }

  flag(key, fallback) {
    return this.get(key, fallback, (v) => typeof v === "boolean", "true or false");
  }

  list(key, valid, wanted, fallback) {
    const all = (v) => Array.isArray(v) && v.length <= 64 && v.every(valid);
    return this.get(key, fallback, all, `a list of ${wanted}`);
  }

  numbers(key, count) {
    const values = this.list(key, Number.isFinite, "finite numbers");
    check(values.length === count, "bad_header", `${key} must have ${count} numbers`);
    return values;
  }

  object(key) {
    return new Fields(this.get(key, undefined, isObject, "an object"));
  }

  optional(key, read) {
    if (this.has(key)) read(this);
  }
}

const isObject = (v) => typeof v === "object" && v !== null && !Array.isArray(v);
const isText = (v) => typeof v === "string";
const isCount = (v) => Number.isInteger(v) && v >= 0;

function checkPlane(plane, w, h, length) {
  const name = plane.choice("n", Object.keys(FORMATS));
  const fmt = plane.choice("fmt", FORMATS[name]);
  const stride = plane.whole("stride", 1, 2 ** 31);
  const planar = plane.choice("layout", LAYOUTS, "hwc") === "chw";
  plane.choice("origin", ORIGINS, "tl");
  const [, letters, bits] = /^([a-z]+?)(8|16|32)f?$/.exec(fmt);
  const row = w * (bits / 8) * (planar ? 1 : letters.length);
  const rows = h * (planar ? letters.length : 1);
  check(stride >= row && length >= stride * (rows - 1) + row && length <= stride * rows,
    "size_mismatch", `${name}: ${w}x${h} ${fmt}, stride ${stride}, got ${length} bytes`);
  if (name === "color") {
    plane.choice("cs", ["srgb", "linear"], "srgb");
    plane.choice("alpha", ["opaque", "premul", "straight"], "opaque");
    plane.optional("bg", () => plane.numbers("bg", 3));
  } else if (name === "depth") {
    plane.choice("kind", ["expected", "accumulated", "ray", "inverse"], "expected");
    ["near", "far"].forEach((key) => plane.optional(key, () => plane.number(key, 0, 1e30)));
  } else if (name === "motion") {
    plane.choice("dir", ["cur_to_prev", "prev_to_cur"], "cur_to_prev");
    plane.choice("unit", ["px", "uv", "ndc"], "px");
  }
  return name;
}

/** Return the planes by name, each checked against its bytes. */
function checkPlanes(h, data, limits) {
  const [width, height] = [h.whole("w", 1, ANY_SIDE), h.whole("h", 1, ANY_SIDE)];
  check(Math.max(width, height) <= limits.side, "too_large", `${width}x${height} pixels`);
  const planes = h.list("planes", isObject, "objects");
  check(planes.length === data.length, "size_mismatch",
    `${planes.length} planes are described and ${data.length} follow`);
  const byName = new Map(planes.map((plane, index) =>
    [checkPlane(new Fields(plane), width, height, data[index].length), plane]));
  check(byName.size === planes.length, "bad_header", "a plane may come once");
  return byName;
}

function checkFrame(h, data, limits) {
  const planes = checkPlanes(h, data, limits);
  const color = planes.get("color");
  check(color, "bad_header", "a frame needs a plane called color");
  const [fourth, apart] = [color.fmt.includes("a"), planes.has("alpha")];
  const opaque = (color.alpha ?? "opaque") === "opaque";
  check(opaque ? !apart : apart !== fourth, "bad_header",
    "alpha is a fourth channel or a plane, one of them, and color says which kind");
  h.text("session", "");
  h.whole("id", 0, U53);
  h.number("pts", -(2 ** 63), 2 ** 63, 0);
  h.flag("cut", false);
  h.optional("max_age_ms", () => h.number("max_age_ms", 0, DAY_MS));
  h.optional("cam", () => checkCamera(h.object("cam")));
}

function checkCamera(cam) {
  const [fx, fy] = cam.numbers("K", 4);
  check(Math.min(fx, fy) > 0, "bad_header", "cam.K needs positive focal lengths");
  cam.optional("view", () => cam.numbers("view", 16));
}

function checkResult(h, data, limits) {
  const planes = checkPlanes(h.has("planes") ? h : h.with({ planes: [] }), data, limits);
  const applied = h.flag("applied", true);
  check(!applied || planes.has("color"), "bad_header", "a result that was applied has colour");
  answersFrame(h);
  h.number("pts", -(2 ** 63), 2 ** 63, 0);
  h.optional("srv_ms", () => ["queue", "proc"].forEach(
    (key) => h.object("srv_ms").number(key, 0, DAY_MS, 0)));
  h.text("model", "");
}

function checkReferences(h, data) {
  const kind = h.choice("kind", ["pictures", "pairs"], "pictures");
  const pictures = h.list("pictures", isObject, "objects", []).map((each) => new Fields(each));
  const described = pictures.reduce((sum, each) => sum + checkPicture(each), 0);
  check(kind === "pictures" || pictures.length % 2 === 0, "bad_header",
    "pairs are a render and its truth in turn");
  const came = data.reduce((sum, part) => sum + part.length, 0);
  check(data.length === (pictures.length ? 1 : 0) && described === came, "size_mismatch",
    `pictures of ${described} bytes are described, ${came} follow in ${data.length} planes`);
  h.text("session", "");
  h.optional("count", () => h.whole("count", 0, MOST_REFERENCES));
}

function checkPicture(picture) {
  const channels = PICTURES[picture.choice("fmt", Object.keys(PICTURES))];
  const bytes = picture.whole("bytes", 1, 2 ** 31);
  if (!channels) return bytes;
  const [w, h] = [picture.whole("w", 1, ANY_SIDE), picture.whole("h", 1, ANY_SIDE)];
  check(bytes === w * h * channels, "size_mismatch", `${w}x${h} pixels in ${bytes} bytes`);
  return bytes;
}

function answersFrame(h) {
  h.text("session", "");
  h.whole("id", 0, U53);
  h.whole("credit", 1, MOST_CREDIT);
}

const CHECKS = {
  hello(h) {
    h.list("v", isCount, "versions");
    ["client", "stream", "token", "references"].forEach((key) => h.text(key, ""));
    h.choice("mode", MODES, "latest");
    h.optional("max_age_ms", () => h.number("max_age_ms", 0, DAY_MS));
    h.flag("temporal", true);
    const wishes = { fmt: COLORS, layout: LAYOUTS, origin: ORIGINS };
    h.optional("want", () => Object.entries(wishes).forEach(
      ([key, allowed]) => h.object("want").optional(key, (w) => w.choice(key, allowed))));
  },
  welcome(h) {
    h.whole("v", 0, U53);
    h.text("session");
    h.whole("credit", 1, MOST_CREDIT);
    h.whole("max_part_bytes", 1, U53);
    check(h.list("max_wh", isCount, "sides").length === 2, "bad_header", "max_wh has 2 sides");
    ["in_fmts", "planes", "uses"].forEach((key) => h.list(key, isText, "names"));
    h.flag("stateful", false);
    h.text("model", "");
    h.number("hb_ms", 1, DAY_MS, 2000);
    h.text("references", "");
    h.whole("max_references", 0, MOST_REFERENCES, 0);
  },
  frame: checkFrame,
  result: checkResult,
  drop(h) {
    answersFrame(h);
    h.choice("why", DROPS);
  },
  error(h) {
    h.choice("code", CODES);
    ["msg", "session"].forEach((key) => h.text(key, ""));
    h.flag("fatal", false);
    h.number("retry_ms", 0, DAY_MS, 0);
    h.optional("id", () => h.whole("id", 0, U53));
    h.optional("credit", () => h.whole("credit", 1, MOST_CREDIT));
  },
  ping: (h) => h.whole("n", 0, U53, 0),
  pong: (h) => h.whole("n", 0, U53, 0),
  stats: (h) => h.optional("values", () => h.object("values")),
  references: checkReferences,
  bye: (h) => ["session", "why"].forEach((key) => h.text(key, "")),
};

/** Parse one message to { header, planes }: JSON object and Uint8Arrays. Throws ProtocolError. */
function parse(message, limits = LIMITS) {
  const [head, ...planes] = split(message, limits);
  let header = null;
  try {
    header = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(head));
  } catch (error) {
    throw new ProtocolError("bad_header", `the header is no JSON: ${error.message}`);
  }
  check(isObject(header), "bad_header", "the header must be a JSON object");
  const fields = new Fields(header);
  const kind = fields.choice("t", Object.keys(CHECKS));
  check(!planes.length || ["frame", "result", "references"].includes(kind), "bad_header",
    `a ${kind} message has no planes`);
  CHECKS[kind](fields, planes, limits);
  return { header, planes };
}

/** Encode one message; undefined values are left out. */
function encode(header, planes = []) {
  return join([new TextEncoder().encode(JSON.stringify(header)), ...planes]);
}

module.exports = { LIMITS, MODES, ProtocolError, concat, encode, join, measure, parse, split };
