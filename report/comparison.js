// Tables of the runs and of their settings, and the runs' curves in one chart per metric.

const BORDERS = { solid: "solid", dash: "dashed", dot: "dotted", dashdot: "double" };

function fillTable(table, rows, colored = false) {
  const [header = [], ...body] = rows;
  table.append(element("tr", {}, ...header.map((title) => element("th", { textContent: title }))));
  for (const cells of body) {
    const row = element("tr", {}, ...cells.map((cell) => element("td", { textContent: cell })));
    if (colored) {
      const swatch = element("span", { className: "swatch" });
      const line = lineOf(run.order.indexOf(cells[0]), run.order.length, true);
      swatch.style.setProperty("--own", line.color);
      swatch.style.setProperty("--dash", BORDERS[line.dash]);
      row.firstChild.prepend(swatch);
    }
    table.append(row);
  }
}

function comparison() {
  $("name").textContent = run.name;
  $("summary").textContent = run.summary;
  $("written").textContent = `Written ${run.written}. Drag over a chart to zoom in, double-click to zoom out.`;
  fillTable($("run-table"), run.runs, true);
  fillTable($("setting-table"), run.settings);
  $("columns").append(
    ...run.columns.map((column) =>
      element("li", {}, element("b", { textContent: column.label }), ` ${explanation(column)}`),
    ),
  );
  $("settings").hidden = !run.settings.length;
  const runs = { named: true, legend: run.order.length <= MOST_IN_LEGENDS };
  drawSeries($("steps"), run.steps, "run", runs);
  let drawn = false; // a hidden chart has no width: drawn when it is first shown
  $("over").onchange = () => {
    const overTokens = $("over").value === "tokens";
    $("steps").hidden = overTokens;
    $("tokens").hidden = !overTokens;
    if (overTokens && !drawn) drawSeries($("tokens"), run.tokens, "run", { ...runs, axis: "token" });
    drawn ||= overTokens;
  };
  $("probes").hidden = !run.probes.length;
  drawSeries($("probe-charts"), run.probes, "run", runs);
  $("positions").hidden = !run.positions.length;
  drawSeries($("position-charts"), run.positions, "run", runs);
  $("axis-x").onchange = () => redraws.forEach((redraw) => redraw());
  $("axis-y").onchange = $("axis-x").onchange;
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", $("axis-x").onchange);
}

comparison();
