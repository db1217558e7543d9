// Numeric axes: curves over one setting, maps over two, and the tables of best values. All numbers and sentences are Python's.
"use strict";

const DASH_NAMES = ["Solid", "Dashed", "Dotted", "Dash-dotted", "Long-dashed"];
const MOST_CURVES = 12, MOST_WRITTEN_ROWS = 20;

function setUpAxes() {
  for (const select of document.querySelectorAll("select.axis-measure")) {
    for (const [column, title] of Object.entries(DATA.axes.measures)) select.append(element("option", { value: column }, title));
    select.addEventListener("change", drawAxes);
  }
  const fill = (id, names) => {
    if (!byId(id)) return;
    names.forEach((name, index) => byId(id).append(element("option", { value: index }, name)));
    byId(id).addEventListener("change", drawAxes);
  };
  fill("axis", DATA.axes.axes.map((axis) => axis.name));
  fill("map-of", DATA.axes.maps.map((map) => `${map.y_axis} by ${map.x_axis}${map.name && `, ${map.name}`}`));
}

function drawAxes() {
  if (byId("axis")) drawSensitivity(DATA.axes.axes[byId("axis").value], byId("axis-measure").value);
  if (byId("map-of")) drawMap(DATA.axes.maps[byId("map-of").value], byId("map-measure").value);
}

/** The counts of one point in words, for hovers. */
function runsSaid(n, diverged, reached, unfinished) {
  return [
    `n = ${n}`, `${reached} reached ${DATA.axes.target}`, diverged && `${diverged} diverged`, unfinished && `${unfinished} not finished`,
  ].filter(Boolean).join(", ");
}

function sensitivityTraces(family, look, measure, axisName, alpha) {
  const [low, middle, high] = family.bands[measure];
  const edge = { x: family.x, mode: "lines", line: { width: 0 }, hoverinfo: "skip" };
  const said = family.x.map((value, at) => [
    shown(middle[at]), range(low[at], high[at]), runsSaid(family.n[at], family.diverged[at], family.reached[at], family.unfinished[at]), String(value),
  ]);
  return [
    { ...edge, y: low }, { ...edge, y: high, fill: "tonexty", fillcolor: faded(look.colour, alpha) },
    {
      x: family.x, y: middle, mode: "lines+markers", name: escaped(family.name), line: { color: look.colour, dash: look.dash, width: 2 },
      marker: { symbol: look.symbol, size: 8, color: look.colour }, customdata: said,
      hovertemplate: `<b>${escaped(family.name || "all arms")}</b><br>${escaped(axisName)} %{customdata[3]}: median %{customdata[0]}<br>` +
        "quartiles %{customdata[1]}<br>%{customdata[2]}<extra></extra>",
    },
  ];
}

function drawSensitivity(along, measure) {
  const drawn = along.families.slice(0, MOST_CURVES).map((family, id) => ({ family, look: style({ id }), id, name: family.name || "all arms" }));
  const alpha = drawn.length > 5 ? 0.08 : 0.15;
  const traces = drawn.flatMap(({ family, look }) => sensitivityTraces(family, look, measure, along.name, alpha));
  const points = along.families.flatMap((family) => family.x);
  const type = along.spacing === "log" && points.every((value) => value > 0) ? "log" : "linear";
  const tried = [...new Set(points)].sort((one, other) => one - other);
  const by = Math.ceil(tried.length / (byId("sensitivity").clientWidth < 620 ? 5 : 12));
  const tickvals = tried.filter((_, at) => at % by === 0);
  const x = axis(escaped(along.name), { type, tickvals, ticktext: tickvals.map(String) });
  draw("sensitivity", traces, layout(x, axis(DATA.axes.measures[measure])));
  legend("sensitivity-legend", drawn);
  const undrawn = along.families.length - drawn.length;
  byId("sensitivity-notes").textContent = [
    ...along.notes, ...(undrawn ? [`Drawn: the ${drawn.length} with the best medians; the table has all ${along.families.length}.`] : []),
  ].join(" ");
  drawBest(along, measure);
  drawOwnBest(along);
}

function drawBest(along, measure) {
  const better = DATA.axes.larger_is_better[measure] ? "larger" : "smaller";
  byId("best-caption").textContent = `Best ${along.name} of each, by ${DATA.axes.measures[measure]}, where ${better} is better. Good: ${DATA.axes.margins[measure]}.`;
  byId("best").replaceChildren(...along.rows[measure].map((row, id) => element(
    "tr", {},
    element("td", { class: "key" }, id < MOST_CURVES ? swatch({ id }) : null), element("th", { scope: "row", class: "name" }, ...named({ name: row.name || "all arms" })),
    element("td", { class: "number" }, row.best), element("td", { class: "number" }, shown(row.median)), element("td", { class: "good-range" }, row.good),
    element("td", { class: "number" }, row.tried), element("td", { class: "number" }, row.runs), element("td", { class: "number" }, row.diverged),
    element("td", { class: "why" }, row.warning),
  )));
  byId("best").closest(".scroll").classList.toggle("tall", along.rows[measure].length > WHOLE_ROWS);
}

