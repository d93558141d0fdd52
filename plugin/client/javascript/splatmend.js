/**
 * A client of a Splatmend server: send frames, get them back restored.
 *
 * No dependencies. A page loads http://127.0.0.1:7880/splatmend.js from the server and gets
 * `Splatmend`; Node 20 or newer loads this file with `require` or `import`.
 *
 *     const client = new Splatmend.Client("ws://127.0.0.1:7880");   // in Node tcp://host:port
 *     const color = { n: "color", fmt: "rgba8", stride: 4 * w, origin: "bl", data: pixels };
 *     const shown = await client.restore({ w, h, planes: [color] });
 *     if (shown.restored) draw(shown.planes[0].data);   // else show your own; `why` has the reason
 *
 * Show a frame as it is if it is not answered in time. A server that keeps missing frames gets none
 * for a while, then single frames. Times come from performance.now().
 */
"use strict";

const { Breaker } = require("./breaker.js");
const { connect } = require("./carriers.js");
const { DEFAULTS, complete } = require("./options.js");
const { nameOf, offer } = require("./references.js");
const { encode, parse } = require("./smp1.js");

const HELLO_MS = 1000; // shortest time between two hellos, and between two connections
const [WELCOME_MS, LEAST_RECLAIM_MS, BYE_MS] = [5000, 500, 200];
const REMEMBERED = 64;

/** Sends the frames of one stream to one server. Throws on unusable options. */
class Client {
  /** Frames by outcome: sent, restored, and shown raw by reason; `unasked`: ignored answers. */
  counts = {};
  /** The server's welcome; null while there is no session. */
  welcome = null;
  /** down (no server), up, bypass (it does not answer), probe (one frame may try it). */
  state = "down";
  /** Number of sent references that the server uses. */
  referencesInUse = 0;
  /** Ages of the last restored frames, from the call until the answer. */
  agesMs = [];

  #pending = []; // frames that wait for credit; one at most, except in ordered
  #inflight = new Map();
  #roundTrips = [];
  #breaker;
  #credit = 1;
  #nextId = 0;
  #cutId = -1;
  #lastSentId = -1;
  #connection = null;
  #lastHello = -HELLO_MS;
  #lastSent = 0;
  #away = false; // in ordered: whether the server is away for longer than patience
  #timers = {}; // one timer for each purpose
  #warned = new Set();
  #closed = null;
  #unprepared = false; // references were sent and not answered yet

  constructor(url = "ws://127.0.0.1:7880", options = {}) {
    this.url = url;
    this.options = complete(options);
    this.#breaker = new Breaker(this.options.misses);
    this.#connect();
    this.#lose(); // there is no session yet
  }

