// node vectors.cjs smp1.js smp1.json: the conformance vectors; prints what was compared, as JSON
"use strict";

const assert = require("node:assert");
const { readFileSync } = require("node:fs");
const { resolve } = require("node:path");

const [code, vectors] = process.argv.slice(2).map((path) => resolve(path));
const { ProtocolError, encode, join, parse, split } = require(code);
const { Splitter } = require(resolve(code, "../carriers.js"));
const { messages, invalid } = JSON.parse(readFileSync(vectors, "utf8"));
const bytesOf = ({ hex }) => new Uint8Array(Buffer.from(hex, "hex"));
const hexOf = (bytes) => Buffer.from(bytes).toString("hex");

const sameBytes = [];
for (const vector of messages) {
  const { header, planes } = parse(bytesOf(vector));
  assert.deepStrictEqual(header, vector.header, vector.name);
  assert.deepStrictEqual(planes.map(hexOf), vector.planes, vector.name);
  assert.strictEqual(hexOf(join(split(bytesOf(vector)))), vector.hex, vector.name);
  const again = encode(header, planes);
  assert.deepStrictEqual(parse(again), { header, planes }, vector.name);
  if (hexOf(again) === vector.hex) sameBytes.push(vector.name);
}

const codes = {};
for (const vector of invalid) {
  try {
    parse(bytesOf(vector));
    codes[vector.name] = null;
  } catch (error) {
    assert(error instanceof ProtocolError, `${vector.name}: ${error}`);
    codes[vector.name] = error.code;
  }
}

const stream = Buffer.concat(messages.map(bytesOf));
for (const step of [1, 7, 1000, stream.length]) {
  const splitter = new Splitter();
  const cut = [];
  for (let at = 0; at < stream.length; at += step) {
    cut.push(...splitter.push(new Uint8Array(stream.subarray(at, at + step))));
  }
  assert.deepStrictEqual(cut.map(hexOf), messages.map(({ hex }) => hex), `step ${step}`);
}

console.log(JSON.stringify({ sameBytes, codes }));
