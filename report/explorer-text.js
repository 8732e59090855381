// The text in the colors of its positions or of attention, and what is known of one token.

const MOST = 8; // lines of a list
let spans = []; // of the tokens
let looked = { token: null, same: new Set() }; // the token that is looked at, and those at its place

function visible(piece) {
  return piece === "" ? "◦" : piece.replace(/\n/g, "↵").replace(/\t/g, "→").replace(/ /g, "·");
}

function buildStrip() {
  // In parts, so that the browser lays out and colors those in sight alone. A part ends with a line where it can.
  const parts = [];
  let part = null;
  spans = text.pieces.map((piece, token) => {
    const size = part?.children.length ?? Infinity;
    if (size >= 600 || (size >= 150 && text.pieces[token - 1].endsWith("\n"))) parts.push((part = element("div")));
    const shown = piece === "" ? "◦" : piece === "\n" ? "↵\n" : piece;
    const span = element("span", { textContent: shown });
    span.dataset.token = token;
    part.append(span);
    return span;
  });
  const seen = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) {
        target.inSight = isIntersecting;
        if (isIntersecting) {
          paintPart(target);
          outlinePart(target);
        }
      }
    },
    { root: $("strip"), rootMargin: "200px" },
  );
  $("strip").seen?.disconnect();
  $("strip").seen = seen;
  $("strip").replaceChildren(...parts);
  $("strip").scrollTop = 0;
  for (const each of parts) seen.observe(each);
}

function painted() {
  const [kind, model] = $("paint").value.split(" ");
  return { kind, model: Number(model) };
}

function paintStrip() {
  // says what color each token has, and colors the parts in sight; the others when they come into sight
  const { kind, model } = painted();
  const strip = $("strip");
  const of = text.models[model].layers[view.layer];
  const name = run.models[model].name;
  let share = () => null;
  let title = "";
  if (kind === "position") {
    const z = text.positions(model, view.layer, view.head, deviates());
    const heads = text.hasHeads([model], view.layer) ? `head ${view.head}` : "all heads";
    title = z
      ? `position: ${name}, layer ${view.layer}, ${heads}`
      : `${of ? of.scheme : "no such layer"}: no positions`;
    if (z) {
      const [low, high] = deviates() ? bounds(z) : text.limits(model, view.layer, view.head);
      share = (token) => (z[token] - low) / (high - low || 1);
      $("strip-value").textContent = `${figures(low)} pale, ${figures(high)} strong`;
    } else $("strip-value").textContent = "";
  } else {
    const weights = attentionOf(model, view.head);
    title = `attention: ${name}, layer ${view.layer}, head ${view.head}, from token ${view.token ?? "(choose one)"}`;
    const highest = weights ? weights.reduce((a, b) => Math.max(a, b), 0) : 0;
    share = (token) => (weights && token < weights.length ? Math.sqrt(weights[token] / (highest || 1)) : null);
    $("strip-value").textContent = weights ? `strongest ${figures(highest)}` : "";
  }
  $("strip-title").textContent = title;
  strip.style.setProperty("--own", `var(--${LINES[model].tone})`);
  drawStripLegend();
  strip.share = share;
  strip.version = (strip.version ?? 0) + 1;
  for (const part of strip.children) if (part.inSight) paintPart(part);
}

function paintPart(part) {
  const { share, version } = $("strip");
  if (!share || part.version === version) return;
  part.version = version;
  for (const span of part.children) {
    const value = share(Number(span.dataset.token));
    const level = Number.isFinite(value) && value !== null ? Math.round(14 * Math.min(Math.max(value, 0), 1)) * 5 : 0;
    if (span.level === level) continue;
    span.level = level;
    span.style.background = level ? `color-mix(in srgb, var(--own) ${level}%, transparent)` : "";
  }
}

function outline() {
  const token = view.hover ?? view.token;
  const found = token === null ? null : text.neighbors(painted().model, view.layer, view.head, token, 0);
  looked = { token, same: new Set(found?.same) };
  for (const part of $("strip").children) if (part.inSight) outlinePart(part);
}

function outlinePart(part) {
  for (const span of part.children) {
    const token = Number(span.dataset.token);
    const name = token === looked.token ? "at" : looked.same.has(token) ? "same" : "";
    if (span.mark === name) continue;
    span.mark = name;
    span.classList.toggle("at", name === "at");
    span.classList.toggle("same", name === "same");
  }
}

