// Drawing on canvases: small curves of all heads, the curve of one, attention by head and token.

const LINES = [
  { tone: "accent", dash: [], width: 1.7 },
  { tone: "warm", dash: [7, 3], width: 1.5 },
]; // of the first model and of the second
const LEFT = 52; // pixels for the labels of an axis

const tones = new Map(); // of the theme

function tone(name) {
  if (!tones.has(name)) tones.set(name, color(name));
  return tones.get(name);
}

// A canvas lies in a part of the page that scrolls: `height` takes the width and gives its own.
function context(canvas, heightOf) {
  const ratio = devicePixelRatio || 1;
  canvas.style.height = `${heightOf(canvas.parentNode.clientWidth)}px`;
  const width = canvas.parentNode.clientWidth; // without the scroll bar, if there is one now
  const height = heightOf(width);
  canvas.style.height = `${height}px`;
  const [wide, high] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== wide) canvas.width = wide;
  if (canvas.height !== high) canvas.height = high;
  const g = canvas.getContext("2d");
  g.setTransform(ratio, 0, 0, ratio, 0, 0);
  g.clearRect(0, 0, width, height);
  g.font = `11px ${tone("sans")}`;
  g.lineJoin = "round";
  return { g, width, height };
}

// scrolls the part of the page that a canvas lies in to the chosen row, once after each choice
function keepInSight(canvas, row, top, height) {
  if (canvas.keptRow === row) return;
  canvas.keptRow = row;
  const around = canvas.parentNode;
  if (top < around.scrollTop) around.scrollTop = top;
  else if (top + height > around.scrollTop + around.clientHeight)
    around.scrollTop = top + height - around.clientHeight;
}

let palette = [];

function shade(share) {
  if (!palette.length) {
    const stops = sequential();
    palette = Array.from({ length: 64 }, (_, level) => blend(stops, level / 63));
  }
  return palette[Math.round(63 * Math.min(Math.max(share, 0), 1))];
}

// what lies under each pixel of `width`, for tokens from..to: [x, lowest, highest, mean]; without what is not finite
function* columns(values, from, to, width) {
  const count = to - from;
  if (count <= width) {
    for (let token = from; token < to; token++)
      if (Number.isFinite(values[token])) yield [token - from, values[token], values[token], values[token]];
    return;
  }
  for (let pixel = 0; pixel < width; pixel++) {
    let [low, high, sum] = [Infinity, -Infinity, 0];
    const start = from + Math.floor((pixel * count) / width);
    const end = from + Math.floor(((pixel + 1) * count) / width);
    for (let token = start; token < end; token++) {
      const value = values[token];
      sum += value;
      if (value < low) low = value;
      if (value > high) high = value;
    }
    if (Number.isFinite(sum)) yield [((pixel + 0.5) * count) / width, low, high, sum / (end - start)];
  }
}

// the values of tokens; where several share a pixel, their mean as a line and their range as a pale band
function trace(g, values, { from, to, x, y, width }) {
  const [mean, band] = [new Path2D(), new Path2D()];
  let isFirst = true;
  for (const [at, low, high, middle] of columns(values, from, to, width)) {
    const where = x(from + at);
    if (isFirst) mean.moveTo(where, y(middle));
    else mean.lineTo(where, y(middle));
    isFirst = false;
    if (high === low) continue;
    band.moveTo(where, y(low));
    band.lineTo(where, y(high));
  }
  if (to - from > width) {
    const [alpha, dash] = [g.globalAlpha, g.getLineDash()];
    g.globalAlpha = 0.3 * alpha;
    g.setLineDash([]);
    g.stroke(band);
    g.globalAlpha = alpha;
    g.setLineDash(dash);
  }
  g.stroke(mean);
}

function ticks(low, high, most) {
  const raw = (high - low) / most;
  if (!(raw > 0)) return [low];
  const unit = 10 ** Math.floor(Math.log10(raw));
  const step = unit * [1, 2, 5, 10].find((factor) => factor * unit >= raw);
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step * 1e-9; at += step)
    found.push(Math.abs(at) < step / 1e6 ? 0 : at);
  return found;
}

// ---------------------------------------------------------------- all heads

