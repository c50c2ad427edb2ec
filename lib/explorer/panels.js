// Pictures on canvases. One event at a time goes to the kernel, what happens meanwhile is joined; a slice that the kernel sent
// before it was asked for, or that was seen a moment ago, is painted at once.
const MOVES = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 10, PageDown: -10, Home: -1e6, End: 1e6 };
const PLANES = { a: "axial", c: "coronal", s: "sagittal" };
const CACHE = 6;  // slices

function element(name, className, role) {
  const node = document.createElement(name);
  node.className = className;
  if (role) node.setAttribute("role", role);
  return node;
}

function render({ model, el }) {
  const root = element("div", "dose-panels"), note = element("div", "note", "status"), row = element("div", "row"), readout = element("div", "readout", "status");
  root.tabIndex = 0;
  root.setAttribute("aria-label", "dose slices; wheel, arrow and page keys change the slice, a, c and s the plane");
  root.append(note, row, readout);
  el.append(root);

  const canvases = [], cache = new Map();  // slice -> promise of its decoded pictures, of one look
  let look = null, newest = 0, number = 0, busy = false, turn = 0, plane = null, point = null;

  function keep(frame, pictures) {
    const { index, titles } = frame;
    if (frame.look !== look) forget();
    look = frame.look;
    if (cache.has(index)) return cache.get(index);
    const decoded = Promise.all(pictures.map(bytes => createImageBitmap(new Blob([bytes])))).then(images => ({ titles, images }));
    cache.set(index, decoded);
    if (cache.size > CACHE) drop(cache.keys().next().value);
    return decoded;
  }

  function drop(index) {
    cache.get(index).then(({ images }) => setTimeout(() => images.forEach(image => image.close()), 1000));  // it may be about to be painted
    cache.delete(index);
  }

  function forget() { [...cache.keys()].forEach(drop); }

  async function paint(decoded) {
    const number = ++newest, { titles, images } = await decoded;
    if (number !== newest) return;  // all at once, so that nothing flickers and no panel is a slice behind
    while (canvases.length < images.length) add();
    while (canvases.length > images.length) canvases.pop().parentElement.remove();
    images.forEach((picture, i) => {
      const canvas = canvases[i];
      if (canvas.width !== picture.width) canvas.width = picture.width;
      if (canvas.height !== picture.height) canvas.height = picture.height;
      canvas.getContext("2d").drawImage(picture, 0, 0);
      canvas.setAttribute("aria-label", titles[i]);
      canvas.previousElementSibling.textContent = titles[i];
    });
    root.dataset.painted = number;
    root.dispatchEvent(new CustomEvent("painted"));
  }

  function add() {
    const figure = element("figure", ""), caption = element("figcaption", ""), canvas = element("canvas", "", "img");
    figure.append(caption, canvas);
    row.append(figure);
    canvases.push(canvas);
    canvas.addEventListener("pointermove", event => {
      const box = canvas.getBoundingClientRect(), scale = canvas.width / box.width;
      point = { x: (event.clientX - box.left) * scale, y: (event.clientY - box.top) * scale };
      send();
    });
    canvas.addEventListener("pointerleave", () => { point = {}; send(); });
  }

  function send() {
    if (busy) return;
    let message = null;
    if (turn) {
      const ready = cache.get(model.get("frame").index + turn);
      if (ready) paint(ready);
      message = { what: "turn", by: turn };
      turn = 0;
    }
    else if (plane) { message = { what: "plane", plane }; plane = null; }
    else if (point) { message = { what: "point", ...point }; point = null; }
    if (!message) return;
    busy = true;
    model.send({ ...message, number: ++number });
  }

  const show = () => paint(keep(model.get("frame"), model.get("pictures")));
  const say = () => { note.textContent = model.get("note"); readout.textContent = model.get("readout"); };
  const hear = ({ answered, ahead }, buffers) => {
    if (ahead && ahead.look === look) keep(ahead, buffers);
    if (answered === number) { busy = false; send(); }
  };
  row.addEventListener("wheel", event => {
    event.preventDefault();
    turn -= Math.sign(event.deltaY);
    send();
  }, { passive: false });
  root.addEventListener("keydown", event => {
    if (!(event.key in MOVES || event.key in PLANES) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();  // JupyterLab has its own use for them
    if (event.key in MOVES) turn += MOVES[event.key]; else plane = PLANES[event.key];
    send();
  });
  root.addEventListener("pointerdown", () => root.focus({ preventScroll: true }));
  model.on("change:frame", show);
  model.on("change:note change:readout", say);
  model.on("msg:custom", hear);
  show();
  say();
  return () => { model.off("change:frame", show); model.off("change:note change:readout", say); model.off("msg:custom", hear); forget(); };
}

export default { render };
