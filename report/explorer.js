// The controls of the explorer, and what they draw.

const figuresOf = { overview: [], curve: [], attention: [] }; // canvases with their captions, by what they show
const waiting = new Set(); // what is to be drawn in the next frame

const DRAWN = {
  overview: () => figuresOf.overview.forEach(({ models, canvas, value }) => drawOverview(models[0], canvas, value)),
  curve: () => figuresOf.curve.forEach(({ models, canvas }) => drawCurve(models, canvas)),
  attention: () => {
    $("attention-note").textContent = noteAttention();
    figuresOf.attention.forEach(({ models, canvas, value }) => drawAttention(models[0], canvas, value));
  },
  captions: drawCaptions,
  strip: paintStrip,
  outline,
  panel: drawPanel,
};

function redraw(...names) {
  if (!waiting.size) requestAnimationFrame(drawWaiting);
  for (const name of names.length ? names : Object.keys(DRAWN)) waiting.add(name);
}

function drawWaiting() {
  const names = [...waiting];
  waiting.clear();
  if (text) for (const name of names) DRAWN[name]();
}

function choose(changes, isFar = false) {
  const before = { ...view };
  Object.assign(view, changes);
  const differs = (...keys) => keys.some((key) => before[key] !== view[key]);
  if (view.token !== null && isFar) {
    if (view.token < view.from || view.token >= view.to) Object.assign(view, { from: 0, to: text.length });
    scrollToToken(view.token);
  }
  if (differs("layer", "head", "from", "to")) {
    Object.assign($("layer"), { selectedIndex: view.layer });
    Object.assign($("head"), { selectedIndex: view.head });
    $("whole").hidden = view.from === 0 && view.to === text.length;
    offerHeads();
    redraw();
  }
  if (differs("token", "hover")) redraw("curve", "attention", "outline", "panel", "captions");
  if (differs("token") && painted().kind === "attention") redraw("strip");
  if (differs("token", "layer", "head")) $("readout").textContent = readout();
  if (view.token !== null && differs("token", "layer")) wantAttention(() => redraw("strip", "attention", "panel"));
}

function readout() {
  // for those who hear the page
  const { token, layer, head } = view;
  if (token === null) return `layer ${layer}, head ${head}`;
  const z = run.models.map(({ name }, model) => {
    const own = text.positions(model, layer, head);
    return `${name}: ${own ? `z = ${figures(own[token])}` : "no position"}`;
  });
  return `layer ${layer}, head ${head}, token ${token} ${visible(text.pieces[token])}, ${z.join(", ")}`;
}

function drawCaptions() {
  const token = view.hover ?? view.token;
  for (const { models, title, value } of figuresOf.curve) {
    const names = run.models.length > 1 && models.length === 1 ? `${run.models[models[0]].name}: ` : "";
    const schemes = new Set(models.map((model) => text.models[model].layers[view.layer]?.scheme ?? "no such layer"));
    const heads = text.hasHeads(models, view.layer) ? `head ${view.head}` : "all heads";
    title.textContent = `${names}layer ${view.layer} (${[...schemes].join(" and ")}), ${heads}`;
    const said = models.map((model) => {
      const z = text.positions(model, view.layer, view.head, deviates());
      if (!z) return "";
      return token === null ? bounds(z).map(figures).join(" to ") : figures(z[token]);
    });
    const what = deviates() ? "z minus index" : "z";
    value.textContent = said.some(Boolean)
      ? `${token === null ? what : `token ${token}: ${what} =`} ${said.filter(Boolean).join(" and ")}`
      : "";
  }
}

// ---------------------------------------------------------------- figures

function figure(parent, models, caption, label) {
  const canvas = element("canvas", { tabIndex: 0, role: "img", ariaLabel: label });
  const [title, value] = [element("span", { textContent: caption }), element("strong")];
  value.style.fontSize = "14px";
  const inside = element("div", { className: "scrolled" }, canvas);
  parent.append(element("figure", {}, element("figcaption", {}, title, value), inside));
  return { models, canvas, title, value };
}

function buildFigures() {
  const apart = run.models.map((_, model) => [model]);
  const named = (what, model) => (run.models.length > 1 ? `${run.models[model].name}: ${what}` : what);
  const groups = $("models").value === "over" ? [run.models.map((_, model) => model)] : apart;
  for (const parent of ["overviews", "curves", "attentions"]) $(parent).replaceChildren();
  figuresOf.overview = apart.map((models) =>
    figure($("overviews"), models, named("every layer and head", models[0]), "layers and heads"),
  );
  figuresOf.curve = groups.map((models) => figure($("curves"), models, "", "curve"));
  figuresOf.attention = apart.map((models) =>
    figure($("attentions"), models, named("attention", models[0]), "attention"),
  );
  $("top").classList.toggle("two", run.models.length > 1);
  $("curves").style.gridTemplateColumns = groups.length === 1 ? "minmax(0, 1fr)" : "";
  for (const { models, canvas } of figuresOf.overview) listenOverview(models[0], canvas);
  for (const { canvas } of figuresOf.curve) listenCurve(canvas);
  for (const { canvas } of figuresOf.attention) listenAttention(canvas);
  drawLegend();
  drawAttentionLegend();
}

