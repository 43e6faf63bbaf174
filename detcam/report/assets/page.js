// One picture and its maps (maps.js): what is chosen, drawn and said. Values are coloured as detcam's own pictures
// are. Everything a stranger wrote is put in as text, never as markup.

const byId = (id) => document.getElementById(id);
const photo = byId("photo"), stage = byId("stage"), heat = byId("heat"), outlines = byId("outlines");
const MERGED = data.merged;
const POWER = 0.75; // below 1 lifts weak evidence; that of detcam.render.blend
const STEPS = 4095; // of the table from value to opacity
let shown = null; // what is drawn: {values: 0..1 for each pixel, owner: number of the box each comes from}

function element(tag, attributes, ...content) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...content);
  return made;
}

function drawing(tag, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

const percent = (share) => (share === null || share === undefined ? "–" : `${(100 * share).toFixed(0)} %`);
const rgb = (colour) => `rgb(${colour.join(" ")})`;

function numeral(value) {
  return value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e5) ? value.toExponential(2) : String(Number(value.toPrecision(3)));
}

// What is chosen

const explanation = () => data.explanations[Number(byId("method").value)];
const level = () => byId("level").value;
const chosenRadio = () => document.querySelector("input[name=box]:checked");
const isOf = (id, value) => byId(id).value === "" || byId(id).value === String(value);
const isWanted = (box) => isOf("class", box.class_id) && isOf("kind", box.kind);
const isWrong = (box) => box.kind !== null && !data.right.includes(box.kind);
const titled = (box) => `${isWrong(box) ? `${box.kind}: ` : ""}${box.class} ${box.score.toFixed(2)}`;

// Numbers of the boxes whose maps are drawn, and of the one that is alone, or null.
function chosenBox() {
  const radio = chosenRadio();
  return radio && radio.value !== "" ? Number(radio.value) : null;
}

function shownBoxes() {
  const chosen = chosenBox();
  const numbers = [...explanation().boxes.keys()].filter((number) => isWanted(explanation().boxes[number]));
  return chosen === null ? numbers : [chosen];
}

const mapOf = (number, name) => maps[explanation().boxes[number].maps[name]];

// The value drawn in full colour, for each box of the picture.
function tops() {
  const kind = byId("scale").value, { boxes, levels, method } = explanation();
  if (kind === "fixed") return boxes.map(() => Math.max(0, Number(byId("fixed").value) || 0));
  // Levels that each hold the whole evidence have no sum to be compared in.
  const isAlone = kind === "level" || (kind === "energy" && method.merge === "finest");
  const names = isAlone ? [level()] : [...levels.map(({ name }) => name), MERGED];
  const top = kind === "energy" ? strongestShare : (map) => map.highest;
  const own = boxes.map((_, number) => Math.max(0, ...names.map((name) => top(mapOf(number, name)))));
  return kind === "image" ? own.map(() => Math.max(...own)) : own;
}

// Drawing

// Values 0..1 on the picture. Where boxes' maps meet, the one that is stronger on its own scale is seen.
function gather() {
  const { width, height } = heat, full = tops();
  const values = new Float32Array(width * height), owner = new Int32Array(width * height).fill(-1);
  for (const number of shownBoxes()) {
    const map = mapOf(number, level()), top = full[number];
    if (!(top > 0) || map.flat) continue; // a constant map points nowhere
    const raw = upsample(explanation(), map, height, width);
    for (let at = 0; at < raw.length; at++) {
      const value = Math.min(raw[at] / top, 1);
      if (value > values[at]) {
        values[at] = value;
        owner[at] = number;
      }
    }
  }
  shown = { values, owner };
}

