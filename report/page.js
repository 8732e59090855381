// The controls, what they choose, and the first drawing of all charts.

function choose(changes) {
  Object.assign(chosen, changes);
  const { reading, probe, ...kept } = chosen; // without the steps: a reload shows the newest ones
  const address = `#${new URLSearchParams(kept)}`;
  if (location.hash !== address) location.replace(address);
  $("layer").value = currentLayer();
  $("head").value = chosen.head;
  if (run.heads && !("text" in changes || "probe" in changes)) {
    drawHeat();
    drawHistory();
  }
  if (run.probes && !("reading" in changes || "statistic" in changes)) drawCurve();
}

function scrubber(name, steps, key) {
  // a slider over steps, and a button that plays them
  const [slider, button] = [$(`${name}-step`), $(`${name}-play`)];
  Object.assign(slider, {
    min: 0,
    max: steps.length - 1,
    step: 1,
    value: steps.length - 1,
    disabled: steps.length < 2,
  });
  chosen[key] = steps.length - 1;
  slider.oninput = () => choose({ [key]: Number(slider.value) });
  let timer = null;
  const stop = () => {
    clearInterval(timer);
    timer = null;
    button.classList.remove("on");
  };
  button.onclick = () => {
    if (timer) {
      stop();
      return;
    }
    if (Number(slider.value) === steps.length - 1) {
      slider.value = 0;
      slider.oninput();
    }
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
  $("facts").append(
    ...run.facts.map(([label, value]) =>
      element("div", {}, element("dt", { textContent: label }), element("dd", { textContent: value })),
    ),
  );
  $("written").textContent = `Written ${run.written}. Drag over a chart to zoom in, double-click to zoom out.`;
}

function alerts() {
  $("findings").querySelector("p").textContent = run.events.length
    ? ""
    : run.heads
      ? "The position watch has raised no alert."
      : run.learns
        ? "The position watch has not taken a reading yet."
        : "No layer of this run learns its positions, so there is no position watch.";
  $("findings")
    .querySelector("ol")
    .append(
      ...run.events
        .toReversed()
        .map((event) =>
          element(
            "li",
            { className: event.event },
            element("b", { textContent: event.kind.replace(/_/g, " ") }),
            element("span", {
              textContent: `${event.event} at step ${event.step}${event.where ? `, ${event.where}` : ""}`,
            }),
            element("p", { textContent: event.message.replace(`${event.where}: `, "") }),
          ),
        ),
    );
}

function restoreChoices() {
  // from the address: what was chosen before a reload
  const stored = new URLSearchParams(location.hash.slice(1));
  const { layers, statistics = [] } = run.heads ?? run.probes ?? { layers: [] };
  const spread = Math.max(
    0,
    statistics.findIndex((statistic) => statistic.name === "std"),
  );
  const index = (key, count, otherwise = 0) => {
    const value = Number(stored.get(key) ?? otherwise);
    return Number.isInteger(value) && value >= 0 && value < count ? value : otherwise;
  };
  Object.assign(chosen, {
    statistic: index("statistic", statistics.length, spread),
    layer: index("layer", layers.length),
    head: index("head", run.heads?.heads ?? run.probes?.texts[0].shape[2] ?? 0),
    text: index("text", run.probes?.texts.length ?? 0),
  });
}

function fold(section, parent, charts, lists = []) {
  // drawn when it is opened: a hidden chart has no width
  $(section).hidden = !charts.length && !lists.length;
  $(section)
    .querySelector("details")
    .addEventListener(
      "toggle",
      () => {
        drawCharts($(parent), charts);
        drawSeries($(parent), lists, "number");
      },
      { once: true },
    );
}

function main() {
  restoreChoices();
  header();
  alerts();
  drawCharts($("main-charts"), run.main);
  $("evaluation").hidden = !run.evaluation;
  if (run.evaluation) drawEvaluation($("evaluation-charts"), run.evaluation);
  drawSeries($("layer-charts"), run.layers, "layer");
  $("maps").hidden = !run.layers.length;
  fold("means", "model-charts", run.model);
  fold("rest", "other-charts", run.other, run.unknown_lists);
  if (run.heads) {
    options(
      $("statistic"),
      run.heads.statistics.map((statistic, index) => [index, statistic.label]),
    );
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
    run.probes.texts.forEach((text) => {
      text.z = unpack(text);
    });
    $("texts").append(
      ...run.probes.texts.map((text, index) =>
        element("button", {
          type: "button",
          role: "tab",
          textContent: text.name,
          ariaSelected: String(index === chosen.text),
          onclick: (event) => {
            for (const tab of $("texts").children) tab.ariaSelected = String(tab === event.currentTarget);
            choose({ text: index });
          },
        }),
      ),
    );
    options(
      $("layer"),
      (run.heads ?? run.probes).layers.map((layer) => [layer, layer]),
    );
    options(
      $("head"),
      [...Array(run.probes.texts[0].shape[2]).keys()].map((head) => [head, head]),
    );
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
