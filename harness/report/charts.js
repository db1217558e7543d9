// The figures. Every name is escaped, for plotly reads some HTML tags in labels and hovers.
"use strict";

const PRINT_WIDTH_PX = 660;
const CONFIG = {
  responsive: true, displaylogo: false, showTips: false, displayModeBar: "hover",
  modeBarButtonsToRemove: ["sendChartToCloud", "select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"],
};
// Found by a search: each stands out from the page by 3 to 1, and any two are told apart (CIE Delta E over 20) with normal sight,
// without red, without green or without blue receptors. The test computes both.
const COLOURS = {
  light: ["#113386", "#e3561a", "#349d64", "#986192", "#473106", "#7b80e2", "#0b162f"],
  dark: ["#9ecafa", "#ff924a", "#21c89b", "#9c6aa4", "#def4f7", "#975b26", "#5c6a5f"],
};
const DASHES = ["solid", "7px,3px", "2px,3px", "9px,3px,2px,3px", "14px,4px"];
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "x", "star", "triangle-down", "cross"];
const SYMBOL_PATHS = [
  "M12 6a4 4 0 1 0 8 0a4 4 0 1 0 -8 0", "M12.5 2.5h7v7h-7z", "M16 1.2l4.8 4.8l-4.8 4.8l-4.8 -4.8z", "M16 1.5l4.6 8h-9.2z",
  "M13 1.5l3 3l3 -3l1.5 1.5l-3 3l3 3l-1.5 1.5l-3 -3l-3 3l-1.5 -1.5l3 -3l-3 -3z",
  "M16 0.8l1.5 3.6l3.9 .3l-3 2.5l1 3.8l-3.4 -2l-3.4 2l1 -3.8l-3 -2.5l3.9 -.3z", "M16 10.5l4.6 -8h-9.2z",
  "M14.6 1.5h2.8v3.1h3.1v2.8h-3.1v3.1h-2.8v-3.1h-3.1v-2.8h3.1z",
];
const escaped = (text) => String(text)
  .replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll("%", "&#37;");
const shortened = (text, length = 44) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);
const cssColour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** An arm keeps its colour, dash and marker whatever is filtered; 280 arms differ in at least one of the three. */
function style(arm) {
  const theme = document.documentElement.dataset.theme;
  return {
    colour: COLOURS[theme][arm.id % 7], dash: DASHES[arm.id % 5], symbol: SYMBOLS[arm.id % 8], path: SYMBOL_PATHS[arm.id % 8],
  };
}

function swatch(arm) {
  const look = style(arm);
  const root = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  for (const [name, value] of Object.entries({ width: 32, height: 12, "aria-hidden": "true" })) root.setAttribute(name, value);
  const line = document.createElementNS(root.namespaceURI, "path");
  const dash = look.dash === "solid" ? "" : look.dash.replaceAll("px", "");
  for (const [name, value] of Object.entries({ d: "M0 6H32", stroke: look.colour, "stroke-width": 2, "stroke-dasharray": dash })) {
    line.setAttribute(name, value);
  }
  const mark = document.createElementNS(root.namespaceURI, "path");
  mark.setAttribute("d", look.path);
  mark.setAttribute("fill", look.colour);
  root.append(line, mark);
  return root;
}

function axis(title, more = {}) {
  return {
    title: { text: title, standoff: 8, font: { size: 13 } }, gridcolor: cssColour("--grid"), linecolor: cssColour("--line"), zeroline: false,
    ticks: "outside", tickcolor: cssColour("--line"), automargin: true, exponentformat: "power", ...more,
  };
}

function layout(x, y, more = {}) {
  return {
    xaxis: x, yaxis: y, showlegend: false, hovermode: "closest", dragmode: "zoom",
    modebar: { bgcolor: "rgba(0,0,0,0)", color: cssColour("--soft"), activecolor: cssColour("--ink") },
    margin: { l: 58, r: 12, t: 30, b: 48 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: cssColour("--ink") },
    hoverlabel: { bgcolor: cssColour("--panel"), bordercolor: cssColour("--line"), font: { color: cssColour("--ink"), size: 13 }, align: "left", namelength: -1 },
    ...more,
  };
}

