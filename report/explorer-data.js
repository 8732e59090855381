// What the explorer shows: the positions of one text, by model, layer and head, and attention from one token.
// An answer is a 32-bit length, JSON of that length, and float32 numbers (evaluate/explore/explorer.py).

const view = {
  layer: 0,
  head: 0, // a query head
  token: null, // the chosen one
  hover: null,
  from: 0, // what part of the text the curves show
  to: 0,
};
let text = null; // what was read

function unpacked(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  return { ...header, numbers: new Float32Array(buffer, 4 + length) };
}

function bufferOf(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0)).buffer;
}

class Reading {
  constructor(source, buffer) {
    const { pieces, seconds, models, numbers } = unpacked(buffer);
    Object.assign(this, { source, pieces, seconds, models, length: pieces.length, bytes: buffer.byteLength });
    this.cache = new Map();
    let at = 0;
    for (const model of models)
      for (const layer of model.layers)
        layer.z = Array.from({ length: layer.rows }, () => numbers.subarray(at, (at += this.length)));
    this.numLayers = Math.max(...models.map((model) => model.layers.length));
    this.numHeads = Math.max(...models.map((model) => model.num_heads));
  }

  kept(key, make) {
    if (!this.cache.has(key)) this.cache.set(key, make());
    return this.cache.get(key);
  }

  // the row of positions that a query head reads: heads may share one; null where there is none
  row(model, layer, head) {
    const of = this.models[model];
    const rows = of.layers[layer]?.rows;
    return rows && head < of.num_heads ? Math.floor((head * rows) / of.num_heads) : null;
  }

  // whether the heads of a layer differ in their positions, in any of the models
  hasHeads(models, layer) {
    return models.some((model) => this.models[model].layers[layer]?.rows > 1);
  }

  // z of every token, or its difference from the index
  positions(model, layer, head, deviation = false) {
    const row = this.row(model, layer, head);
    if (row === null) return null;
    const { z, adds_index } = this.models[model].layers[layer];
    if (adds_index === deviation) return z[row];
    const sign = adds_index ? 1 : -1;
    return this.kept(`z ${model} ${layer} ${row}`, () =>
      Float64Array.from(z[row], (value, index) => value + sign * index),
    );
  }

  // tokens in the order of their positions, and those positions
  order(model, layer, head) {
    const z = this.positions(model, layer, head);
    if (!z) return null;
    return this.kept(`order ${model} ${layer} ${this.row(model, layer, head)}`, () => {
      const tokens = Uint32Array.from(z.keys()).sort((a, b) => z[a] - z[b] || a - b);
      return { tokens, sorted: Float64Array.from(tokens, (token) => z[token]) };
    });
  }

  // the other tokens whose positions differ from a token's by less than the tolerance, and the nearest ones
  neighbors(model, layer, head, token, most) {
    const found = this.order(model, layer, head);
    const at = found && this.positions(model, layer, head)[token];
    if (!found || !Number.isFinite(at)) return null;
    const { tokens, sorted } = found;
    let low = 0,
      high = sorted.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (sorted[middle] < at) low = middle + 1;
      else high = middle;
    }
    let [left, right] = [low - 1, low];
    const nearest = [],
      same = [];
    for (;;) {
      const [below, above] = [at - (sorted[left] ?? -Infinity), (sorted[right] ?? Infinity) - at];
      const distance = Math.min(below, above);
      if (!Number.isFinite(distance) || (distance >= tolerance() && nearest.length >= most)) return { nearest, same };
      const other = tokens[below <= above ? left-- : right++];
      if (other === token) continue;
      if (nearest.length < most) nearest.push(other);
      if (distance < tolerance()) same.push(other);
    }
  }

  // lowest and highest position, with single outliers left out
  limits(model, layer, head) {
    const { sorted } = this.order(model, layer, head);
    const last = sorted.length - 1;
    return [sorted[Math.floor(0.005 * last)], sorted[Math.ceil(0.995 * last)]];
  }

  statistic(name, model, layer, row) {
    const key = `${name} ${model} ${layer} ${row} ${name === "shared" ? tolerance() : ""}`;
    return this.kept(key, () => {
      const of = this.models[model].layers[layer];
      return STATISTICS[name].of(of.adds_index ? of.z[row].map((value, index) => value + index) : of.z[row]);
    });
  }
}

