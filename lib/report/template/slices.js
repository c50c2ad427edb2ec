// Slices drawn from the voxels that lib/report/scrubber.py puts in the page. They follow slider, keys and wheel,
// lists choose method and plane, a click goes to a point, and a pointer reads the dose.

async function inflate(text) {
  const bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// whole steps from low and high bytes, folded signs, and neighbours subtracted along each axis
async function unpack(text, shape) {
  const bytes = await inflate(text), n = bytes.length / 2, steps = new Int16Array(n);
  for (let i = 0; i < n; i++) {
    const folded = bytes[i] | bytes[n + i] << 8;
    steps[i] = (folded >>> 1) ^ -(folded & 1);
  }
  let stride = n;
  for (const size of shape) {
    stride /= size;
    for (let i = stride; i < n; i++) if (Math.floor(i / stride) % size) steps[i] += steps[i - stride];
  }
  return steps;
}

// where in a volume the pictures of a plane have their rows (the head is up) and columns
function planeGrid(shape, axis, index) {
  const strides = [shape[1] * shape[2], shape[2], 1], [down, across] = [0, 1, 2].filter(other => other !== axis);
  const rows = shape[down], first = axis ? rows - 1 : 0, sign = axis ? -1 : 1;
  const start = index * strides[axis] + first * strides[down];
  return {rows, columns: shape[across], down, across, first, sign, start, rowStep: sign * strides[down], columnStep: strides[across]};
}

function cut({rows, columns, start, rowStep, columnStep}, volume) {
  const values = new Float32Array(rows * columns);
  for (let row = 0, i = 0; row < rows; row++)
    for (let column = 0, at = start + row * rowStep; column < columns; column++, at += columnStep) values[i++] = volume[at];
  return values;
}

// lines where values cross a level (marching squares), closed at the border
function contour(values, {rows, columns}, level, height, width) {
  const path = new Path2D(), corners = [[0, 0], [0, 1], [1, 1], [1, 0]];
  const wide = columns + 2, padded = new Float32Array((rows + 2) * wide), above = new Uint8Array(padded.length);
  for (let row = 0, from = 0; row < rows; row++) for (let column = 0, to = (row + 1) * wide + 1; column < columns; column++, from++, to++) {
    padded[to] = values[from];
    above[to] = values[from] >= level;
  }
  for (let row = 0; row <= rows; row++) for (let column = 0, i = row * wide; column <= columns; column++, i++) {
    const count = above[i] + above[i + 1] + above[i + wide] + above[i + wide + 1];
    if (count === 0 || count === 4) continue;
    const points = corners.flatMap(([r, c], k) => {
      const [nextR, nextC] = corners[(k + 1) % 4], a = padded[i + r * wide + c], b = padded[i + nextR * wide + nextC];
      if ((a >= level) === (b >= level)) return [];
      const part = (level - a) / (b - a);
      return [[(column - 0.5 + c + part * (nextC - c)) * width / columns, (row - 0.5 + r + part * (nextR - r)) * height / rows]];
    });
    points.forEach((point, k) => k % 2 ? path.lineTo(...point) : path.moveTo(...point));
  }
  return path;
}

// CT in grey, and over it the colours of a panel's quantity: a pixel for a voxel, which the browser enlarges
function paint(context, {rows, columns}, ct, values, {lut, range: [low, high], hidden, full}, opacity) {
  const image = new ImageData(columns, rows), pixels = image.data, scale = 253 / Math.max(high - low, 1e-6);
  for (let i = 0; i < values.length; i++) {
    const value = values[i], size = Math.abs(value), grey = ct ? ct[i] : 0;
    const share = size < hidden ? 0 : size < full ? opacity * size / full : opacity;
    const row = 3 * Math.floor(Math.min(Math.max((value - low) * scale + 1.5, 0), 255));
    for (let c = 0; c < 3; c++) pixels[4 * i + c] = grey + (lut[row + c] - grey) * share;
    pixels[4 * i + 3] = 255;
  }
  const small = new OffscreenCanvas(columns, rows), {width, height} = context.canvas;
  small.getContext("2d").putImageData(image, 0, 0);
  context.imageSmoothingEnabled = true;
  context.drawImage(small, 0, 0, width, height);
}

function strokeLines(context, lines) {
  for (const [ink, width] of [["rgba(0, 0, 0, 0.6)", 2.4], ["", 1.3]]) for (const [path, colour] of lines) {
    context.strokeStyle = ink || colour;
    context.lineWidth = width;
    context.stroke(path);
  }
}

function writeLetters(context, letters) {
  const {width, height} = context.canvas, places = [[8, height / 2], [width - 8, height / 2], [width / 2, 10], [width / 2, height - 10]];
  Object.assign(context, {fillStyle: "#ccc", font: "11px sans-serif", textAlign: "center", textBaseline: "middle"});
  [...letters].forEach((letter, i) => context.fillText(letter, ...places[i]));
}

// Draws a view's panels; what is opened lazily is kept.
class Slices {
  constructor(view) {
    Object.assign(this, JSON.parse(view.querySelector("script").textContent), {view, kept: {}});
    for (const panel of this.panels) panel.lut = Uint8Array.from(atob(panel.lut), letter => letter.charCodeAt(0));
    [this.slider, this.said, this.point] = ["input", "output", ".point"].map(name => view.querySelector(name));
    [this.methods, this.planeList] = [".method", ".plane"].map(name => view.querySelector(name));
    this.contexts = [...view.querySelectorAll("canvas")].map(canvas => canvas.getContext("2d", {alpha: false, willReadFrequently: true}));
    this.place = Object.values(this.planes).sort((a, b) => a.axis - b.axis).map(plane => plane.index);  // [z, y, x]
  }

  async open() {
    this.masks = await Promise.all(this.bits.map(inflate));
    this.grey = this.ct && await inflate(this.ct);
    await this.choose();
  }

  async choose() {
    for (const name of this.panels.flatMap(panel => this.names(panel)).filter(name => name && !this.kept[name]))
      this.kept[name] = await unpack(this.volumes[name], this.shape);
    this.turn();
  }

  names(panel) { return [panel.volume || this.methods.value, panel.minus]; }
  get plane() { return this.planes[this.planeList ? this.planeList.value : Object.keys(this.planes)[0]]; }
  inside(bytes, structure) { return bytes[structure + 1 >> 3] >> (structure + 1 & 7) & 1; }  // the first bit is the dose mask

  // a panel's values in a slice; differences are of the dose mask
  values(panel, grid, masks) {
    const [name, minus] = this.names(panel), values = cut(grid, this.kept[name]), less = minus && cut(grid, this.kept[minus]);
    return values.map((value, i) => less ? (masks[0][i] & 1) * (value - less[i]) * this.step : value * this.step);
  }

  turn() {
    const {axis, labels} = this.plane;
    Object.assign(this.slider, {max: labels.length - 1, value: this.place[axis]});
    this.draw();
  }

  draw() {
    const {axis, labels, letters} = this.plane, index = this.place[axis] = +this.slider.value;
    const grid = this.grid = planeGrid(this.shape, axis, index), {width} = this;
    const height = Math.max(1, Math.round(width * grid.rows * this.spacing_mm[grid.down] / (grid.columns * this.spacing_mm[grid.across])));
    const ct = this.grey && cut(grid, this.grey).map(grey => grey * 255 / (this.greys - 1));
    const masks = this.masks.map(bytes => cut(grid, bytes));
    const outlines = this.structures.map((_, k) => [masks[k + 1 >> 3].map(byte => byte >> (k + 1 & 7) & 1), this.colours[k]])
      .filter(([mask]) => mask.includes(1)).map(([mask, colour]) => [contour(mask, grid, 0.5, height, width), colour]);
    this.contexts.forEach((context, k) => {
      const panel = this.panels[k], values = this.values(panel, grid, masks), {canvas} = context;
      if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, {width, height});
      paint(context, grid, ct, values, panel, this.opacity);
      strokeLines(context, panel.lines.map(([level, ink]) => [contour(values, grid, level, height, width), ink]));
      strokeLines(context, outlines);
      writeLetters(context, letters);
    });
    this.said.value = labels[index];
    this.slider.setAttribute("aria-valuetext", labels[index]);
    this.point.textContent = `Point at a picture to read its values; a click takes the arrow keys${this.planeList ? " and moves the other planes there" : ""}.`;
  }

  // the voxel [z, y, x] under a pointer
  under(event) {
    const box = event.target.getBoundingClientRect(), {rows, columns, down, across, first, sign} = this.grid;
    const row = Math.floor((event.clientY - box.top) / box.height * rows), column = Math.floor((event.clientX - box.left) / box.width * columns);
    const place = [...this.place];
    place[down] = first + sign * Math.min(Math.max(row, 0), rows - 1);
    place[across] = Math.min(Math.max(column, 0), columns - 1);
    return place;
  }

  read([z, y, x]) {
    const i = (z * this.shape[1] + y) * this.shape[2] + x, bytes = this.masks.map(volume => volume[i]);
    const value = panel => this.names(panel).filter(Boolean).map(name => this.kept[name][i]).reduce((a, b) => a - b) * this.step;
    const values = this.panels.map(panel => `${panel.title} ${panel.minus && value(panel) > 0 ? "+" : ""}${value(panel).toFixed(this.digits)} ${this.unit}`);
    const isKnown = !bytes.length || this.inside(bytes, -1), names = this.structures.filter((_, k) => this.inside(bytes, k));
    const said = isKnown ? values : ["outside the dose mask: no dose is known or judged here"];
    this.point.textContent = [...said, names.join(", ").replaceAll("_", " ")].filter(Boolean).join(" · ");
  }

  move(by) {
    this.slider.value = +this.slider.value + by;
    this.draw();
  }
}

