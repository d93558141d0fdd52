/** Pictures of the person: from a page's own origin, and on their way to a server. */
"use strict";

const { concat } = require("./smp1.js");

const LONGEST_SIDE = 2048; // pixels; a server accepts no longer side
const MOST_BYTES = 32 << 20; // bytes of all pictures together
const QUALITY = 0.95;

const isName = (references) => typeof references === "string";

/** Return the name of a set for a hello; undefined for pictures, or without references. */
function nameOf(references) {
  return isName(references) ? references : undefined;
}

/**
 * Make the message that brings pictures, [header, planes]; null if there is nothing to send.
 * Throws if the server cannot use them.
 */
function offer(references, welcome) {
  if (!references || (isName(references) && welcome.references === references)) return null;
  if (isName(references)) throw new Error("the server is too old to have sets of references");
  const most = welcome.max_references ?? 0;
  if (references.length > most) {
    throw new Error(
      `the server takes ${most || "no"} reference pictures, got ${references.length}`);
  }
  const pictures = references.map((data) => ({ fmt: formatOf(data), bytes: data.length }));
  const bytes = pictures.reduce((sum, picture) => sum + picture.bytes, 0);
  if (bytes > Math.min(MOST_BYTES, welcome.max_part_bytes)) {
    throw new Error(`references of ${bytes} bytes are too large: give fewer or smaller ones`);
  }
  const header = { t: "references", session: welcome.session, pictures };
  return [header, pictures.length ? [concat(references)] : []];
}

function formatOf(data) {
  if (data[0] === 0x89 && data[1] === 0x50) return "png";
  if (data[0] === 0xff && data[1] === 0xd8) return "jpeg";
  throw new Error("references are PNG or JPEG files: convert the picture");
}

/**
 * Fetch pictures of the page's own origin, shrunk to the largest size that a server accepts.
 *
 * @param {string[]} addresses relative ones count from the page
 * @returns {Promise<Uint8Array[]>} PNG or JPEG files; rejects with an error that names the cause
 */
async function fetchPictures(addresses) {
  const urls = addresses.map((address) => new URL(address, document.baseURI));
  const foreign = urls.find((url) => url.origin !== location.origin);
  if (foreign) {
    throw new Error(`references must come from the page's own origin, ${location.origin}; ` +
      `${foreign.href} does not: put a copy beside the page, or name a set of the server's`);
  }
  return Promise.all(urls.map(fetchPicture));
}

async function fetchPicture({ href }) {
  const response = await fetch(href, { mode: "same-origin" }).catch((error) => {
    throw new Error(`the reference ${href} cannot be fetched: ${error.message}`);
  });
  if (!response.ok) throw new Error(`the reference ${href} cannot be fetched: ${response.status}`);
  const file = await response.blob();
  const picture = await createImageBitmap(file).catch(() => {
    throw new Error(`the reference ${href} is not a picture that the browser can read`);
  });
  const jpeg = file.type === "image/jpeg";
  const shrink = Math.max(picture.width, picture.height) / LONGEST_SIDE;
  if (shrink <= 1 && (jpeg || file.type === "image/png")) return bytesOf(file);
  const sides = [picture.width, picture.height].map(
    (side) => Math.max(1, Math.round(side / Math.max(shrink, 1))));
  const canvas = new OffscreenCanvas(...sides);
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, 0, 0, ...sides);
  const type = jpeg ? "image/jpeg" : "image/png"; // PNG keeps alpha
  return bytesOf(await canvas.convertToBlob({ type, quality: QUALITY }));
}

const bytesOf = async (blob) => new Uint8Array(await blob.arrayBuffer());

module.exports = { fetchPictures, nameOf, offer };