const empty = (text) => ({
  annotations: [{ text, showarrow: false, xref: "paper", yref: "paper", x: 0.5, y: 0.5, font: { color: cssColour("--soft") } }],
});

function draw(id, traces, plan) {
  Plotly.react(id, traces, traces.length ? plan : { ...plan, ...empty("no data for what is chosen") }, CONFIG);
}

function legend(id, arms) {
  byId(id).replaceChildren(...arms.map((arm) => element("li", {}, swatch(arm), arm.name)));
}

function faded(colour, alpha) {
  const [r, g, b] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  return `rgba(${r},${g},${b},${alpha})`;
}

const clockTitle = () => (clock().unit === "steps" ? "training steps" : "training time (s)");

function drawCurves(arms) {
  const metric = byId("metric").value;
  const traces = [];
  const steps = clock().unit === "steps";
  const drawn = arms.filter((arm) => DATA.curves[arm.id] && (steps || clock().seconds[arm.id]));
  const alpha = drawn.length > 5 ? 0.08 : 0.15;
  for (const arm of drawn) {
    const curve = DATA.curves[arm.id], look = style(arm), x = steps ? curve.step : clock().seconds[arm.id];
    const [low, middle, high] = curve.bands[metric];
    const edge = { x, mode: "lines", line: { width: 0 }, hoverinfo: "skip" };
    traces.push({ ...edge, y: low }, { ...edge, y: high, fill: "tonexty", fillcolor: faded(look.colour, alpha) });
    traces.push({
      x, y: middle, mode: "lines+markers", name: escaped(arm.name), line: { color: look.colour, dash: look.dash, width: 2 },
      marker: { symbol: look.symbol, size: 7, color: look.colour, maxdisplayed: 12 },
      customdata: middle.map((_, at) => [shown(low[at]), shown(high[at]), curve.n[at], shown(curve.step[at]), shown(middle[at])]),
      hovertemplate: `<b>${escaped(arm.name)}</b><br>step %{customdata[3]}: median %{customdata[4]}<br>` +
        "quartiles %{customdata[0]} to %{customdata[1]}, n = %{customdata[2]}<extra></extra>",
    });
  }
  const target = entryShown().value;
  const line = { type: "line", xref: "paper", x0: 0, x1: 1, y0: target, y1: target, line: { color: cssColour("--soft"), width: 1, dash: "dot" } };
  const mark = {
    text: `target ${target}`, xref: "paper", x: 0, xanchor: "left", y: byId("log-y").checked ? Math.log10(target) : target, yanchor: "bottom",
    showarrow: false, font: { size: 12, color: cssColour("--soft") },
  };
  const aimed = metric === "test_accuracy" ? { shapes: [line], annotations: [mark] } : {};
  const plan = layout(
    axis(clockTitle(), { type: byId("log-x").checked ? "log" : "linear" }),
    axis(DATA.metrics[metric], { type: byId("log-y").checked ? "log" : "linear" }), aimed,
  );
  draw("curves", traces, plan);
  legend("curves-legend", drawn);
}