function grid(model, width) {
  const { layers, num_heads } = text.models[model];
  const most = Math.max(...layers.map((layer) => layer.rows));
  const columnsOf = most > 1 ? most : num_heads;
  const cellWidth = (width - LEFT) / columnsOf;
  const rowHeight = Math.max(11, Math.min(Math.round(330 / layers.length), cellWidth * 0.8, 46));
  const group = num_heads / columnsOf; // query heads of a column
  return { layers, columnsOf, cellWidth, rowHeight, group, height: rowHeight * layers.length + 32 };
}

function statistics(name) {
  // of all heads of all models: they have one scale of colors
  return text.models.flatMap(({ layers }, model) =>
    layers.flatMap((of, layer) => (of.rows > 1 ? of.z.map((_, row) => text.statistic(name, model, layer, row)) : [])),
  );
}

function drawOverview(model, canvas, value) {
  const { g, width, height } = context(canvas, (width) => grid(model, width).height);
  const { layers, columnsOf, cellWidth, rowHeight, group } = grid(model, width);
  const name = $("statistic").value;
  const [low, high] = name === "curves" ? [0, 1] : bounds(statistics(name));
  g.textBaseline = "middle";
  layers.forEach((of, layer) => {
    const top = (layers.length - 1 - layer) * rowHeight;
    g.fillStyle = tone("muted");
    g.textAlign = "right";
    if (layers.length <= 20 || layer % 4 === 0) g.fillText(String(layer), LEFT - 8, top + rowHeight / 2);
    if (of.rows < 2) {
      g.fillStyle = tone("grid");
      g.fillRect(LEFT + 1, top + 1, cellWidth * columnsOf - 2, rowHeight - 2);
      g.fillStyle = tone("muted");
      g.textAlign = "center";
      g.fillText(
        of.rows ? `${of.scheme}: one for all heads` : `${of.scheme}: no positions`,
        LEFT + (cellWidth * columnsOf) / 2,
        top + rowHeight / 2,
      );
      return;
    }
    of.z.forEach((_, row) => {
      const left = LEFT + row * cellWidth;
      const statistic = name === "curves" ? 0 : text.statistic(name, model, layer, row);
      g.fillStyle = name === "curves" ? tone("paper") : shade((statistic - low) / (high - low || 1));
      g.fillRect(left + 1, top + 1, cellWidth - 2, rowHeight - 2);
      if (name !== "curves") {
        if (cellWidth < 44 || rowHeight < 12) return;
        const isStrong = (statistic - low) / (high - low || 1) > 0.5;
        g.fillStyle = tone(isStrong ? "card" : "ink");
        g.textAlign = "center";
        g.fillText(figures(Number(statistic.toPrecision(3))), left + cellWidth / 2, top + rowHeight / 2);
        return;
      }
      const z = text.positions(model, layer, row * group, deviates());
      const [least, most] = bounds(z);
      const y = (at) => top + rowHeight - 3 - ((at - least) / (most - least || 1)) * (rowHeight - 6);
      const x = (at) => left + 2 + ((at - view.from) / Math.max(1, view.to - view.from - 1)) * (cellWidth - 4);
      g.strokeStyle = tone(LINES[model].tone);
      g.lineWidth = 0.9;
      trace(g, z, { from: view.from, to: view.to, x, y, width: Math.max(8, Math.floor(cellWidth)) });
    });
  });
  g.fillStyle = tone("muted");
  g.textAlign = "center";
  const every = Math.ceil(columnsOf / 16);
  for (let at = 0; at < columnsOf; at += every) g.fillText(String(at), LEFT + (at + 0.5) * cellWidth, height - 22);
  g.fillText(group > 1 ? "key-value head" : "head", LEFT + (cellWidth * columnsOf) / 2, height - 7);
  g.save();
  g.translate(10, (height - 32) / 2);
  g.rotate(-Math.PI / 2);
  g.fillText("layer", 0, 0);
  g.restore();
  if (view.layer < layers.length) {
    g.strokeStyle = tone("ink");
    g.lineWidth = 2;
    const top = (layers.length - 1 - view.layer) * rowHeight;
    g.strokeRect(LEFT + Math.floor(view.head / group) * cellWidth, top, cellWidth, rowHeight);
    keepInSight(canvas, view.layer, top, rowHeight);
  }
  const chosenRow = text.row(model, view.layer, view.head);
  const isShown = name !== "curves" && text.models[model].layers[view.layer]?.rows > 1;
  const all = name === "curves" ? "" : ` of ${figures(low)} to ${figures(high)}`;
  value.textContent = isShown ? `${figures(text.statistic(name, model, view.layer, chosenRow))}${all}` : "";
  canvas.ariaLabel = `layers and heads: layer ${view.layer}, head ${view.head} is chosen; ${STATISTICS[name].meaning} ${value.textContent}`;
}