function drawOwnBest(along) {
  byId("own-best-part").hidden = !along.own_best.length;
  byId("own-best-caption").textContent = `By final test accuracy, each at the ${along.name} that its other half of the seeds chose.`;
  byId("own-best").replaceChildren(...along.own_best.map((row) => element(
    "tr", {},
    element("td", { class: "number" }, shown(row.rank)), element("th", { scope: "row", class: "name" }, ...named(row)),
    element("td", { class: `verdict ${row.kind}` }, row.verdict), element("td", {}, row.chosen),
    element("td", { class: "number" }, shown(row.mean)), element("td", { class: "number" }, shown(row.same)),
    element("td", { class: "number" }, row.n), element("td", { class: "number" }, probability(row.p)),
  )));
  byId("own-best").closest(".scroll").classList.toggle("tall", along.own_best.length > WHOLE_ROWS);
}

/** Cells are numbered, so that all are equally wide; ticks are thinned to what there is room for. */
function numbered(name, values, room) {
  const by = Math.ceil(values.length / room);
  const ticks = values.map((_, at) => at).filter((at) => at % by === 0);
  return axis(escaped(name), {
    tickvals: ticks, ticktext: ticks.map((at) => String(values[at])), range: [-0.5, values.length - 0.5], showgrid: false, zeroline: false,
  });
}

function mapCells(map, measure) {
  const place = (values) => values.map((_, at) => at);
  const said = map.medians[measure].map((row, y) => row.map((median, x) => [
    String(map.x[x]), String(map.y[y]), median === null ? "not finite" : shown(median),
    runsSaid(map.n[y][x], map.diverged[y][x], map.reached[y][x], map.unfinished[y][x]),
  ]));
  // numbers stand in the cells where there is room for them
  const roomy = byId("map").clientWidth / map.x.length > 42 && map.y.length <= MOST_WRITTEN_ROWS;
  const text = map.medians[measure].map((row) => row.map((median) => (median === null ? "" : shown(median, 2))));
  const written = roomy ? { text, texttemplate: "%{text}", textfont: { size: 12 } } : {};
  return {
    type: "heatmap", x: place(map.x), y: place(map.y), z: map.medians[measure], colorscale: "Cividis", xgap: 1, ygap: 1, hoverongaps: false,
    customdata: said, ...written, reversescale: !DATA.axes.larger_is_better[measure],
    hovertemplate: `${escaped(map.x_axis)} %{customdata[0]}, ${escaped(map.y_axis)} %{customdata[1]}<br>median %{customdata[2]}<br>%{customdata[3]}<extra></extra>`,
    colorbar: { orientation: "h", thickness: 10, y: -0.2, yanchor: "top", len: 0.9, outlinewidth: 0, title: { text: DATA.axes.measures[measure], side: "bottom", font: { size: 13 } } },
  };
}

/** Cells with trials and no finite value: without these marks they would look as if nobody had tried. */
function mapMarks(map, measure) {
  const marks = { x: [], y: [], hover: [] };
  map.medians[measure].forEach((row, y) => row.forEach((median, x) => {
    if (median !== null || map.n[y][x] + map.unfinished[y][x] === 0) return;
    marks.x.push(x);
    marks.y.push(y);
    const counts = runsSaid(map.n[y][x], map.diverged[y][x], map.reached[y][x], map.unfinished[y][x]);
    marks.hover.push(`${escaped(map.x_axis)} ${map.x[x]}, ${escaped(map.y_axis)} ${map.y[y]}<br>no finite value<br>${counts}<extra></extra>`);
  }));
  return {
    x: marks.x, y: marks.y, mode: "markers", marker: { symbol: "x-thin", size: 9, line: { width: 1.5, color: cssColour("--ink") } },
    hovertemplate: marks.hover,
  };
}

/** White below and black above: a line that is seen on every colour of the map. */
function theoryTraces(line, at) {
  const path = { x: line.x, y: line.y, mode: "lines", connectgaps: false, hoverinfo: "skip" };
  const look = { color: "#000000", width: 2, dash: DASHES[at % DASHES.length] };
  return [
    { ...path, line: { color: "#ffffff", width: 5 } },
    { ...path, line: look, hoverinfo: "text", text: `<b>${escaped(line.label)}</b><br>${escaped(line.source)}` },
  ];
}

function drawMap(map, measure) {
  const narrow = byId("map").clientWidth < 620;
  const marks = mapMarks(map, measure);
  const traces = [mapCells(map, measure), ...(marks.x.length ? [marks] : []), ...map.lines.flatMap(theoryTraces)];
  const plan = layout(numbered(map.x_axis, map.x, narrow ? 6 : 16), numbered(map.y_axis, map.y, 24), {
    height: Math.min(720, 230 + 26 * map.y.length), plot_bgcolor: cssColour("--panel"),
  });
  draw("map", traces, plan);
  byId("map-lines").textContent = map.lines.map((line, at) => `${DASH_NAMES[at % DASH_NAMES.length]} line: ${line.label} (${line.source}).`).join(" ");
}
