/** Options of a client of a Splatmend server. */
"use strict";

const { MODES } = require("./smp1.js");

const DEFAULTS = Object.freeze({
  /** latest and sync: a newer frame replaces one that waits. ordered: no frame is dropped. */
  mode: "latest",
  /** In latest and sync: time until a frame is shown raw; the server drops frames after it. */
  maxAgeMs: 500,
  /** In ordered: longest duration of a frame, and longest absence of the server. */
  patienceMs: 30_000,
  /** Unanswered frames in a row before the client pauses. */
  misses: 3,
  temporal: true,
  program: "splatmend-javascript",
  stream: "",
  token: undefined,
  /** Wanted { fmt, layout, origin } of results; by default those of the frames. */
  want: undefined,
  /** Pictures of the person: the name of one of the server's sets, or PNG and JPEG files to send
   * to the server, as Uint8Arrays. */
  references: undefined,
  /** Called with each new `state`. */
  onState: () => {},
  /** Called once for each kind of trouble. */
  warn: (text) => console.warn(`splatmend: ${text}`),
});

/** Fill in the defaults. Throws on unusable options. */
function complete(given) {
  const options = { ...DEFAULTS, ...given };
  const { mode, maxAgeMs, patienceMs, misses } = options;
  if (!MODES.includes(mode)) throw new TypeError(`mode must be one of ${MODES}, got ${mode}`);
  if (!(Math.min(maxAgeMs, patienceMs, misses) > 0)) throw new TypeError("limits must be > 0");
  return options;
}

module.exports = { DEFAULTS, complete };
