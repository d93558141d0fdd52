/** Connections to a server: ws:// in browsers and newer Nodes, tcp:// in Node. */
"use strict";

const { LIMITS, concat, measure } = require("./smp1.js");

const isNode = typeof process === "object" && process.versions?.node !== undefined;

/** Cuts a stream of chunks into whole messages. */
class Splitter {
  #chunks = [];
  #size = 0;
  #wanted = 8;

  /** Return the messages that this chunk completes. Throws ProtocolError: close the stream then. */
  push(chunk, limits = LIMITS) {
    this.#chunks.push(chunk);
    this.#size += chunk.length;
    const messages = [];
    while (this.#size >= this.#wanted) {
      const bytes = this.#chunks.length > 1 ? concat(this.#chunks) : this.#chunks[0];
      const { total } = measure(bytes, limits);
      const whole = bytes.length >= total;
      if (whole) messages.push(bytes.subarray(0, total));
      this.#chunks = [whole ? bytes.subarray(total) : bytes];
      this.#size = this.#chunks[0].length;
      this.#wanted = whole ? 8 : total;
    }
    return messages;
  }
}

/** Open a connection with send(bytes) and close(); it calls on.open, on.message, on.close. */
function connect(url, on) {
  const { protocol, hostname, port } = new URL(url);
  if (protocol === "tcp:" && isNode) return connectTcp(hostname, Number(port), on);
  if (protocol !== "ws:" && protocol !== "wss:") {
    throw new TypeError(`${url}: use ws:// or wss://, or in Node tcp://host:port`);
  }
  if (typeof WebSocket === "undefined") {
    throw new TypeError(`${url}: this Node has no WebSocket; use tcp://host:port, or Node 22`);
  }
  const socket = new WebSocket(url);
  socket.binaryType = "arraybuffer";
  socket.onopen = on.open;
  socket.onmessage = ({ data }) => on.message(new Uint8Array(data));
  socket.onclose = on.close;
  return { send: (bytes) => socket.send(bytes), close: () => socket.close() };
}

function connectTcp(host, port, on) {
  const socket = require("node:net").createConnection({ host: host.replace(/[[\]]/g, ""), port });
  const splitter = new Splitter();
  socket.setNoDelay(true);
  socket.on("connect", on.open);
  socket.on("error", () => socket.destroy()); // the close event follows
  socket.on("close", on.close);
  socket.on("data", (chunk) => {
    try {
      splitter.push(chunk).forEach(on.message);
    } catch (error) {
      socket.destroy(error); // the stream is out of step
    }
  });
  return { send: (bytes) => socket.write(bytes), close: () => socket.destroySoon() };
}

module.exports = { Splitter, connect };