function drawSurvival(arms, all) {
  const entry = clock().survival[state.target];
  const rows = new Map(entryShown().rows.map((row) => [row.arm, row]));
  const isNever = (arm) => rows.get(arm.id).n > 0 && rows.get(arm.id).reached === 0;
  const traces = [];
  const reached = arms.filter((arm) => entry[arm.id] && !isNever(arm));
  for (const arm of reached) {
    const curve = entry[arm.id], look = style(arm);
    traces.push({
      x: curve.x, y: curve.y, mode: "lines+markers", name: escaped(arm.name),
      line: { color: look.colour, dash: look.dash, width: 2, shape: "hv" }, marker: { symbol: look.symbol, size: 7, color: look.colour },
      customdata: curve.y.map((share) => percent(1 - share)),
      hovertemplate: `<b>${escaped(arm.name)}</b><br>at %{x:.4~g}: %{customdata} still below the target<extra></extra>`,
    });
  }
  const never = all.filter(isNever);
  if (never.length) {
    const ends = Object.values(entry).flatMap((one) => one.x.slice(-1));
    const names = never.slice(0, 12).map((arm) => escaped(shortened(arm.name))).join("<br>");
    const rest = never.length > 12 ? `<br>and ${never.length - 12} more` : "";
    traces.push({
      x: [0, Math.max(...ends, 0) || 1], y: [1, 1], mode: "lines", name: "never",
      line: { color: cssColour("--soft"), width: 5 }, opacity: 0.55,
      hovertemplate: `<b>never within the budget: ${never.length}</b><br>${names}${rest}<extra></extra>`,
    });
  }
  draw("survival", traces, layout(
    axis(clockTitle(), { rangemode: "tozero" }), axis("share of runs still below the target", { range: [-0.04, 1.06], tickformat: ".0%" }),
  ));
  legend("survival-legend", reached);
  const note = never.length ? `Never within the budget (thick grey line): ${never.map((arm) => shortened(arm.name)).slice(0, 40).join("; ")}${never.length > 40 ? "; ..." : ""}.` : "";
  byId("never").textContent = note;
}

function drawProfile(arms) {
  const { factors, shares } = clock().profile;
  const drawn = arms.filter((arm) => shares[arm.id]);
  const traces = drawn.map((arm) => {
    const look = style(arm);
    return {
      x: factors, y: shares[arm.id], mode: "lines+markers", name: escaped(arm.name),
      line: { color: look.colour, dash: look.dash, width: 2, shape: "hv" },
      marker: { symbol: look.symbol, size: 7, color: look.colour, maxdisplayed: 9 }, customdata: shares[arm.id].map(percent),
      hovertemplate: `<b>${escaped(arm.name)}</b><br>%{customdata} of its tasks within %{x:.3~g} times the soonest<extra></extra>`,
    };
  });
  draw("profile", traces, layout(
    axis("times the soonest arm's time", { type: "log", tickvals: [1, 2, 4, 8, 16], range: [-0.02, Math.log10(17)] }),
    axis("share of tasks done", { range: [-0.04, 1.06], tickformat: ".0%" }),
  ));
  legend("profile-legend", drawn);
}

