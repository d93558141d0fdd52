/** What a client of a Splatmend server may be told. */
"use strict";

const { MODES } = require("./smp1.js");

const DEFAULTS = Object.freeze({
  /** latest and sync: newer frames replace one that waits; ordered: every frame counts. */
  mode: "latest",
  /** Until a frame is shown raw, in latest and sync; the server drops what waits longer. */
  maxAgeMs: 500,
  /** In ordered: how long a frame may take, or the server be away. */
  patienceMs: 30_000,
  /** Unanswered frames in a row after which the server is left alone. */
  misses: 3,
  temporal: true,
  program: "splatmend-javascript",
  stream: "",
  token: undefined,
  /** { fmt, layout, origin } that results should have; as the frames, if left out. */
  want: undefined,
  /** Pictures of the person: the name of one of the server's sets, or PNG and JPEG files as
   * Uint8Arrays, which are sent to the server. */
  references: undefined,
  /** Called with each new `state`. */
  onState: () => {},
  /** Told once of each kind of trouble. */
  warn: (text) => console.warn(`splatmend: ${text}`),
});

/** Options with the defaults for what was left out. Throws on those that cannot be used. */
function complete(given) {
  const options = { ...DEFAULTS, ...given };
  const { mode, maxAgeMs, patienceMs, misses } = options;
  if (!MODES.includes(mode)) throw new TypeError(`mode must be one of ${MODES}, got ${mode}`);
  if (!(Math.min(maxAgeMs, patienceMs, misses) > 0)) throw new TypeError("limits must be > 0");
  return options;
}

module.exports = { DEFAULTS, complete };
