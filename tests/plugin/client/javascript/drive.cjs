// node drive.cjs splatmend.js URL OPTIONS: a client that does what it reads, a line of JSON each
"use strict";

const { readFileSync } = require("node:fs");
const { resolve } = require("node:path");
const { createInterface } = require("node:readline");

const [code, url, options] = process.argv.slice(2);
const { Client } = require(resolve(code));
const say = (what) => process.stdout.write(`${JSON.stringify(what)}\n`);
const client = new Client(url, { ...JSON.parse(options), warn: (text) => say({ warn: text }) });

function summary({ planes, ...shown }) {
  const data = planes[0]?.data ?? [];
  return { ...shown, length: data.length, values: [...new Set(data)] };
}

const commands = {
  wait: async ({ ms }) => ({ up: await client.wait(ms), state: client.state }),
  restore: async ({ w = 4, h = 2, value = 0, step = 0, ...more }) => {
    const data = new Uint8Array(4 * w * h).map((_, index) => value + step * index);
    const plane = { n: "color", fmt: "rgba8", stride: 4 * w, origin: "bl", data };
    return summary(await client.restore({ w, h, planes: [plane], ...more }));
  },
  references: ({ paths }) =>
    client.useReferences(paths.map((path) => readFileSync(path))) ?? {},
  skip: () => client.skip() ?? {},
  tell: () => ({
    state: client.wantsFrames && client.state, idle: client.idle, counts: client.counts,
    agesMs: client.agesMs, model: client.welcome?.model, references: client.referencesInUse,
  }),
  close: () => client.close(),
};

createInterface({ input: process.stdin }).on("line", async (line) => {
  const { n, act, ...more } = JSON.parse(line);
  say({ n, ...(await commands[act](more)) });
}).on("close", () => process.exit());
