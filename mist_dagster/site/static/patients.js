// Search, filter, sort and walk through the list of patients; show it as a gallery.

const list = document.getElementById("list");
const body = list.querySelector("tbody");
const head = [...list.querySelectorAll("thead th")];
const cards = document.getElementById("cards");
const gallery = document.getElementById("gallery");
const control = Object.fromEntries(["search", "fold", "class", "flag"].map((id) => [id, document.getElementById(id)]));
const rows = [...body.rows].map((element) => ({
  element,
  id: element.dataset.id,
  fold: element.dataset.fold,
  flags: new Set(element.dataset.flags.split("|")),
  text: element.textContent.toLowerCase(),
  picture: element.dataset.picture,
}));
const PART = 200; // rows that are laid out at a time: 2,000 take seconds
let shown = rows;
let chosen = -1;
let most = PART;

function matches(row) {
  const flag = control.flag.value;
  return (
    (!control.fold.value || row.fold === control.fold.value) &&
    (!flag || row.flags.has(flag)) &&
    row.text.includes(control.search.value.trim().toLowerCase())
  );
}

function filter() {
  shown = rows.filter((row) => {
    const match = matches(row);
    if (!match) row.element.hidden = true;
    return match;
  });
  most = PART;
  reveal();
  for (const cell of list.querySelectorAll("[data-class]"))
    cell.hidden = Boolean(control.class.value) && cell.dataset.class !== control.class.value;
  document.getElementById("count").textContent = `${shown.length} of ${rows.length}`;
  choose(-1);
  if (!cards.hidden) fill();
  remember();
}

function reveal() {
  for (const [place, { element }] of shown.entries()) {
    element.classList.remove("later");
    element.hidden = place >= most;
  }
}

function more() {
  if (most >= shown.length) return;
  const before = most;
  most += PART;
  if (cards.hidden) reveal();
  else fill(before);
}

function sort(column, descending) {
  const numeric = head[column].dataset.sort === "number";
  const value = ({ element }) => {
    const cell = element.cells[column];
    if (!numeric) return cell.textContent;
    const text = cell.dataset.value ?? cell.textContent;
    return text === "" || text === "nan" ? null : Number(text);
  };
  const keyed = rows.map((row) => [value(row), row]);
  keyed.sort(([one], [other]) => {
    // Missing values come last in both directions.
    if (one === null || other === null) return (one === null) - (other === null);
    const order = numeric ? one - other : one.localeCompare(other, undefined, { numeric: true });
    return descending ? -order : order;
  });
  rows.splice(0, rows.length, ...keyed.map(([, row]) => row));
  for (const [place, cell] of head.entries()) {
    if (place === column) cell.setAttribute("aria-sort", descending ? "descending" : "ascending");
    else cell.removeAttribute("aria-sort");
  }
  body.append(...rows.map((row) => row.element));
  filter();
}

function fill(start = 0) {
  if (!start) cards.replaceChildren();
  cards.append(
    ...shown.slice(start, most).map(({ element, id, picture }) => {
      const card = document.createElement("a");
      card.className = "card";
      card.href = element.querySelector("a").href;
      const image = document.createElement(picture ? "img" : "div");
      if (picture) Object.assign(image, { loading: "lazy", src: picture, alt: "" });
      else Object.assign(image, { className: "missing", textContent: "no picture" });
      const text = document.createElement("div");
      const name = document.createElement("strong");
      name.textContent = id;
      text.append(name);
      for (const [place, cell] of [...element.cells].entries()) {
        if (!cell.dataset.class || cell.hidden || !cell.textContent) continue;
        const score = document.createElement("span");
        const value = document.createElement("b");
        value.textContent = cell.textContent;
        score.append(`${head[place].textContent} `, value);
        text.append(score, " ");
      }
      card.append(image, text);
      return card;
    }),
  );
}

function choose(place) {
  const items = () => (cards.hidden ? shown.map((row) => row.element) : [...cards.children]);
  for (const item of document.querySelectorAll(".chosen")) item.classList.remove("chosen");
  chosen = Math.min(place, shown.length - 1);
  if (chosen < 0) return;
  while (chosen >= most) more();
  const item = items()[chosen];
  item.classList.add("chosen");
  item.scrollIntoView({ block: "nearest" });
  (item.querySelector("a") ?? item).focus({ preventScroll: true });
}

function toggle() {
  cards.hidden = !cards.hidden;
  list.hidden = !cards.hidden;
  gallery.setAttribute("aria-pressed", String(!cards.hidden));
  if (!cards.hidden) fill();
  choose(chosen);
  remember();
}

// The address keeps what is chosen, so that it is there again after a visit to a patient.
function remember() {
  const kept = new URLSearchParams();
  for (const [name, { value }] of Object.entries(control)) if (value) kept.set(name, value);
  if (!cards.hidden) kept.set("gallery", "1");
  const sorted = head.findIndex((cell) => cell.hasAttribute("aria-sort"));
  if (sorted !== 1) kept.set("sort", `${head[sorted].getAttribute("aria-sort") === "descending" ? "-" : ""}${sorted}`);
  history.replaceState(null, "", kept.size ? `?${kept}` : location.pathname);
  sessionStorage.setItem(`order ${location.pathname}`, JSON.stringify(shown.map((row) => row.id)));
}

for (const [place, cell] of head.entries())
  cell.querySelector("button").addEventListener("click", () => sort(place, cell.getAttribute("aria-sort") === "ascending"));
for (const element of Object.values(control)) element.addEventListener("input", filter);
document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());
gallery.addEventListener("click", toggle);
new IntersectionObserver(([end]) => end.isIntersecting && more(), { rootMargin: "600px" }).observe(document.getElementById("end"));
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input, select, textarea")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (event.key === "j") choose(chosen + 1);
  else if (event.key === "k") choose(Math.max(0, chosen - 1));
  else if (event.key === "g") toggle();
  else if (event.key === "/") control.search.focus();
  else return;
  event.preventDefault();
});

const kept = new URLSearchParams(location.search);
for (const [name, element] of Object.entries(control)) if (kept.has(name)) element.value = kept.get(name);
const column = Math.abs(Number(kept.get("sort") || 0));
if (kept.has("sort") && head[column]) sort(column, kept.get("sort").startsWith("-"));
if (kept.has("gallery")) toggle();
filter();

const answer = await fetch(list.dataset.stale).catch(() => null);
if (answer?.ok) {
  const stale = await answer.json();
  for (const row of rows) {
    const cell = row.element.querySelector("[data-show=stale]");
    const reasons = Object.entries(stale[row.id] ?? {});
    row.flags.add(reasons.length ? "stale" : "current");
    const word = document.createElement("span");
    word.className = `state ${reasons.length ? "stale" : "current"}`;
    word.textContent = reasons.length ? "stale" : "current";
    word.title = reasons.map(([stage, reason]) => `${stage}: ${reason}`).join("; ");
    cell.replaceChildren(word);
    if (reasons.length) cell.append(` ${reasons[0][1]}`);
  }
  if (control.flag.value) filter();
}
