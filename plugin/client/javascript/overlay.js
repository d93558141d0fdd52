/** Our canvas over a page's: copies the page's picture, and shows the restored one. */
"use strict";

const VERTEX = `attribute vec2 corner; varying vec2 at;
  void main() { at = corner; gl_Position = vec4(2.0 * corner - 1.0, 0.0, 1.0); }`;
const FRAGMENT = `precision highp float; varying vec2 at; uniform sampler2D picture;
  void main() { gl_FragColor = texture2D(picture, at); }`;
const STYLE = "position:absolute; left:0; top:0; display:none; pointer-events:none; margin:0; " +
  "border:0; padding:0; max-width:none; max-height:none; min-width:0; min-height:0";
const TWIN_STYLES = ["zIndex", "transform", "transformOrigin", "objectFit", "objectPosition",
  "borderRadius", "clipPath", "filter", "imageRendering", "mixBlendMode"];

/**
 * One for each canvas of a page. It has its own GL context and never touches the page's: bindings,
 * pixel store and errors there stay as they are.
 */
class Overlay {
  /** Width and height of the last snapshot, pixels. */
  size = [0, 0];
  visible = false;

  #gl;
  #copy; // the page's picture
  #result;
  #target;
  #opacity = null; // the page's own, while its canvas is hidden
  #observer;

