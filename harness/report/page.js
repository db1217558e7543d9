// The page: what is chosen, the tables, and when which figure is drawn. No statistics here: all numbers are Python's.
"use strict";

const WHOLE_ROWS = 30;
const DATA = JSON.parse(document.getElementById("data").textContent);
const state = { target: DATA.default_target, top: DATA.top, clock: 0, filters: new Map(), picked: new Map() };
const byId = (id) => document.getElementById(id);

/** Steps, or the seconds of one machine and kernel, with their ranking, survival curves and profiles. */
const clock = () => DATA.clocks[state.clock];
const entryShown = () => clock().ranking[state.target];

/** An element with attributes, text and children; text is always text, never markup. */
function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") node.className = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (typeof value === "boolean") node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** At most three significant digits, thousands separated; "-" where there is no number. */
function shown(value, digits = 3) {
  if (value === null || value === undefined) return "-";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e7)) return value.toExponential(digits - 1);
  // products are brought back to the four digits that numbers are kept with
  return Number(Number(value.toPrecision(4)).toPrecision(digits)).toLocaleString("en", { maximumFractionDigits: 6 });
}
const percent = (value) => (value === null || value === undefined ? "-" : `${shown(100 * value)}\u00a0%`);
const probability = (p) => (p === null || p === undefined ? "-" : p < 0.001 ? "<\u00a00.001" : p.toFixed(3));

function range(low, high, form = shown) {
  return low === null || low === undefined ? "" : `${form(low)} to ${form(high)}`;
}

/** Arms that pass every filter, the best of the chosen target first. */
function eligible() {
  const passes = (arm) => [...state.filters].every(([column, values]) => values.has(arm.values[column]));
  return entryShown().rows.map((row) => DATA.arms[row.arm]).filter(passes);
}

/** Those of them that the figures draw: the first few, unless a box was ticked or cleared by hand. */
function drawn(arms = eligible()) {
  return arms.filter((arm, index) => state.picked.get(arm.id) ?? index < state.top);
}

function filterBox(filter) {
  const boxes = filter.values.map((value) => {
    const box = element("input", { type: "checkbox", checked: true, value: String(value) });
    return { value, box, label: element("label", {}, box, String(value)) };
  });
  const summary = element("summary");
  const details = element("details", { class: "filter", "data-column": filter.column }, summary);
  const changed = () => {
    const chosen = boxes.filter((item) => item.box.checked).map((item) => item.value);
    const all = chosen.length === boxes.length;
    if (all) state.filters.delete(filter.column);
    else state.filters.set(filter.column, new Set(chosen));
    details.classList.toggle("active", !all);
    summary.textContent = `${filter.column}: ${all ? "all" : `${chosen.length} of ${boxes.length}`}`;
  };
  const setAll = (checked) => () => {
    for (const item of boxes) if (!item.label.hidden) item.box.checked = checked;
    changed();
    update();
  };
  const find = element("input", { type: "search", placeholder: "find", "aria-label": `find a value of ${filter.column}` });
  find.addEventListener("input", () => {
    for (const item of boxes) item.label.hidden = !String(item.value).toLowerCase().includes(find.value.toLowerCase());
  });
  const fields = element(
    "fieldset",
    { onchange: () => (changed(), update()) },
    element("legend", { class: "hidden-text" }, `show arms with ${filter.column}`),
    element("button", { type: "button", onclick: setAll(true) }, "all"),
    element("button", { type: "button", onclick: setAll(false) }, "none"),
    boxes.length > 8 ? find : null,
    element("div", { class: "options" }, ...boxes.map((item) => item.label)),
  );
  details.append(fields);
  details.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    details.open = false;
    summary.focus();
  });
  details.addEventListener("toggle", () => {
    if (details.open) for (const other of document.querySelectorAll("details.filter[open]")) other.open = other === details;
  });
  changed();
  return { details, reset: () => { for (const item of boxes) item.box.checked = true; changed(); } };
}

