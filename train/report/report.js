// Draws the page from the data in it. Text from outside becomes text nodes, or is escaped where Plotly reads markup.
"use strict";

const run = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const chosen = { statistic: 0, reading: 0, layer: 0, head: 0, text: 0, probe: 0 }; // layer: index among RePo layers
const redraws = []; // everything that depends on the colours of the theme

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

const escaped = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

function figures(value) {
  if (value === null || value === undefined) return "";
  const size = Math.abs(value);
  if (size >= 1e5) return value.toLocaleString("en", { maximumFractionDigits: 0 });
  return size && size < 1e-3 ? value.toExponential(2) : String(Number(value.toPrecision(4)));
}

function sentence(text) {
  return text && `${text[0].toUpperCase()}${text.slice(1)}.`;
}

// ---------------------------------------------------------------- Plotly, dressed

const CONFIG = { responsive: true, displayModeBar: false };

function layout(changes = {}) {
  const axis = { gridcolor: color("grid"), zeroline: false, linecolor: color("line"), automargin: true, fixedrange: false };
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false,
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom", // a finger scrolls the page
    margin: { l: 44, r: 8, t: 8, b: 30 }, hovermode: "closest",
    font: { family: color("sans"), size: 11.5, color: color("muted") },
    hoverlabel: { bgcolor: color("card"), bordercolor: color("line"), font: { color: color("ink"), family: color("sans") } },
    ...changes,
    xaxis: { ...axis, ...changes.xaxis }, yaxis: { ...axis, exponentformat: "e", ...changes.yaxis },
  };
}

function scale(...names) {
  return names.map((name, index) => [index / (names.length - 1), color(name)]);
}

const sequential = () => scale("low", "mid-low", "mid", "mid-high", "high");
const diverging = () => scale("cold", "zero", "warm");

function blend(stops, share) { // the color at `share` of a scale
  const place = Math.min(Math.max(share, 0), 1) * (stops.length - 1);
  const below = Math.min(Math.floor(place), stops.length - 2);
  const part = (stop, at) => parseInt(stops[stop][1].slice(1 + 2 * at, 3 + 2 * at), 16);
  const mixed = [0, 1, 2].map((at) => Math.round(part(below, at) + (place - below) * (part(below + 1, at) - part(below, at))));
  return `rgb(${mixed.join(",")})`;
}

function extent(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) if (value !== null) { low = Math.min(low, value); high = Math.max(high, value); }
  return low <= high ? [low, high] : [0, 1];
}

function valueAxis(low) { // logarithmic if that is wanted, and the lowest number has a logarithm
  return low > 0 && $("axis-y").value === "log" ? "log" : "linear";
}

function marks(curves) { // a line for each finding and each resume, as high as the curves
  const [low, high] = extent(curves.flatMap((curve) => curve.y));
  const line = (step, tone, text, dash) => ({
    x: [step, step], y: [low, high], mode: "lines", text: [text, text], hovertemplate: "%{text}<extra></extra>",
    line: { color: color(tone), width: 1.3, dash },
  });
  const wrapped = (text) => escaped(text).replace(/(.{60,}?)\s/g, "$1<br>");
  return [
    ...run.marks.map((step) => line(step, "faint", `resumed after step ${step}`, "dot")),
    ...run.events.map((event) =>
      line(event.step, event.event === "alert" ? "alert" : "good", `step ${event.step}: ${wrapped(event.message)}`, "dash")),
  ];
}

function card(parent, title, value) {
  const plot = element("div", { className: "plot" });
  parent.append(element("figure", {}, element("figcaption", {}, element("span", { textContent: title }),
    element("strong", { textContent: value })), plot));
  return plot;
}

function draw(redraw) {
  redraws.push(redraw);
  redraw();
}

// ---------------------------------------------------------------- curves over steps