function tokenAt(canvas, event) {
  const { left, right, from, to } = canvas.area;
  const share = (event.offsetX - left) / (right - left);
  return Math.min(to - 1, Math.max(from, from + Math.floor(share * (to - from))));
}

function listenOverview(model, canvas) {
  const at = ({ offsetX, offsetY }) => {
    const { layers, cellWidth, rowHeight, group, columnsOf } = grid(model, canvas.clientWidth);
    const [row, column] = [Math.floor(offsetY / rowHeight), Math.floor((offsetX - LEFT) / cellWidth)];
    if (row < 0 || row >= layers.length || column < 0 || column >= columnsOf) return null;
    return { layer: layers.length - 1 - row, head: Math.floor(column * group), column };
  };
  canvas.onclick = (event) => {
    const found = at(event);
    if (found) choose({ layer: found.layer, head: found.head });
  };
  canvas.onmousemove = (event) => {
    const found = at(event);
    const of = found && text.models[model].layers[found.layer];
    canvas.title = !found
      ? ""
      : `layer ${found.layer}, head ${found.column}: ${of.rows > 1 ? `z from ${text.limits(model, found.layer, found.head).map(figures).join(" to ")}` : of.scheme}`;
  };
  canvas.onkeydown = (event) => {
    const { group, layers } = grid(model, canvas.clientWidth);
    const step = { ArrowUp: [1, 0], ArrowDown: [-1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    const layer = Math.min(layers.length - 1, Math.max(0, view.layer + step[0]));
    choose({ layer, head: Math.min(text.models[model].num_heads - 1, Math.max(0, view.head + step[1] * group)) });
  };
}

function listenCurve(canvas) {
  let start = null;
  canvas.onpointerdown = (event) => {
    start = tokenAt(canvas, event);
    if (event.pointerType === "mouse") canvas.setPointerCapture(event.pointerId);
  };
  canvas.onpointermove = (event) => choose({ hover: tokenAt(canvas, event) });
  canvas.onpointerleave = () => choose({ hover: null });
  canvas.onpointerup = (event) => {
    const end = tokenAt(canvas, event);
    const [low, high] = [Math.min(start ?? end, end), Math.max(start ?? end, end)];
    start = null;
    if (high - low > Math.max(3, 0.01 * (view.to - view.from))) choose({ from: low, to: high + 1 });
    else choose({ token: end }, true);
  };
  canvas.ondblclick = () => choose({ from: 0, to: text.length });
}

function listenAttention(canvas) {
  canvas.onpointermove = (event) => choose({ hover: tokenAt(canvas, event) });
  canvas.onpointerleave = () => choose({ hover: null });
  canvas.onclick = (event) => {
    const head = Math.floor(event.offsetY / canvas.area.rowHeight);
    if (head < text.numHeads) choose({ head });
  };
}

// ---------------------------------------------------------------- controls

function options(select, entries) {
  select.replaceChildren(...entries.map(([value, label]) => element("option", { value, textContent: label })));
}

// A layer whose positions are the same for all heads leaves nothing to choose.
function offerHeads() {
  const models = [...run.models.keys()];
  const schemes = new Set(models.flatMap((model) => text.models[model].layers[view.layer]?.scheme ?? []));
  const hasHeads = text.hasHeads(models, view.layer);
  $("head").disabled = !hasHeads;
  $("head-note").textContent = hasHeads ? "" : `all heads of layer ${view.layer} (${[...schemes].join(" and ")}) are alike`;
  $("head-note").title = hasHeads ? "" : "Attention differs by head: click on one of its rows, or use the keys , and .";
}

function listenStrip() {
  const strip = $("strip");
  const at = (event) => (event.target.dataset.token === undefined ? null : Number(event.target.dataset.token));
  strip.onmouseover = (event) => choose({ hover: at(event) });
  strip.onmouseleave = () => choose({ hover: null });
  strip.onclick = (event) => at(event) !== null && choose({ token: at(event), hover: null });
}

function listenKeys() {
  document.addEventListener("keydown", (event) => {
    if (
      !text ||
      event.ctrlKey ||
      event.altKey ||
      event.metaKey ||
      /^(TEXTAREA|INPUT|SELECT)$/.test(event.target.tagName)
    )
      return;
    const within = (value, count) => Math.min(count - 1, Math.max(0, value));
    const move = (by) => choose({ token: within((view.token ?? -Math.sign(by)) + by, text.length), hover: null }, true);
    const many = event.shiftKey ? 10 : 1;
    const act = {
      "[": () => choose({ layer: within(view.layer - 1, text.numLayers) }),
      "]": () => choose({ layer: within(view.layer + 1, text.numLayers) }),
      ",": () => choose({ head: within(view.head - 1, text.numHeads) }),
      ".": () => choose({ head: within(view.head + 1, text.numHeads) }),
      ArrowLeft: () => move(-many),
      ArrowRight: () => move(many),
      Home: () => choose({ token: 0, hover: null }, true),
      End: () => choose({ token: text.length - 1, hover: null }, true),
      0: () => choose({ from: 0, to: text.length }),
    }[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });
}

function listenControls() {
  $("layer").onchange = () => choose({ layer: $("layer").selectedIndex });
  $("head").onchange = () => choose({ head: $("head").selectedIndex });
  $("whole").onclick = () => choose({ from: 0, to: text.length });
  for (const name of ["values", "scale", "paint", "tolerance"]) $(name).oninput = () => redraw();
  $("statistic").onchange = () => {
    drawLegend();
    redraw();
  };
  $("models").onchange = () => {
    buildFigures();
    redraw();
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    palette = [];
    tones.clear();
    redraw();
  });
  new ResizeObserver(() => redraw("overview", "curve", "attention")).observe($("found"));
  $("source").onkeydown = (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) readText();
  };
  $("read").onclick = readText;
  listenStrip();
  listenKeys();
}

// ---------------------------------------------------------------- a text

function show(reading) {
  const isFirst = text === null;
  text = reading;
  attention.rows.clear();
  const { models, length, numLayers, numHeads } = reading;
  const learned = models[0].layers.findLastIndex((layer) => layer.is_learned);
  if (run.attention) readKeptAttention();
  Object.assign(view, { token: startToken(), hover: null, from: 0, to: length });
  if (isFirst) view.layer = Math.max(0, learned); // the highest that learns
  const layerNames = [...Array(numLayers).keys()].map((layer) => [
    layer,
    `${layer} ${models[0].layers[layer]?.scheme ?? ""}`,
  ]);
  options($("layer"), layerNames);
  options(
    $("head"),
    [...Array(numHeads).keys()].map((head) => [head, head]),
  );
  Object.assign($("layer"), { selectedIndex: view.layer });
  Object.assign($("head"), { selectedIndex: view.head });
  $("found").hidden = false;
  $("whole").hidden = true;
  if (run.attention) $("strip").classList.toggle("kept", attention.tokens.size < length);
  offerHeads();
  if (!figuresOf.curve.length) buildFigures();
  buildStrip();
  if (run.attention) for (const token of attention.tokens) spans[token].classList.add("has");
  waiting.clear();
  Object.values(DRAWN).forEach((drawn) => drawn());
  scrollToToken(view.token);
  $("readout").textContent = readout();
  wantAttention(() => redraw("strip", "attention", "panel"));
}

// The last token that is more than white space and whose attention is there: it sees the most.
function startToken() {
  const seen = attention.tokens?.size ? [...attention.tokens].sort((a, b) => a - b) : [...text.pieces.keys()];
  return seen.findLast((token) => text.pieces[token].trim()) ?? seen.at(-1);
}

function say(words, isWrong = false) {
  Object.assign($("status"), { textContent: words, className: isWrong ? "wrong" : "" });
}

function said(seconds) {
  const longer = run.models.filter(({ trained_length: trained }) => trained && trained < text.length);
  const lengths = [...new Set(longer.map(({ trained_length: trained }) => trained.toLocaleString("en")))];
  const beyond = longer.length ? `; longer than in training (${lengths.join(" and ")})` : "";
  const size = text.bytes < 1e5 ? `${(text.bytes / 1e3).toFixed(0)} kB` : `${(text.bytes / 1e6).toFixed(1)} MB`;
  return `${text.length.toLocaleString("en")} tokens, ${size} of positions${seconds}${beyond}`;
}

async function readText() {
  if ($("read").disabled) return;
  const source = $("source").value;
  $("read").disabled = true;
  say("reading …");
  const start = performance.now();
  try {
    const reading = new Reading(source, await ask("/read", { text: source }));
    show(reading);
    await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve))); // once it is on the screen
    const seconds = (performance.now() - start) / 1000;
    say(said(`, shown after ${seconds.toFixed(2)} s, of which the model took ${reading.seconds.toFixed(2)} s`));
    Object.assign(document.body.dataset, { shown: seconds, count: Number(document.body.dataset.count ?? 0) + 1 });
  } catch (error) {
    say(error.message, true);
  } finally {
    $("read").disabled = false;
  }
}

function main() {
  $("name").textContent = run.models.map(({ name }) => name).join(" and ");
  $("source").value = run.text;
  options(
    $("statistic"),
    Object.entries(STATISTICS).map(([name, { label }]) => [name, label]),
  );
  const paints = ["position", "attention"].flatMap((kind) =>
    run.models.map(({ name }, model) => [`${kind} ${model}`, run.models.length > 1 ? `${kind}, ${name}` : kind]),
  );
  options($("paint"), paints);
  $("side").hidden = run.models.length < 2;
  listenControls();
  if (run.answer === undefined) {
    readText();
    return;
  }
  $("source").readOnly = true;
  $("read").hidden = true;
  show(new Reading(run.text, bufferOf(run.answer)));
  say(said("; written into this file"));
}

main();
