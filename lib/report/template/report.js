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

// Words stand at the left of their column, numbers at the right.
function alignWords(table) {
  for (let column = 1; column < table.rows[0].cells.length; column++) {
    const cells = [...table.rows].map(row => row.cells[column]).filter(Boolean);
    if (cells.some(cell => cell.tagName === "TD" && /\p{L}{3}/u.test(cell.textContent))) cells.forEach(cell => cell.classList.add("words"));
  }
}

for (const table of document.querySelectorAll(".output table")) {
  csvLink(table);
  alignWords(table);
  if (!table.tHead || table.tBodies[0].rows.length < 3) continue;
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    if (!head.textContent.trim()) return;
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
