// Pictures on canvases. One event at a time goes to the kernel, what happens meanwhile is joined; a slice that the kernel sent
// before it was asked for, or that was seen a moment ago, is painted at once.
const MOVES = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 10, PageDown: -10, Home: -1e6, End: 1e6 };
const PLANES = { a: "axial", c: "coronal", s: "sagittal" };
const ZOOMS = { "+": 1, "=": 1, "-": -1, 0: 0 };
const CACHE = 6;  // slices
const TICK_PX = 50;  // of a touchpad's wheel, that make a slice
const STILL_PX = 4;  // a press that moves less is a click

function element(name, className, role) {
  const node = document.createElement(name);
  node.className = className;
  if (role) node.setAttribute("role", role);
  return node;
}

function render({ model, el }) {
  const root = element("div", "dose-panels"), note = element("div", "note", "status"), rows = element("div", "rows"), readout = element("div", "dose-readout", "status");
  root.tabIndex = 0;
  root.setAttribute("aria-label", "dose slices; wheel, arrow and page keys change the slice, a, c and s the plane, + and - the size, a click the point");
  root.append(note, rows, readout);
  el.append(root);

  const cache = new Map(), pending = new Map();  // slice -> promise of its decoded pictures, of one look; event -> what is to be said of it
  let canvases = [], layout = "", look = null, newest = 0, number = 0, busy = false, ticks = 0, press = null;

  function keep(frame, pictures) {
    if (frame.look !== look) forget();
    look = frame.look;
    if (cache.has(frame.index)) return cache.get(frame.index);
    const decoded = Promise.all(pictures.map(bytes => createImageBitmap(new Blob([bytes])))).then(images => ({ frame, images }));
    cache.set(frame.index, decoded);
    if (cache.size > CACHE) drop(cache.keys().next().value);
    return decoded;
  }

  function drop(index) {
    cache.get(index).then(({ images }) => setTimeout(() => images.forEach(image => image.close()), 1000));  // it may be about to be painted
    cache.delete(index);
  }

  function forget() { [...cache.keys()].forEach(drop); }

  async function paint(decoded) {
    const number = ++newest, { frame, images } = await decoded;
    if (number !== newest) return;  // all at once, so that nothing flickers and no panel is a slice behind
    build(frame.rows);
    frame.rows.forEach((row, r) => { rows.querySelectorAll(".heading")[r].textContent = row.heading; });
    frame.rows.flatMap(row => row.panels).forEach(({ title, name, cross }, i) => {
      const canvas = canvases[i], picture = images[i];
      if (canvas.width !== picture.width) canvas.width = picture.width;
      if (canvas.height !== picture.height) canvas.height = picture.height;
      const ink = canvas.getContext("2d");
      ink.drawImage(picture, 0, 0);
      if (cross) drawCross(ink, ...cross);
      canvas.setAttribute("aria-label", name);
      canvas.previousElementSibling.textContent = title;
    });
    root.dataset.painted = number;
    root.dispatchEvent(new CustomEvent("painted"));
  }

  function drawCross(ink, x, y, width, height) {
    ink.save();
    ink.beginPath();
    ink.rect(0, 0, width, height);
    ink.clip();
    ink.beginPath();
    for (const [from, to] of [[0, x - 6], [x + 6, width]]) { ink.moveTo(from, y); ink.lineTo(to, y); }
    for (const [from, to] of [[0, y - 6], [y + 6, height]]) { ink.moveTo(x, from); ink.lineTo(x, to); }
    for (const [colour, size] of [["#0008", 3], ["#fffc", 1]]) { ink.strokeStyle = colour; ink.lineWidth = size; ink.stroke(); }
    ink.restore();
  }

  function build(frameRows) {  // canvases anew only where their number changes
    const counts = frameRows.map(row => row.panels.length), columns = Math.max(...counts);
    if (counts.join() === layout) return;
    layout = counts.join();
    rows.replaceChildren();
    rows.style.setProperty("--columns", columns);
    canvases = [];
    for (const count of counts) {
      const row = element("div", "row");
      for (let i = 0; i < columns; i++) row.append(i < count ? makePanel() : element("figure", "empty"));
      rows.append(element("div", "heading"), row);
    }
    sizes.disconnect();
    if (canvases.length) sizes.observe(canvases[0].parentElement);
  }

  const sizes = new ResizeObserver(([entry]) => ask("size", { px: entry.contentRect.width }));

  function makePanel() {
    const figure = element("figure", ""), caption = element("figcaption", ""), canvas = element("canvas", "", "img"), panel = canvases.length;
    figure.append(caption, canvas);
    canvases.push(canvas);
    const place = event => {
      const box = canvas.getBoundingClientRect(), scale = canvas.width / box.width;
      return { panel, x: (event.clientX - box.left) * scale, y: (event.clientY - box.top) * scale };
    };
    canvas.addEventListener("pointerdown", event => {
      if (event.button) return;
      press = { ...place(event), moved: false };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", event => {
      const here = place(event);
      if (!press) return ask("point", here);
      const dx = here.x - press.x, dy = here.y - press.y;
      if (!press.moved && Math.hypot(dx, dy) < STILL_PX) return;
      press = { ...here, moved: true };
      ask("pan", { panel, dx, dy });
    });
    canvas.addEventListener("pointerup", event => {
      if (press && !press.moved) ask("pick", place(event));
      press = null;
    });
    canvas.addEventListener("pointercancel", () => { press = null; });
    canvas.addEventListener("pointerleave", () => ask("point", {}));
    canvas.addEventListener("wheel", event => {
      if (!event.ctrlKey) return;
      event.preventDefault();
      event.stopPropagation();
      ask("zoom", { ...place(event), by: event.deltaY > 0 ? -1 : 1 });
    }, { passive: false });
    return figure;
  }

  function ask(what, message) {
    const before = pending.get(what);
    for (const key of before ? ["by", "dx", "dy"] : []) if (key in message) message[key] += before[key];
    pending.set(what, message);
    send();
  }

  function send() {
    if (busy || !pending.size) return;
    const [[what, message]] = pending;
    pending.delete(what);
    if (what === "turn") {
      const ready = cache.get(model.get("frame").index + message.by);
      if (ready) paint(ready);
    }
    busy = true;
    model.send({ ...message, what, number: ++number });
  }

  const show = () => paint(keep(model.get("frame"), model.get("pictures")));
  const say = () => { note.textContent = model.get("note"); readout.textContent = model.get("readout"); };
  const hear = ({ answered, ahead }, buffers) => {
    if (ahead && ahead.look === look) keep(ahead, buffers);
    if (answered === number) { busy = false; send(); }
  };
  rows.addEventListener("wheel", event => {
    if (event.ctrlKey) return;
    event.preventDefault();
    ticks += event.deltaMode || Math.abs(event.deltaY) >= TICK_PX ? -Math.sign(event.deltaY) : -event.deltaY / TICK_PX;
    const by = Math.trunc(ticks);
    ticks -= by;
    if (by) ask("turn", { by });
  }, { passive: false });
  root.addEventListener("keydown", event => {
    const { key } = event;
    if (!(key in MOVES || key in PLANES || key in ZOOMS) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();  // JupyterLab has its own use for them
    if (key in MOVES) ask("turn", { by: MOVES[key] });
    else if (key in PLANES) ask("plane", { plane: PLANES[key] });
    else ask("zoom", { by: ZOOMS[key] });
  });
  root.addEventListener("pointerdown", () => root.focus({ preventScroll: true }));
  model.on("change:frame", show);
  model.on("change:note change:readout", say);
  model.on("msg:custom", hear);
  show();
  say();
  return () => { model.off("change:frame", show); model.off("change:note change:readout", say); model.off("msg:custom", hear); sizes.disconnect(); forget(); };
}

export default { render };