function setUpControls() {
  const select = byId("target");
  clock().ranking.forEach((entry, index) => select.append(element("option", { value: index }, entry.label)));
  select.value = String(state.target);
  select.addEventListener("change", () => { state.target = Number(select.value); update(); });
  const both = document.querySelectorAll("select.clock");
  for (const one of both) {
    DATA.clocks.forEach((own, index) => one.append(element("option", { value: index }, own.label)));
    one.addEventListener("change", () => {
      state.clock = Number(one.value);
      for (const other of both) other.value = one.value;
      update();
    });
  }
  const top = byId("top");
  const counts = [5, 8, 12, 20, 40].filter((count) => count < DATA.arms.length);
  for (const count of counts) top.append(element("option", { value: count }, `best ${count}`));
  top.append(element("option", { value: DATA.arms.length }, `all ${DATA.arms.length}`));
  state.top = counts.includes(state.top) ? state.top : DATA.arms.length;
  top.value = String(state.top);
  top.addEventListener("change", () => { state.top = Number(top.value); state.picked.clear(); update(); });
  const boxes = DATA.filters.map(filterBox);
  byId("filters").append(...boxes.map((box) => box.details));
  byId("reset").addEventListener("click", () => {
    boxes.forEach((box) => box.reset());
    state.picked.clear();
    update();
  });
  document.addEventListener("click", (event) => {
    for (const open of document.querySelectorAll("details.filter[open]")) if (!open.contains(event.target)) open.open = false;
  });
  for (const id of ["metric", "log-x", "log-y"]) byId(id).addEventListener("change", () => drawCurves(drawn()));
  byId("when").addEventListener("change", () => drawSignals(drawn()));
  for (const side of ["a", "b"]) byId(`heat-arm-${side}`).addEventListener("change", () => drawHeat(side));
}

/** Whisker plot of one row's interval on the scale that all rows of the table share. */
function forest(estimate, low, high, scale, reference) {
  const width = 72, height = 18;
  const at = (value) => 4 + ((width - 8) * (value - scale[0])) / (scale[1] - scale[0] || 1);
  const paint = element("span", {});
  const svg = (tag, attributes) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    return node;
  };
  const root = svg("svg", { width, height, class: "forest", "aria-hidden": "true" });
  if (reference !== null) {
    root.append(svg("line", { x1: at(reference), x2: at(reference), y1: 0, y2: height, stroke: "var(--soft)", "stroke-dasharray": "2 2" }));
  }
  if (low !== null && low !== undefined) {
    root.append(svg("line", { x1: at(low), x2: at(high), y1: 9, y2: 9, stroke: "currentColor", "stroke-width": 2 }));
  }
  root.append(svg("circle", { cx: at(estimate), cy: 9, r: 3.5, fill: "currentColor" }));
  paint.append(root);
  return paint;
}

/** A cell of an estimate with its interval below it. */
const measured = (estimate, interval) => element("td", {}, estimate, element("div", { class: "interval" }, interval));

/** A mean in which every run counts with the whole budget is a bound. */
const mean = (row, value) => (value === undefined || value === null ? "-" : `${row.reached ? "" : "> "}${shown(value)}`);
const pLogrank = (row) => (row.few ? "n too small" : probability(row.p_logrank));

/** A name that breaks between its parts, if it has to. */
const named = (arm) => arm.name.split(/(?<=[_= ])/).flatMap((part) => [part, element("wbr")]);

function rankingRow(row, arm, isDrawn, scale, reference) {
  const box = element("input", { type: "checkbox", checked: isDrawn, "aria-label": `draw ${arm.name}` });
  box.addEventListener("change", () => { state.picked.set(arm.id, box.checked); update(); });
  const time = row.time ?? {};
  const difference = row.difference ?? {};
  return element(
    "tr",
    { class: isDrawn ? "drawn" : "undrawn", "data-arm": arm.id },
    element("td", { class: "key" }, element("label", {}, box, swatch(arm))),
    element("td", { class: "number" }, shown(row.rank)),
    element("th", { scope: "row", class: "name" }, ...named(arm)),
    element("td", { class: `verdict ${row.kind}` }, row.verdict),
    measured(`${row.reached} of ${row.n}`, range(row.share_low, row.share_high, percent)),
    measured(mean(row, time.estimate), range(time.low, time.high)),
    element("td", {}, time.estimate === undefined ? "" : forest(time.estimate, time.low, time.high, scale, reference)),
    measured(mean(row, difference.estimate), row.reached ? range(difference.low, difference.high) : ""),
    element("td", { class: "number" }, percent(row.better)),
    element("td", { class: "number" }, probability(row.p)),
    element("td", { class: "why" }, row.why ?? ""),
  );
}

function drawRanking(arms, selected) {
  const entry = entryShown();
  const rows = new Map(entry.rows.map((row) => [row.arm, row]));
  const ends = entry.rows.flatMap((row) => (row.time ? [row.time.low ?? row.time.estimate, row.time.high ?? row.time.estimate] : []));
  const scale = [0, Math.max(...ends, 1)];
  const best = entry.rows.length && entry.rows[0].time && entry.rows[0].reached ? entry.rows[0].time.estimate : null;
  const chosen = new Set(selected.map((arm) => arm.id));
  byId("ranking").replaceChildren(...arms.map((arm) => rankingRow(rows.get(arm.id), arm, chosen.has(arm.id), scale, best)));
  byId("ranking-empty").hidden = arms.length > 0;
  byId("ranking-table").parentElement.classList.toggle("tall", arms.length > WHOLE_ROWS);
  byId("head-mean").textContent = `mean ${entry.unit}`;
  byId("head-later").textContent = `${entry.unit} later`;
  byId("ranking-caption").textContent = entry.caption;
  byId("ranking-notes").textContent = entry.notes.join(" ");
  byId("conclusion").textContent = entry.conclusion;
  byId("printed").textContent = `Target: ${entry.label}. Time in ${clock().label}. ` +
    `Drawn: ${selected.length} of ${arms.length} arms that pass the filters, ${DATA.arms.length} in all.`;
}

