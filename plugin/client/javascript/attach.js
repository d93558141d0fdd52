/**
 * Attach to a WebGL page: a Splatmend server restores its canvas while the page runs.
 *
 *     <script src="http://127.0.0.1:7880/attach.js"></script>
 *
 * from the server's gateway, before the page's own scripts or at any time later (bookmarklet,
 * developer tools). The page itself does not change. After each callback that draws, the page's
 * canvas is copied into a texture of ours. As soon as the server is free, the newest copy is sent.
 * The restored picture is shown on a canvas exactly over the page's. If none comes back in time
 * while the page goes on, our canvas is hidden and the page shows its own.
 *
 * Options are attributes of the script, or keys of `window.splatmendOptions`:
 *   data-server       ws://host:port; by default the origin of this script
 *   data-max-age-ms   largest age of a picture shown while the page goes on drawing (500)
 *   data-token        token, if the server asks for one
 *   data-canvas       CSS selector; by default the largest canvas that draws
 *   data-references   pictures of the person: addresses of the page's own origin that have a /,
 *                     such as /photo.jpg, or the name of one of the server's sets
 *   data-read         "plain", or "fence": read without waiting for the GPU, some ms later
 * Alt+Shift+S switches it off and on; `window.splatmend` has its state and figures.
 */
"use strict";

const { Overlay } = require("./overlay.js");
const { fetchPictures } = require("./references.js");
const { Client } = require("./splatmend.js");

const TICK_MS = 100;
const IDLE_MS = 1000; // a canvas that has not drawn for so long may lose its place to another
const LOADING_MS = 10_000; // a page may draw its only picture before we have a server
const LEAST_SIDE = 64; // CSS pixels; smaller canvases are buttons or plots
const REMEMBERED = 64;
const DRAWING = ["clear", "drawArrays", "drawElements", "drawArraysInstanced",
  "drawElementsInstanced", "drawRangeElements", "blitFramebuffer"];

const said = new Set();

function say(text) {
  if (!said.has(text)) console.warn(`splatmend: ${text}`);
  said.add(text);
}

/** Keep all errors inside, because the page must not notice them. */
function guarded(act) {
  return (...values) => {
    try {
      return act(...values);
    } catch (error) {
      return say(error?.message ?? String(error));
    }
  };
}

function readOptions() {
  const script = document.currentScript;
  const from = script?.src ? new URL(script.src) : { host: "", protocol: "http:" };
  const origin = `${from.protocol.replace("http", "ws")}//${from.host}`;
  return {
    server: from.host ? origin : "ws://127.0.0.1:7880",
    token: undefined,
    canvas: undefined,
    read: "plain",
    references: undefined,
    ...script?.dataset,
    ...globalThis.splatmendOptions,
    maxAgeMs: Number(globalThis.splatmendOptions?.maxAgeMs ?? script?.dataset.maxAgeMs ?? 500),
  };
}

/** Replaces methods; `restore` puts the page's own back. */
class Patches {
  #undo = [];

  /** @param {(native: Function) => Function} make makes the replacement, called like the method */
  replace(owner, name, make) {
    const native = owner?.[name];
    if (typeof native !== "function") return;
    const ours = make(native);
    owner[name] = ours;
    this.#undo.push(() => {
      if (owner[name] === ours) owner[name] = native;
    });
  }

  restore() {
    this.#undo.splice(0).forEach((undo) => undo());
  }
}

/** Calls `drawn(context)` in the task in which the page drew to a canvas, after its code. */
class Watch {
  #patches = new Patches();
  #framebuffers = new WeakMap(); // the framebuffer that each context draws into; null: its canvas
  #dirty = new Set();
  #drawn;
  /** Contexts of our own. */
  ignored = new WeakSet();

