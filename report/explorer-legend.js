// What colors and lines stand for, under the curves, the text and the attention.

const SVG = "http://www.w3.org/2000/svg";

// a picture of shapes [tag, attributes, tone, filled or not], and the words for it
function sign(words, ...shapes) {
  const picture = document.createElementNS(SVG, "svg");
  for (const [name, value] of Object.entries({ width: 34, height: 12 })) picture.setAttribute(name, value);
  for (const [tag, attributes, tone, isFilled] of shapes) {
    const shape = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) shape.setAttribute(name, value);
    shape.style[isFilled ? "fill" : "stroke"] = tone.startsWith("color-mix") ? tone : `var(--${tone})`;
    picture.append(shape);
  }
  return element("span", { className: "key" }, picture, words);
}

const across = (tone, dash, width) => [
  "line",
  { x1: 0, x2: 34, y1: 6, y2: 6, "stroke-width": width, "stroke-dasharray": dash.join(" ") },
  tone,
];
const upright = (tone, dash, x, top = 0) => [
  "line",
  { x1: x, x2: x, y1: top, y2: 12, "stroke-width": 1.5, "stroke-dasharray": dash.join(" ") },
  tone,
];
const box = (tone, left, width, isFilled = true) => [
  "rect",
  { x: left, y: 1, width, height: 10, "stroke-width": 2, fill: "none", rx: 1 },
  tone,
  isFilled,
];
const pale = (tone, share) => `color-mix(in srgb, var(--${tone}) ${share}%, transparent)`;
// from pale to strong in a model's color, as its text is painted; from low to high in the colors of weights
const painting = (tone) => [0, 1, 2, 3].map((step) => box(pale(tone, 10 + 20 * step), 8.5 * step, 8.5));
const weighing = () => ["low", "mid-low", "mid", "high"].map((tone, step) => box(tone, 8.5 * step, 8.5));

function drawLegend() {
  const isOver = $("models").value === "over" && run.models.length > 1;
  const { label, meaning } = STATISTICS[$("statistic").value];
  const isCurves = $("statistic").value === "curves";
  const both = run.models.length > 1 ? ", on one scale for both models" : "";
  const models = run.models.map(({ name }, model) => ({ name, ...LINES[model] }));
  const single = models.length === 1;
  $("legend").replaceChildren(
    ...models.map(({ name, tone, dash }) =>
      sign(single ? "the chosen head" : `${name}: the chosen head`, across(tone, dash, 2)),
    ),
    sign(
      "from lowest to highest, where tokens share a pixel",
      ...models.map(({ tone }, at) => box(pale(tone, 30), (34 / models.length) * at, 34 / models.length)),
    ),
    sign("the index", across("muted", [2, 4], 2)),
    ...(isOver ? [] : [sign("other heads of the layer", across("faint", [], 2))]),
    sign("the chosen token", upright("ink", [3, 3], 17)),
    sign("the token that is pointed at", upright("ink", [], 17)),
    ...models.map(({ name, tone }) =>
      sign(
        single ? "tokens at its place" : `tokens at its place in ${name}`,
        ...[5, 12, 16, 29].map((x) => upright(tone, [], x, 5)),
      ),
    ),
    element("span", {
      textContent: `Every layer and head: ${meaning}${isCurves ? "" : both}; click on one to see it large.`,
    }),
    ...(isCurves ? [] : [sign(`${label}, from low to high`, ...weighing())]),
  );
}

function drawStripLegend() {
  const { kind, model } = painted();
  const name = run.models[model].name;
  const own = run.models.length > 1 ? ` of ${name}` : "";
  const what = kind === "attention" ? `weight of attention${own}, by its root` : `position${own}`;
  $("strip-legend").replaceChildren(
    sign(`${what}: pale is low`, ...painting(LINES[model].tone)),
    sign("the token that is pointed at, else the chosen one", box("ink", 6, 22, false)),
    sign(`tokens at its place${run.models.length > 1 ? ` in ${name}` : ""}`, across("ink", [], 2)),
    ...(attention.tokens && attention.tokens.size < text.length
      ? [element("span", {}, element("b", { textContent: "bold" }), " tokens from which this file holds attention")]
      : []),
  );
}

function drawAttentionLegend() {
  const each = run.models.length > 1 ? ", of each model by itself" : "";
  $("attention-legend").replaceChildren(
    sign(`weight by its root, so that small ones are seen: from 0 to the highest${each}`, ...weighing()),
    sign("the chosen token", upright("ink", [3, 3], 17)),
    element("span", { textContent: "A row for each head, ▸ the chosen one; click on a row to choose its head." }),
  );
}
