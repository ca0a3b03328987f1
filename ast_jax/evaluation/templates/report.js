// Sorts a table by the column whose heading is pressed: numbers high to low first, names from A.
// Empty cells stay last.
for (const button of document.querySelectorAll("th button")) button.addEventListener("click", () => {
  const head = button.closest("th"), column = head.cellIndex, body = head.closest("table").tBodies[0];
  const key = row => row.cells[column].dataset.v, number = head.classList.contains("number");
  const before = head.getAttribute("aria-sort"), first = number ? "descending" : "ascending";
  const other = first === "ascending" ? "descending" : "ascending";
  const order = before === first ? other : first, sign = order === "ascending" ? 1 : -1;
  const compare = (a, b) => number ? a - b : a.localeCompare(b, undefined, {numeric: true});
  const empty = row => key(row) === "";
  const rows = [...body.rows].sort((a, b) =>
    empty(a) || empty(b) ? empty(a) - empty(b) : sign * compare(key(a), key(b)));
  for (const cell of head.parentNode.cells) cell.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", order);
  body.append(...rows);
});