  constructor(drawn) {
    this.#drawn = drawn;
    const kinds = [globalThis.WebGLRenderingContext, globalThis.WebGL2RenderingContext];
    for (const { prototype } of kinds.filter(Boolean)) {
      const note = guarded((gl) => this.#note(gl));
      for (const name of DRAWING) this.#after(prototype, name, note);
      this.#after(prototype, "bindFramebuffer", guarded((gl, target, framebuffer) => {
        if (target !== gl.READ_FRAMEBUFFER) this.#framebuffers.set(gl, framebuffer ?? null);
      }));
      this.#after(prototype, "deleteFramebuffer", guarded((gl, framebuffer) => {
        if (this.#framebuffers.get(gl) === framebuffer) this.#framebuffers.delete(gl);
      }));
    }
    this.#warnOfOthers();
  }

  stop() {
    this.#patches.restore();
    this.#drawn = () => {};
  }

  #after(owner, name, act) {
    this.#patches.replace(owner, name, (native) => function (...values) {
      const result = native.apply(this, values);
      act(this, ...values);
      return result;
    });
  }

  #note(gl) {
    if (this.#dirty.has(gl) || this.ignored.has(gl)) return;
    if (!this.#framebuffers.has(gl)) {
      this.#framebuffers.set(gl, gl.getParameter(gl.FRAMEBUFFER_BINDING));
    }
    if (this.#framebuffers.get(gl) !== null) return;
    // microtasks run when the page's callback has returned and before its canvas is presented
    if (!this.#dirty.size) queueMicrotask(() => this.#report());
    this.#dirty.add(gl);
  }

  #report() {
    const contexts = [...this.#dirty];
    this.#dirty.clear();
    contexts.forEach(guarded(this.#drawn));
  }

  #warnOfOthers() {
    const canvas = globalThis.HTMLCanvasElement?.prototype;
    this.#after(canvas, "getContext", (_, kind) => {
      if (kind === "webgpu") {
        say("a WebGPU canvas cannot be attached; ask the page for WebGL (SuperSplat: add ?webgl)");
      }
    });
    this.#after(canvas, "transferControlToOffscreen", () => {
      say("a canvas that a worker draws cannot be attached");
    });
  }
}

/** The pictures of one canvas: the newest copy, one on its way, one shown. */
class Attachment {
  /** Time at which the page last drew. */
  drawnAt = 0;
  /** { id, at } of the picture that was shown last. */
  shown = null;

  #copiedAt = null; // time of the copy that waits
  #sending = false;
  #cut = true;

  constructor(gl, client, options, report) {
    this.overlay = new Overlay(gl);
    this.gl = gl;
    this.canvas = gl.canvas;
    this.#client = client;
    this.#options = options;
    this.#report = report;
  }

  #client;
  #options;
  #report;