function drawCharts(parent, charts) {
  for (const chart of charts) {
    const plot = card(parent, chart.title, figures(chart.smooth_y.at(-1) ?? chart.y.at(-1)));
    draw(() => {
      const noisy = chart.smooth_y.length > 0;
      const hover = `step %{x}: %{y:.5g}<extra></extra>`;
      const raw = { x: chart.x, y: chart.y, mode: chart.x.length > 1 ? "lines" : "markers", hovertemplate: hover,
        line: { color: color(noisy ? "faint" : "accent"), width: noisy ? 1 : 1.8 }, opacity: noisy ? 0.75 : 1 };
      const mean = { x: chart.smooth_x, y: chart.smooth_y, mode: "lines", hovertemplate: `mean ${hover}`,
        line: { color: color("accent"), width: 2 } };
      const [low, high] = extent(chart.y);
      const exponentformat = high >= 1000 ? "SI" : "e"; // 400k, but 6e-5
      const axes = { xaxis: { type: $("axis-x").value }, yaxis: { type: valueAxis(low), exponentformat } };
      Plotly.react(plot, [raw, ...(noisy ? [mean] : []), ...marks([chart])], layout(axes), CONFIG);
    });
  }
}

function drawLayers(parent, series) {
  for (const statistic of series) {
    const last = statistic.curves.map((curve) => curve.y.at(-1));
    const [low, high] = extent(last);
    const plot = card(parent, statistic.label, low === high ? figures(low) : `${figures(low)} – ${figures(high)}`);
    plot.previousSibling.title = sentence(statistic.meaning);
    draw(() => {
      const stops = scale("mid-low", "mid", "mid-high");
      const traces = statistic.curves.map((curve, index) => ({
        x: curve.x, y: curve.y, mode: curve.x.length > 1 ? "lines" : "markers",
        line: { width: 1.5, color: blend(stops, index / Math.max(1, statistic.curves.length - 1)) },
        hovertemplate: `layer ${escaped(curve.title)}, step %{x}: %{y:.4g}<extra></extra>`,
      }));
      Plotly.react(plot, [...traces, ...marks(statistic.curves)],
        layout({ xaxis: { type: $("axis-x").value }, yaxis: { type: valueAxis(extent(statistic.curves.flatMap((curve) => curve.y))[0]) } }), CONFIG);
    });
  }
}

// ---------------------------------------------------------------- heads

function colors(statistic) { // limits and scale of the heat map: signed numbers pale at zero, wide ranges by decades
  const readings = $("range").value === "run" ? statistic.values : [statistic.values[chosen.reading]];
  const numbers = readings.flat(2).filter((value) => value !== null).sort((a, b) => a - b);
  if (!numbers.length) return { zmin: 0, zmax: 1, colorscale: sequential() };
  const at = (share) => numbers[Math.round(share * (numbers.length - 1))];
  const [low, high] = [at(0.005), at(0.995)]; // one stray head must not blanch the others
  if (low < 0 && high > 0) {
    const limit = Math.max(-low, high);
    return { zmin: -limit, zmax: limit, colorscale: diverging() };
  }
  if (low > 0 && high / low > 50) {
    const [first, last] = [Math.log10(low), Math.log10(high)];
    const decades = [...Array(40).keys()].map((index) => index - 20).filter((decade) => first <= decade && decade <= last);
    return { zmin: first, zmax: last, colorscale: sequential(), byDecades: true, tickvals: decades,
      ticktext: decades.map((decade) => figures(10 ** decade)) };
  }
  return { zmin: low, zmax: high > low ? high : low + Math.max(Math.abs(low), 1e-9), colorscale: sequential() };
}