  /** @param {WebGLRenderingContext} source the page's context */
  constructor(source) {
    const { alpha, premultipliedAlpha } = source.getContextAttributes();
    this.source = source;
    this.canvas = source.canvas;
    /** Kind of the fourth channel, in the protocol's words. */
    this.alpha = alpha ? (premultipliedAlpha ? "premul" : "straight") : "opaque";
    this.element = document.createElement("canvas");
    this.element.dataset.splatmend = "overlay";
    this.element.style.cssText = STYLE;
    const wish = { alpha, premultipliedAlpha, antialias: false, depth: false };
    this.#gl = this.element.getContext("webgl2", wish) ?? this.element.getContext("webgl", wish);
    if (!this.#gl) throw new Error("the browser gives no WebGL context for the overlay");
    this.element.addEventListener("webglcontextlost", (event) => {
      event.preventDefault();
      this.hide();
    });
    this.element.addEventListener("webglcontextrestored", () => this.#prepare());
    this.canvas.addEventListener("webglcontextlost", this.hide);
    this.#prepare();
    this.#observer = new ResizeObserver(() => this.visible && this.#place());
    this.#observer.observe(this.canvas);
  }

  get context() {
    return this.#gl;
  }

  #prepare() {
    const gl = this.#gl;
    const program = gl.createProgram();
    for (const [type, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(type);
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    gl.useProgram(program);
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, new Float32Array([0, 0, 1, 0, 0, 1, 1, 1]), gl.STATIC_DRAW);
    const corner = gl.getAttribLocation(program, "corner");
    gl.enableVertexAttribArray(corner);
    gl.vertexAttribPointer(corner, 2, gl.FLOAT, false, 0, 0);
    gl.pixelStorei(gl.UNPACK_COLORSPACE_CONVERSION_WEBGL, gl.NONE);
    [this.#copy, this.#result] = [texture(gl), texture(gl)];
    this.#target = gl.createFramebuffer();
  }

  /** Keep the picture of the page's canvas; its drawing buffer is gone after this task. */
  snapshot() {
    const gl = this.#gl;
    // neither multiplied nor divided by alpha, and from the bottom row, as in WebGL
    gl.pixelStorei(gl.UNPACK_PREMULTIPLY_ALPHA_WEBGL, this.alpha === "premul");
    gl.pixelStorei(gl.UNPACK_FLIP_Y_WEBGL, true);
    gl.bindTexture(gl.TEXTURE_2D, this.#copy);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, this.canvas);
    this.size = [this.canvas.width, this.canvas.height];
  }

  /**
   * Read the last snapshot: RGBA bytes, bottom row first.
   *
   * @param {"plain" | "fence"} how "plain" waits for the GPU here, "fence" lets the page go on
   * @returns {Promise<Uint8Array>}
   */
  async read(how) {
    const gl = this.#gl;
    const [width, height] = this.size;
    const pixels = new Uint8Array(4 * width * height);
    const later = how === "fence" && Boolean(gl.fenceSync);
    const buffer = later ? packBuffer(gl, pixels.length) : null;
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.#target);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, this.#copy, 0);
    gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, later ? 0 : pixels);
    if (later) await unpack(gl, buffer, pixels);
    return pixels;
  }

  /** Draw a result, RGBA bytes from the bottom row, and lay it over the page's canvas. */
  show(width, height, pixels) {
    const gl = this.#gl;
    if (gl.isContextLost()) return;
    if (this.element.width !== width) this.element.width = width;
    if (this.element.height !== height) this.element.height = height;
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.viewport(0, 0, width, height);
    gl.pixelStorei(gl.UNPACK_PREMULTIPLY_ALPHA_WEBGL, false);
    gl.pixelStorei(gl.UNPACK_FLIP_Y_WEBGL, false);
    gl.bindTexture(gl.TEXTURE_2D, this.#result);
    gl.texImage2D(
      gl.TEXTURE_2D, 0, gl.RGBA, width, height, 0, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
    gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
    this.visible = true;
    this.#place();
  }

  /** Show the page's own canvas again. */
  hide = () => {
    this.visible = false;
    this.element.style.display = "none";
    if (this.#opacity !== null && this.canvas.style.opacity === "0") {
      this.canvas.style.opacity = this.#opacity;
    }
    this.#opacity = null;
  };

  /** Remove our canvas. */
  remove() {
    this.hide();
    this.#observer.disconnect();
    this.canvas.removeEventListener("webglcontextlost", this.hide);
    this.element.remove();
    this.#gl.getExtension("WEBGL_lose_context")?.loseContext();
  }

  /** Lay ours exactly over the page's canvas: same box, same styles, same place in the stack. */
  #place() {
    const { canvas, element } = this;
    if (canvas.nextSibling !== element) canvas.after(element);
    const style = getComputedStyle(canvas);
    for (const name of TWIN_STYLES) element.style[name] = style[name];
    element.style.position = style.position === "fixed" ? "fixed" : "absolute";
    const edges = (side) =>
      parseFloat(style[`padding${side}`]) + parseFloat(style[`border${side}Width`]);
    element.style.width = `${canvas.offsetWidth - edges("Left") - edges("Right")}px`;
    element.style.height = `${canvas.offsetHeight - edges("Top") - edges("Bottom")}px`;
    element.style.display = "block";
    this.#showThrough(style);
    // from the present to the wanted position; an ancestor's scale changes both alike
    const [is, wanted] = [element.getBoundingClientRect(), canvas.getBoundingClientRect()];
    const scale = wanted.width / canvas.offsetWidth || 1;
    const move = (from, to, edge) => `${(parseFloat(from) || 0) + to / scale + edge}px`;
    element.style.left = move(element.style.left, wanted.left - is.left, edges("Left"));
    element.style.top = move(element.style.top, wanted.top - is.top, edges("Top"));
  }

  /** Hide the page's own canvas under a picture with transparent parts. */
  #showThrough(style) {
    if (this.#opacity === null) this.element.style.opacity = style.opacity;
    if (this.alpha === "opaque" || this.#opacity !== null) return;
    this.#opacity = this.canvas.style.opacity;
    this.canvas.style.opacity = "0"; // unlike a hidden canvas it still gets the mouse
  }
}

function texture(gl) {
  const made = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, made);
  for (const [name, value] of [
    [gl.TEXTURE_MIN_FILTER, gl.NEAREST], [gl.TEXTURE_MAG_FILTER, gl.NEAREST],
    [gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE], [gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE],
  ]) gl.texParameteri(gl.TEXTURE_2D, name, value);
  return made;
}

function packBuffer(gl, length) {
  const buffer = gl.createBuffer();
  gl.bindBuffer(gl.PIXEL_PACK_BUFFER, buffer);
  gl.bufferData(gl.PIXEL_PACK_BUFFER, length, gl.STREAM_READ);
  return buffer;
}

/** Fill `pixels` from a GPU buffer once the GPU has filled it. */
async function unpack(gl, buffer, pixels) {
  gl.bindBuffer(gl.PIXEL_PACK_BUFFER, null);
  const fence = gl.fenceSync(gl.SYNC_GPU_COMMANDS_COMPLETE, 0);
  gl.flush();
  while (gl.clientWaitSync(fence, 0, 0) === gl.TIMEOUT_EXPIRED) {
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  if (gl.isContextLost()) throw new Error("the GPU went away; it will be tried again");
  gl.deleteSync(fence);
  gl.bindBuffer(gl.PIXEL_PACK_BUFFER, buffer);
  gl.getBufferSubData(gl.PIXEL_PACK_BUFFER, 0, pixels);
  gl.bindBuffer(gl.PIXEL_PACK_BUFFER, null);
  gl.deleteBuffer(buffer);
}

module.exports = { Overlay };
