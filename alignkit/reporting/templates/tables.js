// Tables that are sorted by a click on a heading: numbers by size, words by the alphabet, what is absent last.

const sortValue = (cell) => {
  const text = cell.dataset.order ?? cell.textContent.trim();
  return { text, number: text === "" || text === "·" ? NaN : Number(text), absent: text === "" || text === "·" || text === "–" };
};

const compareValues = (first, second) => {
  if (Number.isFinite(first.number) && Number.isFinite(second.number)) return first.number - second.number;
  return first.text.localeCompare(second.text, "en", { numeric: true });
};

const sortBy = (heading) => {
  const table = heading.closest("table");
  const place = [...heading.parentElement.children].indexOf(heading);
  const direction = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  for (const other of heading.parentElement.children) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
  const rows = [...table.tBodies[0].rows].map((row) => ({ row, value: sortValue(row.cells[place]) }));
  rows.sort((one, other) => one.value.absent - other.value.absent || direction * compareValues(one.value, other.value));
  table.tBodies[0].append(...rows.map(({ row }) => row));
};

const startTables = () => {
  for (const button of document.querySelectorAll("button.sort")) button.addEventListener("click", () => sortBy(button.closest("th")));
};

const element = (tag, attributes = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") made.className = value;
    else if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children); // texts become text nodes: nothing in them is markup
  return made;
};

const fill = (select, options) => select.replaceChildren(...options.map(([value, text]) => element("option", { value }, text)));
const short = (text, most) => (text.length <= most ? text : `${text.slice(0, most - 1)}…`);
const counted = (count, what) => `${count.toLocaleString("en")} ${what}${count === 1 ? "" : "s"}`;