function drawThroughput(arms) {
  const ids = new Set(arms.map((arm) => arm.id));
  const groups = DATA.throughput.groups.filter((group) => group.arms.some((id) => ids.has(id)));
  const place = new Map(groups.map((group, index) => [group.id, -index]));
  const traces = [];
  for (const [name, xaxis] of [["images", "x"], ["share", "x2"]]) {
    const rows = groups.filter((group) => group[name]);
    const form = name === "images" ? shown : percent;
    for (const group of rows) {
      const [low, middle, high] = group[name], y = place.get(group.id);
      traces.push(
        { x: [low, high], y: [y, y], xaxis, mode: "lines", line: { width: 12, color: faded(cssColour("--soft"), 0.35) }, hoverinfo: "skip" },
        { x: [middle], y: [y], xaxis, mode: "markers", marker: { symbol: "line-ns", size: 16, line: { width: 3, color: cssColour("--ink") } },
          hovertemplate: `<b>${escaped(group.label)}</b><br>median ${form(middle)}, quartiles ${range(low, high, form)}<br>n = ${group.n}<extra></extra>` },
      );
    }
    for (const point of DATA.throughput.arms.filter((item) => ids.has(item.arm) && place.has(item.group) && item[name])) {
      const arm = DATA.arms[point.arm], look = style(arm), [low, middle, high] = point[name];
      traces.push({
        x: [middle], y: [place.get(point.group) - 0.3], xaxis, mode: "markers", marker: { symbol: look.symbol, size: 8, color: look.colour, opacity: 0.85 },
        hovertemplate: `<b>${escaped(arm.name)}</b><br>median ${form(middle)}, quartiles ${range(low, high, form)}<br>n = ${point.n}<extra></extra>`,
      });
    }
  }
  const narrow = byId("throughput").clientWidth < 620;
  const labels = groups.map((group) => escaped(shortened(group.label, narrow ? 18 : 40)));
  const y = axis("", { tickvals: groups.map((_, index) => -index), ticktext: labels, range: [0.45 - groups.length, 0.5], fixedrange: true });
  const split = narrow ? [[0, 1], [0, 1]] : [[0, 0.62], [0.68, 1]];
  const more = { height: 110 + 74 * Math.max(groups.length, 1) * (narrow ? 1 : 1) };
  const plan = layout(
    axis("images per second", { domain: split[0], rangemode: "tozero", nticks: 6 }), y,
    { ...more, xaxis2: axis("share of matmul rate", { domain: split[1], rangemode: "tozero", tickformat: ".0%", anchor: "y", nticks: 4 }) },
  );
  // a phone has no room for both side by side
  const kept = narrow ? traces.filter((trace) => trace.xaxis === "x") : traces;
  if (narrow) delete plan.xaxis2;
  draw("throughput", kept, plan);
  legend("throughput-legend", arms.filter((arm) => DATA.throughput.arms.some((item) => item.arm === arm.id)));
}

function heatMarks(map, colour, y) {
  const cells = { x: [], y: [], text: [], hover: [] };
  map.equal.forEach((row, at) => row.forEach((equal, step) => {
    if (equal === 0) return;
    cells.x.push(String(map.steps[step]));
    cells.y.push(y[at]);
    cells.text.push(equal === map.n ? "=" : "~");
    cells.hover.push(`<b>${y[at]}</b>, step ${map.steps[step]}<br>bit-equal to its initial value in ${equal} of ${map.n}<extra></extra>`);
  }));
  return {
    x: cells.x, y: cells.y, text: cells.text, mode: "text", textfont: { size: 13, color: colour }, customdata: cells.hover,
    hovertemplate: cells.hover,
  };
}

function drawHeat(side) {
  const id = byId(`heat-arm-${side}`).value, map = id === "" ? null : DATA.heat[id];
  if (!map) return draw(`heat-${side}`, [], layout(axis(""), axis("")));
  const y = map.parameters.map(escaped), x = map.steps.map(String);
  const [low, high] = DATA.heat_range;
  const powers = [...Array(high - low + 1).keys()].map((at) => low + at);
  const ticks = powers.filter((power) => (power - high) % Math.ceil(powers.length / 5) === 0);
  const cells = {
    type: "heatmap", x, y, z: map.strength, zmin: low, zmax: high, colorscale: "Cividis", xgap: 1, ygap: 1, hoverongaps: false,
    customdata: map.strength.map((row, at) => row.map((power, step) => [power === null ? "-" : shown(10 ** power), map.n - map.equal[at][step]])),
    hovertemplate: `<b>%{y}</b>, step %{x}<br>|W − W₀| / |W| = %{customdata[0]}<br>moved in %{customdata[1]} of ${map.n}<extra></extra>`,
    colorbar: {
      orientation: "h", thickness: 10, y: -0.2, yanchor: "top", len: 0.9, outlinewidth: 0, tickvals: ticks,
      ticktext: ticks.map((power) => (power === 0 ? "1" : `10<sup>${power}</sup>`)), title: { text: "|W − W₀| / |W|", side: "bottom" },
    },
  };
  const plan = layout(
    axis("training steps", { type: "category", nticks: 10, showgrid: false }),
    axis("", { type: "category", categoryorder: "array", categoryarray: [...y].reverse(), showgrid: false }),
    { height: 190 + 22 * y.length, plot_bgcolor: cssColour("--panel") },
  );
  draw(`heat-${side}`, [cells, heatMarks(map, cssColour("--ink"), y)], plan);
}

