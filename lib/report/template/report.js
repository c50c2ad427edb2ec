// Slices follow slider, keys and wheel; the list of methods chooses what is shown.
for (const view of document.querySelectorAll(".scrub")) {
  const range = view.querySelector("input"), select = view.querySelector("select"), said = view.querySelector("output");
  const frames = [...view.querySelectorAll(".frame")], labels = JSON.parse(view.dataset.labels);
  const width = +view.dataset.width, height = +view.dataset.height, columns = +view.dataset.columns;
  const show = () => {
    const i = +range.value;
    for (const frame of frames) frame.style.backgroundPosition = `${-(i % columns) * width}px ${-Math.floor(i / columns) * height}px`;
    said.value = labels[i];
  };
  const choose = () => { if (select) for (const one of view.querySelectorAll("[data-method]")) one.hidden = one.dataset.method !== select.value; };
  range.addEventListener("input", show);
  if (select) select.addEventListener("change", choose);
  const pictures = view.querySelector(".frames");
  let turned = 0;  // a touchpad's small ticks add up to a slice
  pictures.addEventListener("wheel", event => {
    turned -= event.deltaMode ? 40 * Math.sign(event.deltaY) : event.deltaY;
    const by = Math.trunc(turned / 40), at = +range.value, end = turned < 0 ? 0 : +range.max;
    if (at === end) { turned = 0; return; }  // at the end the page scrolls on
    event.preventDefault();
    if (!by) return;
    turned -= 40 * by;
    range.value = at + Math.sign(by);
    show();
  }, {passive: false});
  pictures.addEventListener("click", () => range.focus());  // which takes the arrow keys
  show();
  choose();
}

// A click on a column's head sorts by it: numbers by their first number, all else as text; again, the other way round.
const text = (row, column) => row.cells[column].textContent.trim();
const number = said => parseFloat((said.match(/[-+]?\d[\d,]*(\.\d+)?(e[-+]?\d+)?/) || [""])[0].replaceAll(",", ""));

function sortBy(table, column, down) {
  const body = table.tBodies[0], rows = [...body.rows], values = rows.map(row => number(text(row, column)));
  const numeric = column > 0 && rows.every((row, i) => !text(row, column) || !Number.isNaN(values[i]));
  const key = new Map(rows.map((row, i) => [row, numeric ? (Number.isNaN(values[i]) ? Infinity : values[i]) : text(row, column)]));
  rows.sort((a, b) => numeric ? key.get(a) - key.get(b) : key.get(a).localeCompare(key.get(b), undefined, {numeric: true}));
  body.append(...(down ? rows.reverse() : rows));
}

// What a table shows, as CSV for other programs.
function csvLink(table) {
  const quoted = cell => `"${cell.textContent.trim().replaceAll('"', '""')}"`, link = document.createElement("a");
  const lines = [...table.rows].map(row => [...row.cells].map(quoted).join(","));
  Object.assign(link, {href: "data:text/csv;charset=utf-8," + encodeURIComponent(lines.join("\n")), className: "csv",
    download: "table.csv", textContent: "CSV"});
  table.after(link);
}

for (const table of document.querySelectorAll(".output table")) {
  csvLink(table);
  if (!table.tHead || table.tBodies[0].rows.length < 3) continue;
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      sortBy(table, column, down);
    });
  });
}

addEventListener("beforeprint", () => { for (const folded of document.querySelectorAll("details")) folded.open = true; });