function scrollToToken(token) {
  // within the strip alone
  const [strip, span] = [$("strip"), spans[token]];
  const [box, at] = [strip.getBoundingClientRect(), span.getBoundingClientRect()];
  if (at.top < box.top + 8) strip.scrollTop -= box.top - at.top + 40;
  else if (at.bottom > box.bottom - 8) strip.scrollTop += at.bottom - box.bottom + 40;
}

// ---------------------------------------------------------------- one token

function tokenButton(token) {
  return element("button", {
    type: "button",
    textContent: visible(text.pieces[token]),
    title: `token ${token}`,
    onclick: () => choose({ token, hover: null }, true),
  });
}

function rows(head, entries) {
  const cells = (kind, values) =>
    element(
      "tr",
      {},
      ...values.map((value) =>
        value instanceof Node ? element(kind, {}, value) : element(kind, { textContent: value }),
      ),
    );
  return element("table", {}, cells("th", head), ...entries.map((entry) => cells("td", entry)));
}

function bar(share, tone) {
  const made = element("i");
  made.style.cssText = `display:block;height:8px;min-width:1px;border-radius:2px;background:var(--${tone});width:${Math.round(100 * share)}%`;
  return made;
}

function ofModel(model, token) {
  const parts = [];
  if (run.models.length > 1) {
    const { tone, dash } = LINES[model];
    parts.push(element("h4", {}, sign(run.models[model].name, across(tone, dash, 2))));
  }
  const z = text.positions(model, view.layer, view.head);
  if (!z) parts.push(element("p", { textContent: "no position in this layer" }));
  else {
    parts.push(element("p", { textContent: `z = ${figures(z[token])}, z minus index = ${figures(z[token] - token)}` }));
    const found = text.neighbors(model, view.layer, view.head, token, MOST);
    if (found) {
      const count = found.same.length;
      parts.push(
        element("p", {
          className: "same-count",
          textContent: `${count.toLocaleString("en")} other token${count === 1 ? "" : "s"} at the same place (within ${figures(tolerance())})`,
        }),
        rows(
          ["nearest", "token", "index", "z"],
          found.nearest.map((other) => [
            `${z[other] < z[token] ? "−" : "+"}${figures(Math.abs(z[other] - z[token]))}`,
            tokenButton(other),
            String(other),
            figures(z[other]),
          ]),
        ),
      );
    }
  }
  const weights = token === view.token ? attentionOf(model, view.head) : null;
  if (weights) {
    const most = Array.from(weights.keys())
      .sort((a, b) => weights[b] - weights[a])
      .slice(0, MOST);
    parts.push(
      element("h4", { textContent: `Attends most to (head ${view.head})` }),
      rows(
        ["weight", "token", "index", ""],
        most.map((other) => [
          `${(100 * weights[other]).toFixed(1)} %`,
          tokenButton(other),
          String(other),
          bar(weights[other] / weights[most[0]], LINES[model].tone),
        ]),
      ),
    );
  }
  return parts;
}

function drawPanel() {
  const token = view.hover ?? view.token;
  if (token === null) {
    const said = "Point at a token to see its position and those that share it. Click on it to see where it attends.";
    $("panel").replaceChildren(element("p", { className: "note", textContent: said }));
    return;
  }
  const title = `token ${token}: ${visible(text.pieces[token])}`;
  $("panel").replaceChildren(
    element("h3", { textContent: title }),
    ...run.models.flatMap((_, model) => ofModel(model, token)),
  );
}

function noteAttention() {
  const { token } = view;
  if (attention.failure) return `No attention: ${attention.failure}`;
  const kept = attention.tokens;
  const all = kept && kept.size === text.length;
  const left =
    kept && !all
      ? `This file holds attention from ${kept.size.toLocaleString("en")} of ${text.length.toLocaleString("en")} tokens, in bold above, in all layers. `
      : "";
  if (token === null) return `${left}Click on a token.`;
  const has = run.models.some((_, model) => attention.rows.has(attentionKey(model)));
  const missing = kept && !has ? `That from token ${token} is left out. ` : "";
  return `${left}${missing}Layer ${view.layer}, token ${token} (${visible(text.pieces[token])}).`;
}