// ---------------------------------------------------------------- one head

function deviates() {
  return $("values").value === "deviation";
}

function drawCurve(models, canvas) {
  const { g, width, height } = context(canvas, () => 330);
  const shown = models
    .map((model) => [model, text.positions(model, view.layer, view.head, deviates())])
    .filter(([, z]) => z);
  const [right, bottom] = [width - 8, height - 34];
  const { from, to } = view;
  const x = (token) => LEFT + ((token - from) / Math.max(1, to - from - 1)) * (right - LEFT);
  canvas.area = { left: LEFT, right, from, to };
  if (!shown.length) {
    g.fillStyle = tone("muted");
    g.textAlign = "center";
    const scheme = text.models[models[0]].layers[view.layer]?.scheme;
    g.fillText(
      scheme
        ? `This layer (${scheme}) has no positions: only the causal mask tells order.`
        : "There is no such layer or head.",
      width / 2,
      height / 2,
    );
    return;
  }
  let [low, high] = bounds(shown.flatMap(([, z]) => bounds(z.subarray(from, to))));
  const zero = (token) => (deviates() ? 0 : token);
  if ($("scale").value === "index") [low, high] = [Math.min(low, zero(from)), Math.max(high, zero(to - 1))];
  const margin = 0.06 * (high - low || Math.abs(low) || 1);
  [low, high] = [low - margin, high + margin];
  const y = (z) => bottom - ((z - low) / (high - low)) * (bottom - 8);
  g.lineWidth = 1;
  g.textBaseline = "middle";
  for (const at of ticks(low, high, 6)) {
    g.strokeStyle = tone("grid");
    g.beginPath();
    g.moveTo(LEFT, y(at));
    g.lineTo(right, y(at));
    g.stroke();
    g.fillStyle = tone("muted");
    g.textAlign = "right";
    g.fillText(figures(at), LEFT - 6, y(at));
  }
  drawIndexAxis(g, x, bottom + 12, height - 6, right);
  g.save();
  g.beginPath();
  g.rect(LEFT, 0, right - LEFT, bottom + 2);
  g.clip();
  const pixels = Math.floor(right - LEFT);
  const place = { from, to, x, y, width: pixels };
  for (const [model, z] of shown) {
    const { rows, z: all, adds_index } = text.models[model].layers[view.layer];
    if (models.length > 1 || rows > 64) continue;
    g.strokeStyle = tone("faint");
    g.globalAlpha = 0.55;
    g.lineWidth = 0.8;
    const group = text.models[model].num_heads / rows;
    all.forEach((_, row) => {
      const other = text.positions(model, view.layer, row * group, deviates());
      if (other !== z) trace(g, other, place);
    });
    g.globalAlpha = 1;
  }
  g.strokeStyle = tone("muted");
  g.setLineDash([2, 4]);
  g.beginPath();
  g.moveTo(x(from), y(zero(from)));
  g.lineTo(x(to - 1), y(zero(to - 1)));
  g.stroke();
  for (const [model, z] of shown) {
    const { tone: own, dash, width: thick } = LINES[model];
    g.setLineDash(dash);
    g.strokeStyle = tone(own);
    g.lineWidth = thick;
    trace(g, z, place);
  }
  g.setLineDash([]);
  markTokens(g, shown, place, bottom);
  g.restore();
  const extents = shown.map(([model, z]) => `${run.models[model].name} ${bounds(z).map(figures).join(" to ")}`);
  canvas.ariaLabel = `z against the index in layer ${view.layer}, head ${view.head}: ${extents.join("; ")}`;
}

function drawIndexAxis(g, x, labels, title, right) {
  g.fillStyle = tone("muted");
  g.textAlign = "center";
  for (const at of ticks(view.from, view.to - 1, 8)) if (Number.isInteger(at)) g.fillText(String(at), x(at), labels);
  g.fillText("token index", (LEFT + right) / 2, title);
}