/** Beside the survival curves: when half of the runs are there, and the log-rank test. */
function drawTests(selected) {
  const entry = entryShown(), rows = new Map(entry.rows.map((row) => [row.arm, row]));
  const own = selected.map((arm) => [arm, rows.get(arm.id)]).filter(([, row]) => row.n);
  byId("tests-median").textContent = `half are there (${entry.unit})`;
  byId("tests").replaceChildren(...own.map(([arm, row]) => element(
    "tr", {},
    element("td", { class: "key" }, swatch(arm)), element("th", { scope: "row", class: "name" }, ...named(arm)),
    element("td", { class: "number" }, `${row.reached} of ${row.n}`),
    element("td", { class: "number" }, row.median === undefined ? "not by the end" : shown(row.median)),
    element("td", { class: "number" }, arm.name === entry.reference ? "compared with" : pLogrank(row)),
  )));
}

/** Rows of the tables that belong to no arm that passes the filters are hidden. */
function filterRows(arms) {
  const ids = new Set(arms.map((arm) => arm.id));
  for (const row of document.querySelectorAll("tr[data-arms]")) {
    row.hidden = !row.dataset.arms.split(" ").some((id) => ids.has(Number(id)));
  }
  const failures = [...document.querySelectorAll("#failures tr")];
  const some = failures.some((row) => !row.hidden);
  byId("failures-none").hidden = some;
  byId("failures").closest(".scroll").hidden = !some;
}

function drawCompleteness(arms) {
  const sum = (name) => arms.reduce((total, arm) => total + (arm.statuses[name] ?? 0), 0);
  const planned = arms.reduce((total, arm) => total + arm.planned, 0);
  const items = [["trials", planned], ...DATA.statuses.map((name) => [name, sum(name)]).filter(([name, count]) => count || name === "ok")];
  byId("statuses").replaceChildren(
    ...items.map(([name, count]) => element("li", {}, element("b", {}, count.toLocaleString("en")), name)),
  );
}

function setOptions(select, arms, fallback) {
  const before = select.value;
  select.replaceChildren(...arms.map((arm) => element("option", { value: arm.id }, arm.name)));
  const keep = select.dataset.touched && arms.some((arm) => String(arm.id) === before);
  if (arms.length) select.value = keep ? before : String(fallback.id);
}

/** Draw everything that depends on filters, target and ticks. */
function update() {
  const arms = eligible();
  const selected = drawn(arms);
  const bare = selected.filter((arm) => !DATA.curves[arm.id]).length;
  const out = entryShown().rows.length - arms.length, elsewhere = DATA.arms.length - entryShown().rows.length;
  byId("count").textContent = [
    `${selected.length - bare} of ${arms.length} arms drawn`, bare && `${bare} without curves`, out && `${out} filtered out`,
    elsewhere && `${elsewhere} on another device or kernel`,
  ].filter(Boolean).join("; ");
  drawRanking(arms, selected);
  drawTests(selected);
  filterRows(arms);
  drawCompleteness(arms);
  const mapped = arms.filter((arm) => DATA.heat[arm.id]);
  setOptions(byId("heat-arm-a"), mapped, mapped[0]);
  setOptions(byId("heat-arm-b"), mapped, mapped[mapped.length - 1]);
  drawFigures(arms, selected);
  drawAxes();
}

function setUpTheme() {
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  const apply = () => {
    const theme = chosen ?? (system.matches ? "dark" : "light");
    document.documentElement.dataset.theme = theme;
    byId("theme").textContent = theme === "dark" ? "Light page" : "Dark page";
  };
  byId("theme").addEventListener("click", () => {
    chosen = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    apply();
    update();
  });
  system.addEventListener("change", () => { apply(); update(); });
  // paper is white, and as wide as it is
  let before = null;
  window.addEventListener("beforeprint", () => {
    before = document.documentElement.dataset.theme;
    document.documentElement.dataset.theme = "light";
    resizeFigures(PRINT_WIDTH_PX);
  });
  window.addEventListener("afterprint", () => {
    document.documentElement.dataset.theme = before;
    resizeFigures(null);
  });
  apply();
}

setUpTheme();
setUpControls();
setUpAxes();
for (const side of ["a", "b"]) {
  byId(`heat-arm-${side}`).addEventListener("change", (event) => { event.target.dataset.touched = "yes"; });
}
update();
document.documentElement.dataset.ready = "yes";