function drawHeat() {
  const { layers, heads, steps, statistics } = run.heads;
  const statistic = statistics[chosen.statistic];
  const z = statistic.values[chosen.reading];
  const unit = statistic.unit ? ` ${escaped(statistic.unit)}` : "";
  const box = { type: "rect", x0: chosen.head - 0.5, x1: chosen.head + 0.5, y0: chosen.layer - 0.5, y1: chosen.layer + 0.5,
    line: { color: color("ink"), width: 1.6 } };
  const every = (count, most) => [...Array(count).keys()].filter((index) => index % Math.ceil(count / most) === 0);
  const rows = every(layers.length, 16), columns = every(heads, 16);
  const { byDecades, tickvals, ticktext, ...limits } = colors(statistic);
  Plotly.react($("heat"), [{
    type: "heatmap", z: byDecades ? z.map((row) => row.map((value) => value > 0 ? Math.log10(value) : null)) : z,
    ...limits, xgap: 1.5, ygap: 1.5,
    text: z.map((row, layer) => row.map((value, head) => `layer ${layers[layer]}, head ${head}: ${figures(value)}${unit}`)),
    hovertemplate: "%{text}<extra></extra>",
    colorbar: { thickness: 10, outlinewidth: 0, len: 1, x: 1.02, tickformat: ".3~g", tickvals, ticktext },
  }], layout({
    shapes: [box], margin: { l: 40, r: 8, t: 8, b: 40 }, dragmode: false,
    xaxis: { title: { text: "head", standoff: 6 }, showgrid: false, tickvals: columns, fixedrange: true },
    yaxis: { title: { text: "layer", standoff: 6 }, showgrid: false, tickvals: rows, ticktext: rows.map((row) => layers[row]), fixedrange: true },
  }), CONFIG);
  $("heat-label").textContent = `step ${steps[chosen.reading]}`;
  $("heat-value").textContent = figures(z[chosen.layer]?.[chosen.head]);
  $("meaning").textContent = sentence(statistic.meaning);
}

function drawHistory() {
  const { layers, heads, steps, statistics } = run.heads;
  const statistic = statistics[chosen.statistic];
  const curve = (head) => statistic.values.map((reading) => reading[chosen.layer]?.[head] ?? null);
  const trace = (head, tone, width) => ({ x: steps, y: curve(head), mode: steps.length > 1 ? "lines" : "markers",
    line: { color: color(tone), width }, hovertemplate: `head ${head}, step %{x}: %{y:.4g}<extra></extra>` });
  const all = [...Array(heads).keys()].map((head) => ({ y: curve(head) }));
  const [low, high] = extent(all.flatMap((one) => one.y));
  const now = chosen.reading === steps.length - 1 ? {} : { x: [steps[chosen.reading], steps[chosen.reading]], y: [low, high], mode: "lines", hoverinfo: "skip",
    line: { color: color("muted"), width: 1 } };
  const others = [...Array(heads).keys()].filter((head) => head !== chosen.head).map((head) => trace(head, "faint", 1));
  Plotly.react($("history"), [...others, now, ...marks(all), trace(chosen.head, "accent", 2.4)],
    layout({ xaxis: { type: $("axis-x").value, title: { text: "step", standoff: 6 } }, yaxis: { type: valueAxis(low) }, margin: { l: 44, r: 8, t: 8, b: 40 } }), CONFIG);
  $("history-title").textContent = `${statistic.label}: layer ${layers[chosen.layer]}, head ${chosen.head}`;
  $("history-value").textContent = figures(curve(chosen.head).at(-1));
}

// ---------------------------------------------------------------- tokens

function bytes(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0)).buffer;
}

function unpack(text) { // [S, L, H, T]: 16-bit levels between the lowest number of a row and its highest
  const [, layers, heads, length] = text.shape;
  const levels = new DataView(bytes(text.levels)), low = new DataView(bytes(text.low)), range = new DataView(bytes(text.range));
  return (step, layer, head) => {
    const row = (step * layers + layer) * heads + head;
    const [from, by] = [low.getFloat32(4 * row, true), range.getFloat32(4 * row, true)];
    return Array.from({ length }, (_, token) => from + (by * levels.getUint16(2 * (row * length + token), true)) / 65535);
  };
}

function visible(piece) {
  return escaped(piece.replace(/\n/g, "↵").replace(/ /g, "·").replace(/\t/g, "→"));
}