function tolerance() {
  const said = Number($("tolerance").value);
  return said > 0 ? said : 0;
}

function bounds(values) {
  // the lowest and the highest finite number
  let [low, high] = [Infinity, -Infinity];
  for (const value of values)
    if (Number.isFinite(value)) {
      if (value < low) low = value;
      if (value > high) high = value;
    }
  return low <= high ? [low, high] : [0, 1];
}

function moments(z) {
  let [sum, squares, products] = [0, 0, 0];
  const middle = (z.length - 1) / 2;
  for (const value of z) sum += value;
  const mean = sum / z.length;
  z.forEach((value, index) => {
    squares += (value - mean) ** 2;
    products += (value - mean) * (index - middle);
  });
  return { mean, squares, products };
}

const STATISTICS = {
  curves: { label: "curves", meaning: "z against the index, each on its own scale" },
  spread: {
    label: "spread",
    meaning: "standard deviation of z over the tokens",
    of: (z) => Math.sqrt(moments(z).squares / z.length),
  },
  range: {
    label: "range",
    meaning: "highest z minus lowest",
    of: (z) => {
      const [low, high] = bounds(z);
      return high - low;
    },
  },
  correlation: {
    label: "correlation with the index",
    meaning: "Pearson's, of z and the index: 1 in a RoPE layer",
    of: (z) => {
      const { squares, products } = moments(z);
      return squares ? products / Math.sqrt(squares * ((z.length * (z.length ** 2 - 1)) / 12)) : 0;
    },
  },
  shared: {
    label: "share in one place",
    meaning: "share of the tokens that stand within the tolerance of another token",
    of: (z) => {
      const sorted = z.slice().sort();
      let count = 0;
      for (let at = 0; at < sorted.length; at++)
        count += sorted[at] - sorted[at - 1] < tolerance() || sorted[at + 1] - sorted[at] < tolerance();
      return count / sorted.length;
    },
  },
};

// ---------------------------------------------------------------- attention

// rows by "model layer token", each [head][token]; from the server, or from the file
const attention = { rows: new Map(), waiting: null, asking: false, tokens: null, failure: "" };

function attentionKey(model) {
  return `${model} ${view.layer} ${view.token}`;
}

function attentionOf(model, head) {
  return attention.rows.get(attentionKey(model))?.[head] ?? null;
}

function byHead(numbers, numHeads) {
  const width = numbers.length / numHeads;
  return Array.from({ length: numHeads }, (_, head) => numbers.subarray(head * width, (head + 1) * width));
}

function readKeptAttention() {
  // of a static file: models, layers, tokens, heads
  const { tokens, numbers } = unpacked(bufferOf(run.attention));
  attention.tokens = new Set(tokens);
  let at = 0;
  text.models.forEach((model, number) =>
    model.layers.forEach((_, layer) => {
      for (const token of tokens) {
        const size = model.num_heads * (token + 1);
        attention.rows.set(`${number} ${layer} ${token}`, byHead(numbers.subarray(at, (at += size)), model.num_heads));
      }
    }),
  );
}

async function ask(path, body) {
  let response;
  try {
    response = await fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });
  } catch {
    throw new Error("the server does not answer: has it been closed?");
  }
  if (!response.ok) throw new Error(await response.text());
  return response.arrayBuffer();
}

async function wantAttention(done) {
  // one request at a time; of those that come meanwhile, the newest alone is sent
  attention.waiting = done;
  if (run.answer || attention.asking) return;
  attention.asking = true;
  try {
    while (attention.waiting) {
      const [tell, of, { layer, token }] = [attention.waiting, text, { ...view }];
      attention.waiting = null;
      attention.failure = "";
      if (attention.rows.size > 200) attention.rows.clear();
      for (const [model, { num_heads, layers }] of of.models.entries()) {
        const key = `${model} ${layer} ${token}`;
        if (token === null || layer >= layers.length || attention.rows.has(key)) continue;
        const { numbers } = unpacked(await ask("/attention", { text: of.source, model, layer, token }));
        if (of !== text) break;
        attention.rows.set(key, byHead(numbers, num_heads));
      }
      tell();
    }
  } catch (error) {
    attention.failure = error.message;
    attention.waiting = null;
    done();
  } finally {
    attention.asking = false;
  }
}
