// Statistics head by head: the heat map of a step, and the history of a layer.

function colors(statistic) {
  // limits and scale of the heat map: zero is pale among signed numbers, wide ranges have logarithmic colors
  const readings = $("range").value === "run" ? statistic.values : [statistic.values[chosen.reading]];
  const numbers = readings
    .flat(2)
    .filter((value) => value !== null)
    .sort((a, b) => a - b);
  if (!numbers.length) return { zmin: 0, zmax: 1, colorscale: sequential() };
  const at = (share) => numbers[Math.round(share * (numbers.length - 1))];
  const [low, high] = [at(0.005), at(0.995)]; // single outliers must not set the colors
  if (low < 0 && high > 0) {
    const limit = Math.max(-low, high);
    return { zmin: -limit, zmax: limit, colorscale: diverging() };
  }
  if (low > 0 && high / low > 50) {
    const [first, last] = [Math.log10(low), Math.log10(high)];
    const decades = [...Array(40).keys()]
      .map((index) => index - 20)
      .filter((decade) => first <= decade && decade <= last);
    return {
      zmin: first,
      zmax: last,
      colorscale: sequential(),
      byDecades: true,
      tickvals: decades,
      ticktext: decades.map((decade) => figures(10 ** decade)),
    };
  }
  return { zmin: low, zmax: high > low ? high : low + Math.max(Math.abs(low), 1e-9), colorscale: sequential() };
}

function drawHeat() {
  const { layers, heads, steps, statistics } = run.heads;
  const statistic = statistics[chosen.statistic];
  const z = statistic.values[chosen.reading];
  const unit = statistic.unit ? ` ${escaped(statistic.unit)}` : "";
  const box = {
    type: "rect",
    x0: chosen.head - 0.5,
    x1: chosen.head + 0.5,
    y0: chosen.layer - 0.5,
    y1: chosen.layer + 0.5,
    line: { color: color("ink"), width: 1.6 },
  };
  const every = (count, most) => [...Array(count).keys()].filter((index) => index % Math.ceil(count / most) === 0);
  const rows = every(layers.length, 16),
    columns = every(heads, 16);
  const { byDecades, tickvals, ticktext, ...limits } = colors(statistic);
  Plotly.react(
    $("heat"),
    [
      {
        type: "heatmap",
        z: byDecades ? z.map((row) => row.map((value) => (value > 0 ? Math.log10(value) : null))) : z,
        ...limits,
        xgap: 1.5,
        ygap: 1.5,
        text: z.map((row, layer) =>
          row.map((value, head) => `layer ${layers[layer]}, head ${head}: ${figures(value)}${unit}`),
        ),
        hovertemplate: "%{text}<extra></extra>",
        colorbar: { thickness: 10, outlinewidth: 0, len: 1, x: 1.02, tickformat: ".3~g", tickvals, ticktext },
      },
    ],
    layout({
      shapes: [box],
      margin: { l: 40, r: 8, t: 8, b: 40 },
      dragmode: false,
      xaxis: { title: { text: "head", standoff: 6 }, showgrid: false, tickvals: columns, fixedrange: true },
      yaxis: {
        title: { text: "layer", standoff: 6 },
        showgrid: false,
        tickvals: rows,
        ticktext: rows.map((row) => layers[row]),
        fixedrange: true,
      },
    }),
    CONFIG,
  );
  $("heat-label").textContent = `step ${steps[chosen.reading]}`;
  $("heat-value").textContent = figures(z[chosen.layer]?.[chosen.head]);
  $("meaning").textContent = explanation(statistic);
}

function drawHistory() {
  const { layers, heads, steps, statistics } = run.heads;
  const statistic = statistics[chosen.statistic];
  const curve = (head) => statistic.values.map((reading) => reading[chosen.layer]?.[head] ?? null);
  const trace = (head, tone, width) => ({
    x: steps,
    y: curve(head),
    mode: steps.length > 1 ? "lines" : "markers",
    line: { color: color(tone), width },
    hovertemplate: `head ${head}, step %{x}: %{y:.4g}<extra></extra>`,
  });
  const all = [...Array(heads).keys()].map((head) => ({ y: curve(head) }));
  const [low, high] = extent(all.flatMap((one) => one.y));
  const now =
    chosen.reading === steps.length - 1
      ? {}
      : {
          x: [steps[chosen.reading], steps[chosen.reading]],
          y: [low, high],
          mode: "lines",
          hoverinfo: "skip",
          line: { color: color("muted"), width: 1 },
        };
  const others = [...Array(heads).keys()].filter((head) => head !== chosen.head).map((head) => trace(head, "faint", 1));
  Plotly.react(
    $("history"),
    [...others, now, ...marks(all), trace(chosen.head, "accent", 2.4)],
    layout({
      xaxis: { type: $("axis-x").value, title: { text: "step", standoff: 6 } },
      yaxis: valueAxis([low, high], true),
      margin: { l: 44, r: 8, t: 8, b: 40 },
    }),
    CONFIG,
  );
  $("history-title").textContent = `${statistic.label}: layer ${layers[chosen.layer]}, head ${chosen.head}`;
  $("history-value").textContent = figures(curve(chosen.head).at(-1));
}
