"use strict";
// A table that sorts by a click on a heading and shows the rows that hold what is typed.
const body = document.querySelector("#patients tbody"), rows = [...body.rows], search = document.getElementById("search");
const flagged = document.getElementById("flagged"), shown = document.getElementById("shown");
const headings = [...document.querySelectorAll("#patients th")];
const valueOf = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();

function sortBy(column) {
  const heading = headings[column], up = heading.getAttribute("aria-sort") !== "ascending";
  headings.forEach((each) => each.removeAttribute("aria-sort"));
  heading.setAttribute("aria-sort", up ? "ascending" : "descending");
  const numbers = heading.dataset.kind === "number", keyed = rows.map((row) => [valueOf(row, column), row]);
  keyed.sort(([a, x], [b, y]) => {
    if (a === "" || b === "") return (a === "") - (b === ""); // what is not known comes last, whichever way
    return (up ? 1 : -1) * (numbers ? a - b : a.localeCompare(b, undefined, { numeric: true }));
  });
  body.append(...keyed.map(([, row]) => row));
}

function filter() {
  const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const row of rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = !(wanted.every((word) => text.includes(word)) && (!flagged.checked || row.dataset.flagged));
    count += !row.hidden;
  }
  shown.textContent = `${count} of ${rows.length} patients`;
}

headings.forEach((heading, column) => heading.querySelector("button").addEventListener("click", () => sortBy(column)));
search.addEventListener("input", filter);
flagged.addEventListener("input", filter);
filter();