function drawCurve() {
  const { layers, steps, texts } = run.probes;
  const text = texts[chosen.text];
  const heads = text.shape[2];
  const layer = Math.max(0, layers.indexOf(currentLayer()));
  const head = Math.min(chosen.head, heads - 1);
  const index = text.pieces.map((_, token) => token);
  const z = text.z(chosen.probe, layer, head);
  const others = [...Array(heads).keys()].filter((other) => other !== head).map((other) => ({
    x: index, y: text.z(chosen.probe, layer, other), mode: "lines", hoverinfo: "skip", opacity: 0.55,
    line: { color: color("faint"), width: 0.8 } }));
  const main = { x: index, y: z, mode: "lines+markers", text: text.pieces.map(visible),
    line: { color: color("accent"), width: 1.6 }, marker: { size: 4.5, color: color("accent") },
    hovertemplate: "<b>%{text}</b><br>token %{x} at z = %{y:.4g}<extra></extra>" };
  Plotly.react($("curve"), [...others, main], layout({
    xaxis: { title: { text: "token index", standoff: 6 } }, yaxis: { title: { text: "position z", standoff: 6 } },
    margin: { l: 48, r: 8, t: 8, b: 40 } }), CONFIG);
  const [low, high] = extent(z);
  $("curve-label").textContent = `step ${steps[chosen.probe]}`;
  $("curve-title").textContent = `${text.name}: layer ${layers[layer]}, head ${head}`;
  $("curve-value").textContent = `z from ${figures(low)} to ${figures(high)}`;
  $("tokens").replaceChildren(...text.pieces.map((piece, token) => {
    const span = element("span", { textContent: piece, title: `token ${token} at z = ${figures(z[token])}` });
    span.style.background = `color-mix(in srgb, var(--accent) ${Math.round(60 * (z[token] - low) / (high - low || 1))}%, transparent)`;
    span.onmouseenter = () => Plotly.Fx.hover($("curve"), [{ curveNumber: others.length, pointNumber: token }]);
    return span;
  }));
}

function currentLayer() {
  return (run.heads ?? run.probes).layers[chosen.layer];
}

// ---------------------------------------------------------------- controls

function choose(changes) {
  Object.assign(chosen, changes);
  const { reading, probe, ...kept } = chosen; // a reload of a run that goes on shows its newest steps
  const address = `#${new URLSearchParams(kept)}`;
  if (location.hash !== address) location.replace(address);
  $("layer").value = currentLayer();
  $("head").value = chosen.head;
  if (run.heads && !("text" in changes || "probe" in changes)) { drawHeat(); drawHistory(); }
  if (run.probes && !("reading" in changes || "statistic" in changes)) drawCurve();
}

function scrubber(name, steps, key) { // a slider over steps, and a button that plays them
  const [slider, button] = [$(`${name}-step`), $(`${name}-play`)];
  Object.assign(slider, { min: 0, max: steps.length - 1, step: 1, value: steps.length - 1, disabled: steps.length < 2 });
  chosen[key] = steps.length - 1;
  slider.oninput = () => choose({ [key]: Number(slider.value) });
  let timer = null;
  const stop = () => { clearInterval(timer); timer = null; button.classList.remove("on"); };
  button.onclick = () => {
    if (timer) { stop(); return; }
    if (Number(slider.value) === steps.length - 1) { slider.value = 0; slider.oninput(); }
    button.classList.add("on");
    timer = setInterval(() => {
      slider.value = Number(slider.value) + 1;
      slider.oninput();
      if (Number(slider.value) === steps.length - 1) stop();
    }, 220);
  };
}

function options(select, entries) {
  select.replaceChildren(...entries.map(([value, label]) => element("option", { value, textContent: label })));
}

function header() {
  $("name").textContent = run.name;
  Object.assign($("status"), { textContent: run.status.text, className: `pill ${run.status.state}` });
  $("progress").firstElementChild.style.width = `${100 * run.progress}%`;
  $("facts").append(...run.facts.map(([label, value]) =>
    element("div", {}, element("dt", { textContent: label }), element("dd", { textContent: value }))));
  $("written").textContent = `Written ${run.written}. Drag over a chart to zoom, double-click to see it whole again.`;
}