function markTokens(g, shown, { from, to, x, y }, bottom) {
  const token = view.hover ?? view.token;
  if (view.token !== null) line(g, x(view.token), bottom, [3, 3]);
  if (token === null) return;
  line(g, x(token), bottom, []);
  for (const [model] of shown) {
    const { same } = text.neighbors(model, view.layer, view.head, token, 0) ?? { same: [] };
    g.strokeStyle = tone(LINES[model].tone);
    g.lineWidth = 1;
    g.beginPath();
    for (const other of same)
      if (other >= from && other < to) {
        g.moveTo(x(other), bottom - 7 - 8 * model);
        g.lineTo(x(other), bottom - 8 * model);
      }
    g.stroke();
    const z = text.positions(model, view.layer, view.head, deviates())[token];
    g.fillStyle = tone(LINES[model].tone);
    g.beginPath();
    g.arc(x(token), y(z), 4.5, 0, 7);
    g.fill();
    g.strokeStyle = tone("card");
    g.lineWidth = 1.5;
    g.stroke();
  }
}

function line(g, at, bottom, dash) {
  g.strokeStyle = tone("ink");
  g.lineWidth = 1;
  g.setLineDash(dash);
  g.globalAlpha = 0.55;
  g.beginPath();
  g.moveTo(at, 0);
  g.lineTo(at, bottom);
  g.stroke();
  g.globalAlpha = 1;
  g.setLineDash([]);
}

// ---------------------------------------------------------------- attention by head and token

function drawAttention(model, canvas, value) {
  const numHeads = text.models[model].num_heads;
  const rowHeight = Math.max(9, Math.min(22, Math.round(260 / numHeads)));
  const { g, width, height } = context(canvas, () => rowHeight * numHeads + 34);
  const [right, bottom] = [width - 8, rowHeight * numHeads];
  const { from, to } = view;
  const x = (token) => LEFT + ((token - from) / (to - from)) * (right - LEFT);
  canvas.area = { left: LEFT, right, from, to, rowHeight };
  const heads = attention.rows.get(attentionKey(model));
  let highest = 0;
  for (const row of heads ?? [])
    for (let token = from; token < Math.min(to, row.length); token++) highest = Math.max(highest, row[token]);
  g.textBaseline = "middle";
  const pixels = Math.floor(right - LEFT);
  for (let head = 0; head < numHeads; head++) {
    const top = head * rowHeight;
    g.fillStyle = tone("low");
    g.fillRect(LEFT, top + 1, right - LEFT, rowHeight - 2);
    const row = heads?.[head];
    if (row) {
      const one = Math.max(1, (right - LEFT) / (to - from));
      for (const [at, , most] of columns(
        row,
        from,
        Math.min(to, row.length),
        Math.max(1, Math.ceil((pixels * (Math.min(to, row.length) - from)) / (to - from))),
      )) {
        g.fillStyle = shade(Math.sqrt(most / (highest || 1)));
        g.fillRect(x(from + at) - (one > 1 ? 0 : 0.5), top + 1, one + 0.3, rowHeight - 2);
      }
    }
    g.fillStyle = tone(head === view.head ? "ink" : "muted");
    g.textAlign = "right";
    if (rowHeight > 10 || head % 2 === 0)
      g.fillText(`${head === view.head ? "▸ " : ""}${head}`, LEFT - 6, top + rowHeight / 2);
  }
  if (view.head < numHeads) {
    g.strokeStyle = tone("ink");
    g.lineWidth = 1.6;
    g.strokeRect(LEFT, view.head * rowHeight, right - LEFT, rowHeight);
    keepInSight(canvas, view.head, view.head * rowHeight, rowHeight);
  }
  drawIndexAxis(g, (token) => x(token + 0.5), bottom + 12, height - 6, right);
  if (view.hover !== null) line(g, x(view.hover + 0.5), bottom, []);
  if (view.token !== null) line(g, x(view.token + 0.5), bottom, [3, 3]);
  value.textContent = heads ? `highest weight ${figures(highest)}` : "";
  canvas.ariaLabel = `attention from token ${view.token} in layer ${view.layer}, by head and token; ${value.textContent}`;
}
