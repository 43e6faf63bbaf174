"use strict";
// The list of a run's pictures: filters, and a page of rows at a time, so that thousands stay quick.
// Everything a stranger wrote is put in as text or as an attribute, never as markup.

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const STATUSES = { ok: "explained", no_detections: "nothing found", error: "failed" };
let page = 0;

function element(tag, attributes, ...content) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...content);
  return made;
}

function fillSelect(select, everything, choices) {
  select.append(element("option", { value: "" }, everything));
  for (const [value, text] of choices) select.append(element("option", { value }, text));
}

// A row passes class, score and kind if one of its boxes passes all of them.
function passes(row) {
  const wanted = byId("class").value, least = byId("score").value / 100, status = byId("status").value;
  const kind = byId("kind").value;
  if (status && row.status !== status) return false;
  if (!wanted && !least && !kind) return true;
  return row.boxes.some((box) => (!wanted || "=" + box[0] === wanted) && box[1] >= least && (!kind || box[2] === kind));
}

// A page opens on the kind that was chosen here.
function address(row) {
  const kind = byId("kind").value;
  return kind ? `${row.page}#kind=${encodeURIComponent(kind)}` : row.page;
}

function card(row) {
  const name = row.source.split(/[\\/]/).pop();
  const picture = row.thumb
    ? element("img", { src: row.thumb, loading: "lazy", alt: `${name} with its maps: ${row.words}` })
    : element("span", { class: "blank quiet" }, "no picture");
  const title = row.page ? element("a", { href: address(row) }, name) : element("strong", {}, name);
  const tone = row.status === "error" ? "wrong" : "quiet";
  const words = element("p", { class: tone, title: row.words }, row.words || STATUSES[row.status] || row.status);
  return element("li", { title: row.source }, picture, element("div", { class: "words" }, title, words));
}

function show() {
  const found = data.rows.filter(passes);
  const pages = Math.max(1, Math.ceil(found.length / data.page_rows));
  page = Math.min(page, pages - 1);
  const first = page * data.page_rows;
  const shown = found.slice(first, first + data.page_rows);
  byId("rows").replaceChildren(...shown.map(card));
  byId("score-said").textContent = (byId("score").value / 100).toFixed(2);
  byId("count").textContent = `${found.length} of ${data.rows.length} pictures`;
  byId("where").textContent = shown.length ? `${first + 1}–${first + shown.length} of ${found.length}` : "none";
  byId("back").disabled = page === 0;
  byId("next").disabled = page === pages - 1;
}

function turn(pages) {
  page += pages;
  show();
  window.scrollTo(0, 0);
}

// "=" before each name, so that a class with an empty name is not taken for "all".
const names = [...new Set(data.rows.flatMap((row) => row.boxes.map(([name]) => name)))].sort();
fillSelect(byId("class"), "all", names.map((name) => ["=" + name, name]));
const statuses = [...new Set(data.rows.map((row) => row.status))];
fillSelect(byId("status"), "all", statuses.map((status) => [status, STATUSES[status] || status]));
const kinds = new Set(data.rows.flatMap((row) => row.boxes.map(([, , kind]) => kind)));
fillSelect(byId("kind"), "all", data.kinds.filter((kind) => kinds.has(kind)).map((kind) => [kind, kind]));
document.querySelector(".of-kind").hidden = byId("kind").options.length < 2;
for (const id of ["class", "score", "status", "kind"]) {
  byId(id).addEventListener("input", () => { page = 0; show(); });
}
byId("back").addEventListener("click", () => turn(-1));
byId("next").addEventListener("click", () => turn(1));
show();