  get #ordered() {
    return this.options.mode === "ordered";
  }

  /** Whether `restore` would send a frame now; else call `skip`. */
  get wantsFrames() {
    this.#showState();
    return this.state === "up" || this.state === "probe";
  }

  /** Whether a frame would be sent at once now. */
  get idle() {
    return this.wantsFrames && !this.#pending.length && this.#inflight.size < this.#credit;
  }

  /** Note that a frame was shown as rendered, so that the next one follows a gap. */
  skip() {
    this.#nextId += 1;
  }

  /** Wait for a server, `timeoutMs` at most; resolves to whether there is one. */
  async wait(timeoutMs = 5000) {
    for (const end = performance.now() + timeoutMs; performance.now() < end; await sleep(20)) {
      if (this.welcome || this.#closed) break;
    }
    return this.welcome !== null;
  }

  /**
   * Send a frame; resolves to the frame to show, and never rejects because of the server.
   *
   * @param {object} frame { w, h, planes: [{ n, fmt, stride, ..., data: Uint8Array }] } and, if
   *   wanted, cut, cam and max_age_ms. Its data must not change until the promise resolves.
   * @returns {Promise<{restored, id, why, ageMs, planes}>} planes as in frame, with unpadded rows
   */
  restore(frame) {
    const id = this.#nextId++;
    if (frame.cut) this.#cutId = id;
    return new Promise((resolve) => {
      const made = performance.now();
      const request = { id, frame, cutId: this.#cutId, made, resolve, timers: [] };
      const wanted = this.#ordered ? !this.#closed && !this.#away : this.wantsFrames;
      if (!wanted) return this.#answer(request, this.#closed ? "closed" : this.state);
      if (!this.#ordered) {
        this.#drain("superseded");
        request.timers.push(setTimeout(() => this.#late(request), this.options.maxAgeMs));
      }
      this.#pending.push(request);
      return this.#pump();
    });
  }

  /** Use these pictures of the person from now on, as in the options; an empty list: none. */
  useReferences(pictures) {
    this.options.references = pictures;
    if (this.welcome) this.#sendReferences();
  }

  /** Say bye; waiting frames are shown raw. */
  close() {
    this.#closed ??= this.#leave();
    return this.#closed;
  }

  async #leave() {
    if (this.welcome) this.#send({ t: "bye", session: this.welcome.session });
    this.#lose();
    this.#drain("closed");
    await sleep(this.#connection ? BYE_MS : 0); // for the server's bye
    Object.values(this.#timers).forEach(clearTimeout);
    this.#connection?.close();
    this.#connection = null;
  }

  // Frames

  #pump() {
    const holds = this.#ordered && this.#unprepared; // no frame goes without references
    while (this.welcome && !holds && this.#pending.length && this.#inflight.size < this.#credit) {
      const may = this.#ordered || this.#breaker.maySend(performance.now());
      if (may) this.#sendFrame(this.#pending.shift());
      else this.#drain("bypass");
    }
    this.#showState();
  }

  #sendFrame(request) {
    const { w, h, planes, cam, max_age_ms } = request.frame;
    const header = {
      t: "frame", session: this.welcome.session, id: request.id,
      pts: Math.round(request.made * 1e6), w, h, cam, max_age_ms,
      cut: request.cutId > this.#lastSentId || undefined,
      planes: planes.map(({ data, ...plane }) => plane),
    };
    this.#inflight.set(request.id, request);
    request.sent = performance.now();
    this.#lastSentId = request.id;
    this.#breaker.sent();
    this.#count("sent");
    const patience = this.#ordered ? this.options.patienceMs : this.#reclaimMs();
    request.timers.push(setTimeout(() => this.#reclaim(request), patience));
    this.#send(header, planes.map((plane) => plane.data));
  }

  #drain(why) {
    this.#pending.splice(0).forEach((request) => this.#answer(request, why));
  }

  #answer(request, why, result = {}) {
    if (request.answered) return;
    request.answered = true;
    if (request.sent === undefined) request.timers.forEach(clearTimeout);
    this.#count(result.restored ? "restored" : why);
    const ageMs = performance.now() - request.made;
    request.resolve({ restored: false, id: request.id, why, ageMs, planes: [], ...result });
  }

  /** Show a late frame raw. It keeps its credit until that is reclaimed. */
  #late(request) {
    this.#pending = this.#pending.filter((other) => other !== request);
    this.#miss(request);
    if (!this.#breaker.closed) this.#inflight.delete(request.id); // makes room for the probe
    this.#pump();
  }

  /** Take back the credit of an unanswered frame, and ignore any later answer to it. */
  #reclaim(request) {
    if (this.#inflight.get(request.id) !== request) return;
    this.#inflight.delete(request.id);
    this.#miss(request);
    this.#pump();
  }

  #miss(request) {
    if (request.answered) return;
    request.missed = true;
    if (request.sent !== undefined) this.#breaker.missed(performance.now());
    this.#answer(request, "late");
  }

  #reclaimMs() {
    if (!this.#roundTrips.length) return 4 * LEAST_RECLAIM_MS; // the server may be warming up
    const sorted = [...this.#roundTrips].sort((a, b) => a - b);
    return Math.max(4 * sorted[Math.floor(sorted.length * 0.95)], LEAST_RECLAIM_MS);
  }

  #receive(message) {
    try {
      this.#act(parse(message));
    } catch (error) {
      this.#count("unreadable");
      this.#warn("unreadable", `the server sent an unreadable message: ${error.message}`);
    }
    this.#pump();
  }

  #act({ header, planes }) {
    const { t, session, count = 0 } = header;
    if (t === "welcome") {
      this.welcome = header;
      [this.#credit, this.#away] = [header.credit, false];
      this.#breaker.answered();
      ["welcome", "away"].forEach((purpose) => this.#timer(purpose, 0, null));
      this.#heartbeat();
      this.#sendReferences();
    }
    if (t === "ping") this.#send({ t: "pong", n: header.n ?? 0 });
    const ours = session === this.welcome?.session;
    if (t === "error" && (ours || !session)) this.#trouble(header);
    else if (!ours) return;
    else if (t === "references") [this.referencesInUse, this.#unprepared] = [count, false];
    else if (t === "result") this.#result(header, planes);
    else if (t === "drop") this.#drop(header);
    else if (t === "bye") this.#again(HELLO_MS);
  }

  #settle({ id, credit }) {
    const request = this.#inflight.get(id); // none if given up before: do not show it
    this.#inflight.delete(id);
    this.#credit = credit ?? this.#credit;
    request?.timers.forEach(clearTimeout);
    return request;
  }

  #result(header, data) {
    const request = this.#settle(header);
    if (!request) return this.#count("unasked");
    const now = performance.now();
    remember(this.#roundTrips, now - request.sent);
    if (request.missed) return undefined; // a late answer still counts as a miss
    this.#breaker.answered();
    if (header.applied === false) return this.#answer(request, "unchanged");
    const { w, h, srv_ms: serverMs, model } = header;
    const planes = header.planes.map((plane, index) => ({ ...plane, data: data[index] }));
    const ageMs = now - request.made;
    remember(this.agesMs, ageMs);
    return this.#answer(request, "", { restored: true, w, h, planes, ageMs, serverMs, model });
  }

  #drop(header) {
    const request = this.#settle(header);
    if (!request) return this.#count("unasked");
    if (header.why === "shutdown" && this.#ordered) return this.#pending.unshift(request);
    if (header.why !== "superseded") this.#breaker.missed(performance.now());
    return this.#answer(request, header.why);
  }

  #trouble(header) {
    const { code, msg, fatal, retry_ms: retry = 0 } = header;
    this.#warn(code, `the server answered ${code}: ${msg}`);
    const over = fatal || code === "no_session" || !this.welcome;
    this.#unprepared &&= (header.id ?? null) !== null; // an error without an id refuses them
    const request = this.#inflight.get(header.id);
    if (request && !(over && this.#ordered)) {
      this.#settle(header);
      this.#breaker.missed(performance.now());
      this.#answer(request, code);
    }
    if (over) this.#again(Math.max(retry, HELLO_MS));
  }

  // The session

  #sendReferences() {
    try {
      const message = offer(this.options.references, this.welcome);
      this.#unprepared = message !== null;
      if (message) this.#send(...message);
    } catch (error) {
      this.#warn("references", error.message);
    }
  }

  #connect() {
    this.#lastHello = performance.now();
    this.#connection = connect(this.url, {
      open: () => this.#hello(),
      message: (bytes) => this.#closed || this.#receive(bytes),
      close: () => this.#disconnected(),
    });
  }

  #disconnected() {
    this.#connection = null;
    if (this.#closed) return;
    this.#lose();
    this.#after(HELLO_MS, () => this.#connect());
  }

  #hello() {
    const { mode, maxAgeMs, temporal, program, stream, token, want, references } = this.options;
    this.#lastHello = performance.now();
    this.#send({
      t: "hello", v: [1], client: program, stream, mode, temporal, want, token,
      max_age_ms: this.#ordered ? undefined : maxAgeMs, references: nameOf(references),
    });
    this.#timer("welcome", WELCOME_MS, () => this.#connection?.close());
  }

  /** End the session and say hello again, on this connection or, if it closes, on the next. */
  #again(waitMs) {
    this.#lose();
    this.#after(waitMs, () => this.#connection && this.#hello());
  }

  #after(ms, act) {
    this.#timer("hello", Math.max(this.#lastHello + ms - performance.now(), 0), act);
  }

  /** End the session: show the frames in flight raw or, in ordered, send them again. */
  #lose() {
    this.welcome = null;
    [this.#lastSentId, this.referencesInUse, this.#unprepared] = [-1, 0, false];
    ["ping", "welcome"].forEach((purpose) => this.#timer(purpose, 0, null));
    const lost = [...this.#inflight.values()].sort((a, b) => a.id - b.id);
    this.#inflight.clear();
    lost.forEach((request) => request.timers.splice(0).forEach(clearTimeout));
    this.#pending.unshift(...lost);
    if (this.#ordered) this.#timer("away", this.options.patienceMs, () => this.#giveUp());
    else this.#drain("down");
    this.#showState();
  }

  #giveUp() {
    this.#away = true;
    this.#drain("down");
  }

  #heartbeat() {
    const { hb_ms: every = 2000 } = this.welcome;
    const quiet = performance.now() - this.#lastSent;
    if (quiet >= every) this.#send({ t: "ping", n: this.#nextId });
    this.#timer("ping", quiet >= every ? every : every - quiet, () => this.#heartbeat());
  }

  #send(header, planes = []) {
    this.#lastSent = performance.now();
    try {
      this.#connection?.send(encode(header, planes));
    } catch (error) {
      this.#warn("send", error.message); // the connection is closing; its close event follows
    }
  }

  #timer(purpose, ms, act) {
    clearTimeout(this.#timers[purpose]);
    if (act && !this.#closed) this.#timers[purpose] = setTimeout(act, ms);
  }

  #count(outcome) {
    this.counts[outcome] = (this.counts[outcome] ?? 0) + 1;
  }

  #warn(kind, text) {
    if (this.#warned.has(kind)) return;
    this.#warned.add(kind);
    this.options.warn(`${this.url}: ${text}`);
  }

  #showState() {
    const before = this.state;
    if (!this.welcome) this.state = "down";
    else if (this.#breaker.closed) this.state = "up";
    else this.state = this.#breaker.maySend(performance.now()) ? "probe" : "bypass";
    if (this.state !== before) this.options.onState(this.state);
  }
}

function remember(values, value) {
  values.push(value);
  if (values.length > REMEMBERED) values.shift();
}

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

module.exports = { Client, DEFAULTS, encode, parse };