  /** Copy the picture that the page has just drawn. */
  drawn(now) {
    this.drawnAt = now;
    const { width, height } = this.canvas;
    const wanted = this.#client.wantsFrames || now < LOADING_MS;
    if (!wanted || this.gl.isContextLost() || !(width && height)) {
      this.#client.skip();
    } else {
      if (this.#copiedAt !== null) this.#client.skip(); // the copy before it is not sent
      this.overlay.snapshot();
      this.#copiedAt = now;
    }
    this.tick(now);
  }

  /** Send the copy that waits, and hide a picture that is too old. */
  tick(now) {
    const { element, visible } = this.overlay;
    const resized = element.width !== this.canvas.width || element.height !== this.canvas.height;
    if (visible && (resized || this.#isOld(this.shown.at, now))) this.overlay.hide();
    if (this.#copiedAt !== null && !this.#sending && this.#client.idle) {
      this.#sending = true;
      this.#send().catch((error) => say(error.message)).finally(() => (this.#sending = false));
    }
  }

  remove() {
    this.overlay.remove();
    this.#options = null;
  }

  /** Whether the page has drawn another picture since `at`, and `at` is too long ago. */
  #isOld(at, now) {
    return this.drawnAt > at && now - at > this.#options.maxAgeMs;
  }

  async #send() {
    const { overlay } = this;
    const [at, [w, h], cut] = [this.#copiedAt, overlay.size, this.#cut];
    this.#copiedAt = null;
    const data = await overlay.read(this.#options.read);
    const { alpha } = overlay;
    const color = { n: "color", fmt: "rgba8", stride: 4 * w, origin: "bl", alpha, data };
    this.#cut = false;
    const result = await this.#client.restore({ w, h, planes: [color], cut });
    if (this.#options !== null) this.#show(result, data, at);
  }

  #show(result, raw, at) {
    const now = performance.now();
    const { width, height } = this.canvas;
    if (result.why === "unchanged") this.overlay.hide(); // the page's own picture is fine
    const fits = result.restored && result.w === width && result.h === height;
    if (!fits || this.#isOld(at, now) || (this.shown && result.id <= this.shown.id)) return;
    const [{ data }] = result.planes;
    this.overlay.show(width, height, data);
    this.shown = { id: result.id, at };
    this.#report({ id: result.id, ageMs: now - at, width, height, raw, restored: data });
  }
}

/** Chooses the canvas, holds the client, and is `window.splatmend`. */
class Splatmend {
  /** Pictures shown so far. */
  shown = 0;
  /** Ids and ages of the last 64 pictures shown; ages from the page's drawing to ours. */
  ids = [];
  agesMs = [];
  /** Called with { id, ageMs, width, height, raw, restored } of each; bytes in WebGL's order. */
  onshown = null;

  #options;
  #client;
  #watch;
  #timer;
  #enabled = true;
  #current = null;
  #lastDrawn = new Map(); // time of the last drawing, for each canvas that could be attached

  constructor(options) {
    this.#options = options;
    const { server, maxAgeMs, token, references } = options;
    const addresses = references?.includes("/") ? references.trim().split(/\s+/) : [];
    const stream = (document.title || location.host).replace(/[^\x20-\x7e]/g, "").slice(0, 64);
    this.#client = new Client(server, {
      maxAgeMs, token, stream, program: "attach.js", warn: say,
      references: addresses.length ? undefined : references,
    });
    if (addresses.length) {
      fetchPictures(addresses).then(
        (pictures) => this.#client.useReferences(pictures), (error) => say(error.message));
    }
    this.#watch = new Watch((gl) => this.#drawn(gl));
    this.#timer = setInterval(guarded(() => this.#tick()), TICK_MS);
    globalThis.addEventListener("keydown", this.#key, true);
  }

  /** up, down (no server), bypass or probe (it does not keep up), off. */
  get state() {
    return this.#enabled ? this.#client.state : "off";
  }

  /** Frames sent, restored, and left as they were by reason. */
  get counts() {
    return { ...this.#client.counts };
  }

  /** Number of the pictures of `data-references` that the server uses. */
  get references() {
    return this.#client.referencesInUse;
  }

  get model() {
    return this.#client.welcome?.model ?? null;
  }

  /** The page's canvas; `overlay` is ours over it. */
  get canvas() {
    return this.#current?.canvas ?? null;
  }

  get overlay() {
    return this.#current?.overlay.element ?? null;
  }

  /** Whether a restored picture is visible now. */
  get visible() {
    return this.#current?.overlay.visible ?? false;
  }

  get enabled() {
    return this.#enabled;
  }

  set enabled(value) {
    this.#enabled = Boolean(value);
    if (!this.#enabled) this.#let();
  }

  toggle() {
    this.enabled = !this.#enabled;
  }

  /** Leave the page as it was. */
  detach() {
    this.enabled = false;
    this.#watch.stop();
    clearInterval(this.#timer);
    globalThis.removeEventListener("keydown", this.#key, true);
    this.#client.close();
    delete globalThis.splatmend;
  }

  #key = (event) => {
    if (event.altKey && event.shiftKey && event.code === "KeyS") this.toggle();
  };

  #drawn(gl) {
    if (!this.#enabled || !this.#may(gl.canvas)) return;
    const now = performance.now();
    this.#lastDrawn.set(gl.canvas, now);
    if (this.#current?.gl !== gl && this.#isBetter(gl.canvas, now)) {
      this.#let();
      this.#current = new Attachment(gl, this.#client, this.#options, (shown) => this.#note(shown));
      this.#watch.ignored.add(this.#current.overlay.context);
    }
    if (this.#current?.gl === gl) this.#current.drawn(now);
  }

  #may(canvas) {
    if (!(canvas instanceof HTMLCanvasElement)) return false;
    if (!canvas.isConnected) {
      say("a canvas that is drawn but is not in the page cannot be attached");
      return false;
    }
    return this.#options.canvas === undefined || canvas.matches(this.#options.canvas);
  }

  #isBetter(canvas, now) {
    const [width, height] = sides(canvas);
    if (Math.min(width, height) < LEAST_SIDE) return false;
    const other = this.canvas;
    if (!other?.isConnected || now - this.#lastDrawn.get(other) > IDLE_MS) return true;
    return width * height > sides(other).reduce((a, b) => a * b);
  }

  #tick() {
    for (const canvas of this.#lastDrawn.keys()) {
      if (!canvas.isConnected) this.#lastDrawn.delete(canvas);
    }
    if (this.#current && !this.canvas.isConnected) this.#let();
    this.#current?.tick(performance.now());
  }

  #let() {
    this.#current?.remove();
    this.#current = null;
  }

  #note(picture) {
    this.shown += 1;
    for (const [values, value] of [[this.ids, picture.id], [this.agesMs, picture.ageMs]]) {
      values.push(value);
      if (values.length > REMEMBERED) values.shift();
    }
    this.onshown?.(picture);
  }
}

function sides(canvas) {
  const { width, height } = canvas.getBoundingClientRect();
  return [width, height];
}

if (globalThis.splatmend === undefined) {
  guarded(() => (globalThis.splatmend = new Splatmend(readOptions())))();
}
