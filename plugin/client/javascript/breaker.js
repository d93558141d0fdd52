/** A circuit breaker for a server that does not answer. */
"use strict";

const [SHORTEST_PAUSE_MS, LONGEST_PAUSE_MS] = [1000, 10_000];

/** A circuit breaker: closed at first, open after some misses, with one probe after each pause. */
class Breaker {
  #misses = 0;
  #pause = 0;
  #opened = null;
  #probing = false;

  constructor(allowed) {
    this.allowed = allowed;
  }

  get closed() {
    return this.#opened === null;
  }

  maySend(now) {
    return this.closed || (!this.#probing && now - this.#opened >= this.#pause);
  }

  sent() {
    this.#probing = !this.closed;
  }

  answered() {
    [this.#misses, this.#pause, this.#opened, this.#probing] = [0, 0, null, false];
  }

  missed(now) {
    this.#misses += 1;
    if (!this.#probing && !(this.closed && this.#misses >= this.allowed)) return;
    this.#pause = Math.min(Math.max(2 * this.#pause, SHORTEST_PAUSE_MS), LONGEST_PAUSE_MS);
    [this.#opened, this.#probing] = [now, false];
  }
}

module.exports = { Breaker };