// Opacity follows the value, so that the photograph is untouched where a map says nothing.
function paint() {
  const context = heat.getContext("2d"), image = context.createImageData(heat.width, heat.height);
  const table = bytesOf(data.colormaps[byId("colormap").value]);
  const opacity = byId("opacity").value / 100, threshold = byId("threshold").value / 100;
  const alpha = Uint8Array.from({ length: STEPS + 1 }, (_, step) => Math.round(255 * opacity * (step / STEPS) ** POWER));
  const { values } = shown, pixels = image.data;
  for (let at = 0, to = 0; at < values.length; at++, to += 4) {
    const value = values[at];
    if (value <= 0 || value < threshold) continue;
    const colour = 3 * Math.round(value * 255);
    pixels[to] = table[colour];
    pixels[to + 1] = table[colour + 1];
    pixels[to + 2] = table[colour + 2];
    pixels[to + 3] = alpha[Math.round(value * STEPS)];
  }
  context.putImageData(image, 0, 0);
  paintBar(table, threshold);
}

// The key to the colours. What lies below the threshold is left out of it, as it is of the picture.
function paintBar(table, threshold) {
  const bar = byId("bar"), context = bar.getContext("2d"), image = context.createImageData(256, 1);
  for (let step = 0; step < 256; step++) {
    const colour = table.subarray(3 * step, 3 * step + 3);
    image.data.set([...colour, step / 255 < threshold ? 0 : 255], 4 * step);
  }
  context.putImageData(image, 0, 0);
  const kind = byId("scale").value, full = tops(), ends = new Set(shownBoxes().map((number) => full[number]));
  const [top] = ends;
  const ticks = ends.size === 1 ? [0, 0.25, 0.5, 0.75, 1].map((part) => numeral(part * top)) : ["0", kind === "energy" ? "top tenth" : `${kind} max`];
  byId("ticks").replaceChildren(...(ends.size ? ticks : []).map((text) => element("span", {}, text)));
  const { method } = explanation(), where = level() === MERGED ? "all levels" : level();
  byId("bar-title").textContent = `${method.name} · ${targetOf(method)} · ${where} · scale: ${kind}`;
  bar.setAttribute("aria-label", `Colour bar, ${byId("colormap").value}, from 0 to ${ticks[ticks.length - 1]}`);
}

const around = ([x1, y1, x2, y2]) => [[x1, y1], [x2, y1], [x2, y2], [x1, y2]];
const cornersOf = (box) => box.corners || around(box.xyxy);

// A polygon with a dark rim under it.
function rimmed(corners, stroke, style) {
  const points = corners.map((point) => point.join(",")).join(" ");
  return [drawing("polygon", { points, class: `rim ${style}` }), drawing("polygon", { points, stroke, class: style })];
}

function outline() {
  const chosen = chosenBox();
  outlines.setAttribute("viewBox", `0 0 ${data.picture.width} ${data.picture.height}`);
  outlines.replaceChildren(...explanation().boxes.map((box, number) => {
    const state = number === chosen ? "chosen" : chosen === null ? "" : "other";
    const group = drawing("g", { class: state });
    if (!isWanted(box)) return group;
    group.append(...rimmed(cornersOf(box), rgb(box.colour), data.not_found.includes(box.kind) ? "dashed" : ""));
    if (box.truth && isWrong(box)) group.append(...rimmed(around(box.truth), "#fff", "dashed"));
    return group;
  }));
  label();
}

// A plate at each box that is shown: above it, else inside or below, left out where it would cover another.
function label() {
  for (const old of stage.querySelectorAll(".plate")) old.remove();
  const frame = stage.getBoundingClientRect(), taken = [];
  const down = frame.height / data.picture.height, across = frame.width / data.picture.width;
  for (const number of shownBoxes()) {
    const box = explanation().boxes[number], corners = cornersOf(box);
    const plate = element("span", { class: "plate", "aria-hidden": "true" }, titled(box));
    plate.style.background = rgb(box.colour);
    stage.append(plate);
    const { offsetWidth: width, offsetHeight: height } = plate;
    const left = Math.min(...corners.map(([x]) => x)) * across, ys = corners.map(([, y]) => y * down);
    const x = Math.max(0, Math.min(left, frame.width - width));
    const places = [Math.min(...ys) - height, Math.min(...ys), Math.max(...ys), Math.max(...ys) - height];
    const isFree = (y) => y >= 0 && y + height <= frame.height && !taken.some((one) => x < one.x + one.width && x + width > one.x && y < one.y + one.height && y + height > one.y);
    const y = places.find(isFree);
    if (y === undefined) {
      plate.remove();
      continue;
    }
    taken.push({ x, y, width, height });
    plate.style.left = `${x}px`;
    plate.style.top = `${y}px`;
  }
}

