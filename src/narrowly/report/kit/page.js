// Adds to a page that is whole without it: a switch for dark mode, the place in the contents, sorting and filtering of
// tables, boxes that show on hover. It reads nothing but the page and asks the network for nothing.
"use strict";

// Dark mode: what was chosen is kept for this page only, where the browser allows it.
const root = document.documentElement;
const remembered = {
  get() { try { return localStorage.getItem("narrowly-theme"); } catch { return null; } },
  set(value) { try { localStorage.setItem("narrowly-theme", value); } catch { /* private window */ } },
};
const systemDark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (root.dataset.theme ?? (systemDark.matches ? "dark" : "light")) === "dark";
const theme = document.createElement("button");
theme.type = "button";
theme.className = "theme";
function showTheme() { theme.textContent = isDark() ? "Light mode" : "Dark mode"; }
if (["dark", "light"].includes(remembered.get())) root.dataset.theme = remembered.get();
theme.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  remembered.set(root.dataset.theme);
  showTheme();
});
systemDark.addEventListener("change", showTheme);
showTheme();
document.querySelector("header").prepend(theme);

// The contents say where the reader is: the last section that has begun above a third of the window.
const contents = [...document.querySelectorAll("nav a")];
const begun = contents.map((line) => document.getElementById(line.hash.slice(1)));
function showPlace() {
  const last = Math.max(0, begun.findLastIndex((section) => section.getBoundingClientRect().top < innerHeight / 3));
  contents.forEach((line, index) => {
    if ((index === last) === line.hasAttribute("aria-current")) return;
    line.toggleAttribute("aria-current");
    if (index === last) {
      line.setAttribute("aria-current", "location");
      const strip = line.closest("ul");
      strip.scrollLeft += line.getBoundingClientRect().left - strip.getBoundingClientRect().left - 16;
    }
  });
}
addEventListener("scroll", () => requestAnimationFrame(showPlace), { passive: true });
showPlace();

// Sorting: by data-sort where a cell has one, else by text; what is missing stays last; the third click restores.
const order = new Intl.Collator("en", { numeric: true });
function key(row, column) {
  const cell = row.cells[column];
  if (!cell || cell.colSpan > 1) return null;
  if (cell.dataset.sort !== undefined) return Number(cell.dataset.sort);
  const text = cell.textContent.trim();
  return text === "" || text === "–" ? null : text;
}
function compare(a, b) {
  return typeof a === "number" && typeof b === "number" ? a - b : order.compare(String(a), String(b));
}
function sortable(table) {
  const body = table.tBodies[0];
  const asWritten = [...body.rows];
  if (asWritten.length < 2) return;
  const headings = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.title = "Sort by this column";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const now = heading.getAttribute("aria-sort");
      const next = now === "ascending" ? "descending" : now === "descending" ? null : "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      const rows = [...asWritten];
      if (next) {
        heading.setAttribute("aria-sort", next);
        const sign = next === "ascending" ? 1 : -1;
        rows.sort((one, two) => {
          const [a, b] = [key(one, column), key(two, column)];
          if (a === null || b === null) return (a === null) - (b === null);
          return sign * compare(a, b);
        });
      }
      body.append(...rows);
    });
  });
}

// Filtering: rows that hold every word typed, in their text or in the names behind their labels, and that have the
// value chosen in every column with a list of its values.
function filterable(table) {
  const rows = [...table.tBodies[0].rows];
  const texts = rows.map((row) =>
    [row.textContent, ...[...row.querySelectorAll("[title]")].map((one) => one.title)].join(" ").toLowerCase());
  const tools = document.createElement("span");
  tools.className = "tools";
  const label = document.createElement("label");
  label.textContent = "Filter rows ";
  const input = document.createElement("input");
  input.type = "search";
  const count = document.createElement("span");
  count.setAttribute("role", "status");
  label.append(input);
  const lists = [...table.tHead.querySelectorAll("th[data-choices]")].map((heading) => listed(heading, rows));
  tools.append(label, ...lists.map((list) => list.label), count);
  table.caption.append(tools);
  function apply() {
    const wanted = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const chosen = lists.filter((list) => list.select.selectedIndex > 0);
    rows.forEach((row, index) => {
      row.hidden = !wanted.every((word) => texts[index].includes(word))
        || !chosen.every((list) => list.of(row) === list.select.value);
    });
    const narrowed = wanted.length || chosen.length;
    count.textContent = narrowed ? `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows` : "";
  }
  input.addEventListener("input", apply);
  lists.forEach((list) => list.select.addEventListener("change", apply));
}
function listed(heading, rows) {
  const of = (row) => row.cells[heading.cellIndex]?.dataset.choice;
  const label = document.createElement("label");
  const select = document.createElement("select");
  const values = [...new Set(rows.map(of))].filter((value) => value !== undefined).sort(order.compare);
  select.append(new Option("all", ""), ...values.map((value) => new Option(value, value)));
  label.append(`${heading.textContent} `, select);
  select.ariaLabel = heading.textContent;
  return { label, select, of };
}
document.querySelectorAll("table").forEach(sortable);
document.querySelectorAll("table[data-filter]").forEach(filterable);

// Points: the title of a point in a box, at once; a click keeps the box, so that its text can be copied. With the
// keyboard, the arrow keys go through the points of a drawing.
const box = document.createElement("div");
box.className = "hover";
box.setAttribute("role", "tooltip");
box.setAttribute("aria-live", "polite");
box.hidden = true;
document.body.append(box);
let kept = false;
let told = null;
function show(point) {
  told?.classList.remove("told");
  told = point;
  told.classList.add("told");
  const place = point.getBoundingClientRect();
  box.textContent = point.ariaLabel;
  box.hidden = false;
  const room = document.documentElement.clientWidth - box.offsetWidth - 8;
  box.style.left = `${scrollX + Math.max(8, Math.min(place.left + place.width / 2 - box.offsetWidth / 2, room))}px`;
  const above = place.top - box.offsetHeight - 8;
  box.style.top = `${scrollY + (above > 0 ? above : place.bottom + 8)}px`;
}
function hide() {
  told?.classList.remove("told");
  box.hidden = true;
  kept = false;
}
document.querySelectorAll(".point").forEach((point) => {
  point.ariaLabel = point.querySelector("title").textContent;
  point.querySelector("title").remove(); // else the browser shows it a second time
  point.addEventListener("pointerenter", () => { if (!kept) show(point); });
  point.addEventListener("pointerleave", () => { if (!kept) hide(); });
  point.addEventListener("click", (event) => { show(point); kept = true; event.stopPropagation(); });
});
document.querySelectorAll(".drawing:has(.point)").forEach((drawing) => {
  const points = [...drawing.querySelectorAll(".point")];
  let at = -1;
  drawing.setAttribute("aria-description", "The left and right arrow keys go through its points.");
  drawing.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step || drawing.scrollWidth > drawing.clientWidth) return; // there they scroll
    at = (Math.max(at, step > 0 ? -1 : 0) + step + points.length) % points.length;
    show(points[at]);
    event.preventDefault();
  });
  drawing.addEventListener("blur", hide);
});
document.addEventListener("click", (event) => { if (!box.contains(event.target)) hide(); });
document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