function findings() {
  const watched = run.heads !== null;
  $("findings").querySelector("p").textContent = run.events.length ? "" : watched
    ? "The position watch has found nothing wrong."
    : "There is no position watch: no layer of this run learns its positions.";
  $("findings").querySelector("ol").append(...run.events.toReversed().map((event) =>
    element("li", { className: event.event }, element("b", { textContent: event.kind.replace(/_/g, " ") }),
      element("span", { textContent: `${event.event} at step ${event.step}${event.where ? `, ${event.where}` : ""}` }),
      element("p", { textContent: event.message }))));
}

function remember() { // what was chosen before a reload
  const said = new URLSearchParams(location.hash.slice(1));
  const { layers, statistics = [] } = run.heads ?? run.probes ?? { layers: [] };
  const spread = Math.max(0, statistics.findIndex((statistic) => statistic.name === "std"));
  const index = (key, count, otherwise = 0) => {
    const value = Number(said.get(key) ?? otherwise);
    return Number.isInteger(value) && value >= 0 && value < count ? value : otherwise;
  };
  Object.assign(chosen, {
    statistic: index("statistic", statistics.length, spread), layer: index("layer", layers.length),
    head: index("head", run.heads?.heads ?? run.probes?.texts[0].shape[2] ?? 0), text: index("text", run.probes?.texts.length ?? 0),
  });
}

function fold(section, parent, charts) { // drawn when it is opened: a hidden chart has no width
  $(section).hidden = !charts.length;
  $(section).querySelector("details").addEventListener("toggle", () => drawCharts($(parent), charts), { once: true });
}

function main() {
  remember();
  header();
  findings();
  drawCharts($("main-charts"), run.main);
  drawLayers($("layer-charts"), run.layers);
  $("maps").hidden = !run.layers.length;
  fold("means", "model-charts", run.model);
  fold("rest", "other-charts", run.other);
  if (run.heads) {
    options($("statistic"), run.heads.statistics.map((statistic, index) => [index, statistic.label]));
    $("statistic").value = chosen.statistic;
    scrubber("heat", run.heads.steps, "reading");
    $("statistic").onchange = () => choose({ statistic: Number($("statistic").value) });
    $("range").onchange = drawHeat;
    draw(drawHeat);
    draw(drawHistory);
    $("heat").on("plotly_click", ({ points: [point] }) => choose({ layer: point.y, head: point.x }));
  }
  $("positions").hidden = !run.heads;
  if (run.probes) {
    run.probes.texts.forEach((text) => { text.z = unpack(text); });
    $("texts").append(...run.probes.texts.map((text, index) => element("button", {
      type: "button", role: "tab", textContent: text.name, ariaSelected: String(index === chosen.text),
      onclick: (event) => {
        for (const tab of $("texts").children) tab.ariaSelected = String(tab === event.currentTarget);
        choose({ text: index });
      },
    })));
    options($("layer"), (run.heads ?? run.probes).layers.map((layer) => [layer, layer]));
    options($("head"), [...Array(run.probes.texts[0].shape[2]).keys()].map((head) => [head, head]));
    Object.assign($("layer"), { selectedIndex: chosen.layer });
    Object.assign($("head"), { selectedIndex: chosen.head });
    $("layer").onchange = () => choose({ layer: $("layer").selectedIndex });
    $("head").onchange = () => choose({ head: $("head").selectedIndex });
    scrubber("curve", run.probes.steps, "probe");
    draw(drawCurve);
    $("curve").on("plotly_hover", ({ points: [point] }) => {
      for (const span of $("tokens").querySelectorAll(".at")) span.classList.remove("at");
      $("tokens").children[point.pointNumber]?.classList.add("at");
    });
  }
  $("probes").hidden = !run.probes;
  for (const axis of ["axis-x", "axis-y"]) $(axis).onchange = () => redraws.forEach((redraw) => redraw());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redraws.forEach((redraw) => redraw()));
}

main();