// Words

const inLevel = (name) => (name === MERGED ? "of all levels" : `at ${name}`);

const targetOf = ({ target, unit }) => (unit === target ? target : `${target}, in ${unit}`);

function sentence() {
  const { method, boxes, found, best_score: best } = explanation(), chosen = chosenBox();
  if (!boxes.length) return `Nothing was found; the best score in the picture is ${numeral(best)}.`;
  if (chosen === null) {
    const cut = found > boxes.length ? ` of ${found} found` : "";
    return `${method.name} of ${method.target} for ${shownBoxes().length} boxes${cut}. Where maps meet, the one that is stronger on its own scale is seen.`;
  }
  const box = boxes[chosen], by = box.level ? `, by a cell of ${box.level}` : "";
  const energy = box.energy[level()];
  const share = energy === null ? `Its map ${inLevel(level())} holds no evidence for it.` : `${percent(energy)} of the evidence ${inLevel(level())} lies in the box.`;
  const shown = `${method.name} of ${method.target}. ${share}`;
  const reason = box.reason ? ` ${box.reason[0].toUpperCase()}${box.reason.slice(1)}.` : "";
  const outcome = box.kind === "missed" ? "was missed" : `is a ${box.kind}`;
  if (data.not_found.includes(box.kind)) return `“${box.truth_class ?? box.class}” ${outcome}.${reason} What spoke for it: ${shown}`;
  return `Why “${box.class}” was found with a score of ${box.score.toFixed(2)}${by}: ${shown}${isWrong(box) ? ` It is wrong: ${box.kind}.` : ""}${reason}`;
}

