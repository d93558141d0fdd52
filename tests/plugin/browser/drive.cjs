// node drive.cjs splatmend.js URL OPTIONS: a client that does what it reads, a line of JSON each
"use strict";

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
  restore: async ({ w = 4, h = 2, value = 0, ...more }) => {
    const data = new Uint8Array(4 * w * h).fill(value);
    const plane = { n: "color", fmt: "rgba8", stride: 4 * w, origin: "bl", data };
    return summary(await client.restore({ w, h, planes: [plane], ...more }));
  },
  skip: () => client.skip() ?? {},
  tell: () => ({
    state: client.wantsFrames && client.state, idle: client.idle, counts: client.counts,
    agesMs: client.agesMs, model: client.welcome?.model,
  }),
  close: () => client.close(),
};

createInterface({ input: process.stdin }).on("line", async (line) => {
  const { n, act, ...more } = JSON.parse(line);
  say({ n, ...(await commands[act](more)) });
}).on("close", () => process.exit());
