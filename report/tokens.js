// The positions of a probe text: z against the token index, and the text itself in the color of z.

function bytes(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0)).buffer;
}

function unpack(text) {
  // [S, L, H, T]: 16-bit levels between the lowest number of a row and its highest
  const [, layers, heads, length] = text.shape;
  const levels = new DataView(bytes(text.levels)),
    low = new DataView(bytes(text.low)),
    range = new DataView(bytes(text.range));
  return (step, layer, head) => {
    const row = (step * layers + layer) * heads + head;
    const [from, by] = [low.getFloat32(4 * row, true), range.getFloat32(4 * row, true)];
    return Array.from(
      { length },
      (_, token) => from + (by * levels.getUint16(2 * (row * length + token), true)) / 65535,
    );
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
  const others = [...Array(heads).keys()]
    .filter((other) => other !== head)
    .map((other) => ({
      x: index,
      y: text.z(chosen.probe, layer, other),
      mode: "lines",
      hoverinfo: "skip",
      opacity: 0.55,
      line: { color: color("faint"), width: 0.8 },
    }));
  const main = {
    x: index,
    y: z,
    mode: "lines+markers",
    text: text.pieces.map(visible),
    line: { color: color("accent"), width: 1.6 },
    marker: { size: 4.5, color: color("accent") },
    hovertemplate: "<b>%{text}</b><br>token %{x}: z = %{y:.4g}<extra></extra>",
  };
  const [low, high] = extent(z);
  const margin = 0.06 * (high - low || Math.abs(low) || 1);
  Plotly.react(
    $("curve"),
    [...others, main],
    layout({
      xaxis: { title: { text: "token index", standoff: 6 } },
      yaxis: { title: { text: "position z", standoff: 6 }, range: [low - margin, high + margin] }, // of the chosen head
      margin: { l: 48, r: 8, t: 8, b: 40 },
    }),
    CONFIG,
  );
  $("curve-label").textContent = `step ${steps[chosen.probe]}`;
  $("curve-title").textContent = `${text.name}: layer ${layers[layer]}, head ${head}`;
  $("curve-value").textContent = `z from ${figures(low)} to ${figures(high)}`;
  $("tokens").replaceChildren(
    ...text.pieces.map((piece, token) => {
      const span = element("span", { textContent: piece, title: `token ${token}: z = ${figures(z[token])}` });
      span.style.background = `color-mix(in srgb, var(--accent) ${Math.round((60 * (z[token] - low)) / (high - low || 1))}%, transparent)`;
      span.onmouseenter = () => Plotly.Fx.hover($("curve"), [{ curveNumber: others.length, pointNumber: token }]);
      return span;
    }),
  );
}

function currentLayer() {
  return (run.heads ?? run.probes).layers[chosen.layer];
}