/** Zero has no place on a log axis: it is drawn as a cross on the lowest line, and the hover says 0. */
function signalTraces(arms, name, when) {
  const series = arms.map((arm) => ({ arm, look: style(arm), data: DATA.signals[arm.id][when] })).filter((one) => one.data);
  const positive = series.flatMap((one) => [...one.data[name], ...one.data[`${name}_theory`]]).filter((value) => value > 0);
  const floor = positive.length ? 10 ** (Math.floor(Math.log10(Math.min(...positive))) - 1) : 1e-3;
  const lifted = (values) => values.map((value) => (value === 0 ? floor : value));
  const traces = series.flatMap(({ arm, look, data }) => ["measured", "theory"].map((kind) => {
    const values = data[kind === "measured" ? name : `${name}_theory`], measured = kind === "measured";
    return {
      x: data.layers.map(escaped), y: lifted(values), mode: "lines+markers", name: escaped(arm.name),
      line: { color: look.colour, width: measured ? 2 : 1, dash: measured ? look.dash : "dot" },
      marker: {
        symbol: values.map((value) => (value === 0 ? "x-thin-open" : measured ? look.symbol : `${look.symbol}-open`)),
        size: measured ? 7 : 11, color: look.colour, line: { width: 1.5, color: look.colour },
      },
      customdata: values.map((value) => shown(value)),
      hovertemplate: `<b>${escaped(arm.name)}</b><br>%{x}, ${kind}: %{customdata}<extra></extra>`,
    };
  }));
  return { traces, zero: series.some((one) => one.data[name].includes(0)) ? floor : null };
}

/** Ticks at powers of ten, at most about eight, and "0" where zero is drawn. */
function decades(traces, zero) {
  const powers = traces.flatMap((trace) => trace.y).filter((value) => value > 0 && value !== zero).map(Math.log10);
  if (!powers.length) return zero === null ? {} : { tickvals: [zero], ticktext: ["0"] };
  const low = Math.floor(Math.min(...powers)), high = Math.ceil(Math.max(...powers)), by = Math.ceil((high - low + 1) / 8);
  const ticks = [...Array(high - low + 1).keys()].map((at) => low + at).filter((power) => (high - power) % by === 0);
  const text = ticks.map((power) => (power === 0 ? "1" : power === 1 ? "10" : `10<sup>${power}</sup>`));
  return zero === null
    ? { tickvals: ticks.map((power) => 10 ** power), ticktext: text }
    : { tickvals: [zero, ...ticks.map((power) => 10 ** power)], ticktext: ["0", ...text] };
}

function drawSignals(arms) {
  const when = byId("when").value, drawn = arms.filter((arm) => DATA.signals[arm.id]);
  for (const [name, title] of [["moment", "second moment of the output"], ["gain", "gradient gain through the layer"]]) {
    const { traces, zero } = signalTraces(drawn, name, when);
    draw(`signal-${name}`, traces, layout(axis("layer", { type: "category" }), axis(title, { type: "log", ...decades(traces, zero) })));
  }
  legend("signal-legend", drawn);
}

function drawFigures(arms, selected) {
  drawCurves(selected);
  drawSurvival(selected, arms);
  drawProfile(selected);
  drawThroughput(selected);
  for (const side of ["a", "b"]) drawHeat(side);
  drawSignals(selected);
}

/** Give every figure a width in pixels for paper, or (null) the room that it has. */
function resizeFigures(width) {
  update();
  for (const plot of document.querySelectorAll(".plot")) {
    Plotly.relayout(plot, width === null ? { autosize: true, width: null } : { autosize: false, width });
  }
}
