// Curves over steps, and what all charts share: colors, axes, marks of alerts and resumes.
// Text from outside becomes text nodes, or is escaped where Plotly reads markup.
"use strict";

const run = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const chosen = { statistic: 0, reading: 0, layer: 0, head: 0, text: 0, probe: 0 }; // layer: index among learned layers
const redraws = []; // everything that depends on the colors of the theme

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

function explanation({ meaning, unit }) {
  // what a figure means and is counted in; nothing for a metric that report/metrics.py does not know
  return [sentence(meaning), unit && `Unit: ${unit}.`].filter(Boolean).join(" ");
}

// ---------------------------------------------------------------- Plotly layout

const CONFIG = { responsive: true, displayModeBar: false };

function layout(changes = {}) {
  const axis = {
    gridcolor: color("grid"),
    zeroline: false,
    linecolor: color("line"),
    automargin: true,
    fixedrange: false,
  };
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    showlegend: false,
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom", // a finger scrolls the page
    margin: { l: 44, r: 8, t: 8, b: 30 },
    hovermode: "closest",
    font: { family: color("sans"), size: 11.5, color: color("muted") },
    hoverlabel: {
      bgcolor: color("card"),
      bordercolor: color("line"),
      font: { color: color("ink"), family: color("sans") },
    },
    ...changes,
    xaxis: { ...axis, ...changes.xaxis },
    yaxis: { ...axis, exponentformat: "e", ...changes.yaxis },
  };
}

function scale(...names) {
  return names.map((name, index) => [index / (names.length - 1), color(name)]);
}

const sequential = () => scale("low", "mid-low", "mid", "mid-high", "high");
const diverging = () => scale("cold", "zero", "warm");

function blend(stops, share) {
  // the color at `share` of a scale
  const scaled = Math.min(Math.max(share, 0), 1) * (stops.length - 1);
  const below = Math.min(Math.floor(scaled), stops.length - 2);
  const part = (stop, at) => parseInt(stops[stop][1].slice(1 + 2 * at, 3 + 2 * at), 16);
  const mixed = [0, 1, 2].map((at) =>
    Math.round(part(below, at) + (scaled - below) * (part(below + 1, at) - part(below, at))),
  );
  return `rgb(${mixed.join(",")})`;
}

// of curves that have names and no order (sources, runs); after the last color they begin again, dashed
const CATEGORIES = ["#0f7c8f", "#d1603d", "#6b5fb5", "#5b8c3e", "#c2507f", "#b08a1e", "#4a7fc1", "#8a6d5a"];
const MOST_IN_LEGENDS = 6; // more leave no room for the curves; a touch or the mouse names a curve too
const DASHES = ["solid", "dash", "dot", "dashdot"];

function lineOf(index, count, isNamed) {
  const dash = DASHES[Math.floor(index / CATEGORIES.length) % DASHES.length];
  if (isNamed) return { width: 1.7, color: CATEGORIES[index % CATEGORIES.length], dash };
  return { width: 1.5, color: blend(scale("mid-low", "mid", "mid-high"), index / Math.max(1, count - 1)) };
}

function extent(values) {
  let low = Infinity,
    high = -Infinity;
  for (const value of values)
    if (value !== null) {
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
  return low <= high ? [low, high] : [0, 1];
}

function valueAxis([low, high], byDecades = false) {
  // Logarithmic if that is chosen, or if `byDecades` and the numbers span more than a factor of 50, and all are above 0.
  // A constant gets a margin of a tenth of its size: Plotly would take 1 on either side.
  if (low > 0 && ($("axis-y").value === "log" || (byDecades && high / low > 50))) return { type: "log" };
  const margin = low === high ? 0.1 * Math.abs(low) : 0;
  return { type: "linear", ...(margin && { range: [low - margin, high + margin] }) };
}

function marks(curves) {
  // a line for each alert, recovery, rollback and resume, as high as the curves
  const [low, high] = extent(curves.flatMap((curve) => curve.y));
  const line = (step, tone, text, dash) => ({
    x: [step, step],
    y: [low, high],
    mode: "lines",
    text: [text, text],
    hovertemplate: "%{text}<extra></extra>",
    line: { color: color(tone), width: 1.3, dash },
  });
  const wrapped = (text) => escaped(text).replace(/(.{60,}?)\s/g, "$1<br>");
  return [
    ...run.marks.map((step) => line(step, "faint", `resumed after step ${step}`, "dot")),
    ...run.events.map((event) =>
      line(
        event.step,
        event.event === "recovery" ? "good" : "alert",
        `step ${event.step}: ${wrapped(event.message)}`,
        "dash",
      ),
    ),
  ];
}

function card(parent, chart, value) {
  const plot = element("div", { className: "plot" });
  parent.append(
    element(
      "figure",
      {},
      element("figcaption", {}, element("span", { textContent: chart.label }), element("strong", { textContent: value })),
      element("p", { className: "note", textContent: explanation(chart) }),
      plot,
    ),
  );
  return plot;
}

function draw(redraw) {
  redraws.push(redraw);
  redraw();
}

// ---------------------------------------------------------------- curves over steps

function drawCharts(parent, charts) {
  for (const chart of charts) {
    const plot = card(parent, chart, figures(chart.smooth_y.at(-1) ?? chart.y.at(-1)));
    draw(() => {
      const noisy = chart.smooth_y.length > 0;
      const hover = `step %{x}: %{y:.5g}<extra></extra>`;
      const raw = {
        x: chart.x,
        y: chart.y,
        mode: chart.x.length > 1 ? "lines" : "markers",
        hovertemplate: hover,
        line: { color: color(noisy ? "faint" : "accent"), width: noisy ? 1 : 1.8 },
        opacity: noisy ? 0.75 : 1,
      };
      const mean = {
        x: chart.smooth_x,
        y: chart.smooth_y,
        mode: "lines",
        hovertemplate: `mean ${hover}`,
        line: { color: color("accent"), width: 2 },
      };
      const limits = extent(chart.y);
      const exponentformat = limits[1] >= 1000 ? "SI" : "e"; // 400k, but 6e-5
      const axes = { xaxis: { type: $("axis-x").value }, yaxis: { ...valueAxis(limits), exponentformat } };
      Plotly.react(plot, [raw, ...(noisy ? [mean] : []), ...marks([chart])], layout(axes), CONFIG);
    });
  }
}

// `of`: what one curve belongs to, such as "layer"; `named`: whether the curves have names and no order; `axis`: what x is
function drawSeries(parent, series, of, { named = false, axis = "step", legend = named } = {}) {
  for (const each of series) {
    const last = each.curves.map((curve) => curve.y.at(-1));
    const [low, high] = extent(last);
    const plot = card(parent, each, low === high ? figures(low) : `${figures(low)} – ${figures(high)}`);
    draw(() => {
      const traces = each.curves.map((curve, index) => ({
        x: curve.x,
        y: curve.y,
        name: escaped(curve.title),
        mode: curve.x.length > 1 ? "lines" : "markers",
        line: lineOf(curve.color ?? index, each.curves.length, named),
        hovertemplate: `${of} ${escaped(curve.title)}, ${axis} %{x}: %{y:.4g}<extra></extra>`,
      }));
      const unnamed = marks(each.curves).map((mark) => ({ ...mark, showlegend: false }));
      Plotly.react(
        plot,
        [...traces, ...unnamed],
        layout({
          showlegend: legend,
          legend: { orientation: "h", y: -0.15 },
          xaxis: { type: $("axis-x").value },
          yaxis: valueAxis(extent(each.curves.flatMap((curve) => curve.y))),
        }),
        CONFIG,
      );
    });
  }
}
