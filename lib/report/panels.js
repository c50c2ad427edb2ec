// Pictures on canvases; one event at a time goes to the kernel, what happens meanwhile is joined.
const KEYS = ["ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight", "PageUp", "PageDown", "Home", "End", "a", "c", "s"];

function render({ model, el }) {
  const root = document.createElement("div"), row = document.createElement("div"), said = document.createElement("div");
  root.className = "dose-panels";
  row.className = "row";
  said.className = "said";
  said.setAttribute("role", "status");
  root.tabIndex = 0;
  root.setAttribute("aria-label", "dose slices; wheel, arrow and page keys change the slice, a, c and s the plane");
  root.append(row, said);
  el.append(root);

  const canvases = [];
  let newest = 0, number = 0, busy = false, wheel = 0, key = null, point = null;

  async function show() {
    const mine = ++newest, titles = model.get("titles");
    const decoded = await Promise.all(model.get("pictures").map(bytes => createImageBitmap(new Blob([bytes]))));
    if (mine === newest) {  // all at once, so that nothing flickers and no panel is a slice behind
      while (canvases.length < decoded.length) add();
      while (canvases.length > decoded.length) canvases.pop().parentElement.remove();
      decoded.forEach((picture, i) => {
        const canvas = canvases[i];
        if (canvas.width !== picture.width) canvas.width = picture.width;
        if (canvas.height !== picture.height) canvas.height = picture.height;
        canvas.getContext("2d").drawImage(picture, 0, 0);
        canvas.setAttribute("aria-label", titles[i]);
        canvas.previousElementSibling.textContent = titles[i];
      });
      root.dataset.painted = mine;
      root.dispatchEvent(new CustomEvent("painted"));
    }
    decoded.forEach(picture => picture.close());
  }

  function add() {
    const figure = document.createElement("figure"), caption = document.createElement("figcaption"), canvas = document.createElement("canvas");
    canvas.setAttribute("role", "img");
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
    if (wheel) { message = { what: "wheel", by: wheel }; wheel = 0; }
    else if (key) { message = { what: "key", key }; key = null; }
    else if (point) { message = { what: "point", ...point }; point = null; }
    if (!message) return;
    busy = true;
    model.send({ ...message, number: ++number });
  }

  const answered = message => { if (message.answered === number) { busy = false; send(); } };
  const say = () => { said.textContent = model.get("said"); };
  row.addEventListener("wheel", event => {
    event.preventDefault();
    wheel -= Math.sign(event.deltaY);
    send();
  }, { passive: false });
  root.addEventListener("keydown", event => {
    if (!KEYS.includes(event.key) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();  // JupyterLab has its own use for them
    key = event.key;
    send();
  });
  root.addEventListener("pointerdown", () => root.focus({ preventScroll: true }));
  model.on("change:pictures", show);
  model.on("change:said", say);
  model.on("msg:custom", answered);
  show();
  say();
  return () => { model.off("change:pictures", show); model.off("change:said", say); model.off("msg:custom", answered); };
}

export default { render };