function facts() {
  const { method, levels, boxes } = explanation(), chosen = chosenBox();
  const layer = levels.find(({ name }) => name === level());
  const merge = method.merge === "finest" ? "the finest level alone" : "the sum of all levels";
  const found = [["layer", layer ? [layer.module || "the input", layer.set, `stride ${layer.stride}`, `${layer.grid[0]}×${layer.grid[1]} cells`].filter(Boolean).join(", ") : merge]];
  found.push(["target", targetOf(method)]);
  if (method.gradients) found.push(["gradients", method.gradients]);
  if (chosen !== null) {
    const box = boxes[chosen];
    if (box.kind !== null) found.unshift(["kind", box.kind]);
    if (box.truth) found.unshift(["labelled", `${box.truth_class} at ${box.truth.map((side) => side.toFixed(0)).join(", ")}`]);
    found.unshift(["class", box.class], ["score", box.score.toFixed(3)], ["deciding level", box.level || "not known"]);
    found.push(["value of the target", numeral(box.target_value)], ["energy in the box", percent(box.energy[level()])]);
    found.push(["highest value", numeral(mapOf(chosen, level()).highest)]);
    found.push(["evidence by level", levels.map(({ name }) => `${name} ${percent(box.shares[name])}`).join(", ")]);
    if (box.convergence !== null) found.push(["convergence", box.convergence.toFixed(2)]);
    if (box.idle.length) found.push(["takes no part", box.idle.join(", ")]);
    found.push(["box", box.xyxy.map((side) => side.toFixed(0)).join(", ")]);
  }
  byId("facts").replaceChildren(...found.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
}

function readOut(event) {
  const [x, y] = pointOf(event), frame = stage.getBoundingClientRect();
  const column = Math.min(Math.max(Math.floor(((event.clientX - frame.left) / frame.width) * heat.width), 0), heat.width - 1);
  const row = Math.min(Math.max(Math.floor(((event.clientY - frame.top) / frame.height) * heat.height), 0), heat.height - 1);
  const chosen = chosenBox(), number = chosen === null ? shown.owner[row * heat.width + column] : chosen;
  const at = `x ${Math.floor(x)}, y ${Math.floor(y)}`;
  if (number < 0) {
    byId("readout").textContent = `${at}: no evidence`;
    return;
  }
  const box = explanation().boxes[number], value = valueAt(explanation(), mapOf(number, level()), x, y);
  byId("readout").textContent = `${at}: ${numeral(value)} for ${box.class} ${box.score.toFixed(2)}`;
}

// Controls

function pointOf(event) {
  const frame = stage.getBoundingClientRect();
  return [
    ((event.clientX - frame.left) / frame.width) * data.picture.width,
    ((event.clientY - frame.top) / frame.height) * data.picture.height,
  ];
}

function fillSelect(id, choices, chosen) {
  byId(id).replaceChildren(...choices.map(([value, text]) => element("option", { value }, text)));
  if (choices.some(([value]) => value === chosen)) byId(id).value = chosen;
}

function fillLevels() {
  const { levels, method } = explanation(), before = level() || MERGED;
  const merged = method.merge === "finest" ? "all evidence (finest level)" : "all levels (sum)";
  const named = levels.map(({ name, module }) => [name, module ? `${name} · ${module}` : name]);
  fillSelect("level", levels.length > 1 ? [[MERGED, merged], ...named] : named, before);
}

function fillClasses() {
  const names = new Map(explanation().boxes.map((box) => [String(box.class_id), box.class]));
  fillSelect("class", [["", "all"], ...names], byId("class").value);
}

function fillKinds() {
  const there = data.kinds.filter((kind) => explanation().boxes.some((box) => box.kind === kind));
  fillSelect("kind", [["", "all"], ...there.map((kind) => [kind, kind])], byId("kind").value);
  for (const one of document.querySelectorAll(".of-kind")) one.hidden = !there.length;
}

function fillBoxes(chosen) {
  const { boxes } = explanation();
  const entry = (value, swatch, name, number) => {
    const radio = element("input", { type: "radio", name: "box", value });
    radio.checked = value === (chosen === null ? "" : String(chosen));
    return element("label", {}, radio, swatch, element("span", { class: "name" }, name), element("span", { class: "number quiet" }, number));
  };
  const listed = [entry("", element("span", {}), boxes.length ? "all boxes" : "no boxes", "")];
  boxes.forEach((box, number) => {
    const swatch = drawing("svg", { viewBox: "0 0 10 10", "aria-hidden": "true" });
    swatch.append(drawing("rect", { width: 10, height: 10, fill: rgb(box.colour), stroke: "#555" }));
    const shape = entry(String(number), swatch, titled(box), box.level || "");
    shape.hidden = !isWanted(box);
    listed.push(shape);
  });
  byId("boxes").replaceChildren(...listed);
}

// The box of another method that is the one chosen so far, or null.
function sameBox(box) {
  const found = explanation().boxes.findIndex((one) => box && one.class_id === box.class_id && one.xyxy.every((side, i) => Math.abs(side - box.xyxy[i]) < 1));
  return found < 0 ? null : found;
}

function choose(number) {
  const value = number === null ? "" : String(number);
  const radio = [...document.querySelectorAll("input[name=box]")].find((one) => one.value === value);
  radio.checked = true;
  // Within the list only: the picture stays where it is.
  const list = byId("boxes"), row = radio.parentElement;
  if (row.offsetTop < list.scrollTop) list.scrollTop = row.offsetTop;
  const below = row.offsetTop + row.offsetHeight - list.clientHeight;
  if (below > list.scrollTop) list.scrollTop = below;
  redraw();
}

// The smallest box at a point of the picture, for large ones often hold small ones; null outside of all.
function boxAt(x, y) {
  const { boxes } = explanation();
  const area = (corners) => Math.abs(corners.reduce((sum, [px, py], i) => {
    const [qx, qy] = corners[(i + 1) % corners.length];
    return sum + px * qy - qx * py;
  }, 0));
  const holds = (corners) => corners.reduce((inside, [px, py], i) => {
    const [qx, qy] = corners[(i + 1) % corners.length];
    return py > y !== qy > y && x < ((qx - px) * (y - py)) / (qy - py) + px ? !inside : inside;
  }, false);
  const hit = [...boxes.keys()].filter((number) => isWanted(boxes[number]) && holds(cornersOf(boxes[number])));
  hit.sort((a, b) => area(cornersOf(boxes[a])) - area(cornersOf(boxes[b])));
  return hit.length ? hit[0] : null;
}

function walk(event) {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (!step && event.key !== "Escape") return;
  event.preventDefault();
  const { boxes } = explanation();
  const stops = [null, ...[...boxes.keys()].filter((number) => isWanted(boxes[number]))];
  const at = stops.indexOf(chosenBox());
  choose(step ? stops[(at + step + stops.length) % stops.length] : null);
}

function recolour() {
  for (const id of ["opacity", "threshold"]) document.querySelector(`output[for=${id}]`).textContent = `${byId(id).value} %`;
  paint();
}

function redraw() {
  for (const one of document.querySelectorAll(".of-fixed")) one.hidden = byId("scale").value !== "fixed";
  gather();
  recolour();
  outline();
  facts();
  byId("sentence").textContent = sentence();
  byId("readout").textContent = "Point at the picture to read values.";
}

// Fill everything that depends on the method, `box` being chosen.
function refill(box) {
  fillLevels();
  fillClasses();
  fillKinds();
  fillBoxes(sameBox(box));
  redraw();
}

function setUp() {
  const named = data.explanations.map(({ method }, i) => [String(i), [method.name, method.target, method.gradients].filter(Boolean).join(" · ")]);
  fillSelect("method", named, "0");
  for (const one of document.querySelectorAll(".of-method")) one.hidden = named.length < 2;
  const { scale } = data.explanations[0];
  fillSelect("scale", data.scales.map((kind) => [kind, kind]), scale.kind);
  fillSelect("colormap", Object.keys(data.colormaps).map((name) => [name, name]), data.colormap);
  fillLevels();
  byId("fixed").value = scale.value === null ? Number(Math.max(0, ...tops()).toPrecision(3)) : scale.value;
  byId("precision").textContent = data.maps.precision === "float32" ? "Values are the stored ones, float32." : "Values are in 65536 steps from each map's lowest to its highest; the exact ones are in the run's .npz.";
  let before = null;
  byId("method").addEventListener("focus", () => { before = explanation().boxes[chosenBox()]; });
  byId("method").addEventListener("change", () => refill(before));
  for (const id of ["class", "kind"]) byId(id).addEventListener("change", () => {
    const chosen = chosenBox();
    fillBoxes(chosen !== null && isWanted(explanation().boxes[chosen]) ? chosen : null);
    redraw();
  });
  for (const id of ["level", "scale", "fixed", "boxes"]) byId(id).addEventListener("input", redraw);
  for (const id of ["opacity", "threshold", "colormap"]) byId(id).addEventListener("input", recolour);
  stage.addEventListener("pointermove", readOut);
  stage.addEventListener("click", (event) => choose(boxAt(...pointOf(event))));
  stage.addEventListener("keydown", walk);
  new ResizeObserver(label).observe(stage);
}

// What the index links to: "#box=3", or "#kind=missed" for the first box of that kind. Anything else is let be.
function openAt(asked) {
  const { boxes } = explanation(), kind = asked.get("kind"), box = asked.get("box") ?? "";
  const isKnown = kind !== null && boxes.some((one) => one.kind === kind);
  if (isKnown) {
    byId("kind").value = kind;
    fillBoxes(null);
  }
  const number = /^\d+$/.test(box) ? Number(box) : isKnown ? boxes.findIndex(isWanted) : -1;
  if (number in boxes) choose(number);
  else redraw();
}

async function start() {
  await Promise.all([photo.decode(), unpackMaps(data.maps)]);
  heat.width = photo.naturalWidth;
  heat.height = photo.naturalHeight;
  setUp();
  refill(null);
  openAt(new URLSearchParams(location.hash.slice(1)));
  document.body.dataset.ready = "yes";
}

start().catch((error) => {
  byId("sentence").textContent = `The maps cannot be shown (${error.message}): a browser of 2023 or newer is needed.`;
});
