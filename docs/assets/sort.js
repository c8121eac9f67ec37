// A table in <div class="sortable"> is sorted by a click on a column's name, and back by another.
document$.subscribe(() => {
  for (const table of document.querySelectorAll(".sortable table")) {
    for (const head of table.tHead.rows[0].cells) {
      const button = document.createElement("button");
      button.append(...head.childNodes);
      button.addEventListener("click", () => sortBy(table, head));
      head.replaceChildren(button);
    }
  }
});

function sortBy(table, head) {
  const read = (row) => {
    const text = row.cells[head.cellIndex].textContent.trim().replaceAll("\u2212", "-");
    const number = parseFloat(text);
    return Number.isNaN(number) ? (text === "\u2013" ? undefined : text) : number;
  };
  const rows = [...table.tBodies[0].rows].map((row) => [read(row), row]);
  const isNumbers = rows.some(([value]) => typeof value === "number");
  const now = head.getAttribute("aria-sort");
  const next = now ? (now === "ascending" ? "descending" : "ascending") : isNumbers ? "descending" : "ascending";
  const sign = next === "ascending" ? 1 : -1;
  rows.sort(([a], [b]) => {
    if (a === undefined || b === undefined) return (a === undefined) - (b === undefined); // dashes last
    return sign * (a < b ? -1 : a > b ? 1 : 0);
  });
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", next);
  table.tBodies[0].append(...rows.map(([, row]) => row));
}
