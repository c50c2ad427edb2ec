// A picture with two thin lines at the pointer; the kernel says below what lies there.
function element(name, className) {
  const node = document.createElement(name);
  node.className = className;
  return node;
}

function render({ model, el }) {
  const root = element("div", "dose-plot"), box = element("div", "box"), picture = element("img", "");
  const upright = element("div", "line upright"), level = element("div", "line level"), readout = element("div", "dose-readout");
  readout.setAttribute("role", "status");
  picture.alt = "dose-volume histograms";
  box.append(picture, upright, level);
  root.append(box, readout);
  el.append(root);
  let busy = false, pending = null, number = 0, address = "";

  function ask(message) {
    pending = message;
    send();
  }

  function send() {
    if (busy || !pending) return;
    busy = true;
    model.send({ what: "point", ...pending, number: ++number });
    pending = null;
  }

  box.addEventListener("pointermove", event => {
    const area = picture.getBoundingClientRect(), x = (event.clientX - area.left) / area.width, y = (event.clientY - area.top) / area.height;
    upright.style.left = `${100 * x}%`;
    level.style.top = `${100 * y}%`;
    ask({ x, y });
  });
  box.addEventListener("pointerleave", () => ask({}));
  const show = () => {
    URL.revokeObjectURL(address);
    address = model.get("picture").byteLength ? URL.createObjectURL(new Blob([model.get("picture")], { type: "image/png" })) : "";
    picture.hidden = !address;
    picture.src = address;
  };
  const say = () => { readout.textContent = model.get("readout"); };
  const hear = ({ answered }) => { if (answered === number) { busy = false; send(); } };
  model.on("change:picture", show);
  model.on("change:readout", say);
  model.on("msg:custom", hear);
  show();
  say();
  return () => { model.off("change:picture", show); model.off("change:readout", say); model.off("msg:custom", hear); URL.revokeObjectURL(address); };
}

export default { render };