function listen(slices) {
  const {slider, methods, planeList, view} = slices, frames = view.querySelector(".frames");
  let turned = 0;  // a touchpad's small ticks add up to a slice
  slider.addEventListener("input", () => slices.draw());
  if (methods) methods.addEventListener("change", () => slices.choose());
  if (planeList) planeList.addEventListener("change", () => slices.turn());
  frames.addEventListener("wheel", event => {
    turned -= event.deltaMode ? 40 * Math.sign(event.deltaY) : event.deltaY;
    const by = Math.trunc(turned / 40), end = turned < 0 ? 0 : +slider.max;
    if (+slider.value === end) { turned = 0; return; }  // at the end the page scrolls on
    event.preventDefault();
    if (!by) return;
    turned -= 40 * by;
    slices.move(Math.sign(by));
  }, {passive: false});
  frames.addEventListener("pointermove", event => { if (event.target.matches("canvas")) slices.read(slices.under(event)); });
  frames.addEventListener("click", event => {
    if (!event.target.matches("canvas")) return;
    slices.place = slices.under(event);
    slices.read(slices.place);
    slider.focus({preventScroll: true});  // which takes the arrow keys
  });
}

for (const view of document.querySelectorAll(".scrub")) {
  const slices = new Slices(view);
  slices.open().then(() => listen(slices), error => { slices.point.textContent = `The slices cannot be drawn: ${error.message}.`; });
}
